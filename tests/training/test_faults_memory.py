"""A step that does not fit into memory changes nothing, is saved, and goes on in smaller parts."""

from __future__ import annotations

import json

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import OutOfMemory
from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder
from fewstep.training import step
from tests.support.toys import TINY, prints_of_failures, tiny_run

SMALL = {"network_options": {"width": 8, "depth": 1}, "checkpoint_every": 5}


def crowd(monkeypatch, first: int, error: Exception, most: int = 1) -> list[tuple[str, str]]:
    """No step from `first` on fits, unless it is cut in more parts than `most`.

    Returns fingerprints of the state before and after each step that failed.
    """
    whole = fs.Method.loss

    def loss(self, models, x0, z, times, cond=None, seed=None):
        if times.progress >= first / 6 and len(x0) * (most + 1) > 16:
            raise error
        return whole(self, models, x0, z, times, cond, seed)

    monkeypatch.setattr(fs.Method, "loss", loss)
    return prints_of_failures(monkeypatch, type(error))


ERRORS = {
    "cuda": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB"
    ),
    "host": MemoryError(),
    "allocator": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes.\nmore"
    ),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_the_state_is_as_it_was_saved_and_told_in_one_line(tmp_path, monkeypatch, error):
    prints = crowd(monkeypatch, 3, error)
    with pytest.raises(
        OutOfMemory, match=r"nothing was updated and the step is saved: continue with"
    ) as info:
        fs.train(tiny_run(**SMALL), out=tmp_path, progress=False, device="cpu")
    assert "\n" not in str(info.value)
    ((before, after),) = prints
    newest = RunFolder(tmp_path).newest()
    assert before == after == newest.state["fingerprint"]
    assert newest.state["step"] == 3


def test_it_goes_on_in_more_parts_by_the_command_that_is_told(
    tmp_path, monkeypatch, capsys, caplog
):
    command = ["train", "toy", "--out", str(tmp_path / "run"), *TINY]
    assert main(["train", "toy", "--out", str(tmp_path / "whole"), *TINY]) == 0
    crowd(monkeypatch, 3, ERRORS["cuda"])
    assert main(command) == 1
    assert "--resume --accumulate 2 or more" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 1
    # By the run before: the step that failed again has its checkpoint.
    assert "nothing was updated and the step is saved" in capsys.readouterr().err
    caplog.clear()
    assert (
        main(["train", "toy", "--out", str(tmp_path / "run"), "--resume", "--accumulate", "2"]) == 0
    )
    assert "accumulate = 2, but the run in" in caplog.text
    assert "was started with 1: the last bits may differ" in caplog.text
    assert json.loads((tmp_path / "run" / "run.json").read_text())["accumulate"] == 2
    one, other = (
        fs.load(tmp_path / name, device="cpu").denoiser.state_dict() for name in ("run", "whole")
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)
    caplog.clear()
    assert main(["train", "toy", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "last bits" not in caplog.text


def test_a_half_made_update_is_not_saved(tmp_path, monkeypatch):
    """If memory runs out in the update, weights are of two steps: the checkpoint before is used."""
    fields = tiny_run(**{**SMALL, "checkpoint_every": 3})
    update = step.update_averages
    whole = fs.train(fields, out=tmp_path / "whole", progress=False, device="cpu")

    def crowd(stage, state, progress):
        if state.step == 4:
            raise ERRORS["cuda"]
        update(stage, state, progress)

    with monkeypatch.context() as patch:
        patch.setattr(step, "update_averages", crowd)
        with pytest.raises(
            OutOfMemory, match="the update of step 4 is half done and not saved: continue with"
        ):
            fs.train(fields, out=tmp_path / "run", progress=False, device="cpu")
    assert RunFolder(tmp_path / "run").newest().state["step"] == 3
    again = fs.train(fields, out=tmp_path / "run", resume=True, progress=False, device="cpu")
    assert again.fingerprint == whole.fingerprint


@pytest.mark.pictures
def test_a_picture_that_does_not_fit_costs_no_run(tmp_path, monkeypatch, caplog):
    def crowd(self, *arguments, **options):
        raise ERRORS["cuda"]

    monkeypatch.setattr(fs.Generator, "sample", crowd)
    generator = fs.train(
        tiny_run(**{**SMALL, "picture_every": 2}), out=tmp_path, progress=False, device="cpu"
    )
    assert generator.step == RunFolder(tmp_path).newest().state["step"] == 6
    messages = [
        record.getMessage()
        for record in caplog.records
        if "no picture of step" in record.getMessage()
    ]
    assert len(messages) == 3
    assert all("CUDA out of memory" in line and "\n" not in line for line in messages)


def test_an_error_of_another_kind_is_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    crowd(monkeypatch, 3, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fs.train(tiny_run(**SMALL), out=tmp_path, progress=False, device="cpu")
