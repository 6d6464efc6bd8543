"""Any damage to a checkpoint is reported; the run goes on from an older one; nothing is deleted."""

from __future__ import annotations

import random
import shutil

import pytest

import fewstep as fs
from fewstep.base import disk
from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder
from tests.support.crash_child import settings
from tests.support.mutations import KINDS, damage, flip
from tests.support.toys import tiny_run
from tests.support.trials import finish, problems, valid, whole

FIELDS = settings("ect", iterations=4, checkpoint_every=1)
MUTATIONS = 240
SEED = random.randrange(3)  # which files each kind of damage is tried on


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    return whole(server, tmp_path_factory.mktemp("whole") / "run", FIELDS)


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    finish(server, folder, FIELDS)
    return folder


def train(folder, resume=True):
    return fs.train(tiny_run(**FIELDS), out=folder, resume=resume, progress=False, device="cpu")


def files_of(folder) -> list[str]:
    """The files of the newest checkpoint."""
    return sorted(file.name for file in (folder / "checkpoints" / "step-4").iterdir())


def test_no_damage_to_a_checkpoint_goes_unnoticed(finished, tmp_path, caplog):
    """Each kind to any file at random places: the older checkpoint is used, a warning says why."""
    chance = random.Random(0)
    names = files_of(finished)
    cases = set()
    for number in range(MUTATIONS):
        folder = tmp_path / str(number)
        shutil.copytree(finished, folder)
        how = damage(folder / "checkpoints" / "step-4", chance)
        caplog.clear()
        assert RunFolder(folder).newest().state["step"] == 3, (number, how)
        (message,) = (record.getMessage() for record in caplog.records)
        assert any(name in message for name in names), (how, message)
        assert "falling back to step-3" in message
        cases.add(tuple(how.split()))
        shutil.rmtree(folder)
    assert {kind for _, kind in cases} == {kind.__name__ for kind in KINDS}
    assert {name for name, _ in cases} == set(names)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_a_run_goes_on_from_the_older_checkpoint_bit_for_bit(
    finished, reference, tmp_path, number, caplog
):
    """Each kind on every third file; the seed chooses which. The soak goes on after any damage."""
    kind = KINDS[number]
    chance = random.Random(kind.__name__)
    for name in files_of(finished)[(SEED + number) % 3 :: 3]:
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        kind(folder / "checkpoints" / "step-4" / name, chance)
        train(folder)
        aside = sorted(path.name for path in (folder / "checkpoints").glob("*.corrupt"))
        assert aside == ["step-4.corrupt"], name
        shutil.rmtree(folder / "checkpoints" / "step-4.corrupt")
        assert not problems(folder, reference), name
        assert name in caplog.text


def test_what_the_disk_did_not_keep_costs_no_older_checkpoint(
    tmp_path, reference, monkeypatch, caplog
):
    """Old checkpoints go only once the new one was read again; a damaged one is moved aside."""

    def watch(call, path):
        if (call, path.parent.name, path.name) == ("rename", "checkpoints", "step-4"):
            (file,) = path.parent.glob("step-4.tmp-*/ema.safetensors")
            flip(file, random.Random(0))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "watch", watch)
        train(tmp_path / "run", resume=False)
    assert "ema.safetensors is damaged" in caplog.text
    assert valid(tmp_path / "run") == [3, 2]
    train(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-4.corrupt")
    assert not problems(tmp_path / "run", reference)


def test_an_older_checkpoint_under_a_newer_name_is_no_newer_one(finished, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-4"
    shutil.rmtree(newest)
    shutil.copytree(tmp_path / "run" / "checkpoints" / "step-3", newest)
    assert RunFolder(tmp_path / "run").newest().path.name == "step-3"
    assert "holds step 3: was it renamed?" in caplog.text


def test_where_all_are_damaged_nothing_is_deleted_and_the_run_refuses(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "ema.safetensors").write_bytes(b"")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert main(["train", "toy", "--out", str(folder), "--resume"]) == 4
    (message,) = capsys.readouterr().err.splitlines()
    assert "no valid checkpoint" in message
    assert "ema.safetensors" in message
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
