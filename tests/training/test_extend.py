"""A run that is trained longer: the same bits until its end, then schedules stand still."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.run.config import run_from_json
from fewstep.run.prepare import prepare
from fewstep.training.budget import budget_of
from fewstep.training.state import State
from tests.support.toys import Killed, kill_at, tiny_run


def train(run, **options):
    return fs.train(run, progress=False, device="cpu", **options)


def rows_in(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "fields",
    [
        {"iterations": 5, "log_every": 3},  # its end is no multiple
        {"method": "tcm", "lr_clock": "stage", "ema": 0.9, "averages": ("power:0.1",)},
        {"method": "ect", "optimizer": "radam", "precision": "bf16", "stage_lr": 0.5},
    ],
)
def test_an_extension_has_one_end_by_whatever_way_it_was_reached(tmp_path, fields):
    run = tiny_run(**fields)
    longer = replace(run, extend=4)
    at: dict[int, str] = {}

    def look(state: State) -> None:
        at[state.step] = state.fingerprint()

    at_once = train(longer, out=tmp_path / "at once", watch=look)
    # Ended, extended and extended again.
    ended = train(run, out=tmp_path / "b")
    assert ended.fingerprint == at[run.iterations]
    train(replace(run, extend=2), out=tmp_path / "b", resume=True)
    assert train(longer, out=tmp_path / "b", resume=True).fingerprint == at_once.fingerprint
    # Killed within it.
    train(run, out=tmp_path / "c")
    with pytest.raises(Killed):
        train(longer, out=tmp_path / "c", resume=True, watch=kill_at(run.iterations + 3))
    again = train(longer, out=tmp_path / "c", resume=True)
    assert again.fingerprint == at_once.fingerprint
    assert again.step == run.iterations + 4
    rows = rows_in(tmp_path / "b")
    assert [row["step"] for row in rows] == [row["step"] for row in rows_in(tmp_path / "c")]
    # Schedules stand still.
    for name in ("lr", "progress"):
        assert len({row[name] for row in rows if row["step"] >= run.iterations}) == 1


def test_an_extension_ends_with_a_checkpoint_of_its_own(tmp_path):
    train(replace(tiny_run(), extend=3), out=tmp_path)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-8", "step-9"}
    assert fs.load(tmp_path).step == 9
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["extend"] == 3


def test_runs_without_one_are_stored_as_before():
    run = tiny_run()
    assert "extend" not in run.to_json()
    assert run_from_json(replace(run, extend=2).to_json()).steps == run.iterations + 2
    for extend in (-1, 2**31):
        with pytest.raises(UserError, match="extend = "):
            tiny_run(extend=extend)


def test_a_plan_counts_all_steps():
    run = tiny_run()
    plain, longer = (budget_of(prepare(replace(run, extend=n))) for n in (0, 6))
    assert longer.samples == 2 * plain.samples
    assert longer.flops == pytest.approx(2 * plain.flops)


def test_the_command_line_says_how_to_go_on_and_what_schedules_do(tmp_path, capsys):
    out = ["train", "toy", "--out", str(tmp_path)]
    small = ["--iterations", "4", "--batch", "32", "--network.width", "8"]
    assert main([*out, *small]) == 0
    capsys.readouterr()
    assert main([*out, "--resume"]) == 0
    assert "at its end, step 4: --resume --extend" in capsys.readouterr().err
    for _ in range(2):  # the same command again changes nothing
        assert main([*out, "--resume", "--extend", "3"]) == 0
        shown = capsys.readouterr()
        assert "step 7 of 7" in shown.out
    assert "at its end, step 7: --resume --extend" in shown.err
    assert main([*out, "--resume", "--extend", "5"]) == 0
    shown = capsys.readouterr()
    assert "learning rate and all schedules stay at their last values" in shown.err
    assert "step 9 of 9" in shown.out
    assert main([*out, "--resume", "--extend", "2"]) == 2
    assert "expected at least 5, since the run" in capsys.readouterr().err
    assert main([*out, "--resume", "--iterations", "10"]) == 2
    assert "to train it longer, with these at their last values: --extend 6" in (
        capsys.readouterr().err
    )
    assert main([*out, "--resume", "--iterations", "2"]) == 2
    error = capsys.readouterr().err
    assert "was started with 4: leave it out to continue that run" in error
    assert "--extend" not in error
