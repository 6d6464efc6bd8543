"""A checkpoint is whole or not there, and no damage to it goes unnoticed."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch

import fewstep as fs
from fewstep.base import disk
from fewstep.base.errors import StorageError
from fewstep.data import Units
from fewstep.run.checkpoint import RunFolder, fingerprint, read, write
from fewstep.run.checkpoint.schema import (
    POSITION,
    Position,
    check_values,
    new_record,
    read_record,
)
from fewstep.run.facts import Facts
from tests.support.toys import tiny_run

TENSORS = {
    "student": {
        "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "b": torch.tensor(2.0),
    },
    "optimizer": {
        "a.step": torch.tensor([1, 2], dtype=torch.int64),
        "a.half": torch.ones(2, dtype=torch.bfloat16),
    },
}


def about(step: int, **more) -> dict:
    return {"run": {}, "facts": {}, "step": step, "fingerprint": "", **more}


def test_a_record_is_read_as_it_was_written_and_says_none_where_a_file_says_nothing():
    run = tiny_run()
    facts = Facts((2,), 0, 0.5, Units(0.0, 1.0), "d")
    position = Position(step=4, stage_start=2, stage=2, teacher_rows=0, log="")
    record = new_record(run, facts, position, machine={"processes": 2}, skipped=["a.png"])
    values = record.to_json()
    assert (values["begun"], values["log"], values["skipped"]) == (2, "", ["a.png"])
    assert (record.run, record.facts, record.processes) == (run, facts, 2)
    assert read_record(json.loads(json.dumps(values))) == record
    assert position.to_json().keys() == POSITION.keys()
    bare = new_record(run, facts, Position(step=4))
    assert bare.to_json().keys() == {"run", "facts", "step", "torch"}
    assert (bare.stage_start, bare.teacher_rows, bare.log, bare.processes) == (None, None, None, 1)


WRONG = {
    "step": [-1, 2**31, "3", True, None, 1.0],
    "begun": [-1, "0", None],
    "stage": [0, 100, "1", True],
    "teacher_rows": [-1, 2**53, 0.5],
    "log": [None, 3],
    "run": [None, []],
    "facts": ["x"],
    "torch": [2],
    "machine": [[], "cpu"],
    "skipped": [{}, "a.png"],
    "incident": [[1.0]],
    "shards": [-1, "2"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(name, tmp_path):
    values = {"format": 2, **about(3)}
    check_values(values, tmp_path)
    for value in WRONG[name]:
        with pytest.raises(StorageError, match=f": {name} = .*: expected "):
            check_values({**values, name: value}, tmp_path)


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    write(tmp_path / "c", TENSORS, about(3, note="ü"))
    checkpoint = read(tmp_path / "c")
    assert checkpoint.state["step"] == 3
    assert fingerprint(checkpoint.groups) == fingerprint(TENSORS)
    assert checkpoint.groups["optimizer"]["a.half"].dtype == torch.bfloat16


def test_the_fingerprint_sees_names_types_shapes_and_bits():
    a = TENSORS["student"]["a"]
    variants = [
        {"student": {"a": a}},
        {"ema": {"a": a}},
        {"student": {"b": a}},
        {"student": {"a": a.double()}},
        {"student": {"a": a.reshape(4, 3)}},
        {"student": {"a": torch.where(a == a.max(), torch.nextafter(a, a + 1), a)}},
        {"student": {"a": a.t()}},
    ]
    assert len({fingerprint(v) for v in variants}) == len(variants)
    assert fingerprint({"student": {"a": a.t().contiguous().t()}}) == fingerprint(variants[0])


@pytest.mark.parametrize("trial", range(60))
def test_any_flipped_bit_is_found(tmp_path, trial):
    write(tmp_path / "c", TENSORS, about(3))
    chance = random.Random(trial)
    files = sorted((tmp_path / "c").iterdir())
    file = files[trial % len(files)]
    before = file.read_bytes()
    content = bytearray(before)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    if file.name == "manifest.json" and same_facts(before, content):
        assert fingerprint(read(tmp_path / "c").groups) == fingerprint(TENSORS)
        return
    with pytest.raises(StorageError) as error:
        read(tmp_path / "c")
    assert "\n" not in str(error.value)


def same_facts(before: bytes, after: bytes) -> bool:
    """A bit flipped in white space leaves a manifest that says the same."""
    try:
        return bool(json.loads(before) == json.loads(after))
    except ValueError:
        return False


def test_a_missing_a_short_and_a_swapped_file_are_found(tmp_path):
    for harm in ("missing", "short", "swapped"):
        folder = tmp_path / harm
        write(folder, TENSORS, about(3))
        file = folder / "student.safetensors"
        if harm == "missing":
            file.unlink()
        elif harm == "short":
            file.write_bytes(file.read_bytes()[:-1])
        else:
            shutil.copy(folder / "optimizer.safetensors", file)
        with pytest.raises(StorageError, match=r"student\.safetensors"):
            read(folder)


def test_a_manifest_does_not_lead_out_of_its_folder(tmp_path):
    write(tmp_path / "c", TENSORS, about(3))
    (tmp_path / "c" / "manifest.json").write_text(
        json.dumps({"files": {"../secret": {"sha256": ""}}})
    )
    with pytest.raises(StorageError, match="not a file of its folder"):
        read(tmp_path / "c")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    write(tmp_path / "step-1", TENSORS, about(1))

    def full(call, path):
        if call == "write" and path.name == "student.safetensors":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "watch", full)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path / "step-2", TENSORS, about(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_the_newest_valid_one_wins_and_the_damaged_one_is_named(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    for step in (9, 10, 100):
        write(folder.checkpoint(step), TENSORS, about(step))
    assert folder.newest().state["step"] == 100
    (folder.checkpoint(100) / "state.json").write_text("{}")
    assert folder.newest().state["step"] == 10
    assert "step-100" in caplog.text
    assert folder.newest(quarantine=True).state["step"] == 10
    assert (tmp_path / "checkpoints" / "step-100.corrupt").is_dir()
    for step in (9, 10):
        (folder.checkpoint(step) / "student.safetensors").unlink()
    with pytest.raises(StorageError, match="no valid checkpoint"):
        folder.newest()
    assert RunFolder(tmp_path / "empty").newest() is None


def test_a_damaged_checkpoint_costs_one_interval_and_no_bit(tmp_path):
    """Training falls back to the checkpoint before, and ends with the uninterrupted run's
    fingerprint.
    """
    whole = fs.train(tiny_run(), out=tmp_path / "whole", progress=False, device="cpu")
    fs.train(tiny_run(), out=tmp_path / "hurt", progress=False, device="cpu")
    file = tmp_path / "hurt" / "checkpoints" / "step-6" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert fs.load(tmp_path / "hurt").step == 4
    again = fs.train(tiny_run(), out=tmp_path / "hurt", resume=True, progress=False, device="cpu")
    assert again.fingerprint == whole.fingerprint == fs.load(tmp_path / "hurt").fingerprint
    assert (tmp_path / "hurt" / "checkpoints" / "step-6.corrupt").is_dir()


def test_a_folder_of_somebody_elses_is_no_checkpoint(tmp_path):
    write(tmp_path / "c", TENSORS, {"epoch": 3})
    with pytest.raises(StorageError, match=r"state\.json lacks run, facts, step"):
        read(tmp_path / "c")
