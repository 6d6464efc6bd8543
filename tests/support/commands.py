"""`fewstep train` as a page types it, as a run that does not start."""

from __future__ import annotations

import shlex
from unittest import mock

from fewstep.cli import main
from fewstep.run.config import Run


def run_of(line: str) -> Run:
    """The run of a command, whose data and weights need not be here."""
    runs: list[Run] = []
    with (
        mock.patch("fewstep.cli.train.start", lambda run, *_, **__: runs.append(run) or 0),
        mock.patch("fewstep.cli.train.check_data_name"),
    ):
        assert main(shlex.split(line)[1:]) == 0, line
    (run,) = runs
    return run
