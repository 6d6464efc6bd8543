"""fewstep import: a network that others trained, as a generator; nothing in it is executed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fewstep.base.errors import UserError
from fewstep.cli.parse import parse

DESCRIPTION = (
    "Read a checkpoint of another project and store it as safetensors and JSON; nothing in it is"
    " executed. Read are pickles and .pt files of EDM, EDM2, ECT, TCM, GC, openai's consistency"
    " models and guided diffusion, Lightning's .ckpt, plain state dicts, safetensors, and folders"
    " of diffusers. The result is what --init, --teacher and every other verb take.\n\n"
    "example: fewstep import edm-cifar10-32x32-uncond-vp.pkl teacher.safetensors"
)


@dataclass(frozen=True)
class Args:
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|FOLDER")]
    """A checkpoint file, a diffusers folder, or a folder of EDM2's snapshots (with --std)."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """One file where the name ends in .safetensors, else a folder."""
    part: str | None = None
    """Which of several networks in the file, such as ema or net; left out, an average first."""
    shape: tuple[int, ...] | None = None
    """Shape of a sample, such as 3,64,64, where the file does not say."""
    classes: int | None = None
    """Number of classes, where the file does not say."""
    network: str | None = None
    """The network of a plain state dict: one of ours, see fewstep recipes."""
    network_options: str = "{}"
    """Its options as JSON, such as '{"width": 128}'."""
    prediction: str | None = None
    """What it predicts, where the file does not say: edm, eps, v, x0, flow, score, vp or ve."""
    process: str | None = None
    """Its process: edm, ddpm, ddpm-cosine, discrete (Stable Diffusion's), cosine, linear, trig."""
    noise_label: str | None = None
    """What it gets as its time, such as "t - 1" or "250 ln(level)"."""
    sigma_data: float | None = None
    """Standard deviation of the data that its preconditioning is made for."""
    is_student: Literal["true", "false"] | None = None
    """Whether it is a consistency model, which jumps to the data."""
    boundary: float | None = None
    """Of a consistency model: the level where D(x, t) = x."""
    attention_order: str | None = None
    """Of guided diffusion: new or legacy."""
    std: float | None = None
    """Of a folder of EDM2's snapshots: the deviation of the average that is made of them."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="import", description=DESCRIPTION)
    if args.out.exists():
        raise UserError(f"{args.out} is there already: choose another name")
    from fewstep.run.imports import recognise_at, report_of, sha256, store

    match = recognise_at(args.source, words_of(args), args.std)
    source = {"file": args.source.name, "sha256": sha256(args.source)}
    digest = store(args.out, match, source)
    report = report_of(match, source)
    if args.json:
        print(json.dumps({**report, "out": str(args.out), "fingerprint": digest}))
    elif not args.quiet:
        for name, value in report.items():
            print(f"{name:<12} {value}")
        print(f"{args.out}: fingerprint {digest[:16]}")
    return 0


def words_of(args: Args) -> Any:
    """What was typed about the file. Raises UserError."""
    from fewstep.foreign.recognised import Said

    try:
        options = json.loads(args.network_options)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise UserError(
            f"--network-options {args.network_options}: expected JSON, such as '{{\"width\": 128}}'"
        )
    names = ("part", "shape", "classes", "network", "prediction", "process", "sigma_data")
    return Said(
        **{name: getattr(args, name) for name in names},
        attention_order=args.attention_order,
        is_student=None if args.is_student is None else args.is_student == "true",
        label=args.noise_label,
        network_options=options,
        shift=args.boundary,
    )
