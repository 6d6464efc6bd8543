"""Any damage to a checkpoint is found and told; the run goes on from the one before, or refuses;
nothing is deleted.
"""

from __future__ import annotations

import random
import shutil

import pytest

import fewstep as fs
from fewstep.base import disk
from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder
from tests.support.crash_child import settings
from tests.support.mutations import KINDS, damage, flipped
from tests.support.toys import tiny_run
from tests.support.trials import finish, problems, valid, whole

FIELDS = settings("ect", iterations=4, checkpoint_every=1)
MUTATIONS = 240


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    return whole(server, tmp_path_factory.mktemp("whole") / "run", FIELDS)


@pytest.fixture(scope="module")
def done(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    finish(server, folder, FIELDS)
    return folder


def test_no_damage_to_a_checkpoint_goes_unnoticed(done, tmp_path, caplog):
    """Each kind to any file at random places: the older checkpoint is used, and a warning says why."""
    kinds, chance = set(), random.Random(0)
    for number in range(MUTATIONS):
        folder = tmp_path / str(number)
        shutil.copytree(done, folder)
        how = damage(folder / "checkpoints" / "step-4", chance)
        caplog.clear()
        assert RunFolder(folder).newest().state["step"] == 3, (number, how)
        (told,) = (record.getMessage() for record in caplog.records)
        named = [
            file.name for file in (done / "checkpoints" / "step-4").iterdir() if file.name in told
        ]
        assert named, (how, told)
        assert "falling back to step-3" in told
        kinds.add(how)
        shutil.rmtree(folder)
    assert {how.split()[1] for how in kinds} == {kind.__name__ for kind in KINDS}
    assert {how.split()[0] for how in kinds} == {
        file.name for file in (done / "checkpoints" / "step-4").iterdir()
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_run_goes_on_from_the_older_checkpoint_bit_for_bit(
    done, expected, tmp_path, kind, caplog
):
    chance = random.Random(kind.__name__)
    for file in sorted(file.name for file in (done / "checkpoints" / "step-4").iterdir()):
        folder = tmp_path / file
        shutil.copytree(done, folder)
        kind(folder / "checkpoints" / "step-4" / file, chance)
        fs.train(tiny_run(**FIELDS), out=folder, resume=True, progress=False, device="cpu")
        left = sorted(path.name for path in (folder / "checkpoints").glob("*.corrupt"))
        assert left == ["step-4.corrupt"], file
        shutil.rmtree(folder / "checkpoints" / "step-4.corrupt")
        assert not problems(folder, expected), file
        assert file in caplog.text


def test_what_the_disk_did_not_keep_costs_no_older_checkpoint(
    tmp_path, expected, monkeypatch, caplog
):
    """Old checkpoints go only once the new one was read again: one that is damaged by then is moved
    aside instead.
    """

    def watch(call, path):
        if (call, path.parent.name, path.name) == ("rename", "checkpoints", "step-4"):
            (file,) = path.parent.glob("step-4.tmp-*/ema.safetensors")
            flipped(file, random.Random(0))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "watch", watch)
        fs.train(tiny_run(**FIELDS), out=tmp_path / "run", progress=False, device="cpu")
    assert "ema.safetensors is damaged" in caplog.text
    assert valid(tmp_path / "run") == [3, 2]
    fs.train(tiny_run(**FIELDS), out=tmp_path / "run", resume=True, progress=False, device="cpu")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-4.corrupt")
    assert not problems(tmp_path / "run", expected)


def test_an_older_checkpoint_under_a_newer_name_is_no_newer_one(done, tmp_path, caplog):
    shutil.copytree(done, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-4"
    shutil.rmtree(newest)
    shutil.copytree(tmp_path / "run" / "checkpoints" / "step-3", newest)
    assert RunFolder(tmp_path / "run").newest().path.name == "step-3"
    assert "holds step 3: was it renamed?" in caplog.text


def test_where_all_are_damaged_nothing_is_deleted_and_the_run_refuses(done, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "ema.safetensors").write_bytes(b"")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert main(["train", "toy", "--out", str(folder), "--resume"]) == 4
    (told,) = capsys.readouterr().err.splitlines()
    assert "no valid checkpoint" in told
    assert "ema.safetensors" in told
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
