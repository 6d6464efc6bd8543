"""A number that is not finite changes nothing, is reported with its place, and can be replayed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.base.errors import NonFiniteError
from fewstep.cli import main
from fewstep.run import checkpoint
from fewstep.run.checkpoint import RunFolder
from fewstep.training import incidents, loop
from fewstep.training.replay import replay
from tests.support.toys import TINY, Gaussian, prints_of_failures, tiny_run

NAN, INF = float("nan"), float("inf")
BROKEN: set[str] = set()  # what fails from now on, with which number in `Fragile.number`


class Fragile(nn.Module):
    """A network whose output, gradient or derivative along a direction can be made not finite."""

    number = NAN

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x, noise_label, cond=None):
        h = torch.tanh(self.first(x))
        if "gradient" in BROKEN and torch.is_grad_enabled():
            h.register_hook(lambda grad: grad * self.number)
        out = self.last(h)
        if "output" in BROKEN and torch.is_grad_enabled():
            out = torch.where(torch.arange(len(x))[:, None] == 1, out * self.number, out)
        if "tangent" in BROKEN and not torch.is_grad_enabled():
            out = out + (x * 0).abs().sqrt()  # 0, of infinite slope
        return out


class Teacher:
    """One that knows the answer until it is broken."""

    def __init__(self) -> None:
        self.truth = Gaussian(process=fs.process.edm())

    def __call__(self, x, t, cond=None):
        return self.truth(x, t) * (Fragile.number if "teacher" in BROKEN else 1.0)


def fresh() -> Fragile:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Fragile()


@pytest.fixture(autouse=True)
def _mend():
    BROKEN.clear()
    Fragile.number = NAN
    yield
    BROKEN.clear()


def spoil(kind: str, monkeypatch) -> None:
    """Makes step 3 of a run fail, for what is no part of the network."""
    if kind == "data":
        whole = loop.draw_batch

        def draw(stage, arrays, step, *arguments):
            batch = whole(stage, arrays, step, *arguments)
            if step == 3:
                batch.x0[2, 0] = Fragile.number
            return batch

        monkeypatch.setattr(loop, "draw_batch", draw)


ALL, ONE = (rf"the loss of {rows} of 16 rows is not finite, first in " for rows in (16, 1))
CASES = {  # what breaks: method, options, what is told of it
    "data": ("ect", {}, ONE + r"student\.\S+ \(Linear\), which was given such numbers"),
    "output": ("ect", {}, ONE + r"student\.network \(Fragile\)"),
    "gradient": (
        "ect",
        {},
        r"the loss is finite, its gradient has norm (nan|inf), first in student\.network\.first",
    ),
    "teacher": ("cd", {"n": 12}, ALL + r"target\.\S+ \(Linear\), which was given such numbers"),
    "average": ("cd", {"n": 12}, ALL + r"(ema|target)\.network\.last"),
    "tangent": ("sct", {"derivative": "jvp"}, ALL + r"student\.network \(Fragile\)"),
}


@pytest.mark.parametrize("number", [NAN, INF])
@pytest.mark.parametrize("kind", CASES)
def test_it_is_found_in_its_step_changes_nothing_and_is_replayed(
    tmp_path, monkeypatch, kind, number
):
    name, options, message = CASES[kind]
    Fragile.number = number
    arguments = {"teacher": Teacher()} if name == "cd" else {}
    run = tiny_run(method=name, method_options=options, network_options={}, checkpoint_every=2)
    prints = prints_of_failures(monkeypatch, NonFiniteError)
    spoil(kind, monkeypatch)

    def look(state):
        if state.step == 3:
            BROKEN.add(kind)
            if kind == "average":
                state.models().ema.network.last.bias.data[0] = number

    with pytest.raises(NonFiniteError, match=rf"step 3: {message}") as info:
        fs.train(
            run,
            network=fresh(),
            out=tmp_path,
            progress=False,
            device="cpu",
            watch=look,
            **arguments,
        )
    text = str(info.value)
    assert info.value.exit_code == 3
    assert "\n" not in text
    assert "nothing was updated" in text
    if kind != "gradient":
        assert "t in [" in text
        assert "of the training split" in text
    assert [before == after for before, after in prints] == [True]
    assert RunFolder(tmp_path).newest().state["step"] == (2 if kind == "average" else 3)
    path = tmp_path / "incidents" / "step-3"
    assert f"fewstep replay {path}" in text
    result = replay(path, network=fresh(), device="cpu", **arguments)
    assert (result.step, result.same) == (3, True)
    assert result.module is None if kind == "gradient" else result.module in text
    rows = {"gradient": 0, "data": 1, "output": 1}
    assert len(result.bad) == rows.get(kind, 16)
    BROKEN.clear()
    if kind in ("output", "gradient", "teacher", "tangent"):
        # Repaired, the same step gives other numbers.
        assert replay(path, network=fresh(), device="cpu", **arguments).same == (kind == "gradient")


def test_the_commands_exit_with_3_then_0_and_1_where_the_stored_losses_are_others(
    tmp_path, monkeypatch, capsys
):
    spoil("data", monkeypatch)
    folder = tmp_path / "run"
    assert main(["train", "toy", "--out", str(folder), *TINY]) == 3
    assert "step 3: the loss of 1 of 16 rows is not finite" in capsys.readouterr().err
    path = folder / "incidents" / "step-3"
    assert main(["replay", str(path), "--device", "cpu"]) == 0
    assert "the same losses to the bit" in capsys.readouterr().out
    incident, _, losses = incidents.read(path)
    groups = {name: dict(incident.groups[name]) for name in incident.groups}
    finite = int(torch.isfinite(losses).nonzero()[0])
    groups["batch"]["loss"] = losses.clone()
    groups["batch"]["loss"].view(torch.int32)[finite] ^= 1
    checkpoint.write(tmp_path / "other", groups, incident.state)  # with a manifest of its own
    assert main(["replay", str(tmp_path / "other"), "--device", "cpu", "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert (output["same"], output["step"], [row["row"] for row in output["not_finite"]]) == (
        False,
        3,
        [2],
    )
    assert main(["replay", str(folder / "checkpoints" / "step-3")]) == 4
    assert "is no incident" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    whole = loop.train_step

    def spoiling(stage, state, batch):
        row = whole(stage, state, batch)
        if state.step == 4:
            state.student.network.outlet.bias.data[0] = NAN
        return row

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", spoiling)
        with pytest.raises(
            NonFiniteError,
            match=r"step 4: student\.network\.outlet\.bias is not finite: this step is",
        ):
            fs.train(tiny_run(), out=tmp_path / "run", progress=False, device="cpu")
    assert RunFolder(tmp_path / "run").newest().state["step"] == 2
    again = fs.train(tiny_run(), out=tmp_path / "run", resume=True, progress=False, device="cpu")
    assert again.fingerprint == fs.train(tiny_run(), progress=False, device="cpu").fingerprint


def test_forced_normalisation_of_a_failed_step_is_taken_back(tmp_path, monkeypatch):
    """A second time gives other bits: the weights before the step are saved, and replayed."""

    def method() -> fs.Method:
        return replace(fs.methods.diffusion(), balance=fs.balances.LogVariance(channels=8))

    options = {"width": 8, "mult": (1,), "blocks": 1, "attention": (), "head_channels": 8}
    run = tiny_run(
        data="digits",
        network="edm2_unet",
        network_options=options,
        method="diffusion",
        checkpoint_every=5,
    )
    whole = fs.train(run, method=method(), progress=False, device="cpu")
    with monkeypatch.context() as patch:
        spoil("data", patch)
        with pytest.raises(NonFiniteError, match="step 3"):
            fs.train(run, method=method(), out=tmp_path, progress=False, device="cpu")
    assert replay(tmp_path / "incidents" / "step-3", method=method(), device="cpu").same
    assert RunFolder(tmp_path).newest().state["step"] == 3
    again = fs.train(run, method=method(), out=tmp_path, resume=True, progress=False, device="cpu")
    assert again.fingerprint == whole.fingerprint
