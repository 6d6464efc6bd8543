"""fewstep plan: what a run will take, by counts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fewstep.base.surroundings import threads
from fewstep.cli import main
from fewstep.run import recipes
from fewstep.run.build import build_student
from fewstep.run.machines import KINDS, REACHED
from fewstep.run.prepare import prepare
from fewstep.training import budget
from fewstep.training.budget import budget_of, passes_of, size_of
from fewstep.training.step import train_step

# of an update, for each sample: passes of ours with gradient, without, with a derivative; teacher's
PASSES = {
    "diffusion": (1, 0, 0, 0),
    "ect": (1, 1, 0, 0),
    "ict": (1, 1, 0, 0),
    "tcm": (1, 1, 0, 0),
    "cd": (1, 1, 0, 2),  # Heun's method asks twice
    "mcm": (1, 1, 0, 1),
    "sct": (1, 2, 0, 0),
    "scd": (1, 2, 0, 1),
    "pd": (1, 2, 0, 0),
}


def run_of(method, **fields):
    teacher = {"cd": "exact:digits-mixture", "scd": "exact:digits-mixture"}.get(method)
    more = {} if teacher is None else {"teacher": teacher}
    return replace(recipes.digits_mixture(method=method, **more), **fields)


@pytest.mark.parametrize("method", PASSES)
def test_passes_are_those_of_the_method(method):
    prepared = prepare(run_of(method))
    ours, theirs = passes_of(prepared, prepared.method)
    assert (ours.learn, ours.look, ours.tangent, theirs.look) == PASSES[method]


def test_a_run_of_low_precision_is_counted_with_a_jvp():
    prepared = prepare(run_of("sct", precision="bf16"))
    assert passes_of(prepared, prepared.method)[0] == budget.Passes(1, 0, 1)


def test_an_mlp_is_counted_as_its_matrices():
    prepared = prepare(run_of("ect", network_options={"width": 32, "depth": 2}))
    size = size_of(prepared)
    network = build_student(prepared.run, prepared.facts, prepared.method).network
    assert size.weights == sum(p.numel() for p in network.parameters())
    matrices = sum(p.numel() for p in network.parameters() if p.ndim == 2)
    assert 0.8 * 2 * matrices < size.flops <= 2 * matrices  # rows of labels are no product
    assert size.kept_bytes > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_a_pass_keeps_is_counted_without_memory(dropout):
    options = {"width": 16, "blocks": 1, "dropout": dropout}
    fields = {"network": "song_unet", "network_options": options, "batch": 64}
    prepared = prepare(replace(recipes.digits(method="ect"), **fields))
    network = build_student(prepared.run, prepared.facts, prepared.method).network
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def bytes_of(rows: int) -> int:
        kept: dict[int, torch.UntypedStorage] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage
            return x

        part = prepared.arrays.rows(torch.arange(rows))
        masks = network.masks(rows, (0,))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            network(part.x0.requires_grad_(), torch.ones(rows), part.cond, masks)
        bits = sum(one.nbytes for one in masks._cache.values()) if masks else 0
        return sum(one.nbytes() for one in kept.values()) + bits

    truth = (bytes_of(4) - bytes_of(2)) / 2
    assert size_of(prepared).kept_bytes == pytest.approx(truth, rel=0.02)


DIT = {"patch": 2, "width": 64, "depth": 6, "heads": 2}


@pytest.mark.long
def test_recomputed_a_sample_keeps_the_inputs_of_blocks_and_one_block():
    """Each of these inputs is a block's tokens [16, 64] in float32; time goes up by a fourth."""
    prepared = prepare(run_of("diffusion", network="dit", network_options=DIT))
    whole, again = size_of(prepared), size_of(prepared, recompute=True)
    assert (again.weights, again.flops, again.block) == (whole.weights, whole.flops, whole.block)
    inside = (whole.kept_bytes - again.kept_bytes) / 5  # of each block but one
    assert again.kept_bytes == pytest.approx(inside + 6 * 16 * 64 * 4, rel=0.3)
    budgets = [budget_of(prepared, kind="a100", recompute=on) for on in (False, True)]
    assert budgets[1].hours == pytest.approx(budgets[0].hours * 4 / 3)
    assert budgets[1].memory < budgets[0].memory


def test_in_shards_each_process_has_its_part_and_two_blocks():
    prepared = prepare(run_of("diffusion", network="dit", network_options=DIT))
    size = size_of(prepared)
    assert size.weights - size.rest == 6 * size.block
    alone, two, four = (
        budget_of(prepared, gpus=n, kind="a100", shard=n > 1).memory for n in (1, 2, 4)
    )
    rows = prepared.run.batch * size.kept_bytes * budget.SLACK
    copies = 4 * size.weights * 5  # student, gradient, average, two moments
    assert two - four == pytest.approx((rows + copies) / 4)
    gathered = 4 * 2 * (size.rest + 2 * size.block)  # weights and gradients
    assert alone - two == pytest.approx((rows + copies) / 2 - gathered)


