"""fewstep sample: pictures or arrays from a trained generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.user_code import own_parts

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.base.conditions import Cond
    from fewstep.run.generator import Generator

DESCRIPTION = (
    "Draw samples from a run folder or a shipped generator.\n\n"
    "example: fewstep sample digits --steps 2 --label 7 --out sevens.png"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name, such as digits."""
    steps: int | None = None
    """Evaluations of the network; left out, the sampler's default (1 for consistency models)."""
    sampler: str | None = None
    """multistep (consistency models), or ddim, addim, euler, heun, ancestral (diffusion models)."""
    n: int = 100
    """Number of samples."""
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
    later_sigmas: tuple[float, ...] | None = None
    """Noise levels of the later steps, one fewer than the steps; left out, the run's."""
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


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="sample", description=DESCRIPTION)
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from fewstep.base.errors import NonFiniteError, StorageError, UserError
    from fewstep.data import read_condition, writing
    from fewstep.data.frames import TABLES
    from fewstep.run.generator import load

    def table(path: Path, x: Tensor) -> None:
        conds = generator.user_conditions(args.n, cond)
        writing.write_table(path, x, conds, names)

    writers: dict[str, Callable[[Path, Tensor], str | None]] = {
        ".png": lambda path, x: draw(path, x, generator, generator.conditions(args.n, cond), args),
        ".npy": lambda path, x: np.save(path, x.numpy()),
        ".safetensors": lambda path, x: save_file({"samples": x}, path),
        **dict.fromkeys(TABLES, table),
    }
    if args.out.suffix not in writers:
        raise UserError(f"--out {args.out}: expected a name that ends in {', '.join(writers)}")
    if args.n < 1:
        raise UserError(f"--n {args.n}: expected at least 1")
    if args.cond is not None and args.label is not None:
        raise UserError(f"--cond {args.cond} and --label {args.label}: expected one or the other")
    generator = load(
        args.run, ema=args.ema, device=args.device, composite=args.composite, **own_parts(args)
    )
    names = generator.facts.names
    if args.out.suffix in TABLES:
        writing.check_table(args.out, generator.facts.shape)
    cond = args.label if args.cond is None else read_condition(args.cond, names)
    generator = generator.with_later_sigmas(args.later_sigmas)
    x = generator.sample(
        args.n,
        steps=args.steps,
        seed=args.seed,
        cond=cond,
        sampler=args.sampler,
        batch=args.batch,
    )
    bad = int((~x.flatten(1).isfinite()).any(1).sum())
    if bad:
        raise NonFiniteError(
            f"{bad} of {args.n} samples are not finite, and none were written: the run's weights"
            " have diverged: train again with a lower --lr"
        )
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        about = writers[args.out.suffix](args.out, x)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write {args.out}: {reason}") from error
    if not args.quiet:
        line = f"{args.n} samples of shape {tuple(x.shape[1:])} in {args.out}"
        print(f"{line}: {about}" if about else line)
    return 0


def draw(path: Path, x: Tensor, generator: Generator, cond: Cond, args: Args) -> str:
    """Writes a picture of samples, rows of the data beside them; what it shows.

    cond: of the samples, in the model's units. Pictures stand alone, and so do samples whose data
    are not at hand: the words say it.
    """
    from fewstep.base.errors import FewstepError
    from fewstep.data.pictures import Rows, rows_of_data
    from fewstep.data.pictures import draw as draw_rows
    from fewstep.run.datasets import data_at_hand, data_of

    run, facts = generator.run, generator.facts
    groups, about = [Rows("samples", x, cond)], ""
    if facts.look.kind != "tiles":
        try:
            dataset = data_of(run, facts, args.data) if args.data else data_at_hand(run, facts)
        except (FewstepError, OSError) as error:
            if args.data:
                raise
            about = f"; no data beside: {error} (--data PATH)"
        else:
            splits = [dataset.train, dataset.validation, dataset.test]
            data = rows_of_data(splits, facts.units, max(len(x), facts.look.enough), groups[0])
            groups += [data] if data else []
            about = "" if data else "; no data beside: none have this condition"
    return f"{draw_rows(path, groups, facts.look)}{about}"
