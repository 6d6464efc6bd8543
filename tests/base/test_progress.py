"""Progress: a bar on a terminal, a line a minute in a log, nothing where it is switched off."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import fewstep
from fewstep.base import progress
from fewstep.base.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("nobody is there")


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, which a test moves."""
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def count(clock, **options) -> None:
    with Progress(4096, "sample", initial=1024, **options) as bar:
        for step in range(1, 5):
            clock[0] += 40
            bar.update(512, step=f"{step} of 8", loss="0.5")
        bar.note("a note")


def test_a_log_gets_a_line_a_minute(clock, capsys):
    count(clock)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step 2 of 8, loss 0.5, 12.8 samples/s, 0:02:40 left",
        "step 4 of 8, loss 0.5, 12.8 samples/s, 0:01:20 left",
        "a note",
    ]


def test_a_result_is_on_stdout_with_and_without_progress(clock, capsys, monkeypatch):
    for show in (True, False):
        with Progress(2, "check", show=show) as bar:
            bar.result("a result")
        assert capsys.readouterr() == ("a result\n", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(2, "check") as bar:
        bar.result("a result")
    assert capsys.readouterr().out == "a result\n"


def test_all_progress_is_this_one():
    """A bar of another make would be drawn into log files too."""
    source = Path(fewstep.__file__).parent
    users = [path.name for path in source.rglob("*.py") if "import tqdm" in path.read_text()]
    assert users == ["progress.py"]


def test_a_log_has_no_bar(capsys):
    assert Progress(10, "step").bar is None
    assert capsys.readouterr().err == ""


def test_what_is_switched_off_prints_nothing(clock, capsys):
    count(clock, show=False)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_unless_tqdm_is_disabled(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    count(clock)
    assert "loss=0.5" in sys.stderr.getvalue()
    assert "a note" in sys.stderr.getvalue()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    count(clock)
    assert sys.stderr.getvalue().count("\n") == 3


def test_a_terminal_that_is_gone_stops_nothing(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    count(clock)
