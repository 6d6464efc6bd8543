"""Several processes are one run: the same draws, the same bits where promised, and nobody waits for
the dead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import fewstep as fs
from fewstep.base.errors import NonFiniteError, UserError
from fewstep.base.world import ALONE, World
from fewstep.run import checkpoint
from fewstep.run.build import build_method, with_defaults
from fewstep.run.checkpoint import RunFolder
from fewstep.run.facts import Facts
from fewstep.run.prepare import Prepared
from fewstep.run.stages import Stage
from fewstep.training import loop, parallel
from fewstep.training.batches import draw_batch
from fewstep.training.ranks import launched, limit_of
from fewstep.training.state import new_state
from fewstep.training.step import train_step
from tests.support import ranks
from tests.support.toys import tiny_run


def run_of(**fields) -> fs.Run:
    return tiny_run(
        **{"batch": 32, "network_options": {"width": 16, "depth": 1, "dropout": 0.1}, **fields}
    )


def train(
    size: int,
    out: Path,
    *,
    until: int | None = None,
    shard: bool = False,
    seconds: float = 90.0,
    **fields,
):
    """Trains in a folder with so many ranks, until that step or the end; how each rank ended."""

    def watch(state) -> None:
        if state.step == until:
            os.kill(os.getpid(), signal.SIGTERM)

    def work() -> None:
        fs.train(
            run_of(**fields),
            out=out,
            resume=True,
            progress=False,
            device="cpu",
            shard=shard,
            watch=watch,
        )

    ended = ranks.run(size, work, out.parent / f"{out.name}-said", seconds)
    assert [rank.code for rank in ended] == [0 if until is None else 75] * size, [
        rank.said for rank in ended
    ]
    return ended


def fingerprint(out: Path) -> str:
    return fs.load(out, device="cpu").fingerprint


def weights(out: Path, group: str = "student") -> dict[str, torch.Tensor]:
    return RunFolder(out).newest().groups[group]


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# What follows needs no second process.


@pytest.mark.parametrize("method", ["ect", "tcm", "mcm"])
def test_ranks_draw_the_parts_of_what_one_process_draws(method):
    """Order, data, noise, times and dropout seeds of a step: of 1, 2 and 4 ranks, the same stream
    to the last bit.
    """
    run = with_defaults(
        run_of(method=method, method_options={"base": {"method": "ect"}} if method == "tcm" else {})
    )
    dataset = fs.data.load("ring8")
    made = build_method(run, Facts(dataset.shape, 0, 0.5, dataset.units, ""))
    for step in (0, 7):
        whole = draw_batch(Stage(run, made), dataset.train, step)
        for size in (2, 4):
            parts = [
                draw_batch(Stage(run, made), dataset.train, step, World(rank, size))
                for rank in range(size)
            ]
            for name in ("rows", "x0", "z"):
                assert torch.equal(
                    torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)
                )
            for name in ("t", "r", "a", "w", "u"):
                assert torch.equal(
                    torch.cat([getattr(part.times, name) for part in parts]),
                    getattr(whole.times, name),
                )
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
    assert launched(env) == world


def test_a_launcher_that_says_half_of_it_is_told():
    with pytest.raises(UserError, match="2 processes without MASTER_ADDR and MASTER_PORT"):
        launched({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="RANK = 2: expected a rank in 0"):
        launched({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    with pytest.raises(UserError, match="whole numbers"):
        launched({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="FEWSTEP_RANK_TIMEOUT = 'soon'"):
        limit_of({"FEWSTEP_RANK_TIMEOUT": "soon"})


@pytest.mark.parametrize(
    ("fields", "size", "shard", "told"),
    [
        ({}, 3, False, "processes = 3: expected a number that cuts batch=32"),
        ({"accumulate": 4}, 4, False, "accumulate=4"),
        ({"elastic_exact": 4}, 8, False, "divides elastic_exact=4"),
        ({}, 1, True, "shard = True: expected several processes"),
        ({"elastic_exact": 4}, 2, True, "False with elastic_exact"),
    ],
)
def test_a_run_that_cannot_be_dealt_out_is_refused(fields, size, shard, told):
    with pytest.raises(UserError, match=told):
        parallel.check(run_of(**fields), World(0, size), shard)


def test_a_power_of_two_cuts_the_batch_in_whole_blocks():
    for number in (3, 16, -2):
        with pytest.raises(
            UserError, match=f"elastic_exact = {number}: expected 0, or a power of 2"
        ):
            run_of(elastic_exact=number)


def test_networks_that_several_processes_cannot_train_are_refused():
    run, dataset = with_defaults(run_of()), fs.data.load("ring8")
    facts = Facts(dataset.shape, 0, 0.5, dataset.units, "")

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x, label, cond=None):
            return self.norm(self.layer(x)) * self.gain

    state = new_state(Prepared(run, facts, build_method(run, facts), network=Normed()))
    with pytest.raises(
        UserError, match="norm is a BatchNorm1d, whose statistics differ by process"
    ):
        parallel.check_network(state, False)
    state.student.network.norm = nn.Identity()
    parallel.check_network(state, False)
    with pytest.raises(UserError, match="gain is a single number"):
        parallel.check_network(state, True)


def test_the_tree_is_the_gradient_of_the_mean():
    """To rounding what backward gives in one piece, in float64."""
    kept = []
    for number in (0, 1, 2, 4, 8):
        run, dataset = with_defaults(run_of(elastic_exact=number)), fs.data.load("ring8")
        facts = Facts(dataset.shape, 0, 0.5, dataset.units, "")
        method = build_method(run, facts)
        state = new_state(Prepared(run, facts, method))
        stage = Stage(run, method)
        for module in state.modules().values():
            module.double()
        arrays = dataset.train._replace(x0=dataset.train.x0.double())
        row = train_step(stage, state, draw_batch(stage, arrays, 0))
        kept.append((row["loss"], row["grad_norm"]))
    for found in kept[1:]:
        assert found == pytest.approx(kept[0], rel=1e-12)


# What follows starts processes.


@pytest.mark.parametrize("method", ["ect", "sct", "tcm"])
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
    rows = [
        json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == list(range(1, 10))


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["sct", "gc"])
def test_gradients_are_joined_whatever_way_the_passes_go(tmp_path, method, shard):
    """Two processes end, to rounding, with the weights of one: also where a loss has a jvp, or asks
    some of the rows.

    Were each rank to follow the gradient of its own half, they would be 1e-3 apart (Adam's step is
    the learning rate).
    """
    train(1, tmp_path / "one", method=method)
    ended = train(2, tmp_path / "two", method=method, shard=shard)
    assert not any(rank.said for rank in ended)
    assert farthest(weights(tmp_path / "one"), weights(tmp_path / "two")) < 2e-5


def test_accumulated_parts_of_each_process_are_the_whole_batch(tmp_path):
    train(1, tmp_path / "one")
    for name, shard in (("ddp", False), ("fsdp", True)):
        train(2, tmp_path / name, accumulate=2, shard=shard)
        assert farthest(weights(tmp_path / "one"), weights(tmp_path / name)) < 2e-5


def test_sharded_checkpoints_hold_no_pickle_and_go_on_to_the_bit_and_with_other_numbers(tmp_path):
    fields = {"method": "tcm", "iterations": 6, "split": 0.34}
    train(2, tmp_path / "whole", shard=True, **fields)
    train(2, tmp_path / "parts", shard=True, until=3, **fields)
    shutil.copytree(tmp_path / "parts", tmp_path / "alone")
    train(2, tmp_path / "parts", shard=True, **fields)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    newest = RunFolder(tmp_path / "whole").newest()
    assert newest.sharded
    for file in newest.path.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_text())
        else:
            with safe_open(file, "pt") as opened:
                assert len(list(opened.keys())) > 0
    assert newest.state["fingerprint"] == checkpoint.state_fingerprint(newest.groups, newest.state)
    train(1, tmp_path / "alone", **fields)
    assert farthest(weights(tmp_path / "alone"), weights(tmp_path / "whole")) < 2e-5
    content = bytearray((shards := sorted(newest.path.glob("shard-*")))[1].read_bytes())
    content[-5] ^= 1
    shards[1].write_bytes(content)
    assert RunFolder(tmp_path / "whole").newest().state["step"] == 4


def forever(out: Path, work=None) -> tuple[list[int], Path]:
    """Two ranks of a run without end, once they are at work."""

    def endless() -> None:
        fs.train(
            run_of(iterations=10**6, checkpoint_every=20),
            out=out,
            resume=True,
            progress=False,
            device="cpu",
            watch=work,
        )

    said = out.parent / f"{out.name}-said"
    pids = ranks.start(2, endless, said)
    until = time.monotonic() + 60
    while not RunFolder(out).checkpoints() and time.monotonic() < until:
        time.sleep(0.02)
    return pids, said


@pytest.mark.parametrize(
    ("lost", "how"),
    [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)],
    ids=["kill", "kill-0", "stop"],
)
def test_a_lost_rank_ends_the_others_in_15_seconds_naming_it(tmp_path, lost, how):
    pids, said = forever(tmp_path / "run")
    at = time.monotonic()
    os.kill(pids[lost], how)
    other = ranks.wait([pids[1 - lost]], said, 30) if lost else None
    if how == signal.SIGSTOP:
        os.kill(pids[lost], signal.SIGKILL)
    ended = ranks.wait(pids[lost:] if lost else pids, said, 30)
    found = other[0] if other else ended[1]
    told = (said / f"rank-{1 - lost}.txt").read_text()
    assert found.code == 5
    assert found.at - at < 15
    cause = "no sign of life" if how == signal.SIGSTOP else f"process {pids[lost]} on .* is gone"
    assert re.search(f"rank {lost} is lost: {cause}", told)
    assert ended[0].code == -signal.SIGKILL
    # No lock is left that blocks the next start, and the run goes on from what was saved.
    assert RunFolder(tmp_path / "run").newest().state["step"] >= 20


def test_a_rank_that_fails_ends_the_others_with_its_cause(tmp_path):
    def failing(state) -> None:
        if state.world.rank == 1 and state.step == 25:
            raise ValueError("the disk of rank 1\nis on fire")

    pids, said = forever(tmp_path / "run", failing)
    ended = ranks.wait(pids, said, 30)
    assert ended[0].code == 5
    assert "rank 1 is lost: ValueError: the disk of rank 1; continue with --resume" in ended[0].said
    assert ended[1].code == 1
    assert ended[0].at - ended[1].at < 15


def test_a_signal_to_one_rank_stops_all_of_them_at_one_step(tmp_path):
    pids, said = forever(tmp_path / "run")
    os.kill(pids[1], signal.SIGTERM)
    ended = ranks.wait(pids, said, 30)
    assert [rank.code for rank in ended] == [75, 75]
    assert len({rank.said for rank in ended}) == 1
    assert (
        f"stopped at step {RunFolder(tmp_path / 'run').newest().state['step']} of" in ended[0].said
    )


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp"])
def test_numbers_that_are_not_finite_on_one_rank_stop_all_alike(tmp_path, monkeypatch, shard):
    """Before anything is updated; the incident holds the batch of all ranks, and is made again bit
    for bit.
    """
    whole = loop.draw_batch

    def poisoned(stage, arrays, step, world=ALONE):
        run, batch = stage.run, whole(stage, arrays, step, world)
        first = step * run.batch + world.rank * len(batch.x0)
        if step == 3 and first <= 3 * run.batch + 20 < first + len(
            batch.x0
        ):  # row 20 of 32: rank 1's
            batch.x0[3 * run.batch + 20 - first] = float("inf")
        return batch

    monkeypatch.setattr(loop, "draw_batch", poisoned)

    def work() -> None:
        fs.train(
            run_of(checkpoint_every=99),
            out=tmp_path / "run",
            progress=False,
            device="cpu",
            shard=shard,
        )

    ended = ranks.run(2, work, tmp_path / "said", 60)
    assert [rank.code for rank in ended] == [NonFiniteError.exit_code] * 2, [
        rank.said for rank in ended
    ]
    assert len({rank.said for rank in ended}) == 1
    assert "step 3: the loss of 1 of 32 rows is not finite" in ended[0].said
    train(1, tmp_path / "clean", until=3)
    assert farthest(weights(tmp_path / "run"), weights(tmp_path / "clean")) < 2e-5
    from fewstep.training.replay import replay

    found = replay(tmp_path / "run" / "incidents" / "step-3", device="cpu")
    assert found.same
    assert found.bad.tolist() == [20]


def test_ranks_that_see_other_data_are_told(tmp_path):
    def work() -> None:
        data = torch.randn(64, 2, generator=torch.Generator().manual_seed(int(os.environ["RANK"])))
        fs.train(run_of(), data, out=tmp_path / "run", progress=False, device="cpu")

    ended = ranks.run(2, work, tmp_path / "said", 60)
    assert [rank.code for rank in ended] == [2, 2]
    assert "settings and data: rank 1 has" in ended[1].said


def test_ranks_that_start_from_other_weights_are_told(tmp_path):
    """A network of one's own that every rank initialises in its own way would be trained as if it
    were one.
    """

    def work() -> None:
        with torch.random.fork_rng():
            torch.manual_seed(int(os.environ["RANK"]))
            network = Plain()
        fs.train(
            run_of(elastic_exact=4),
            network=network,
            out=tmp_path / "run",
            progress=False,
            device="cpu",
        )

    ended = ranks.run(2, work, tmp_path / "said", 60)
    assert [rank.code for rank in ended] == [2, 2]
    assert "initial weights: rank 1 has" in ended[0].said


class Plain(nn.Module):
    """A network of one's own that goes left or right by the sign of its first number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.idle = nn.Linear(2, 2)

    def forward(self, x, label, cond=None):
        side = self.left if float(x[0, 0]) < 0 else self.right
        return self.layer(x) + side(x)


