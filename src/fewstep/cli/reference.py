"""fewstep reference: the statistics of a data set's features, as EDM's files have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 2**24  # numbers that are in memory

DESCRIPTION = (
    "Measure mean and covariance of the features of a data set, in pieces: a file with EDM's keys"
    " mu and sigma, which eval --reference takes.\n\n"
    "example: fewstep reference cifar10-32x32.zip cifar10.npz --extractor inception.pt"
)


@dataclass(frozen=True)
class Args:
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """What --data of training takes: a name, a file, a folder or zip of pictures."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.npz")]
    """File to write."""
    extractor: str
    """FILE.onnx, with its input and output declared in FILE.json; or Inception's .pt."""
    weights: str | None = None
    """The file that the .onnx was exported from: its SHA-256 is recorded."""
    data_size: int | None = None
    """The side that pictures are cropped and resized to; without it they must have one size."""
    bad_files: Literal["fail", "skip"] = "fail"
    """As in training: skip leaves out bad files where they are few, at most 0.1 %."""
    cache: str | None = None
    """As in training: the folder where decoded pictures stay."""
    flips: bool = False
    """Count every picture and its mirror image."""
    quiet: bool = False
    """Show no progress, and print nothing but warnings and errors."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="reference", description=DESCRIPTION)
    from fewstep.analysis.metrics import open_extractor
    from fewstep.base.errors import UserError, require
    from fewstep.base.progress import Progress
    from fewstep.data import DATASETS, Reading
    from fewstep.data.reading import HOLDOUT
    from fewstep.run.datasets import dataset_of
    from fewstep.statistics.moments import moments_of

    if args.out.suffix != ".npz":
        raise UserError(f"{args.out}: expected a name that ends in .npz")
    extractor = open_extractor(args.extractor, weights=args.weights)
    holdout = HOLDOUT if args.data in DATASETS or args.data.startswith("exact:") else 0.0
    dataset = dataset_of(
        args.data,
        Reading(size=args.data_size, bad_files=args.bad_files, cache=args.cache, holdout=holdout),
    )
    pictures = f"pictures, since {dataset.name} holds samples of shape {dataset.shape}"
    require(not args.flips or len(dataset.shape) == 3, "flips", args.flips, pictures)
    with Progress(len(dataset.train), "row", show=not args.quiet) as progress:

        def pieces() -> Iterator[Tensor]:
            for block in dataset.train.blocks(AT_ONCE):
                for x in (block, block.flip(3)) if args.flips else (block,):
                    yield extractor.features(x)
                progress.update(len(block))

        statistics = moments_of(pieces(), extractor.sha256)
    statistics.write(args.out)
    facts = {"n": statistics.n, "features": len(statistics.mean), "sha256": statistics.sha256}
    if args.json:
        print(json.dumps({"out": str(args.out), "data": dataset.name, **facts}))
    elif not args.quiet:
        print(f"{args.out}: {facts['n']} rows of {dataset.name}, {facts['features']} features each")
    return 0
