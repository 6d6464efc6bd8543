"""Files that cost time to make again, in the user's cache folder: each is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fewstep.base.disk import temporary


def cache_file(name: str) -> Path:
    """The place of a file in the cache folder: XDG_CACHE_HOME, or ~/.cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "fewstep" / name


def keep(file: Path, write: Callable[[Path], object]) -> None:
    """Writes the file in one move; where that is impossible, it costs its time again."""
    part = temporary(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(part)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError:
        pass
