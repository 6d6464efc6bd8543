"""The log of a run in the forms of other tools: a table, TensorBoard, Weights & Biases, trackio.

`metrics.jsonl` is the log itself. A logger gets the same rows, and nothing of the run depends on
it: one that fails is a warning.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fewstep.base import disk
from fewstep.base.errors import UserError, require, unknown
from fewstep.training.log import is_step

log = logging.getLogger("fewstep")

Row = Mapping[str, Any]  # {"step": 50, "loss": 0.1, ...}; a number that is not finite is None


class Logger(Protocol):
    """Takes the rows of the log as they come. What it raises is a warning, and it is left out."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Start:
    """What a logger begins with."""

    folder: Path  # of the run
    settings: Mapping[str, Any]  # what `Run.to_json` gives
    rows: Sequence[Row]  # logged before, where a run goes on


Opener = Callable[[Start], Logger]


def numbers(row: Row) -> dict[str, float]:
    """The finite numbers of a row but for its step."""
    values = {name: value for name, value in row.items() if name != "step" and value is not None}
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Table:
    """metrics.csv: a line for each row, a column for each name."""

    def __init__(self, start: Start) -> None:
        self.path = start.folder / "metrics.csv"
        self.rows: list[Row] = list(start.rows)
        self.names: list[str] = []
        self._rewrite()

    def write(self, row: Row) -> None:
        self.rows.append(row)
        if row.keys() <= set(self.names):
            disk.append(self.path, self._text([row]))
        else:
            self._rewrite()

    def close(self) -> None:
        pass

    def _rewrite(self) -> None:
        self.names = list(dict.fromkeys(name for row in self.rows for name in row))
        head = dict(zip(self.names, self.names, strict=True))
        disk.replace(self.path, self._text([head, *self.rows]))

    def _text(self, rows: Iterable[Row]) -> bytes:
        file = io.StringIO()
        csv.DictWriter(file, self.names, lineterminator="\n").writerows(rows)
        return file.getvalue().encode()


class Board:
    """Event files of TensorBoard, each row on the disk at once; those after the start are void."""

    def __init__(self, writer: Callable[..., Any], start: Start) -> None:
        folder = start.folder / "tensorboard"
        is_new = not any(folder.glob("events.*"))
        first = start.rows[-1]["step"] + 1 if start.rows else 0
        self.writer = writer(str(folder), purge_step=first)
        for row in start.rows if is_new else ():
            self.write(row)

    def write(self, row: Row) -> None:
        for name, value in numbers(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Tracker:
    """A run of a service, found again by an id in the run's folder; it gets each row once.

    begin: (start, id) -> what has `log` and `finish`. The file NAME.json holds the id and the last
    row that was sent, since the service cannot take rows back.
    """

    def __init__(self, name: str, begin: Callable[[Start, str], Any], start: Start) -> None:
        self.path = start.folder / f"{name}.json"
        self.about: dict[str, Any] = {"id": uuid.uuid4().hex[:8], "sent": []}
        with suppress(OSError, ValueError):
            self.about = {**self.about, **json.loads(self.path.read_bytes())}
        self.session = begin(start, self.about["id"])
        for row in start.rows:
            self.write(row)

    def write(self, row: Row) -> None:
        place = [row["step"], int(not is_step(row))]  # a score comes behind the step itself
        if place <= self.about["sent"]:
            return
        self.session.log(numbers(row), step=row["step"])
        self.about["sent"] = place
        disk.replace(self.path, json.dumps(self.about).encode())

    def close(self) -> None:
        self.session.finish()


def _tensorboard() -> Opener:
    from torch.utils.tensorboard import SummaryWriter

    return partial(Board, SummaryWriter)


def _wandb() -> Opener:
    import wandb

    def begin(start: Start, key: str) -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fewstep"),
            name=start.folder.name,
            id=key,
            resume="allow",
            dir=str(start.folder),
            config=dict(start.settings),
            settings=wandb.Settings(console="off"),
        )

    return partial(Tracker, "wandb", begin)


def _trackio() -> Opener:
    import trackio

    def begin(start: Start, key: str) -> Any:
        name = f"{start.folder.name}-{key}"
        project = os.environ.get("TRACKIO_PROJECT", "fewstep")
        return trackio.init(
            project=project, name=name, resume="allow", config=dict(start.settings), embed=False
        )

    return partial(Tracker, "trackio", begin)


LOGGERS: dict[str, Callable[[], Opener]] = {
    "csv": lambda: Table,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def openers(loggers: str | Sequence[str | Opener], out: Path | None) -> dict[str, Opener]:
    """What opens each logger, by its name; an opener of the user's own is taken as it is.

    Raises UserError for an unknown name, for one whose package is missing, and without a folder.
    """
    result: dict[str, Opener] = {}
    for one in (loggers,) if isinstance(loggers, str) else loggers:
        name = one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__)
        if out is None:
            raise UserError(f"log = {name}: it is written beside a run folder: name one with out")
        if not isinstance(one, str):
            require(callable(one), "log", one, f"{', '.join(LOGGERS)}, or a function of the start")
            several = sum(key.partition(" ")[0] == name for key in result)
            result[f"{name} {several + 1}" if several else name] = one
            continue
        if one not in LOGGERS:
            raise unknown("logger", one, LOGGERS)
        try:
            result[name] = LOGGERS[one]()
        except ImportError as error:
            raise UserError(
                f"log = {name} needs a package that is not here ({error}): pip install"
                f" 'fewstep[{name}]'"
            ) from None
    return result


class Loggers:
    """Several loggers; one that fails is left out from there on, with a warning."""

    def __init__(self, openers: Mapping[str, Opener], start: Start) -> None:
        self.open: dict[str, Logger] = {}
        for name, opener in openers.items():
            try:
                self.open[name] = opener(start)
            except Exception as error:
                self.close()
                hint = "; or WANDB_MODE=offline" * (name == "wandb")
                raise UserError(f"log = {name} does not start: {_reason(error)}{hint}") from error

    def write(self, row: Row) -> None:
        self._each(lambda logger: logger.write(row), f"step {row['step']}")

    def close(self) -> None:
        self._each(lambda logger: logger.close(), "the end")
        self.open = {}

    def _each(self, do: Callable[[Logger], None], when: str) -> None:
        for name, logger in list(self.open.items()):
            try:
                do(logger)
            except Exception as error:
                del self.open[name]
                log.warning(
                    "fewstep: log = %s failed at %s and gets nothing more: %s; training goes on,"
                    " and metrics.jsonl has all",
                    name,
                    when,
                    _reason(error),
                )


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
