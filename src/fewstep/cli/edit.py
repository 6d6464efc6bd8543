"""fewstep edit: samples that agree with what is there, from any few-step generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.user_code import own_parts

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.core.measurements import Measurement
    from fewstep.run.generator import Generator

DESCRIPTION = (
    "Fill in, colour or sharpen what is there, or go from one sample to another, by a generator"
    " that was not trained for it.\n\n"
    "example: fewstep edit digits --task inpaint --input seven.png --mask right"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name, such as digits."""
    task: Literal["inpaint", "colourise", "superres", "interpolate"] = "inpaint"
    """inpaint fills in what is missing, colourise a grey picture, superres adds detail to block
    means; interpolate goes from one sample to another."""
    input: Path | None = None
    """Picture, .npy, .npz or .safetensors, in the data's units: one sample or several, or what is
    measured of it (a grey or smaller picture)."""
    mask: str | None = None
    """What is missing: left, right, top, bottom, centre, or a file, white or not 0 there; left
    out, the NaN of the input."""
    factor: int | None = None
    """superres: side of the blocks; left out, what the input's size says, or 2."""
    seeds: tuple[int, ...] = (1, 2)
    """interpolate: the seeds of the two samples."""
    n: int | None = None
    """Number of samples; left out 8, or one for each sample of the input; interpolate: 9."""
    steps: int | None = None
    """Jumps to the data, evaluations of a consistency model; left out 33: two for each of 16 noise
    levels, and one. interpolate: as for sample."""
    particles: int = 256
    """Samples that compete: more are nearer to the right odds, and take more time."""
    seed: int = 0
    """The same seed gives the same samples."""
    label: str | None = None
    """One class, by name or number; left out, samples of all classes compete."""
    cond: Path | None = None
    """Conditions of another kind: .npy, .npz or .safetensors by name, .csv or .parquet by the names
    of the run's columns."""
    ema: str = "ema"
    """Which weights: ema, student, or another average such as power:0.05."""
    composite: bool = False
    """Ask the frozen first stage at noise that a second stage was not trained for."""
    network: str | None = None
    """package.module:factory of the run's network, where it is your own."""
    method: str | None = None
    """package.module:function of the run's method, where it is your own."""
    out: Path = Path("edit.png")
    """File to write: .png (what is there, then the samples), .npy, .safetensors, or a folder, for
    a picture each."""
    batch: int | None = None
    """Samples that pass through the network at once; left out, what memory takes."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Print nothing but warnings and errors."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="edit", description=DESCRIPTION)
    from fewstep.base.errors import NonFiniteError, UserError
    from fewstep.run import edit_files
    from fewstep.run.generator import load

    if args.cond is not None and args.label is not None:
        raise UserError(f"--cond {args.cond} and --label {args.label}: expected one or the other")
    generator = load(
        args.run, ema=args.ema, device=args.device, composite=args.composite, **own_parts(args)
    )
    edit_files.check_out(args.out, generator)
    is_way = args.task == "interpolate"
    x, inputs = way(args, generator) if is_way else edits(args, generator)
    bad = int((~x.flatten(1).isfinite()).any(1).sum())
    if bad:
        raise NonFiniteError(
            f"{bad} of {len(x)} samples are not finite, and none were written: the run's weights"
            " have diverged: train again with a lower --lr"
        )
    about = edit_files.write(args.out, x, generator, inputs)
    if not args.quiet:
        line = f"{len(x)} samples of shape {tuple(x.shape[1:])} in {args.out}"
        print(f"{line}: {about}" if about else line)
    return 0


def condition(args: Args, generator: Generator) -> Any:
    """--label or --cond."""
    from fewstep.data import read_condition

    return args.label if args.cond is None else read_condition(args.cond, generator.facts.names)


def way(args: Args, generator: Generator) -> tuple[Tensor, None]:
    """Samples on the way between two seeds. Raises UserError for options of the other tasks."""
    from fewstep.base.errors import require
    from fewstep.run.editing import interpolate

    for name in ("input", "mask", "factor"):
        value = getattr(args, name)
        require(value is None, f"--{name}", value, "none: interpolate takes --seeds 1,2")
    seeds = args.seeds
    require(len(seeds) == 2, "--seeds", seeds, "two, such as 1,2")
    n = 9 if args.n is None else args.n
    cond = condition(args, generator)
    return interpolate(generator, (seeds[0], seeds[1]), n, steps=args.steps, cond=cond), None


def edits(args: Args, generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Samples that agree with the input, and what it measured as pictures, where they are some."""
    from fewstep.base.errors import UserError, require
    from fewstep.run import edit_files
    from fewstep.run.editing import STEPS, edit

    if args.input is None:
        raise UserError(f"--task {args.task}: expected --input FILE, what is there")
    need = f"none: --task {args.task} has no mask"
    require(args.task == "inpaint" or args.mask is None, "--mask", args.mask, need)
    need = f"none: --task {args.task} has no blocks"
    require(args.task == "superres" or args.factor is None, "--factor", args.factor, need)
    facts = generator.facts
    x = edit_files.read_values(args.input, generator)
    measurement = measurement_of(args, x, facts.shape)
    if args.task != "colourise" and len(facts.shape) == 3 and x.ndim == 3 and x.shape[0] == 1:
        x = x.expand(facts.shape[0], *x.shape[1:])  # a grey picture
    y = edit_files.measured_values(x, measurement, facts.shape)
    n = len(y) if len(y) > 1 else 8
    samples = edit(
        generator,
        y,
        measurement,
        n if args.n is None else args.n,
        steps=STEPS if args.steps is None else args.steps,
        particles=args.particles,
        seed=args.seed,
        cond=condition(args, generator),
        batch=args.batch,
    )
    if facts.look.black_and_white is None:
        return samples, None
    return samples, edit_files.input_pictures(measurement, y, generator)


def measurement_of(args: Args, x: Tensor, shape: tuple[int, ...]) -> Measurement:
    """What the task measures of a sample. Raises UserError where it has no such thing."""
    from fewstep.base.errors import require
    from fewstep.core import measurements
    from fewstep.run import edit_files

    if args.task == "inpaint":
        return measurements.inpaint(edit_files.missing_of(args.mask, x, shape))
    if args.task == "superres":
        return measurements.superres(args.factor or edit_files.factor_between(x, shape) or 2)
    is_colour = len(shape) == 3 and shape[0] == 3
    require(is_colour, "samples of shape", shape, "3 channels to colour: --task colourise")
    return measurements.colourise()
