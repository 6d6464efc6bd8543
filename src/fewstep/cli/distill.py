"""fewstep distill: a few-step version of a pipeline of diffusers, from prompts or pictures."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewstep.base.errors import UserError, require, unknown
from fewstep.cli import train
from fewstep.cli.arguments import HELP, divide, is_option, options_in
from fewstep.cli.help import screen
from fewstep.cli.parse import parse
from fewstep.cli.train_options import last_value
from fewstep.pipelines.recipes import RECIPES, Recipe
from fewstep.pipelines.task import Task
from fewstep.run.config import Run

DESCRIPTION = (
    "Distil a text-to-image pipeline of diffusers (of the classes of Stable Diffusion, SDXL, SD 3"
    " and FLUX) into one of a few steps: a LoRA that stock diffusers loads, or all weights. It"
    " learns from prompts alone, for which the teacher draws, or from pictures with captions."
    f" RECIPE is lora, or of a paper: {', '.join([*RECIPES][1:])}.\n\n"
    "example: fewstep distill stable-diffusion-v1-5 --method direct_cm --prompts prompts.txt"
    " --guidance 7 --out runs/sd"
)
END = (
    "All options of `fewstep train` are options too: --method mcm, --batch, --accumulate, --lr,"
    " --precision, --recompute, --resume. The pictures: fewstep sample RUN --prompt 'a cat'"
)


@dataclass(frozen=True, kw_only=True)
class Args(Task):
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER [RECIPE]")]
    """Folder of the pipeline, as save_pretrained or a download of all its files writes it."""
    w: float | None = None
    """The guidance in the other convention, 1 + g: 1 is none."""


def main(argv: list[str]) -> int:
    if HELP & set(argv):
        print(screen("distill", DESCRIPTION, {"options of distill": options_in(Args)}, END))
        return 0
    if not argv or is_option(argv[0]):
        raise UserError("name the pipeline's folder first: fewstep distill FOLDER --prompts FILE")
    args, run, task, own, out = read(argv)
    from fewstep.pipelines.distill import distill

    generator = distill(
        run,
        task,
        out=out,
        cache=run.cache,
        resume=args.resume,
        device=args.device,
        shard=args.shard,
        recompute=args.recompute,
        workers=args.workers,
        log=args.log,
        progress=not args.quiet,
        **own,
    )
    if not args.quiet and train.is_first_process():
        path = shlex.quote(str(out))
        print(f"{out}: step {generator.step}, for diffusers: {path}/pipeline")
        print(f"next: fewstep sample {path} --prompt 'a cat'")
    return 0


def read(argv: list[str], verb: str = "distill") -> tuple[Any, Run, Task, dict[str, Any], Path]:
    """All options of train that were typed, the run, the task, the user's own code, the folder."""
    folder, *words = argv
    name = "lora" if not words or is_option(words[0]) else words.pop(0)
    recipe = recipe_of(folder, name, last_value(words, "--method"))
    own_words, rest = divide(words, options_in(Args))
    task = task_of([folder, *own_words], recipe)
    args, run, own, out = train.read([name, *rest], verb, {name: lambda **_: recipe.run})
    return args, run, task, own, out


def recipe_of(folder: str, name: str, method: str | None) -> Recipe:
    """The recipe of that name for the pipeline in a folder. Raises UserError."""
    function = RECIPES.get(name.replace("_", "-"))
    if function is None:
        raise unknown("recipe", name, RECIPES)
    from fewstep.pipelines.folder import open_folder

    own = open_folder(folder)
    process = own.convention.process_name
    expected = "one of Stable Diffusion's table of noise, or of flow matching"
    require(process in ("discrete", "linear"), f"{folder}: process", process, expected)
    options: dict[str, Any] = {} if method is None else {"method": method}
    recipe = function(process, **options)
    if own.family.name == "flux":  # distilled from guidance, or without any
        return replace(recipe, task={**recipe.task, "guidance": 0.0})
    return recipe


def task_of(words: list[str], recipe: Recipe) -> Task:
    """What is typed, over the recipe's own. Raises UserError."""
    default = Args(**{"folder": "", "prompts": "", **recipe.task})
    args = parse(Args, words, verb="distill", description=DESCRIPTION, default=default)
    values = {f.name: getattr(args, f.name) for f in fields(Task)}
    values["prompts"] = values["prompts"] or None
    if args.w is not None:
        has_both = any(word.partition("=")[0] == "--guidance" for word in words)
        require(not has_both, "w", args.w, "left out beside --guidance: w = 1 + guidance")
        values["guidance"] = args.w - 1
    return Task(**values)
