"""fewstep sample, of a distilled pipeline: pictures of prompts by stock diffusers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewstep.base.errors import UserError, require, storage
from fewstep.cli.parse import parse

DESCRIPTION = (
    "Draw pictures of prompts by a pipeline that `fewstep distill` has changed.\n\n"
    "example: fewstep sample runs/sd --prompt 'a cat' --seeds 0,1,2,3 --out cats.png"
)


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder of fewstep distill."""
    prompt: str | None = None
    """One prompt."""
    prompts: Path | None = None
    """File of prompts, as of distill; left out as well, those that the run has learned from."""
    n: int = 4
    """Prompts of a file, the first ones."""
    steps: int | None = None
    """Evaluations of the network; left out, what the student is pictures for."""
    seeds: tuple[int, ...] = (0,)
    """A picture of each prompt for each seed: the same seed, the same picture."""
    out: Path = Path("samples.png")
    """A .png with a row for each prompt; else a folder with a file for each picture and a
    pictures.json that lists them."""
    batch: int = 1
    """Pictures at once."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Print nothing but warnings and errors."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="sample", description=DESCRIPTION)
    require(args.n >= 1, "n", args.n, "at least 1")
    require(len(args.seeds) > 0, "seeds", args.seeds, "at least one")
    if args.prompt is not None and args.prompts is not None:
        raise UserError("--prompt and --prompts: expected one of them")
    from fewstep.base.progress import Progress
    from fewstep.pipelines.sampling import open_student

    student = open_student(args.run, device=args.device)
    texts = [args.prompt] if args.prompt is not None else prompts_of(args, student.task)
    steps = student.steps(args.steps)
    pictures = []
    with Progress(len(texts) * len(args.seeds), "picture", show=not args.quiet) as bar:
        for one in student.pictures(texts, steps=steps, seeds=args.seeds, batch=args.batch):
            pictures.append(one)
            bar.update(1)
    write(args.out, pictures, columns=len(args.seeds))
    if not args.quiet:
        print(f"{args.out}: {len(pictures)} pictures, {steps} steps, of {len(texts)} prompts")
    return 0


def prompts_of(args: Args, task: Any) -> list[str]:
    """The first prompts of a file: of the run's own where none is named. Raises UserError."""
    from fewstep.pipelines.prompts import read_prompts

    path = args.prompts or task.prompts
    if path is None:
        raise UserError("name a prompt: --prompt 'a cat', or --prompts FILE")
    return read_prompts(path)[: args.n]


def write(out: Path, pictures: list[tuple[str, int, Any]], columns: int) -> None:
    """Raises StorageError."""
    from fewstep.base import disk

    with storage(f"cannot write to {out}"):
        if out.suffix == ".png":
            out.parent.mkdir(parents=True, exist_ok=True)
            disk.replace(out, png(grid([picture for _, _, picture in pictures], columns)))
            return
        disk.make_folder(out)
        entries = []
        for number, (prompt, seed, picture) in enumerate(pictures):
            name = f"{number:05d}.png"
            disk.replace(out / name, png(picture))
            entries.append({"file": name, "prompt": prompt, "seed": seed})
        disk.replace(out / "pictures.json", json.dumps(entries, indent=1).encode())


def grid(pictures: list[Any], columns: int) -> Any:
    """Pictures of one size in rows of so many."""
    from diffusers.utils import make_image_grid

    return make_image_grid(pictures, rows=len(pictures) // columns, cols=columns)


def png(picture: Any) -> bytes:
    import io

    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
