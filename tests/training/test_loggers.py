"""Loggers have the rows of metrics.jsonl, each once, also where a run was killed and goes on."""

from __future__ import annotations

import csv
import json
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.training.log import CLOCK
from fewstep.training.loggers import Start, Table, Tracker, numbers
from tests.support.toys import Killed, kill_at, tiny_run

NAMES = st.sampled_from(["loss", "lr", "stage", "eval_energy", "skipped"])
ROWS = st.lists(st.dictionaries(NAMES, st.none() | st.floats(allow_nan=False), min_size=1))


def train_killed(out: Path, at: int, log: Any, **fields: Any) -> fs.Generator:
    """A run that was killed before its end of 6 steps, and resumed."""

    options = {"out": out, "log": log, "progress": False}
    with pytest.raises(Killed):
        fs.train(tiny_run(**fields), watch=kill_at(at), **options)
    return fs.train(tiny_run(**fields), resume=True, **options)


def rows_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def stand_in(monkeypatch, name: str) -> list[Any]:
    """A module with the calls of trackio or wandb; the list of what it was sent."""
    sent: list[Any] = []

    def init(**options):
        sent.append(options)
        return SimpleNamespace(
            log=lambda values, step: sent.append((step, values)),
            finish=lambda: sent.append("finish"),
        )

    module = ModuleType(name)
    module.init, module.Settings = init, dict
    monkeypatch.setitem(sys.modules, name, module)
    return sent


