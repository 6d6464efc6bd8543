"""Several processes are one run: the same draws, the same bits; none waits for the dead."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import fewstep as fs
from fewstep.base.errors import NonFiniteError, UserError
from fewstep.base.world import ALONE, World
from fewstep.core import compiling
from fewstep.networks.blocks import blocks_of
from fewstep.run import checkpoint
from fewstep.run.build import build_method, with_defaults
from fewstep.run.checkpoint import RunFolder
from fewstep.run.checkpoint.best import read_best
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.training import loop, parallel
from fewstep.training.batches import draw_batch
from fewstep.training.ranks import launched_world
from fewstep.training.replay import replay
from fewstep.training.state import new_state
from fewstep.training.step import train_step
from fewstep.training.watch import LIMIT, limit_of
from tests.support import ranks
from tests.support.toys import tiny_run

DEEP = {"width": 16, "depth": 2, "dropout": 0.1}


def pictures() -> torch.Tensor:
    return torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))


EDM2 = {
    "own_data": pictures,
    "network": "edm2_unet",
    "network_options": {"width": 8, "mult": (1,), "blocks": 1, "attention": (), "head_channels": 8},
    "sigma_data": None,
}


def run_of(**fields) -> fs.Run:
    network = {"width": 16, "depth": 1, "dropout": 0.1}
    return tiny_run(**{"batch": 32, "network_options": network, **fields})


def work_together(
    size: int,
    out: Path,
    *,
    code: int = 0,
    resume: bool = False,
    own_data: Callable[[], object] = lambda: None,
    own_network: Callable[[], nn.Module | None] = lambda: None,
    shard: bool = False,
    recompute: bool = False,
    watch: Callable | None = None,
    log: tuple[str, ...] = (),
    before: Callable[[], None] = lambda: None,
    **fields,
) -> list[ranks.Outcome]:
    """Trains in a folder with so many ranks, which must all end with that exit code.

    own_data, own_network, before: called in each rank.
    """

    def work() -> None:
        before()
        arguments = {"out": out, "resume": resume, "shard": shard, "recompute": recompute}
        arguments |= {"watch": watch, "log": log}
        run = run_of(**fields)
        fs.train(run, own_data(), network=own_network(), progress=False, device="cpu", **arguments)

    outcomes = ranks.run(size, work, out.parent / f"{out.name}-output", 90)
    texts = [rank.text for rank in outcomes]
    assert [rank.code for rank in outcomes] == [code] * size, texts
    return outcomes


def train(size: int, out: Path, *, until: int | None = None, **arguments):
    """Trains or resumes in a folder with so many ranks, until that step or the end."""

    def watch(state) -> None:
        if state.step == until:
            os.kill(os.getpid(), signal.SIGTERM)

    code = 0 if until is None else 75
    return work_together(size, out, code=code, resume=True, watch=watch, **arguments)


def fingerprint(out: Path) -> str:
    return fs.load(out, device="cpu").fingerprint


def weights(out: Path, group: str = "student") -> dict[str, torch.Tensor]:
    return RunFolder(out).newest().groups[group]


def logged(out: Path) -> list[float]:
    """Losses and norms of the gradients, one after the other."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows for name in ("loss", "grad_norm")]


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# What follows needs no second process.


@pytest.mark.parametrize("method", ["ect", "tcm", "mcm"])
def test_ranks_draw_the_parts_of_what_one_process_draws(method):
    """Order, data, noise, times and seeds of a step: the same bits for 1, 2 and 4 ranks."""
    options = {"base": {"method": "ect"}} if method == "tcm" else {}
    run = with_defaults(run_of(method=method, method_options=options))
    dataset = fs.data.load("ring8")
    method_object = build_method(run, Facts(dataset.shape, 0, 0.5, dataset.units, ""))

    def draw(step, world=ALONE):
        return draw_batch(Stage(run, method_object), dataset.train, step, world)

    for step, size in itertools.product((0, 7), (2, 4)):
        whole = draw(step)
        parts = [draw(step, World(rank, size)) for rank in range(size)]
        for name in ("rows", "x0", "z"):
            together = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(together, getattr(whole, name))
        for name in ("t", "r", "a", "w", "u"):
            together = torch.cat([getattr(part.times, name) for part in parts])
            assert torch.equal(together, getattr(whole.times, name))
        assert [seed for part in parts for seed in part.seeds] == whole.seeds


