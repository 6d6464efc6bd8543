"""fewstep export: a generator as a file that needs no fewstep."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.user_code import own_parts

if TYPE_CHECKING:
    from fewstep.export.contents import Contents
    from fewstep.export.writing import Report

DESCRIPTION = (
    "Write a generator with one way to sample it, as a file that needs no fewstep: noise goes in,"
    " samples in the data's units come out. The file is opened again, and its samples are compared"
    " with the run's.\n\n"
    "example: fewstep export digits digits.onnx --steps 2"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name, such as digits."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to write, or a file that ends in .onnx or .pt2."""
    to: str | None = None
    """onnx, torch (a program of torch.export), safetensors (weights and Python that needs torch
    alone) or diffusers (a pipeline's folder); left out, by how OUT ends."""
    steps: int | None = None
    """Evaluations of the network; left out, the sampler's default (1 for consistency models)."""
    sampler: str | None = None
    """multistep (consistency models), jumps, ctm, tcd (flow maps), or ddim, euler, heun, ancestral
    (diffusion models)."""
    guidance: float = 0.0
    """Guidance of a flow map that learned it as an input, as for sample; of others it is 0."""
    half: bool = False
    """Store weights in half precision, as half the bytes; they are computed with in float32."""
    tolerance: float | None = None
    """Largest difference from the run's samples, relative to the data's scale; left out, 5e-6, with
    --half 1e-3."""
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
    license: str | None = None
    """License of the weights for the model card, such as apache-2.0."""
    scores: Path | None = None
    """What 'fewstep eval RUN --json' printed, for the model card."""
    overwrite: bool = False
    """Replace an earlier export at OUT."""
    push: str | None = None
    """OWNER/NAME on the Hugging Face hub that a folder OUT is uploaded to."""
    private: bool = False
    """A model that --push makes is private."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="export", description=DESCRIPTION)
    from fewstep.export import hub
    from fewstep.export.contents import prepare
    from fewstep.export.writing import check_place, export, target_of
    from fewstep.run.generator import load

    to = target_of(args.out, args.to)
    check_place(args.out, args.overwrite)
    check_push(args)
    generator = load(
        args.run, ema=args.ema, device="cpu", composite=args.composite, **own_parts(args)
    )
    generator = generator.with_later_sigmas(args.later_sigmas).with_guidance(args.guidance)
    contents = prepare(generator, steps=args.steps, sampler=args.sampler, half=args.half)

    def note(text: str) -> None:
        if not args.quiet and not args.json:
            print(text, file=sys.stderr, flush=True)

    report = export(
        contents,
        args.out,
        to,
        overwrite=args.overwrite,
        tolerance=args.tolerance,
        license=args.license,
        name=args.push.rpartition("/")[2] if args.push else args.out.stem,
        scores=read_scores(args.scores, contents) if args.scores else (),
        note=note,
    )
    address = ""
    if args.push:
        note(f"uploading to {args.push}")
        address = hub.push(args.out, args.push, private=args.private)
    if args.json:
        print(json.dumps(report.to_json() | ({"pushed": address} if address else {})))
    elif not args.quiet:
        print("\n".join(lines(report, address)))
    return 0


def check_push(args: Args) -> None:
    """Raises UserError for an upload that cannot be, before anything is traced."""
    from fewstep.base.errors import UserError
    from fewstep.export import hub

    if args.push is None:
        if args.private:
            raise UserError("--private: expected --push OWNER/NAME with it")
        return
    if args.out.suffix in (".onnx", ".pt2"):
        raise UserError(f"--push of the file {args.out}: expected the name of a folder as OUT")
    hub.check()


def read_scores(path: Path, contents: Contents) -> list[Any]:
    """The results in the file. Raises UserError, and StorageError for no JSON."""
    from fewstep.base.errors import storage
    from fewstep.base.json_file import MOST_JSON, document
    from fewstep.export.card import check_scores

    with storage(f"cannot read {path}"):
        content = path.read_bytes()
    return check_scores(document(content, path, MOST_JSON), contents)


def lines(report: Report, address: str) -> list[str]:
    """What was written, how near it is, and how it is read where that takes code of its own."""
    result = [f"{path}  {size['bytes']:,} bytes" for path, size in report.files.items()]
    inputs = [
        f"{k} {v['dtype']} [{', '.join(map(str, v['shape']))}]" for k, v in report.inputs.items()
    ]
    result.append(f"inputs: {'; '.join(inputs)}")
    result.append(
        f"largest difference from the run's samples: {report.difference:.2g} of the data's scale"
        f" (at most {report.bound:g})"
    )
    if address:
        result.append(f"pushed: {address}")
    if report.target == "safetensors":
        from fewstep.export.python_file import LOADER

        result += ["", "the loader in generator.py, which needs torch alone:", "", LOADER.rstrip()]
    return result
