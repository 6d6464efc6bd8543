"""Distils a pipeline of diffusers by any method here: what `fewstep distill` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep import methods
from fewstep.base.device import pick_device
from fewstep.base.errors import require
from fewstep.base.options import checked_options, choose
from fewstep.core import abilities, noise
from fewstep.core.conventions import as_denoiser
from fewstep.core.guidance import guide
from fewstep.core.method import Method
from fewstep.pipelines import out as shipping
from fewstep.pipelines.caching import Cached, draw_latents, encode_pictures, encode_prompts
from fewstep.pipelines.folder import Folder, open_folder
from fewstep.pipelines.pictures import sdxl_buckets
from fewstep.pipelines.roles import DTYPES, Roles, roles_of, start_of, teacher_samples
from fewstep.pipelines.sampling import SHIPPED, steps_of
from fewstep.pipelines.task import Task, check_same
from fewstep.run import lock
from fewstep.run.checkpoint import RunFolder
from fewstep.run.config import Run
from fewstep.run.generator import Generator
from fewstep.run.teachers import guidance_of
from fewstep.training.ranks import launched_world
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
    out, task = Path(out), task.with_full_paths()
    if not resume and is_main():
        lock.refuse_old(out)  # before anything is written there
    folder = open_folder(task.folder, task.embedded_guidance)
    own = folder.convention
    parts = method_of(run, method)
    check(run, task, folder, parts)
    if resume and RunFolder(out).newest() is not None:
        check_same(task, out)
    ends = max(map(abilities.ends, parts.chain))
    roles, latents = prepare(run, task, folder, out, cache, own_device(device), ends)
    if is_main():
        task.write(out)
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
    if is_main():
        network: Any = generator.denoiser
        steps = steps_of(folder, generator.method)
        dtype = DTYPES[task.weights]
        shipping.write(out / SHIPPED, folder, network.network, generator.method, steps, dtype)
    return generator


def is_main() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return launched_world().rank == 0


def own_device(name: str) -> torch.device:
    """The device of that name; of several processes each has a card of its own."""
    local = os.environ.get("LOCAL_RANK")
    place = pick_device(name)
    return torch.device("cuda", int(local)) if local and place.type == "cuda" else place


def check(run: Run, task: Task, folder: Folder, method: Method) -> None:
    """Raises UserError for what does not fit, before anything takes long."""
    shipping.check(method)
    g = guidance_of(method)
    require(g == 0, "method.guidance", g, "0: say it as --guidance, which the latents have too")
    need = "bf16 or fp32; half-precision gradients need the loss scale of --precision fp16"
    require(task.weights != "fp16" or run.precision == "fp16", "weights", task.weights, need)
    step = folder.factor * (1 if folder.family.network == "unet" else 2)
    size = task.size or folder.size
    require(size % step == 0, "size", size, f"a multiple of {step} pixels")
    if not method.ends:
        return
    own = folder.convention
    fine = own.prediction != "x0" or not isinstance(own.process.schedule, noise.Table)
    need = "eps or v: no scheduler of diffusers makes the steps of a flow map from x0"
    require(fine, f"{folder.path}: prediction", own.prediction, need)
    fine = task.images is None or task.guidance == 0 or "teacher" in method.needs
    need = "0 with --images, since this method learns from them and asks no teacher"
    require(fine, "guidance", task.guidance, need)


def method_of(run: Run, own: Method | Callable[..., Method] | None) -> Method:
    """The run's method, before anything is known of its data."""
    if isinstance(own, Method):
        return own
    function = own or choose("method", methods, run.method)
    method: Method = function(**checked_options("method", function, run.method_options))
    return method


def prepare(
    run: Run,
    task: Task,
    folder: Folder,
    out: Path,
    cache: str | Path | None,
    device: torch.device,
    ends: int = 0,
) -> tuple[Roles, Cached]:
    """The networks, and what they learn from. Raises UserError and StorageError."""
    dtype = DTYPES[task.weights] if device.type != "cpu" else torch.float32
    size = task.size or folder.size
    # As many at once as take the memory of a few pictures of 512 pixels.
    batch = max(1, 4 * 512**2 // size**2)
    if task.images is not None:
        buckets = sdxl_buckets(size, 8 * folder.factor) if task.buckets else ()
        pictures = encode_pictures(
            folder,
            task.images,
            size=None if buckets else size,
            buckets=buckets,
            cache=cache,
            batch=min(batch, 8),
            dtype=dtype,
            device=device,
        )
        return roles_of(folder, task, pictures.prompts, run.seed, ends), pictures
    assert task.prompts is not None
    cache = out / CACHE if cache is None else cache
    table = encode_prompts(folder, task.prompts, cache=cache, dtype=dtype, device=device)
    roles = roles_of(folder, task, table, run.seed, ends)
    make = teacher_samples(folder, roles.teacher, task, run.seed, device)
    about = {
        "seed": run.seed,
        "size": size,
        "grid": start_of(folder, task)[1],
        "guidance": [task.guidance, folder.embedded_guidance],
        "weights": task.weights,
        "convention": folder.convention.to_json(),
    }
    latents = draw_latents(
        folder,
        task.prompts,
        table,
        make,
        about,
        samples=task.samples,
        cache=cache,
        batch=min(batch, 8),
    )
    return roles, latents
