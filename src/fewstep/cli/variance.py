"""fewstep variance: the table that aDDIM takes, measured on a run's data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fewstep.cli.parse import parse

DESCRIPTION = (
    "Measure how far a diffusion model's guess is from the data at each noise level: the variance"
    " that the sampler addim takes (MCM, section 4).\n\n"
    "example: fewstep variance runs/teacher --out variance.json\n"
    "then: fewstep sample runs/teacher --sampler addim --variance variance.json"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name of a diffusion model."""
    out: Path = Path("variance.json")
    """File to write."""
    points: int = 32
    """Noise levels, at times of the process's own grid."""
    n: int = 4096
    """Rows at each of them; all where there are fewer."""
    eta: float = 0.75
    """The share of the squared error that counts; MCM's is 0.75."""
    seed: int = 0
    """Seed of the rows and their noise."""
    split: Literal["validation", "train"] = "validation"
    """Which rows: those that the run did not learn, or those that it did."""
    ema: str = "ema"
    """Which weights: ema, student, or another average such as power:0.05."""
    data: str | None = None
    """Where the run's data is now, if its path has changed."""
    network: str | None = None
    """package.module:factory of the run's network, where it is your own."""
    method: str | None = None
    """package.module:function of the run's method, where it is your own."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Show no progress, and print nothing but warnings and errors."""
    json: bool = False
    """Print the table as one JSON object too."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="variance", description=DESCRIPTION)
    from fewstep.base.errors import UserError
    from fewstep.base.progress import Progress
    from fewstep.cli.user_code import own_parts
    from fewstep.run.datasets import data_of
    from fewstep.run.generator import load
    from fewstep.run.variance import measure_variance

    if args.out.suffix != ".json":
        raise UserError(f"--out {args.out}: expected a name that ends in .json")
    generator = load(args.run, ema=args.ema, device=args.device, **own_parts(args))
    dataset = data_of(generator.run, generator.facts, args.data)
    total = args.points * min(args.n, len(getattr(dataset, args.split)))
    with Progress(total, "row", show=not args.quiet) as progress:
        table = measure_variance(
            generator,
            dataset,
            points=args.points,
            n=args.n,
            eta=args.eta,
            seed=args.seed,
            split=args.split,
            watch=progress.update,
        )
    table.write(args.out)
    if args.json:
        print(json.dumps(table.to_json()))
    elif not args.quiet:
        low, high = table.values[0], table.values[-1]
        print(
            f"{args.out}: variance of x0 from {low:.4g} at level {table.levels[0]:.4g} to"
            f" {high:.4g} at {table.levels[-1]:.4g}; {table.rows} rows of the {table.split} split"
        )
    return 0
