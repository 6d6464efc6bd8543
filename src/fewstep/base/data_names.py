"""The names of data that come with the package, and what is said of others. Needs no torch."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from fewstep.base.errors import UserError, unknown

DATA_NAMES = ("digits", "ring8", "grid25", "spiral", "glyphs", "glyphs64", "hanzi", "hanzi16")
OWN_DATA = "tensor"  # of data that is an object of the user's


def is_pattern(name: str) -> bool:
    """Whether a name stands for several .parquet files, such as shards/train-*.parquet."""
    return "*" in name and name.lower().endswith(".parquet")


def check_data_name(name: str) -> None:
    """Raises UserError for what is no such name, and no file or folder here.

    Other schemes, such as hf:NAME, are left to their readers.
    """
    if name in (*DATA_NAMES, OWN_DATA) or ":" in name or Path(name).exists() or is_pattern(name):
        return
    if Path(name).name != name or Path(name).suffix:
        path = Path(name)
        where = path.parent.resolve()
        missing = "" if where.is_dir() else ", a folder that is not there"
        raise UserError(f"no file or folder {path.name} in {where}{missing}")
    if get_close_matches(name, DATA_NAMES, n=1, cutoff=0.7):
        raise unknown("data set", name, DATA_NAMES)
    raise UserError(
        f"no file or folder {name} here, and no data set of that name: expected a path, or one of"
        f" {', '.join(DATA_NAMES)}"
    )
