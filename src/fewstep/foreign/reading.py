"""`read_foreign`: a checkpoint that others wrote, read in a process of its own.

The process gets the open file and no path, and returns a safetensors file. What it may take of
memory and time goes by the file's size. It executes nothing that the file asks for, and could open
neither a file nor a socket if it did.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from fewstep.base.errors import StorageError, UserError, require, storage
from fewstep.base.json_file import document
from fewstep.base.tensor_file import layout, read_tensors
from fewstep.foreign.tree import Tree, build

log = logging.getLogger("fewstep")

# The package of the reader, `apart`, alone: without fewstep, which would import torch.
PLACE = Path(__file__).parent
START = "import sys; sys.path.append(sys.argv[4]); from apart.main import main; main()"
ROOM = 64 * 2**20  # bytes that any reader may take
FACTOR = 4  # and so many times the file's size
SECONDS = 10.0  # for any file
SPEED = 20e6  # bytes of a file that are surely read in a second
MOST_TREE = 12 * 2**20  # bytes of JSON
REFUSED = 3  # the reader's exit code for a file that it does not read


def read_foreign(
    path: str | Path, *, seconds: float | None = None, most_bytes: int | None = None
) -> Tree:
    """The values of a pickle, of what torch.save wrote or of a safetensors file; runs nothing.

    seconds: how long it may take; None is 10 and one more for each 20 MB. most_bytes: of the
    tensors that it may hold; None is 64 MB and four times the file's size.
    Raises UserError without a file, StorageError for one that is damaged, no checkpoint, or asks
    for more than that.
    """
    place = Path(path)
    require(seconds is None or seconds > 0, "seconds", seconds, "above 0")
    require(most_bytes is None or most_bytes > 0, "most_bytes", most_bytes, "above 0")
    if not place.is_file():
        raise UserError(f"{place}: expected a file with a checkpoint")
    if place.suffix.lower() == ".safetensors":
        return Tree(str(place), "safetensors", dict(read_tensors(place)))
    size = place.stat().st_size
    limit = SECONDS + size / SPEED if seconds is None else seconds
    most = ROOM + FACTOR * size if most_bytes is None else most_bytes
    memory = ROOM + size + (FACTOR - 1) * max(size, most_bytes or 0)
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        out = Path(folder) / "values.safetensors"
        _run(place, out, limit, memory, most)
        return _result(place, out)


def _run(place: Path, out: Path, seconds: float, memory: int, most: int) -> None:
    """Runs the reader, file in and file out. Raises StorageError."""
    _warn_without_limits()
    if not sys.executable:
        raise UserError(f"{place} is read by a Python of its own, and there is none to start")
    limits = [math.ceil(seconds) + 1, memory, most]
    command = [sys.executable, "-I", "-S", "-c", START, *map(str, limits), str(PLACE)]
    # Windows starts no program without this one.
    names = [name for name in ("SYSTEMROOT",) if name in os.environ]
    with storage(f"{place} cannot be read"), place.open("rb") as content, out.open("wb") as result:
        try:
            end = subprocess.run(
                command,
                stdin=content,
                stdout=result,
                stderr=subprocess.PIPE,
                timeout=seconds,
                cwd=out.parent,
                env={name: os.environ[name] for name in names},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _too_slow(place, seconds) from None
    if end.returncode:
        raise _refusal(place, end.returncode, end.stderr, seconds)


def _warn_without_limits() -> None:
    if sys.platform == "win32":
        log.warning(
            "fewstep: this system sets no limits of memory and processor time: read foreign files"
            " that you trust"
        )


def _too_slow(place: Path, seconds: float) -> StorageError:
    return StorageError(f"{place} is refused: it takes more than {seconds:.0f} seconds to read")


def _refusal(place: Path, code: int, error: bytes, seconds: float) -> StorageError:
    """What the reader says of the file, or what its end says."""
    words = {
        "damaged": "is damaged",
        "foreign": "is no checkpoint that is read",
        "limit": "is refused",
        "output": "cannot be unpacked to the temporary folder",
    }
    try:
        about = json.loads(error[:10_000]) if code == REFUSED else {}
        return StorageError(f"{place} {words[about['kind']]}: {about['text']}")
    except (ValueError, KeyError, TypeError):
        pass
    if code < 0:
        if -code in (9, 24):  # SIGKILL and SIGXCPU, by the limit of processor time
            return _too_slow(place, seconds)
        return StorageError(f"{place} is damaged: its reader ended by signal {-code}")
    return StorageError(f"{place} is damaged: its reader ended with code {code}")


def _result(place: Path, out: Path) -> Tree:
    """The values in the reader's file."""
    layout(out)
    tensors = load_file(out)
    content = tensors.pop("tree", None)
    if content is None:
        raise StorageError(f"{place} is damaged: its reader gave no values")
    about: Any = document(content.numpy().tobytes(), place, MOST_TREE)
    if not isinstance(about, dict) or not isinstance(about.get("names"), list):
        raise StorageError(f"{place} is damaged: its reader gave no values")
    root = build(about, tensors, str(place))
    return Tree(str(place), str(about.get("form")), root, tuple(map(str, about["names"])))