def test_a_killed_run_has_each_row_once_in_every_logger(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sent = {name: stand_in(monkeypatch, name) for name in ("wandb", "trackio")}
    names = ["csv", "tensorboard", *sent]
    logged = train_killed(tmp_path / "a", 5, names)
    rows = rows_in(tmp_path / "a")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    with (tmp_path / "a" / "metrics.csv").open() as file:
        table = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    assert table == rows
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == rows[0].keys() - {"step"}
    for name in ("loss", "lr", "grad_norm"):
        points = [(one.step, one.value) for one in events.Scalars(name)]
        assert points == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    for name, calls in sent.items():
        begins = [one for one in calls if isinstance(one, dict)]
        assert len(begins) == 2
        assert begins[0] == begins[1]  # the same id, in wandb's argument or trackio's name
        assert begins[0]["config"]["iterations"] == 6
        key = json.loads((tmp_path / "a" / f"{name}.json").read_text())["id"]
        assert key in begins[0].get("id", begins[0]["name"])
        values = [one for one in calls if isinstance(one, tuple)]
        assert [step for step, _ in values] == [1, 2, 3, 4, 5, 6]
        assert [one["loss"] for _, one in values] == [row["loss"] for row in rows]
        assert calls[-1] == "finish"
    # The same bits as without any.
    plain = fs.train(tiny_run(), out=tmp_path / "b", progress=False)
    assert plain.fingerprint == logged.fingerprint
    for row, other in zip(rows, rows_in(tmp_path / "b"), strict=True):
        assert {k: v for k, v in row.items() if k not in CLOCK} == {
            k: v for k, v in other.items() if k not in CLOCK
        }


@settings(max_examples=30)
@given(before=ROWS, after=ROWS)
def test_a_table_is_its_rows_whatever_names_they_have(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("table")
    rows = [{"step": step, **row} for step, row in enumerate([*before, *after])]
    table = Table(Start(folder, {}, rows[: len(before)]))
    for row in rows[len(before) :]:
        table.write(row)
    with table.path.open(newline="") as file:
        read = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert read == [{k: v for k, v in row.items() if v is not None} for row in rows]


def test_a_logger_that_begins_later_gets_the_rows_before(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tiny_run(iterations=4)
    fs.train(run, out=tmp_path, progress=False)
    fs.train(run, out=tmp_path, progress=False, resume=True, log=["csv", "tensorboard"])
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 5
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [one.step for one in events.Scalars("loss")] == [1, 2, 3, 4]


def test_a_score_comes_behind_the_row_of_its_step(tmp_path):
    sent = []
    session = SimpleNamespace(log=lambda values, step: sent.append((step, values)))
    rows = [{"step": 5, "loss": 1.0}, {"step": 5, "eval_energy": 0.5}]
    for _ in range(2):
        tracker = Tracker("own", lambda start, key: session, Start(tmp_path, {}, rows))
    assert sent == [(5, {"loss": 1.0}), (5, {"eval_energy": 0.5})]
    tracker.write({"step": 6, "loss": None, "lr": 0.1, "grad_norm": float("inf")})
    assert sent[2:] == [(6, {"lr": 0.1})]


def test_a_logger_that_fails_is_a_warning_and_the_run_goes_on(tmp_path, caplog):
    def full(start):
        def write(row):
            if row["step"] == 3:
                raise OSError("No space left on device")
            seen.append(row["step"])

        return SimpleNamespace(write=write, close=lambda: seen.append("closed"))

    seen = []
    generator = fs.train(tiny_run(), out=tmp_path, progress=False, log=[full, "csv"])
    assert generator.step == 6
    assert seen == [1, 2]
    assert len(caplog.records) == 1
    assert "log = full failed at step 3" in caplog.text
    assert "No space left on device" in caplog.text
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 7


def test_what_cannot_be_logged_is_said_before_the_first_step(tmp_path, monkeypatch, capsys):
    out = ["--out", str(tmp_path / "r"), "--iterations", "2"]
    assert main(["train", "toy", *out, "--log", "csv,tensorbord"]) == 2
    assert "unknown logger 'tensorbord': did you mean 'tensorboard'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["train", "toy", *out, "--log", "trackio"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'fewstep[trackio]'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r").exists()
    with pytest.raises(UserError, match="log = csv: it is written beside a run folder"):
        fs.train(tiny_run(), log=["csv"])

    with pytest.raises(UserError, match="log = 3: expected csv, tensorboard"):
        fs.train(tiny_run(), out=tmp_path / "q", log=[3])

    def refuse(start):
        raise RuntimeError("no account")

    with pytest.raises(UserError, match="log = refuse does not start: no account"):
        fs.train(tiny_run(), out=tmp_path / "q", log=[refuse])
    assert fs.train(tiny_run(), out=tmp_path / "q", progress=False).step == 6  # it holds no run


def test_two_loggers_of_one_s_own_have_all_rows_each(tmp_path):
    seen = {"a": [], "b": []}

    def make(name):
        def open_one(start):
            return SimpleNamespace(write=seen[name].append, close=lambda: None)

        return open_one

    fs.train(tiny_run(), out=tmp_path / "r", log=[make("a"), make("b")], progress=False)
    assert len(seen["a"]) == 6
    assert seen["a"] == seen["b"]
    fs.train(tiny_run(), out=tmp_path / "s", log="csv", progress=False)
    assert (tmp_path / "s" / "metrics.csv").exists()


def records_of(path: Path) -> list[Any]:
    """The records in a file of wandb: LevelDB's log in blocks of 32 KiB behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2 as proto

    content, position, part, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, size, kind = struct.unpack("<IHB", content[position : position + 7])
        part += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            records.append(proto.Record.FromString(part))
            part = b""
    return records


@pytest.mark.long
def test_wandb_itself_has_each_row_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_killed(tmp_path, 5, ["wandb"])
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    key = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert [path.name for path in files] == [f"run-{key}.wandb"] * 2
    points = {}
    for record in (one for path in files for one in records_of(path)):
        items = {
            item.nested_key[0] if item.nested_key else item.key: item.value_json
            for item in record.history.item
        }
        if items:
            assert record.history.step.num not in points
            points[record.history.step.num] = json.loads(items["loss"])
    assert points == {row["step"]: numbers(row)["loss"] for row in rows_in(tmp_path)}