@pytest.mark.long
def test_what_is_cut_takes_its_part_of_the_memory_and_two_devices_half_of_the_hours():
    prepared = prepare(run_of("ect"))
    whole, two = (budget_of(prepared, gpus=n, kind="a100") for n in (1, 2))
    assert two.hours == pytest.approx(whole.hours / 2)
    rate = KINDS["a100"][0]["fp32"] * REACHED
    assert whole.hours * 3600 == pytest.approx(whole.flops / rate)
    rows = [budget_of(prepare(run_of("ect", accumulate=n))).memory for n in (1, 2, 4)]
    assert rows[0] - rows[1] == pytest.approx(2 * (rows[1] - rows[2]))
    assert rows[0] > rows[1]
    assert budget_of(prepared, gpus=2).memory == rows[1]
    assert budget_of(prepared).hours is None


@pytest.mark.long
def test_disk_and_memory_follow_what_a_run_keeps():
    def plan(method="ect", **fields):
        return budget_of(prepare(run_of(method, **{"iterations": 100, **fields})))

    for fields, number in (({}, 2), ({"keep_checkpoints": 0}, 10), ({"iterations": 10}, 1)):
        one = plan(checkpoint_every=10, **fields)
        assert one.storage == number * one.checkpoint
    scored = plan(eval_every=5, checkpoint_every=100)  # of two kept one is made, and the best
    assert scored.storage == 3 * scored.checkpoint
    plain, staged, narrow = plan(), plan("tcm"), plan(precision="bf16")
    assert staged.checkpoint - plain.checkpoint == 4 * plain.weights  # the frozen first stage
    rows = plain.memory - plan(accumulate=2).memory  # half of what the rows take
    assert plain.memory - narrow.memory == pytest.approx(rows)


def test_a_network_of_one_s_own_stays_as_it_was():
    network = torch.nn.Linear(64, 64)
    before = network.weight.detach().clone()

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, label, cond=None):
            return self.inner(x.flatten(1)).reshape(x.shape)

    run = replace(run_of("ect"), labels=False)
    assert budget_of(prepare(run, network=Own()), steps=1).hours > 0
    assert torch.equal(network.weight, before)


def test_steps_are_timed_with_the_threads_of_the_run(monkeypatch):
    numbers = []

    def step(*args):
        numbers.append(torch.get_num_threads())
        return train_step(*args)

    monkeypatch.setattr(budget, "train_step", step)
    small = {"network_options": {"width": 8, "depth": 1}, "batch": 32}
    prepared = prepare(run_of("ect", threads=1, **small))
    with threads(2):
        budget_of(prepared, steps=2)
    assert numbers == [1, 1, 1]


def test_a_recipe_of_a_paper_is_planned_without_its_data(capsys):
    words = ["plan", "cifar10-ect", "--shape", "3,32,32", "--kind", "h200", "--gpus", "8", "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"] == 55_732_739
    assert facts["passes"] == 4
    assert facts["basis"] == "estimated: 30% of the peak of 8 x h200"


def test_a_teacher_that_is_not_there_is_counted_all_the_same(capsys):
    words = ["plan", "cifar10-scd", "--shape", "3,16,16", "--kind", "h200", "--network.width", "8"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher_passes"] == 1


def test_the_teacher_of_a_first_stage_is_counted(capsys):
    words = ["plan", "digits", "--method", "pd", "--shape", "1,8,8", "--network.width", "16"]
    assert main([*words, "--timed", "0", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["teacher_passes"] < 1


def test_a_recipe_of_latents_is_planned_by_the_shape_of_one(capsys):
    """Its data are moments, of twice the channels."""
    small = ["--network.width", "24", "--network.heads", "2", "--network.depth", "1"]
    words = ["plan", "imagenet256-meanflow-b2", "--shape", "4,8,8", "--classes", "3", *small]
    assert main([*words, "--batch", "32", "--timed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] > 0


def test_steps_are_timed_here_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "toy", "--timed", "2", "--batch", "32"]) == 0
    text = capsys.readouterr().out
    assert "2 steps timed on this machine" in text
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_there_already_is_planned_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy", "--iterations", "2", "--batch", "32", "--quiet"]) == 0
    assert main(["plan", "toy", "--timed", "0"]) == 0
    assert "not timed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--kind", "h20"], "unknown kind of machine 'h20': did you mean 'h200'"),
        (["digits", "--gpus", "0"], "gpus = 0: expected 1 or more"),
        (["digits", "--gpus", "x"], "'x'"),
        (["digits", "--shape", "a"], "shape = 'a': expected numbers such as 3,32,32"),
        ([], "name a recipe, for example 'fewstep plan digits'"),
    ],
)
def test_a_mistake_is_one_line(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_help_names_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "--kind TEXT" in capsys.readouterr().out
    assert torch.is_grad_enabled()