ENVIRONMENTS = {
    "none": ({}, ALONE),
    "one": ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
    "torchrun": (
        {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
        World(5, 8, 1),
    ),
    "srun": (
        {
            "SLURM_PROCID": "3",
            "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_LOCALID": "1",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "1",
        },
        World(3, 4, 1),
    ),
    "a batch script of four tasks": (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},
        ALONE,
    ),
}


@pytest.mark.parametrize(("env", "world"), ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_a_process_finds_its_place_in_what_its_launcher_says(env, world):
    assert launched_world(env) == world


def test_a_launcher_that_says_half_of_it_is_told():
    with pytest.raises(UserError, match="2 processes without MASTER_ADDR and MASTER_PORT"):
        launched_world({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="RANK = 2: expected a rank in 0"):
        launched_world({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    with pytest.raises(UserError, match="whole numbers"):
        launched_world({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="FEWSTEP_RANK_TIMEOUT = 'soon'"):
        limit_of({"FEWSTEP_RANK_TIMEOUT": "soon"})


@pytest.mark.parametrize(
    ("fields", "size", "shard", "message"),
    [
        ({}, 3, False, "processes = 3: expected a number that cuts batch=32"),
        ({"accumulate": 4}, 4, False, "accumulate=4"),
        ({"elastic_exact": 4}, 8, False, "divides elastic_exact=4"),
        ({}, 1, True, "shard = True: expected several processes"),
        ({"elastic_exact": 4}, 2, True, "False with elastic_exact"),
    ],
)
def test_a_run_that_cannot_be_dealt_out_is_refused(fields, size, shard, message):
    with pytest.raises(UserError, match=message):
        parallel.check(run_of(**fields), World(0, size), shard)


def test_a_power_of_two_cuts_the_batch_in_whole_blocks():
    for number in (3, 16, -2):
        message = f"elastic_exact = {number}: expected 0, or a power of 2"
        with pytest.raises(UserError, match=message):
            run_of(elastic_exact=number)


class Counter(nn.Linear):
    """A block that is another one in each pass."""

    def __init__(self, how: str) -> None:
        super().__init__(2, 2)
        self.how = how
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes.data = self.passes + 1  # autograd sees no change in place
        if self.how == "counts" or self.passes % 2:
            return super().forward(x)
        return super().forward(x).sin().exp()


@pytest.mark.parametrize(
    ("how", "message"),
    [("counts", "counts its passes in a buffer"), ("changes", "without --shard and --recompute")],
)
def test_a_network_whose_passes_are_not_the_same_again_is_refused(how, message):
    network = nn.ModuleDict({"layers": nn.ModuleList([Counter(how)])})
    network.forward = lambda x, label, cond=None: network["layers"][0](x)
    with pytest.raises(UserError, match=message):
        fs.train(run_of(), network=network, device="cpu", progress=False, recompute=True)


def test_a_teacher_in_shards_that_ranks_ask_unlike_numbers_of_times_is_refused():
    for options in ({"steps": 2}, {"steps": 1}):
        run = with_defaults(run_of(method="pd", method_options=options))
        method = build_method(run, Facts((2,), 0, 0.5, fs.data.load("ring8").units, ""))
        if method.before is None:  # the run's teacher is whole
            parallel.check_method(method)
            continue
        with pytest.raises(UserError, match="shard = True: the student before teaches along"):
            parallel.check_method(method)


def test_a_network_in_shards_is_asked_equally_often_whatever_the_rows():
    """By Heun's method, where a row's last move needs one evaluation: all take part in two."""
    law = fs.exact.Gaussian(mean=0.3, std=0.5)

    class Shards:
        calls = 0

        def __call__(self, x_t, t, cond=None):
            self.calls += 1
            return law(x_t, t, cond)

    one, all_of_them = Shards(), Shards()
    all_of_them.unshard = None
    x = torch.ones(3, 2)
    ends = [fs.solvers.heun(law.process, asked, x, 1.0, 0.0) for asked in (one, all_of_them)]
    assert torch.equal(*ends)
    assert (one.calls, all_of_them.calls) == (1, 2)


def test_networks_that_several_processes_cannot_train_are_refused():
    run = with_defaults(run_of())
    dataset = fs.data.load("ring8")
    facts = Facts(dataset.shape, 0, 0.5, dataset.units, "")

    class WithNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x, label, cond=None):
            return self.norm(self.layer(x))

    state = new_state(Prepared(run, facts, build_method(run, facts), network=WithNorm()))
    state.world = World(0, 2)
    message = "norm is a BatchNorm1d, whose statistics differ by process"
    with pytest.raises(UserError, match=message):
        parallel.check_network(state, False, {})
    state.world = ALONE
    parallel.check_network(state, False, {})
    state.student.network.norm = nn.Identity()
    with pytest.raises(UserError, match="recompute = True: expected False: the network calls no"):
        parallel.check_network(state, True, {})
    parallel.check_network(state, True, {"layer"})


def test_the_tree_is_the_gradient_of_the_mean():
    """To rounding what backward gives in one piece, in float64."""
    results = []
    for number in (0, 1, 2, 4, 8):
        run = with_defaults(run_of(elastic_exact=number))
        dataset = fs.data.load("ring8")
        facts = Facts(dataset.shape, 0, 0.5, dataset.units, "")
        method = build_method(run, facts)
        state = new_state(Prepared(run, facts, method))
        stage = Stage(run, method)
        for module in state.modules().values():
            module.double()
        arrays = replace(dataset.train, samples=dataset.train.x0.double())
        row = train_step(stage, state, draw_batch(stage, arrays, 0))
        results.append((row["loss"], row["grad_norm"]))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-12)


# What follows starts processes.


@pytest.mark.parametrize("method", [pytest.param("sct", marks=pytest.mark.long), "tcm"])
def test_elastic_exact_has_the_same_bits_for_1_2_and_4_processes(tmp_path, method):
    """Weights, averages, moments, stage and log."""
    for size in (1, 2, 4):
        train(size, tmp_path / str(size), method=method, elastic_exact=4)
    assert len({fingerprint(tmp_path / str(size)) for size in (1, 2, 4)}) == 1


def test_elastic_exact_goes_on_with_another_number_of_processes(tmp_path):
    """2, then 1, then 2, each stopped by a signal to itself, end where one process ends."""
    fields = {"elastic_exact": 4, "iterations": 9, "checkpoint_every": 2}
    train(1, tmp_path / "whole", **fields)
    for size, until in ((2, 3), (1, 6), (2, None)):
        train(size, tmp_path / "parts", until=until, **fields)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    log = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 10))


@pytest.mark.parametrize(("method", "shard"), [("sct", True), ("gc", False)])
def test_gradients_are_joined_whatever_way_the_passes_go(tmp_path, method, shard):
    """Two processes end, to rounding, with the weights of one: also with a jvp, or with some rows.

    Were each rank to follow the gradient of its own half, they would be 1e-3 apart (Adam's step is
    the learning rate). Scores and loggers are rank 0's, and each row is there once.
    """
    fields = {"method": method, "eval_every": 2, "log": ("csv",)}
    train(1, tmp_path / "one", **fields)
    outcomes = train(2, tmp_path / "two", shard=shard, **fields)
    assert not any(rank.text for rank in outcomes)
    assert farthest(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5
    one, two = (read_best(tmp_path / name / "best.json") for name in ("one", "two"))
    assert two.value == pytest.approx(one.value, rel=1e-3)
    assert fs.load(tmp_path / "two" / "best").step == two.step
    for name in ("one", "two"):
        logs = [(tmp_path / name / f"metrics.{kind}").read_text() for kind in ("jsonl", "csv")]
        assert [len(text.splitlines()) for text in logs] == [6 + 3, 6 + 3 + 1]


@pytest.mark.long
def test_compiled_passes_of_each_process_are_the_ordinary_ones(tmp_path):
    """By the ordinary kernels, so that the bits are the same too."""

    def trace() -> None:
        compiling.BACKEND = "eager"

    train(2, tmp_path / "off")
    train(2, tmp_path / "on", compile="on", before=trace)
    off, on = (RunFolder(tmp_path / name).newest() for name in ("off", "on"))
    assert on.record.run.compile == "on"
    assert all(
        torch.equal(on.groups["student"][key], x) for key, x in off.groups["student"].items()
    )


@pytest.mark.long
def test_accumulated_parts_of_each_process_are_the_whole_batch(tmp_path):
    """And the same bits where activations are computed again."""
    train(1, tmp_path / "one", network_options=DEEP)
    for name, shard in (("ddp", False), ("fsdp", True)):
        ways = {"accumulate": 2, "shard": shard, "network_options": DEEP}
        train(2, tmp_path / name, **ways)
        train(2, tmp_path / f"{name} again", **ways, recompute=True)
        assert fingerprint(tmp_path / f"{name} again") == fingerprint(tmp_path / name)
        assert farthest(weights(tmp_path / "one"), weights(tmp_path / name)) < 2e-5


@pytest.mark.parametrize("recompute", [pytest.param(False, marks=pytest.mark.long), True])
def test_of_a_network_in_shards_one_block_is_whole_at_a_time(tmp_path, recompute):
    """In the forward pass, in the backward pass and when computed again; between steps none is."""

    def watch(state) -> None:
        if state.step == 1:
            blocks = list(blocks_of(state.student.network).values())
            assert len(blocks) == 3
            inner = [block.get_submodule("inner") for block in blocks]
            for layer in inner:
                layer.register_forward_hook(lambda *_: counts.append(whole_of(inner)))
                layer.register_full_backward_pre_hook(lambda *_: counts.append(whole_of(inner)))
        if state.step == 2:
            assert whole_of(state.trainable.modules()) == whole_of(state.averages["ema"].modules())
            assert whole_of(state.trainable.modules()) == 0
            assert counts == [1] * 3 * (4 if recompute else 3)  # of target and student, and back

    def whole_of(modules) -> int:
        weights = [getattr(module, "weight", None) for module in modules]
        return sum(w is not None and not hasattr(w, "device_mesh") for w in weights)

    counts: list[int] = []
    options = {**DEEP, "depth": 3}
    ways = {"shard": True, "recompute": recompute, "iterations": 2, "network_options": options}
    work_together(2, tmp_path / "run", **ways, watch=watch)


@pytest.mark.long
def test_every_method_trains_in_shards_and_computed_again(tmp_path):
    needs = {"cd", "scd", "direct_cm"}
    run = run_of(method="diffusion", network_options=DEEP)
    fs.train(run, out=tmp_path / "teacher", progress=False, device="cpu")

    def train_all(name: str, **ways: bool) -> None:
        for method in sorted({*fs.methods.__all__} - ({"pd"} if ways.get("shard") else set())):
            options = {"teacher": tmp_path / "teacher"} if method in needs else {}
            options |= {"out": tmp_path / f"{method}-{name}", "progress": False, "device": "cpu"}
            few = {"method_options": {"points": 4}} if method == "tbcm" else {}  # a block has 4
            run = run_of(method=method, network_options=DEEP, **few)
            fs.train(run, **options, **ways)

    train_all("alone")
    train_all("again", recompute=True)
    outcomes = ranks.run(2, lambda: train_all("shards", shard=True, recompute=True), tmp_path, 500)
    assert [rank.code for rank in outcomes] == [0, 0], [rank.text for rank in outcomes]
    for method in fs.methods.__all__:
        alone, again, shards = (tmp_path / f"{method}-{n}" for n in ("alone", "again", "shards"))
        assert fingerprint(again) == fingerprint(alone)
        if method != "pd":  # refused
            assert farthest(weights(shards), weights(alone)) < 2e-5


SHARDED = {"method": "tcm", "iterations": 6, "split": 0.34, **EDM2}


def alike(path, other):
    """Whether two runs ended with the same weights and losses, up to rounding."""
    newest = RunFolder(other).newest()
    for group in newest.groups:
        assert farthest(weights(path, group), newest.groups[group]) < 2e-5
    assert logged(path) == pytest.approx(logged(other), rel=1e-4)


def test_sharded_checkpoints_hold_no_pickle_and_go_on_to_the_bit(tmp_path):
    """Of a network that has weights without axes, too, which each process has whole."""
    train(1, tmp_path / "one", **SHARDED)
    train(2, tmp_path / "whole", shard=True, **SHARDED)
    train(2, tmp_path / "parts", shard=True, until=3, **SHARDED)
    train(2, tmp_path / "parts", shard=True, **SHARDED)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    newest = RunFolder(tmp_path / "whole").newest()
    assert newest.is_sharded
    for file in newest.path.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_text())
        else:
            with safe_open(file, "pt") as tensors:
                assert len(list(tensors.keys())) > 0
    assert newest.state["fingerprint"] == checkpoint.state_fingerprint(newest.groups, newest.state)
    alike(tmp_path / "one", tmp_path / "whole")
    _, shard = sorted(newest.path.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert RunFolder(tmp_path / "whole").newest().state["step"] == 4


@pytest.mark.long
def test_sharded_checkpoints_go_on_with_other_numbers_of_processes(tmp_path):
    train(1, tmp_path / "one", **SHARDED)
    train(2, tmp_path / "alone", shard=True, until=3, **SHARDED)
    train(1, tmp_path / "alone", **SHARDED)
    train(1, tmp_path / "from one", until=3, **SHARDED)
    train(2, tmp_path / "from one", shard=True, **SHARDED)
    for name in ("alone", "from one"):
        alike(tmp_path / name, tmp_path / "one")


def forever(out: Path, watch=None, **environment: str) -> tuple[list[int], Path]:
    """Two ranks of a run without end, once they work: (process ids, folder of their output)."""

    def work() -> None:
        run = run_of(iterations=10**6, checkpoint_every=20)
        fs.train(run, out=out, resume=True, progress=False, device="cpu", watch=watch)

    texts = out.parent / f"{out.name}-output"
    pids = ranks.start(2, work, texts, **environment)
    end = time.monotonic() + 60
    while not RunFolder(out).checkpoints() and time.monotonic() < end:
        time.sleep(0.02)
    return pids, texts


SHORT = 3.0  # seconds without a sign of life in the test of a rank that is stopped


@pytest.mark.parametrize(
    ("victim", "how"),
    [
        pytest.param(1, signal.SIGKILL, id="kill"),
        pytest.param(0, signal.SIGKILL, id="kill-0", marks=pytest.mark.long),
        pytest.param(1, signal.SIGSTOP, id="stop", marks=pytest.mark.long),
    ],
)
def test_a_lost_rank_ends_the_others_in_15_seconds_naming_it(tmp_path, victim, how):
    """A stopped one is noticed after LIMIT seconds, here SHORT: the rest is below 15 - LIMIT."""
    stop = how == signal.SIGSTOP
    limit = SHORT if stop else LIMIT
    pids, texts = forever(tmp_path / "run", FEWSTEP_RANK_TIMEOUT=str(limit))
    start = time.monotonic()
    os.kill(pids[victim], how)
    if stop:
        (survivor,) = ranks.wait([pids[0]], texts, 30)
        os.kill(pids[1], signal.SIGKILL)
        ranks.wait([pids[1]], texts, 30)
    else:
        outcomes = ranks.wait(pids, texts, 30)
        survivor = outcomes[1 - victim]
        assert outcomes[victim].code == -signal.SIGKILL
    text = (texts / f"rank-{1 - victim}.txt").read_text()
    assert survivor.code == 5
    assert survivor.at - start < 15 - LIMIT + limit
    cause = "no sign of life" if stop else f"process {pids[victim]} on .* is gone"
    assert re.search(f"rank {victim} is lost: {cause}", text)
    # No lock is left that blocks the next start, and the run goes on from what was saved.
    assert RunFolder(tmp_path / "run").newest().state["step"] >= 20


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_rank_that_fails_ends_the_others_with_its_cause(tmp_path, victim):
    """Also rank 0, in whose process the others read it."""

    def fail(state) -> None:
        if state.world.rank == victim and state.step == 25:
            raise ValueError("its disk\nis on fire")

    pids, texts = forever(tmp_path / "run", fail)
    outcomes = ranks.wait(pids, texts, 30)
    failed, other = outcomes[victim], outcomes[1 - victim]
    assert other.code == 5
    assert f"rank {victim} is lost: ValueError: its disk; continue with --resume" in other.text
    assert failed.code == 1
    assert other.at - failed.at < 15


def test_a_signal_to_one_rank_stops_all_of_them_at_one_step(tmp_path):
    pids, texts = forever(tmp_path / "run")
    os.kill(pids[1], signal.SIGTERM)
    first, second = ranks.wait(pids, texts, 30)
    assert (first.code, second.code) == (75, 75)
    assert first.text == second.text
    step = RunFolder(tmp_path / "run").newest().state["step"]
    assert f"stopped at step {step} of" in first.text


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp"])
def test_numbers_that_are_not_finite_on_one_rank_stop_all_alike(tmp_path, monkeypatch, shard):
    """Before anything is updated; the incident has the batch of all ranks, and replays exactly."""
    whole = loop.draw_batch

    def spoil(stage, arrays, step, world=ALONE):
        batch = whole(stage, arrays, step, world)
        row = 20 - world.rank * len(batch.x0)  # row 20 of 32 is on rank 1
        if step == 3 and 0 <= row < len(batch.x0):
            batch.x0[row] = float("inf")
        return batch

    monkeypatch.setattr(loop, "draw_batch", spoil)
    code = NonFiniteError.exit_code
    first, second = work_together(2, tmp_path / "run", code=code, shard=shard, checkpoint_every=99)
    assert first.text == second.text
    assert "step 3: the loss of 1 of 32 rows is not finite" in first.text
    train(1, tmp_path / "clean", until=3)
    assert farthest(weights(tmp_path / "run"), weights(tmp_path / "clean")) < 2e-5
    again = replay(tmp_path / "run" / "incidents" / "step-3", device="cpu")
    assert again.same
    assert again.bad.tolist() == [20]


def test_ranks_that_see_other_data_are_told(tmp_path):
    def data() -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
        return torch.randn(64, 2, generator=generator)

    _, second = work_together(2, tmp_path / "run", code=2, own_data=data)
    assert "settings and data: rank 1 has" in second.text


def test_ranks_that_start_from_other_weights_are_told(tmp_path):
    """A network of one's own that each rank initialises in its own way would be trained as one."""

    def network() -> nn.Module:
        return initialise(Plain, seed=int(os.environ["RANK"]))

    first, _ = work_together(2, tmp_path / "run", code=2, own_network=network, elastic_exact=4)
    assert "initial weights: rank 1 has" in first.text


class Plain(nn.Module):
    """A network of one's own that goes left or right by the sign of its first number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.left = nn.Linear(2, 2)
        self.right = nn.Linear(2, 2)
        self.idle = nn.Linear(2, 2)

    def forward(self, x, label, cond=None):
        side = self.left if float(x[0, 0]) < 0 else self.right
        return self.layer(x) + side(x)


class Straight(nn.Module):
    """A network of one's own that calls one member of a list, and takes the other's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def forward(self, x, label, cond=None):
        return self.layers[0](x) @ self.layers[1].weight


def initialise(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()


def test_elastic_exact_adds_gradients_that_not_every_part_has(tmp_path):
    """A weight that some parts reach and others not, and one that nothing reaches."""
    for size in (1, 2):
        out = tmp_path / str(size)
        work_together(size, out, own_network=lambda: initialise(Plain), elastic_exact=4)
    prints = [RunFolder(tmp_path / str(size)).newest().state["fingerprint"] for size in (1, 2)]
    assert prints[0] == prints[1]


@pytest.mark.pictures
def test_a_network_of_ones_own_in_shards_is_whole_at_the_end(tmp_path):
    def work() -> None:
        generator = fs.train(
            run_of(),
            network=initialise(Straight),
            out=tmp_path / "run",
            progress=False,
            device="cpu",
            shard=True,
        )
        assert generator.sample(2).shape == (2, 2)
        assert not any(hasattr(p, "device_mesh") for p in generator.denoiser.parameters())

    outcomes = ranks.run(2, work, tmp_path / "output", 60)
    assert [rank.code for rank in outcomes] == [0, 0], [rank.text for rank in outcomes]
    assert (tmp_path / "run" / "samples" / "step-6.png").exists()  # for which all ranks sample


@pytest.mark.parametrize("processes", [2, 4])
def test_an_incident_of_canonical_parts_is_made_again(tmp_path, monkeypatch, processes):
    """The parts, and their dropout masks, are those of the run for any number of processes."""
    whole = loop.draw_batch

    def spoil(stage, arrays, step, world=ALONE):
        batch = whole(stage, arrays, step, world)
        if step == 2 and world.rank == world.size - 1:
            batch.x0[-1] = float("nan")
        return batch

    monkeypatch.setattr(loop, "draw_batch", spoil)
    work_together(processes, tmp_path / "run", code=3, elastic_exact=4)
    assert replay(tmp_path / "run" / "incidents" / "step-2", device="cpu").same


def test_a_disk_that_is_full_on_one_rank_of_a_sharded_run_ends_all_with_code_4(tmp_path):
    def before() -> None:
        if os.environ["RANK"] == "1":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    first, _ = work_together(2, tmp_path / "run", code=4, shard=True, before=before)
    assert "cannot write the shards of" in first.text
    assert not list((tmp_path / "run").rglob("*tmp-*"))
