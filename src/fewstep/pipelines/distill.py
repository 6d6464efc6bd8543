"""Distils a pipeline of diffusers by any method here: what `fewstep distill` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep import methods
from fewstep.base.device import pick_device
from fewstep.base.options import checked_options, choose
from fewstep.core.conventions import as_denoiser
from fewstep.core.denoiser import guide
from fewstep.core.method import Method
from fewstep.pipelines import out as shipping
from fewstep.pipelines.caching import Cached, draw_latents, encode_pictures, encode_prompts
from fewstep.pipelines.folder import Folder, open_folder
from fewstep.pipelines.pictures import sdxl_buckets
from fewstep.pipelines.roles import DTYPES, Roles, roles_of, teacher_samples
from fewstep.pipelines.sampling import SHIPPED, steps_of
from fewstep.pipelines.task import Task, check_same
from fewstep.run.config import Run
from fewstep.run.generator import Generator
from fewstep.training.train import train

CACHE = "cache"  # in the run folder, of prompts alone


def distill(
    run: Run,
    task: Task,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    method: Method | Callable[..., Method] | None = None,
    resume: bool = False,
    device: str = "auto",
    **launch: Any,
) -> Generator:
    """Trains a run on a pipeline's own latents, and writes what diffusers loads to OUT/pipeline.

    cache: the folder for embeddings and latents; without one beside the pictures, or in OUT.
    method, resume and the rest as for `fewstep.train`. Encoders and autoencoder are in memory only
    while the cache is made. Raises UserError and what `train` raises.
    """
    out = Path(out)
    folder = open_folder(task.folder, task.embedded_guidance)
    own = folder.convention
    parts = method_of(run, method)
    shipping.check(parts)
    if resume:
        check_same(task, out)
    task.write(out)
    roles, latents = prepare(run, task, folder, cache or out / CACHE, pick_device(device))
    needs_teacher = any("teacher" in one.needs for one in parts.chain)
    teacher = guide(as_denoiser(roles.teacher, own), task.guidance) if needs_teacher else None
    run = replace(run, data="own", units="as-is", holdout=0.0, latents=latents.latents or None)
    generator = train(
        run,
        latents.data(),
        network=as_denoiser(roles.student, own),
        method=method,
        teacher=teacher,
        out=out,
        resume=resume,
        device=device,
        **launch,
    )
    network: Any = generator.denoiser
    steps = steps_of(folder, generator.method)
    shipping.write(out / SHIPPED, folder, network.network, generator.method, steps)
    return generator


def method_of(run: Run, own: Method | Callable[..., Method] | None) -> Method:
    """The run's method, before anything is known of its data."""
    if isinstance(own, Method):
        return own
    function = own or choose("method", methods, run.method)
    method: Method = function(**checked_options("method", function, run.method_options))
    return method


def prepare(
    run: Run, task: Task, folder: Folder, cache: str | Path, device: torch.device
) -> tuple[Roles, Cached]:
    """The networks, and what they learn from. Raises UserError and StorageError."""
    dtype = DTYPES[task.weights] if device.type != "cpu" else torch.float32
    where: dict[str, Any] = {"device": device, "dtype": dtype}
    if task.images is not None:
        size = task.size or folder.size
        buckets = sdxl_buckets(size, 8 * folder.factor) if task.buckets else ()
        side = None if buckets else size
        beside = None if Path(cache).name == CACHE else cache
        pictures = encode_pictures(
            folder, task.images, size=side, buckets=buckets, cache=beside, **where
        )
        return roles_of(folder, task, pictures.prompts, run.seed), pictures
    assert task.prompts is not None
    table = encode_prompts(folder, task.prompts, cache=cache, **where)
    roles = roles_of(folder, task, table, run.seed)
    make = teacher_samples(folder, roles.teacher, task, run.seed, device)
    about = {
        "seed": run.seed,
        "size": task.size,
        "steps": task.teacher_steps,
        "guidance": [task.guidance, task.embedded_guidance],
        "weights": task.weights,
    }
    latents = draw_latents(
        folder, task.prompts, table, make, about, samples=task.samples, cache=cache
    )
    return roles, latents
