"""`fewstep train` as a page types it, as a run that does not start."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from unittest import mock

from fewstep.cli import main
from fewstep.run.config import Run

PLACES = ("--data", "--init", "--teacher")  # options whose values name files


def run_of(line: str) -> Run:
    """The run of a command; what it names as data or weights is made as an empty folder."""
    runs: list[Run] = []
    words = shlex.split(line)
    for option, value in pairwise(words):
        if option in PLACES:
            Path(value).mkdir(parents=True, exist_ok=True)
    with mock.patch("fewstep.cli.train.start", lambda run, *_, **__: runs.append(run) or 0):
        assert main(words[1:]) == 0, line
    (run,) = runs
    return run
