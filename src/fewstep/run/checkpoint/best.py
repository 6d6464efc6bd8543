"""best.json: the checkpoint of a run that scored best on the validation split."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.base import disk
from fewstep.base.errors import StorageError
from fewstep.base.json_file import document

MOST_BYTES = 4096


@dataclass(frozen=True)
class Best:
    """A step, and the score that it reached: the lower the better."""

    step: int
    metric: str
    value: float

    def write(self, path: Path) -> None:
        disk.replace(path, (json.dumps(asdict(self)) + "\n").encode())


def read_best(path: Path) -> Best | None:
    """What `Best.write` wrote; None where nothing is there. Raises StorageError."""
    try:
        with path.open("rb") as file:
            values: Any = document(file.read(MOST_BYTES + 1), path, MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    if not isinstance(values, dict) or values.keys() != {"step", "metric", "value"}:
        raise StorageError(f"{path} holds no step, metric and value: it is not of this program")
    best = Best(**values)
    fine = type(best.step) is int and best.step >= 0 and isinstance(best.metric, str)
    if not fine or type(best.value) is not float or not math.isfinite(best.value):
        raise StorageError(f"{path} holds no step, metric and value: it is not of this program")
    return best
