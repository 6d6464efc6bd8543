"""fewstep scan: what training would read, and what looks wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.data import Scan

DESCRIPTION = (
    "Read data as training would, and show what was understood and what looks wrong.\n\n"
    "Every picture of a folder or zip is decoded once, and what is bad is listed. Exit code 0:"
    " training would accept it; 2: it would not.\n\n"
    "example: fewstep scan photos/ --data-size 64"
)
MOST_KINDS = 10  # sizes or labels in a line


@dataclass(frozen=True)
class Args:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """What --data of training takes: a name, a file, a folder or zip of pictures."""
    data_size: int | None = None
    """The side that pictures will be cropped and resized to; without it they must have one size."""
    bad_files: Literal["fail", "skip"] = "fail"
    """As in training: skip accepts bad files where they are few, at most 0.1 %."""
    units: str = "auto"
    """As in training: auto, standard, robust, quantile, whole, as-is or LOW..HIGH."""
    channel_axis: int | None = None
    """As in training: the axis whose places are variables."""
    columns: tuple[str, ...] = ()
    """As in training: the columns of a table that are samples."""
    label_column: str | None = None
    """As in training: the column of a table that holds the labels."""
    condition_columns: tuple[str, ...] = ()
    """As in training: the columns of a table that samples are conditioned on."""
    cond: str | None = None
    """As in training: the file with the condition of each sample."""
    holdout: float = 0.1
    """As in training: the share or number of samples that validation and test take each."""
    validation: str | None = None
    """As in training: the path of the validation split."""
    test: str | None = None
    """As in training: the path of the test split."""
    cache: str | None = None
    """As in training: the folder where decoded pictures and rows stay."""
    latents: Literal["mean-std", "mean-logvar"] | None = None
    """As in training: samples hold the moments of latents."""
    strict: bool = False
    """Exit code 2 also for data of which something looks wrong."""
    quiet: bool = False
    """Show no progress bar."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="scan", description=DESCRIPTION)
    from fewstep.base.errors import require
    from fewstep.data import scan
    from fewstep.data.files import is_table
    from fewstep.data.gathering import skippable

    require(args.data_size is None or args.data_size > 0, "data_size", args.data_size, "at least 1")
    report: dict[str, Any] = {"path": args.path, "fine": True}
    path = Path(args.path)
    holds_pictures = path.is_dir() or path.suffix.lower() == ".zip"
    if holds_pictures and args.latents is None and not is_table(path):
        result = scan(args.path, args.data_size, cache=args.cache, progress=not args.quiet)
        report |= {**asdict(result), "fine": result.fine(args.bad_files)}
        if not args.json:
            print(text(result))
        if result.bad and not args.json:
            print(advice(args.bad_files, len(result.bad), skippable(result.pictures)))
    if report["fine"]:
        report["data"] = description_of(args)
        report["fine"] = not (args.strict and report["data"]["marks"])
    if args.json:
        print(json.dumps(report))
    return 0 if report["fine"] else 2


def description_of(args: Args) -> dict[str, Any]:
    """The description of the data as training would read them; printed unless JSON is wanted."""
    from fewstep.data import Reading
    from fewstep.data.description import describe, text_of
    from fewstep.run.datasets import dataset_of

    reading = Reading(
        size=args.data_size,
        bad_files=args.bad_files,
        units=args.units,
        channel_axis=args.channel_axis,
        columns=args.columns,
        label_column=args.label_column,
        condition_columns=args.condition_columns,
        cond=args.cond,
        holdout=args.holdout,
        validation=args.validation,
        test=args.test,
        cache=args.cache,
        latents=args.latents,
    )
    values = describe(dataset_of(args.path, reading)).to_json()
    if not args.json:
        print(text_of(values, marks=True))
    return values


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
