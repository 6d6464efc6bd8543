"""fewstep scan: goes over all pictures of a folder or zip before a run does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from fewstep.cli.parse import parse

DESCRIPTION = (
    "Decode every picture of a folder or zip once and tell what is bad, before a run does.\n\n"
    "Exit code 0: training would accept it; 2: it would not.\n\n"
    "example: fewstep scan photos/ --data-size 64"
)
SHOWN = 10  # sizes and labels of a table


@dataclass(frozen=True)
class Args:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Folder or zip."""
    data_size: int | None = None
    """The side that pictures will be cropped and resized to; without it they must have one size."""
    bad_files: Literal["fail", "skip"] = "fail"
    """As in training: skip accepts bad files where they are few, at most 0.1 %."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="scan", description=DESCRIPTION)
    from fewstep.base.errors import require
    from fewstep.data import Scan, scan
    from fewstep.data.images import skippable

    require(args.data_size is None or args.data_size > 0, "data_size", args.data_size, "at least 1")
    found: Scan = scan(args.path, args.data_size, progress=True)
    fine, few = found.fine(args.bad_files), skippable(found.pictures)
    if args.json:
        print(json.dumps({**asdict(found), "fine": fine}))
        return 0 if fine else 2
    print(f"{found.path}: {found.pictures} pictures, {len(found.bad)} bad")
    print(
        f"sizes     {table(found.sizes)}\nmodes     {table(found.modes)}\nchannels "
        f" {found.channels}"
    )
    print(f"labels    {'none' if found.labels is None else table(found.labels)}")
    if found.others:
        print(
            f"others    {len(found.others)} files that are no pictures, the first is"
            f" {ascii(found.others[0])[1:-1]}"
        )
    for told in found.bad.values():
        print(f"bad       {told}")
    if found.bad and args.bad_files == "skip":
        print(
            "next     "
            f" {'--bad-files skip leaves them out' if fine else f'too many: skip leaves out {few}'}"
        )
    elif found.bad:
        print(
            "next      remove or repair"
            f" them{', or --bad-files skip' if len(found.bad) <= few else ''}"
        )
    return 0 if fine else 2


def table(counts: Mapping[str, int]) -> str:
    """The counts in a line, of the first ten kinds one by one."""
    first = "  ".join(f"{name}: {n}" for name, n in list(counts.items())[:SHOWN])
    return first + (f"  and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")
