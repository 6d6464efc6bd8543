"""A run says once what a step and the rest of it take."""

from __future__ import annotations

import shutil

import pytest

import fewstep as fs
from fewstep.training import pace
from fewstep.training.pace import Pace, duration, forecast
from tests.support.toys import tiny_run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00042, "0.00042 s"),
        (0.12, "0.12 s"),
        (45, "45 s"),
        (480, "8 min"),
        (5.5 * 3600, "5.5 h"),
        (12 * 86_400, "12 days"),
        (400 * 86_400, "400 days"),
    ],
)
def test_times_are_short_to_read(seconds, text):
    assert duration(seconds) == text


def lines_of(monkeypatch, seconds: list[float], total: int) -> list[str]:
    """What is told after steps that take so many seconds."""
    ends = iter([sum(seconds[: i + 1]) for i in range(len(seconds))])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(ends))
    clock = Pace(total)
    return [clock.after_step() for _ in seconds]


def test_the_first_steps_are_not_counted_and_it_is_told_once(monkeypatch):
    lines = lines_of(monkeypatch, [5, 3, 1, *[0.125] * 17], 4010)
    assert lines[9] == "a step takes 0.12 s: 4000 more about 8.3 min"
    assert [line for line in lines if line] == [lines[9]]


def test_slow_steps_are_told_of_at_once_and_a_hopeless_run_is_called_so(monkeypatch):
    lines = lines_of(monkeypatch, [90, 60, 60], 200_002)
    assert lines[1].startswith("a step takes 60 s: 200000 more about 139 days, which is more than")
    assert "--iterations" in lines[1]
    assert lines[::2] == ["", ""]
    assert "more than a day" not in forecast(1.0, 86_400)
    assert forecast(1.0, 0) == ""


def test_a_run_says_it_with_progress_alone_also_when_it_goes_on(tmp_path, capsys):
    run = tiny_run(iterations=24, checkpoint_every=12)

    def texts(**options) -> list[str]:
        generator = fs.train(run, out=tmp_path / "run", device="cpu", resume=True, **options)
        prints.append(generator.fingerprint)
        lines = capsys.readouterr().err.splitlines()
        return [line.partition(": ")[2] for line in lines if line.startswith("a step takes")]

    prints: list[str] = []
    (line,) = texts()
    assert line.startswith("14 more about 0.")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-24")
    (line,) = texts()
    assert line.startswith("2 more about 0.")
    shutil.rmtree(tmp_path / "run")
    assert texts(progress=False) == []
    assert len(set(prints)) == 1
