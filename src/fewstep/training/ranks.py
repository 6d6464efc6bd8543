"""Several processes (ranks) as one run: how they find each other.

Processes are started by torchrun, by Slurm's srun or by accelerate's launcher; PyTorch connects
them, and a watch ends them where one is lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from fewstep.base.device import pick_device
from fewstep.base.errors import NonFiniteError, Stopped, UserError, require
from fewstep.base.world import ALONE, World
from fewstep.training.watch import Watch

MEETING = timedelta(minutes=30)  # that ranks wait for each other at the start, and in one operation

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # accelerate's too
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")  # of a step, not of its script

_runs = 0  # of this process so far, so that each has signs and keys of its own
_meeting: Any = None  # the store at which they all meet


def launched_world(env: Mapping[str, str] = os.environ) -> World:
    """This process's place among those that a launcher started, from the environment's variables.

    Raises UserError where a launcher says that there are several processes and not where they meet.
    """
    names = TORCHRUN if "WORLD_SIZE" in env else SRUN
    defaults = ("0", "1", "0")
    try:
        texts = [env.get(name, default) for name, default in zip(names, defaults, strict=True)]
        rank, size, local = map(int, texts)
    except ValueError as error:
        raise UserError(
            f"{', '.join(names)} of the environment: expected whole numbers ({error})"
        ) from error
    if size == 1:
        return ALONE
    require(0 <= rank < size, names[0], rank, f"a rank in 0 .. {size - 1}")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
    if missing:
        raise UserError(
            f"{size} processes without {' and '.join(missing)}: export where rank 0 listens, or use"
            " torchrun"
        )
    return World(rank, size, local)


@contextmanager
def connect(
    device: str, then: str = "continue with --resume"
) -> Iterator[tuple[World, torch.device]]:
    """Connects the ranks while the context lasts; gives the world and this rank's device.

    Without a launcher the process is alone. A failure of one rank is told to the others, which then
    end with its exit code, or 5, and a line. then: what to do where one is lost. Raises UserError.
    """
    world = launched_world()
    place = pick_device(device, world.local if world.size > 1 else None)
    if place.type == "cuda":
        torch.cuda.set_device(place)  # fused kernels, nccl and generators go by it
    if world.size == 1:
        yield world, place
        return
    from torch import distributed

    global _runs
    _runs += 1
    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
            store=_store(world),
            rank=world.rank,
            world_size=world.size,
            timeout=MEETING,
        )
    watch = Watch(world, then, _runs)
    try:
        with _only_rank_0_warns(world):
            yield world, place
        watch.finish()
    except (Stopped, NonFiniteError):  # all ranks raise these alike
        watch.finish()
        raise
    except BaseException as error:
        watch.fail(error)
        raise
    if own:  # only where all have ended well: with an operation pending, this could wait for ever
        distributed.destroy_process_group()


def _store(world: World) -> Any:
    """Where the ranks of this run meet; under the keys of the run before they would wait for ever.

    The store is kept: rank 0 may hold it, and the next run begins with the other ranks.
    """
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    global _meeting
    if _meeting is None:
        meetings = rendezvous("env://", world.rank, world.size, timeout=MEETING)
        _meeting, *_ = next(iter(meetings))
    return PrefixStore(f"run {_runs}", _meeting)


@contextmanager
def _only_rank_0_warns(world: World) -> Iterator[None]:
    log = logging.getLogger("fewstep")
    level = log.level
    if not world.main:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def agree(world: World, what: str, mine: str) -> None:
    """Raises UserError where a rank has another text than rank 0."""
    texts = world.texts(mine)
    for rank, text in enumerate(texts):
        if text != texts[0]:
            raise UserError(
                f"{what}: rank {rank} has {text!r}, rank 0 has {texts[0]!r}: all ranks must see the"
                " same"
            )
