"""Pictures of prompts, by stock diffusers with what a run has written for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from fewstep.base.device import pick_device
from fewstep.base.errors import UserError, require
from fewstep.base.randomness import fork_rng
from fewstep.core import noise, sampling
from fewstep.core.method import Method
from fewstep.foreign.diffusers_folder import read_json
from fewstep.pipelines import end_embedding
from fewstep.pipelines.folder import Folder, open_folder, reading
from fewstep.pipelines.libraries import classes_out, quiet
from fewstep.pipelines.out import (
    CONFIG,
    END,
    LORA,
    call_options,
    is_map,
    renoises,
    scheduler_kind,
    times_of,
    top_step,
)
from fewstep.pipelines.roles import DTYPES
from fewstep.pipelines.task import Task, read_task
from fewstep.run.generator import open_checkpoint

SHIPPED = "pipeline"  # the folder in a run that diffusers reads
LATER = "later steps"  # the stream of torch's own generator
ZEROS = "force_zeros_for_empty_prompt"  # what a folder says of SDXL's negative prompt
# By whether it is of a table of noise: what a pipeline has until it gets the student's own.
SCHEDULERS = {True: "DDIMScheduler", False: "FlowMatchEulerDiscreteScheduler"}
USUAL = (4, 2, 1)  # steps, the first that a student takes


@dataclass(frozen=True, eq=False)
class Student:
    """A distilled pipeline, opened for sampling."""

    task: Task
    folder: Folder
    method: Method
    pipeline: Any  # of diffusers

    def steps(self, steps: int | None = None) -> int:
        """The number of steps, checked; without one what it is made for. Raises UserError."""
        return steps_of(self.folder, self.method, steps)

    def pictures(
        self,
        prompts: Sequence[str],
        *,
        steps: int | None = None,
        seeds: Sequence[int] = (0,),
        batch: int = 1,
    ) -> Iterator[tuple[str, int, Any]]:
        """(prompt, seed, picture) for each prompt and seed: the same seed, the same picture.

        batch: pictures at once; the last bits may depend on it. Where diffusers takes fresh noise
        from torch's own generator they are made one by one. Raises UserError.
        """
        count = self.steps(steps)
        require(batch >= 1, "batch", batch, "at least 1")
        is_table = isinstance(self.folder.convention.process.schedule, noise.Table)
        batch = batch if is_table or not renoises(self.method) else 1
        size = self.task.size or self.folder.size
        options = {**call_options(self.folder, self.method, count), "height": size, "width": size}
        jobs = list(product(prompts, seeds))
        for first in range(0, len(jobs), batch):
            some = jobs[first : first + batch]
            starts = [torch.Generator().manual_seed(seed) for _, seed in some]
            texts = [prompt for prompt, _ in some]
            with quiet(), fork_rng(some[0][1], LATER):
                images = self.pipeline(texts, generator=starts, **options).images
            yield from ((*job, image) for job, image in zip(some, images, strict=True))


def steps_of(folder: Folder, method: Method, steps: int | None = None) -> int:
    """The number of steps of a method's students, checked; without one what they are made for.

    Raises UserError for a number that they do not take.
    """
    by = sampling.sampler(method.sampler)

    def lowest(count: int) -> float:
        level = folder.convention.process.level(times_of(folder, method, count)[-1])
        return float(method.process.time_at(level))

    fits = [one for one in USUAL if lowest(one) >= method.trained_from]
    usual = by.default if by.only else fits[0]
    count = usual if steps is None else steps
    fine = count == by.default if by.only else count >= 1 and lowest(count) >= method.trained_from
    need = f"{usual}: it was trained for these alone"
    if not by.only:
        need = f"at least 1{f', at most {usual}' if usual < USUAL[0] else ''}"
    require(fine, "steps", count, need)
    if isinstance(folder.convention.process.schedule, noise.Table):
        most = top_step(folder, method)
        require(count <= most, "steps", count, f"at most {most}, those of its table of noise")
        times = times_of(folder, method, count)
        fine = not is_map(method) or (len(set(times)) == count and times[-1] >= 1)
        require(fine, "steps", count, "fewer, so that each is one of its table of noise")
    return count


def open_student(
    run: str | Path, *, dtype: torch.dtype | None = None, device: str = "auto"
) -> Student:
    """The pipeline that a run was distilled from, changed. Raises UserError and StorageError."""
    run = Path(run)
    task, place = read_task(run), run / SHIPPED
    folder = open_folder(task.folder, task.embedded_guidance)
    if not (place / "scheduler" / CONFIG).is_file():
        raise UserError(f"{run} has no {SHIPPED} yet: it is written when training ends (--resume)")
    name = folder.family.network
    with quiet():
        pipeline = stock_pipeline(folder, dtype or DTYPES[task.weights])
        if (place / LORA).is_file():
            pipeline.load_lora_weights(str(place), weight_name=LORA)
        else:
            own = getattr(pipeline, name)
            trained = type(own).from_pretrained(str(place / name), torch_dtype=own.dtype)
            setattr(pipeline, name, trained.eval())
        scheduler = classes_out()[scheduler_kind(place)]
        pipeline.scheduler = scheduler.from_pretrained(str(place), subfolder="scheduler")
    method = open_checkpoint(run).method
    if method.ends:
        with reading(place / END, "embedding of end times"):
            end_embedding.add(pipeline, str(place / END))
    return Student(task, folder, method, pipeline.to(pick_device(device)))


def stock_pipeline(folder: Folder, dtype: torch.dtype) -> Any:
    """The folder's pipeline as diffusers has it, of the parts that are used alone.

    A checker of Stable Diffusion's pictures is none of them. Raises UserError and StorageError.
    """
    family = folder.family
    parts = {name: folder.load(name, dtype) if folder.has(name) else None for name in family.parts}
    options = dict(family.options)
    if ZEROS in folder.index:
        options[ZEROS] = folder.index[ZEROS]
    is_table = isinstance(folder.convention.process.schedule, noise.Table)
    with quiet():
        own = read_json(folder.path / "scheduler" / CONFIG)
        scheduler = classes_out()[SCHEDULERS[is_table]].from_config(own)
        pipeline = classes_out()[family.pipeline[0]](**parts, **options, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
