"""Folders that an older version wrote go on; those of a later one are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import fewstep as fs
from fewstep.base.randomness import block_seed
from fewstep.cli import main
from fewstep.networks import dropout
from fewstep.run import checkpoint
from fewstep.run.checkpoint import RunFolder, fingerprint, read
from fewstep.run.config import run_from_json
from fewstep.training.state import State

OLD = Path(__file__).parents[1] / "formats" / "1"


@pytest.fixture
def old(tmp_path):
    """A run of six steps, stopped after the fourth, in its second stage, by a version that wrote
    format 1.
    """
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def test_format_1_is_read_with_what_it_leaves_out(old):
    checkpoint = read(old / "checkpoints" / "step-4")
    assert checkpoint.state["format"] == 1
    assert (checkpoint.state["step"], checkpoint.state["begun"], checkpoint.state["stage"]) == (
        4,
        2,
        2,
    )
    assert fs.load(old, device="cpu").step == 4
    assert fs.load(old, device="cpu").fingerprint == checkpoint.state["fingerprint"]
    assert main(["inspect", str(old)]) == 0


def masks_of_then(self, layer, shape, keep, device):
    """Bernoulli draws, an entry at a time."""
    parts = []
    for seed in self.seeds:
        source = torch.Generator(device).manual_seed(block_seed(0, f"dropout {layer}", seed))
        part = torch.empty(self.rows // len(self.seeds), *shape, device=device)
        parts.append(part.bernoulli_(keep, generator=source))
    return torch.cat(parts).bool()


def test_a_run_of_format_1_ends_as_one_of_this_version(old, tmp_path, monkeypatch):
    """Bit for bit where this machine makes the bits of the one that wrote it: else the last digits
    are others. With that version's masks of dropout.
    """
    monkeypatch.setattr(dropout.Masks, "_all", masks_of_then)
    monkeypatch.setattr(dropout, "levels_of", lambda keep: keep * dropout.LEVELS)
    run = run_from_json(json.loads((old / "run.json").read_text()))
    at_four: dict[str, dict[str, torch.Tensor]] = {}

    def look(state: State) -> None:
        if state.step == 4:
            at_four.update(
                {
                    name: {k: v.clone() for k, v in tensors.items()}
                    for name, tensors in state.groups().items()
                }
            )

    fs.train(run, out=tmp_path / "new", progress=False, device="cpu", watch=look)
    groups = read(old / "checkpoints" / "step-4").groups
    assert fingerprint(groups) == read(OLD / "checkpoints" / "step-4").state["fingerprint"]
    exact = all(
        fingerprint({name: groups[name]}) == fingerprint({name: at_four[name]}) for name in groups
    )
    assert set(groups) == set(at_four)
    fs.train(run, out=old, resume=True, progress=False, device="cpu")
    one, other = (
        read(folder / "checkpoints" / "step-6").groups for folder in (old, tmp_path / "new")
    )
    assert set(one) == set(other)
    for group in one:
        for name, tensor in one[group].items():
            if exact:
                assert torch.equal(tensor, other[group][name]), (group, name)
            else:
                torch.testing.assert_close(tensor, other[group][name], rtol=1e-3, atol=1e-5)
    newest = RunFolder(old).newest()
    assert (newest.state["format"], newest.state["step"]) == (checkpoint.FORMAT, 6)
    rows = [json.loads(line)["step"] for line in (old / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [99, 3, 0, "2", None, 2.0, True])
def test_another_format_is_refused_in_one_line(old, capsys, number):
    """With a manifest that fits, so that nothing but the number is wrong."""
    path = old / "checkpoints" / "step-4"
    old_one = read(path)
    groups = {name: old_one.groups[name] for name in old_one.groups}
    shutil.rmtree(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.io, "FORMAT", number)
        checkpoint.write(path, groups, old_one.state)
    assert main(["train", "toy", "--out", str(old), "--resume"]) == 4
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewstep:")]
    assert len(lines) == 1
    assert f"has format {number}: this version reads 1 to {checkpoint.FORMAT}" in lines[0]
    assert path.is_dir()
