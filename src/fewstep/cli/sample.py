"""fewstep sample: pictures or arrays from a trained generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewstep.cli import sample_pipeline
from fewstep.cli.eval_pipeline import is_pipeline
from fewstep.cli.parse import parse
from fewstep.cli.sampling import SamplingArgs, sampled_by, share
from fewstep.cli.user_code import own_parts

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import Tensor

    from fewstep.base.world import World
    from fewstep.data.pictures import Rows
    from fewstep.run.generator import Generator

COUNT = 100  # samples, where nothing says how many
DESCRIPTION = (
    "Draw samples from a run folder or a shipped generator. A run of `fewstep distill` takes"
    " prompts: fewstep sample RUN --help.\n\n"
    "example: fewstep sample digits --steps 2 --label 7 --out sevens.png"
)


@dataclass(frozen=True, kw_only=True)
class OwnArgs:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name, such as digits."""
    steps: int | None = None
    """Evaluations of the network; left out, the sampler's default (1 for consistency models)."""
    n: int | None = None
    """Number of samples; left out, one for each row of --cond where it has several, else 100."""
    seed: int = 0
    """The same seed gives the same samples."""
    label: str | None = None
    """One class for all, by name or number; left out, the classes take turns. -1 asks for any
    class, where the run had label_drop."""
    cond: Path | None = None
    """Conditions of another kind, a row for each sample: .npy, .npz or .safetensors by name, .csv
    or .parquet by the names of the run's columns."""
    ema: str = "ema"
    """Which weights: ema, student, another average such as power:0.05, or any power:STD of a run
    with snapshots."""
    composite: bool = False
    """Ask the frozen first stage at noise that a second stage was not trained for."""
    network: str | None = None
    """package.module:factory of the run's network, where it is your own."""
    method: str | None = None
    """package.module:function of the run's method, where it is your own."""
    out: Path = Path("samples.png")
    """File to write: .png, .npy or .safetensors; samples with one axis also .csv or .parquet."""
    data: str | None = None
    """Where the run's data are now, for rows of them beside the samples of a .png."""
    batch: int | None = None
    """Samples that pass through the network at once; left out, what memory takes, 4096 at most."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Print nothing but warnings and errors."""


@dataclass(frozen=True, kw_only=True)
class Args(SamplingArgs, OwnArgs):
    """All options, those of sampling last."""


def main(argv: list[str]) -> int:
    if is_pipeline(argv):
        return sample_pipeline.main(argv)
    args = parse(Args, argv, verb="sample", description=DESCRIPTION)
    from fewstep.base.errors import UserError
    from fewstep.run import output
    from fewstep.training import ranks

    if args.out.suffix not in output.ENDINGS:
        ends = ", ".join(output.ENDINGS)
        raise UserError(f"--out {args.out}: expected a name that ends in {ends}")
    if args.n is not None and args.n < 1:
        raise UserError(f"--n {args.n}: expected at least 1")
    if args.cond is not None and args.label is not None:
        raise UserError(f"--cond {args.cond} and --label {args.label}: expected one or the other")
    with ranks.connect(args.device, then="start again") as (world, device):
        return sample(args, world, device)


def sample(args: Args, world: World, device: torch.device) -> int:
    """The samples, of all processes together, in the file; returns the exit code."""
    from fewstep.base.conditions import count_rows
    from fewstep.data import read_condition
    from fewstep.run import output
    from fewstep.run.generator import load

    place, own = str(device), own_parts(args)
    generator = load(args.run, ema=args.ema, device=place, composite=args.composite, **own)
    generator = share(generator, world)
    names = generator.facts.names
    output.check(args.out, generator, "--out")
    cond = args.label if args.cond is None else read_condition(args.cond, names)
    rows = None if args.cond is None else count_rows(cond, generator.facts.cond)
    n = args.n or rows or COUNT
    generator = sampled_by(generator, args)
    options: dict[str, Any]
    options = {"steps": args.steps, "seed": args.seed, "cond": cond, "batch": args.batch}
    if not world.main:  # it keeps none of them
        check_finite(generator.sample_parts(n, **options), n)
        return 0
    x = generator.sample(n, **options)
    check_finite([x], n)
    beside, missing = rows_beside(x, generator, cond, args)
    about = output.write(args.out, x, generator, cond, beside) + missing
    if not args.quiet:
        each = f", one for each row of {args.cond}," if args.n is None and rows else ""
        line = f"{n} samples of shape {tuple(x.shape[1:])}{each} in {args.out}"
        print(f"{line}: {about}" if about else line)
    return 0


def check_finite(parts: Iterable[Tensor], n: int) -> None:
    """Raises NonFiniteError where some of the n samples are not finite."""
    from fewstep.base.errors import NonFiniteError

    bad = sum(int((~x.flatten(1).isfinite()).any(1).sum()) for x in parts)
    if bad:
        raise NonFiniteError(
            f"{bad} of {n} samples are not finite, and none were written: the run's weights have"
            " diverged: train again with a lower --lr"
        )


def rows_beside(x: Tensor, generator: Generator, cond: Any, args: Args) -> tuple[Rows | None, str]:
    """Rows of the data that stand beside samples in a picture, or why there are none.

    Tiles stand alone, and so do samples whose data are not at hand: the words say it.
    """
    from fewstep.base.errors import FewstepError
    from fewstep.data.pictures import Rows, rows_of_data
    from fewstep.run.datasets import data_at_hand, data_of

    run, facts = generator.run, generator.facts
    if args.out.suffix != ".png" or facts.look.kind == "tiles":
        return None, ""
    samples = Rows("samples", x, generator.conditions(len(x), cond))
    try:
        dataset = data_of(run, facts, args.data) if args.data else data_at_hand(run, facts)
    except (FewstepError, OSError) as error:
        if args.data:
            raise
        return None, f"; no data beside: {error} (--data PATH)"
    splits = [dataset.train, dataset.validation, dataset.test]
    data = rows_of_data(splits, facts.units, max(len(x), facts.look.enough), samples)
    return data, "" if data else "; no data beside: none have this condition"
