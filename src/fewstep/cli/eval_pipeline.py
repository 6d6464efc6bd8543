"""fewstep eval and frontier of a run of distill: the papers' numbers of its pictures."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.pipelines.sampling import Student
    from fewstep.pipelines.scores import Scores

DESCRIPTION = (
    "Score the pictures of a distilled pipeline beside its teacher's, from the same noise, prompts"
    " and guidance: ODE error, Fréchet distances, CLIP score, diversity, and drift under a second"
    " LoRA. Means over prompts have 95 % intervals.\n\n"
    "example: fewstep eval runs/sd --steps 1,2,4 --n 100 --clip clip-vit-large-patch14"
)
PAGE = (
    "Score the pictures of a distilled pipeline by steps, beside its teacher's from the same noise."
    " Writes frontier.json, frontier.png and report.html.\n\n"
    "example: fewstep frontier runs/sd --steps 1,2,4 --n 100 --out frontier-sd"
)
STEPS = (1, 2, 4, 8)  # of a page, those that the student takes
EXAMPLES = 4  # prompts whose pictures are on it


@dataclass(frozen=True, kw_only=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run of `fewstep distill`."""
    steps: tuple[int, ...] | None = None
    """Steps of the student; left out, those it is made for."""
    n: int = 1000
    """Prompts, evenly spaced in their file; all where it has fewer."""
    prompts: Path | None = None
    """File of prompts, as for `fewstep distill`; left out, those the run was distilled on."""
    seeds: tuple[int, ...] = (0,)
    """Each prompt has a picture of each seed; from two on, diversity is measured."""
    teacher_steps: int | None = None
    """Steps of DDIM of the teacher; left out, as many as the run's method solves in, else 100."""
    extractor: tuple[str, ...] = ()
    """Feature extractors of Fréchet distances: FILE.onnx, with its input and output declared in
    FILE.json; or Inception's .pt.
    """
    weights: tuple[str, ...] = ()
    """The files that each .onnx was exported from: known ones give FID and FD-DINOv2."""
    reference: str = "teacher"
    """What those distances are to: the teacher's pictures, a folder or zip of pictures, or
    STATS.npz of `fewstep reference`.
    """
    clip: Path | None = None
    """Folder of a CLIP of transformers: for the CLIP score, and diversity in its space."""
    aesthetic: str | None = None
    """package.module:function of your own: pictures [B, 3, H, W] in bytes, and CLIP embeddings
    where it takes two arguments, -> numbers [B].
    """
    stack: Path | None = None
    """A second LoRA, FILE.safetensors or its folder, on student and teacher: drift."""
    stack_scale: float = 1.0
    """The scale of that LoRA."""
    batch: int = 4
    """Pictures at once."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Show no progress and no notes; results, warnings and errors still."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class PageArgs(Args):
    out: Path | None = None
    """Folder to write; left out, frontier-RUN."""


def is_pipeline(argv: list[str]) -> bool:
    """Whether one of the words is a run folder of `fewstep distill`."""
    from fewstep.pipelines.task import FILE

    return any(os.path.isfile(os.path.join(word, FILE)) for word in argv)


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="eval", description=DESCRIPTION)
    scores = measure(args, open_run(args), args.steps or ())
    from fewstep.pipelines.score_page import json_of, text_of

    print(json.dumps(json_of(scores)) if args.json else text_of(scores, notes=not args.quiet))
    return 0


def frontier(argv: list[str]) -> int:
    args = parse(PageArgs, argv, verb="frontier", description=PAGE)
    from fewstep.analysis import report
    from fewstep.base.errors import UserError
    from fewstep.pipelines import score_page

    # Both raise for a missing library before anything takes long.
    report.page("", [], [])
    report.axes()
    student = open_run(args)

    def takes(count: int) -> bool:
        try:
            student.steps(count)
        except UserError:
            return False
        return True

    steps = args.steps or tuple(filter(takes, STEPS)) or (student.steps(),)
    scores = measure(args, student, steps, examples=EXAMPLES)
    name = Path(args.run).name
    out = args.out or Path(f"frontier-{name}")
    score_page.write(out, name, scores, shlex.join(["fewstep", "frontier", *argv]))
    if args.json:
        print(json.dumps(score_page.json_of(scores)))
    else:
        text = score_page.text_of(scores, notes=not args.quiet)
        print(f"{text}\n\n{out}: report.html, frontier.png, frontier.json")
    return 0


def open_run(args: Args) -> Student:
    from fewstep.pipelines.sampling import open_student

    return open_student(args.run, device=args.device)


def measure(args: Args, student: Student, steps: tuple[int, ...], *, examples: int = 0) -> Scores:
    """The scores that were asked for; mistakes are found before anything is drawn."""
    from fewstep.analysis.metrics import open_extractor
    from fewstep.base.errors import UserError, require
    from fewstep.cli.user_code import import_function
    from fewstep.pipelines.clip import open_clip
    from fewstep.pipelines.scores import prompts_of, score
    from fewstep.pipelines.tally import Measures

    count = len(args.extractor)
    need = f"a file for each of the {count} of --extractor, or none"
    require(len(args.weights) in (0, count), "weights", args.weights, need)
    sources = args.weights or (None,) * count
    if args.stack is None and args.stack_scale != 1.0:
        raise UserError(f"--stack-scale {args.stack_scale}: it is of a second LoRA: name --stack")
    own = None if args.aesthetic is None else import_function("aesthetic", args.aesthetic)
    measures = Measures(
        extractors=[
            open_extractor(file, weights=source)
            for file, source in zip(args.extractor, sources, strict=True)
        ],
        reference=args.reference,
        clip=None if args.clip is None else open_clip(args.clip, student.pipeline.device),
        aesthetic=own,
        stack=args.stack,
        stack_scale=args.stack_scale,
    )
    return score(
        student,
        prompts_of(student.task, args.prompts, args.n),
        measures,
        steps=steps,
        seeds=args.seeds,
        teacher_steps=steps_of_teacher(args),
        batch=args.batch,
        examples=examples,
        progress=not args.quiet,
    )


def steps_of_teacher(args: Args) -> int:
    """As typed, or as many as the run's method solves its ODE in; 100 where it names none."""
    from fewstep.run.places import find

    options = find(args.run).record.run.method_options
    own = options.get("n") or options.get("steps_end") or 100
    return int(own) if args.teacher_steps is None else args.teacher_steps
