"""Who is who in a distillation: student and teacher of one network, and what the teacher draws."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond
from fewstep.base.randomness import fork_rng, normal
from fewstep.core import noise, sampling, solvers
from fewstep.core.denoiser import Denoiser, Preconditioned
from fewstep.core.guidance import guide
from fewstep.core.process import Process
from fewstep.foreign.diffusers_folder import SCHEDULER, read_json
from fewstep.networks.roles import Alone, LowRank
from fewstep.pipelines.folder import Folder
from fewstep.pipelines.network import PipelineNetwork
from fewstep.pipelines.prompts import Prompts
from fewstep.pipelines.task import Task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# FLUX shifts its steps by exp(mu), mu on a line through these numbers of tokens; in diffusers too.
TOKENS, SHIFTS = (256, 4096), (0.5, 1.15)


@dataclass(frozen=True, eq=False)
class Roles:
    """The networks of a run; where a role is changes at low rank, they share all other weights."""

    student: nn.Module
    teacher: nn.Module


def roles_of(folder: Folder, task: Task, prompts: Prompts, seed: int, ends: int = 0) -> Roles:
    """The student and its teacher, before training. Raises UserError for layers that are none.

    ends: how many numbers the student is told of where it leads; the teacher is told none.
    """

    def load(dtype: torch.dtype) -> PipelineNetwork:
        own = folder.load(folder.family.network, dtype)
        guidance = folder.embedded_guidance
        with fork_rng(seed, "end embedding"):
            return PipelineNetwork(folder.family, own, prompts, guidance=guidance, ends=ends)

    network = load(DTYPES[task.weights])
    teacher = Alone(network)
    teacher.ends = 0
    # So that a run does not go on with another one.
    digest = torch.tensor([*digest_of(network.network)], dtype=torch.uint8)
    teacher.register_buffer("digest", digest)
    if task.rank == 0:
        return Roles(load(torch.float32).requires_grad_(True), teacher)
    layers = task.layers or folder.family.targets
    own = ("end",) if ends else ()
    student = LowRank(network, task.rank, layers, alpha=task.alpha, own=own, seed=seed)
    return Roles(student, teacher)


def digest_of(network: nn.Module) -> bytes:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.digest()


def teacher_grid(folder: Folder, steps: int, tokens: int) -> list[float]:
    """Times from the top of the folder's process to 0, for so many moves.

    With flow matching they are shifted as its scheduler says: s t / (1 + (s - 1) t).
    tokens: of a picture, on which FLUX's shift depends.
    """
    process = folder.convention.process
    if isinstance(process.schedule, noise.Table):
        return sampling.solver_grid(process, steps, ())
    config = read_json(folder.path / "scheduler" / SCHEDULER)
    shift = float(config.get("shift", 1.0))
    if config.get("use_dynamic_shifting"):
        (few, many), (low, high) = TOKENS, SHIFTS
        shift = math.exp(low + (high - low) * (tokens - few) / (many - few))
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).tolist()


def teacher_samples(
    folder: Folder, teacher: nn.Module, task: Task, seed: int, device: torch.device
) -> Callable[[Tensor, int], Tensor]:
    """(labels of some rows, the number of the first) -> latents `[B, C, h, w]` by DDIM.

    The noise of a row depends on the seed and its number alone.
    """
    process, grid, shape = start_of(folder, task)
    solve = teacher_solver(folder, teacher, task, device)

    def make(label: Tensor, first: int) -> Tensor:
        z = normal(seed, "teacher's latents", first, len(label), shape, 1).to(device)
        return solve(process.prior(z, grid[0]), label).cpu()

    return make


def teacher_solver(
    folder: Folder, teacher: nn.Module, task: Task, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x `[B, C, h, w]` at the top of its grid, labels) -> the teacher's latents by DDIM."""
    own = folder.convention
    denoiser: Denoiser = Preconditioned(teacher.to(device), own, own.process)
    denoiser = guide(denoiser, task.guidance)
    process, grid, _ = start_of(folder, task)
    size = task.size or folder.size

    @torch.no_grad()
    def solve(x: Tensor, label: Tensor) -> Tensor:
        micro = torch.tensor([[size, size, 0, 0, size, size]], device=device)
        cond: Cond = {"label": label.to(device), "micro": micro.expand(len(label), 6)}
        return sampling.sample(process, denoiser, x.to(device), grid, solvers.ddim, cond)

    return solve


def start_of(folder: Folder, task: Task) -> tuple[Process, list[float], tuple[int, int, int]]:
    """The teacher's process and times, and the shape of its latents."""
    side = (task.size or folder.size) // folder.factor
    grid = teacher_grid(folder, task.teacher_steps, (side // 2) ** 2)
    return folder.convention.process, grid, (folder.channels, side, side)