class Straight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, label, cond=None):
        return self.layer(x)


def alike(kind: type[nn.Module]) -> nn.Module:
    """A network that every rank initialises alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def test_elastic_exact_adds_gradients_that_not_every_part_has(tmp_path):
    """A weight that some parts reach and others not, and one that nothing reaches."""
    for size in (1, 2):

        def work(size=size) -> None:
            run = run_of(elastic_exact=4)
            fs.train(
                run, network=alike(Plain), out=tmp_path / str(size), progress=False, device="cpu"
            )

        ended = ranks.run(size, work, tmp_path / f"{size}-said", 60)
        assert [rank.code for rank in ended] == [0] * size, [rank.said for rank in ended]
    prints = [RunFolder(tmp_path / str(size)).newest().state["fingerprint"] for size in (1, 2)]
    assert prints[0] == prints[1]


def test_a_network_of_ones_own_in_shards_is_whole_at_the_end(tmp_path):
    def work() -> None:
        run = run_of()
        made = fs.train(
            run,
            network=alike(Straight),
            out=tmp_path / "run",
            progress=False,
            device="cpu",
            shard=True,
        )
        assert made.sample(2).shape == (2, 2)
        assert not any(hasattr(p, "device_mesh") for p in made.denoiser.parameters())

    ended = ranks.run(2, work, tmp_path / "said", 60)
    assert [rank.code for rank in ended] == [0, 0], [rank.said for rank in ended]


@pytest.mark.parametrize("processes", [2, 4])
def test_an_incident_of_canonical_parts_is_made_again(tmp_path, monkeypatch, processes):
    """The parts are those of the run, whatever the number of processes, and so are their dropout
    masks.
    """
    whole = loop.draw_batch

    def poisoned(stage, arrays, step, world=ALONE):
        batch = whole(stage, arrays, step, world)
        if step == 2 and world.rank == world.size - 1:
            batch.x0[-1] = float("nan")
        return batch

    monkeypatch.setattr(loop, "draw_batch", poisoned)

    def work() -> None:
        fs.train(run_of(elastic_exact=4), out=tmp_path / "run", progress=False, device="cpu")

    ended = ranks.run(processes, work, tmp_path / "said", 60)
    assert {rank.code for rank in ended} == {3}
    from fewstep.training.replay import replay

    assert replay(tmp_path / "run" / "incidents" / "step-2", device="cpu").same


def test_a_disk_that_is_full_on_one_rank_of_a_sharded_run_ends_all_with_code_4(tmp_path):
    def work() -> None:
        import resource

        if os.environ["RANK"] == "1":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        fs.train(run_of(), out=tmp_path / "run", progress=False, device="cpu", shard=True)

    ended = ranks.run(2, work, tmp_path / "said", 60)
    assert [rank.code for rank in ended] == [4, 4], [rank.said for rank in ended]
    assert "cannot write the shards of" in ended[0].said
    assert not list((tmp_path / "run").rglob("*tmp-*"))
