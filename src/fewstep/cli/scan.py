"""fewstep scan: checks all pictures of a folder or zip before a run does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.data import Scan

DESCRIPTION = (
    "Decode every picture of a folder or zip once and list what is bad, before a run does.\n\n"
    "Exit code 0: training would accept it; 2: it would not.\n\n"
    "example: fewstep scan photos/ --data-size 64"
)
MOST_KINDS = 10  # sizes or labels in a line


@dataclass(frozen=True)
class Args:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Folder or zip."""
    data_size: int | None = None
    """The side that pictures will be cropped and resized to; without it they must have one size."""
    bad_files: Literal["fail", "skip"] = "fail"
    """As in training: skip accepts bad files where they are few, at most 0.1 %."""
    quiet: bool = False
    """Show no progress; results, warnings and errors still."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="scan", description=DESCRIPTION)
    from fewstep.base.errors import require
    from fewstep.data import scan
    from fewstep.data.images import skippable

    require(args.data_size is None or args.data_size > 0, "data_size", args.data_size, "at least 1")
    progress = not args.quiet
    result = scan(args.path, args.data_size, progress=progress)
    fine = result.fine(args.bad_files)
    if args.json:
        print(json.dumps({**asdict(result), "fine": fine}))
    else:
        print(text(result))
    if result.bad and not args.json:
        print(advice(args.bad_files, len(result.bad), skippable(result.pictures)))
    return 0 if fine else 2


def text(result: Scan) -> str:
    """What the pictures are, and a line for each bad one."""
    lines = [
        f"{result.path}: {result.pictures} pictures, {len(result.bad)} bad",
        f"sizes     {table(result.sizes)}",
        f"modes     {table(result.modes)}",
        f"channels  {result.channels}",
        f"labels    {'none' if result.labels is None else table(result.labels)}",
    ]
    if result.others:
        first = ascii(result.others[0])[1:-1]
        lines.append(
            f"others    {len(result.others)} files that are no pictures, the first is {first}"
        )
    lines += [f"bad       {message}" for message in result.bad.values()]
    return "\n".join(lines)


def advice(bad_files: str, bad: int, most: int) -> str:
    """What to do about bad pictures; at most so many may be skipped."""
    if bad_files == "skip" and bad <= most:
        return "next      --bad-files skip leaves them out"
    if bad_files == "skip":
        return f"next      too many: skip leaves out {most}"
    skip = ", or --bad-files skip" if bad <= most else ""
    return f"next      remove or repair them{skip}"


def table(counts: Mapping[str, int]) -> str:
    """The counts in a line, of the first ten kinds one by one."""
    line = "  ".join(f"{name}: {n}" for name, n in list(counts.items())[:MOST_KINDS])
    more = len(counts) - MOST_KINDS
    return f"{line}  and {more} more" if more > 0 else line
