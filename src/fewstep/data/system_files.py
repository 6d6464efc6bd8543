"""Files that packages of the system bring: fonts, and tables of Unicode."""

from __future__ import annotations

import os
from pathlib import Path


def system_file(kind: str, name: str) -> Path | None:
    """The first file of that name below `kind` ("fonts", "unicode") in the folders of shared data.

    These are the user's own, then XDG_DATA_DIRS. None where there is no such file.
    """
    home = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    system = os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")
    folders = [home / kind, Path.home() / f".{kind}", *(Path(d) / kind for d in system)]
    return next((file for folder in folders for file in sorted(folder.rglob(name))), None)
