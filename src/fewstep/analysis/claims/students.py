"""Students of every method on a law whose ODE is known, by capacity and guidance."""

from __future__ import annotations

import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.analysis.claims import reference
from fewstep.analysis.claims.arms import MIXTURE, Arm
from fewstep.analysis.claims.claim import Row
from fewstep.analysis.claims.mcm import DIFFUSION
from fewstep.analysis.claims.solutions import (
    COUNT,
    PROTOCOL,
    Solutions,
    follow,
    noise,
    scores,
)
from fewstep.base.randomness import generator as random
from fewstep.core.denoiser import Denoiser
from fewstep.core.guidance import Guided
from fewstep.core.process import edm
from fewstep.core.solvers import ddim, heun
from fewstep.run.generator import Generator

MOVES = 32  # of Heun's method, to the solutions
NEAR = 0.05  # distance of two noises over their length, whose solutions tell how steep the map is
GUIDANCES = (0.0, 2.0)
ECT: dict[str, Any] = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
GRID: dict[str, Any] = {"n": 16, "solver": "ddim"}
# name -> method, its options, CPU ms of an update without and with guidance (None: no teacher)
METHODS: dict[str, tuple[str, dict[str, Any], float, float | None]] = {
    "CD": ("cd", GRID, 20, 30),
    "Direct": ("direct_cm", GRID, 56, 104),
    "MCM, K = 4": (
        "mcm",
        {"K": 4, "steps": 16, "steps_end": 64, "pairs": "ddim", "c": 0.1},
        20,
        30,
    ),
    "CT": ("ct", {"s1": 20}, 11, None),
    "ECT": ("ect", ECT, 11, None),
    "GC": ("gc", {"base": {"method": "ect", **ECT}, "share": 0.5, "share_end": 0.5}, 12, None),
    "TCM": ("tcm", {"base": {"method": "ect", **ECT}}, 11, None),
}
CAPACITIES = {"full": (128, 0), "rank 4": (128, 4), "width 32": (32, 0)}  # width, rank
UPDATES = 1000
OWN = {"of law": MIXTURE, "moves": MOVES, "near": NEAR, **PROTOCOL}


def teacher_by(guidance: float) -> Denoiser:
    law: Denoiser = reference.law_on(MIXTURE)
    return Guided(law, guidance) if guidance else law


@cache
def truth(folder: Path, guidance: float) -> tuple[Solutions, Tensor]:
    """The solutions of the guided law, and how steep the map is at each `[COUNT]`; one file."""
    law, process, teacher = reference.law_on(MIXTURE), edm(), teacher_by(guidance)
    z, cond = noise(law.shape, 10)
    file = folder / f"why-{guidance:g}-{MOVES}-{COUNT}.npy"
    u = torch.randn(z[:COUNT].shape, generator=random(PROTOCOL["noise"], "direction"))
    if not file.exists():
        starts = torch.cat([z, z[:COUNT] + NEAR * u])
        x = follow(process, teacher, heun, MOVES, starts, torch.cat([cond, cond[:COUNT]]))
        part = file.with_name(f".{os.getpid()}-{file.name}")
        np.save(part, x.numpy())
        part.replace(file)
    own, other, beside = torch.from_numpy(np.load(file, allow_pickle=False)).split(COUNT)
    steep = (beside - own).flatten(1).norm(dim=1) / (NEAR * u.flatten(1).norm(dim=1))
    return Solutions(z[:COUNT], cond[:COUNT], own, other), steep


def exact(guidance: float, folder: Path, seed: int) -> dict[str, Any]:
    """The scores of the solutions themselves, and how steep their map is."""
    solutions, steep = truth(folder, guidance)
    judge = reference.judge(MIXTURE)
    numbers = {"steep": steep.mean().item(), "steepest": steep.quantile(0.95).item()}
    return {**scores(solutions, judge, solutions.own), **numbers}


def by_steps(guidance: float, folder: Path, seed: int) -> dict[str, Any]:
    """The scores of the teacher's own few moves, which are what its students learn."""
    solutions, _ = truth(folder, guidance)
    x = follow(edm(), teacher_by(guidance), ddim, GRID["n"], solutions.z, solutions.cond)
    return scores(solutions, reference.judge(MIXTURE), x)


def against_law(arm: Arm, folder: Path, seed: int, generator: Generator) -> dict[str, Any]:
    """The scores, and the share of the squared error where the map is steepest, of a quarter."""
    solutions, steep = truth(folder, arm.guidance)
    judge = reference.judge(MIXTURE)
    x = generator.sample(COUNT, seed=PROTOCOL["noise"])
    errors = (x - solutions.own).flatten(1).square().sum(1)
    share = errors[steep > steep.quantile(0.75)].sum() / errors.sum()
    return {**scores(solutions, judge, x), "steep_share": share.item()}


def arm_of(width: int, method: str, options: dict[str, Any], **more: Any) -> Arm:
    fields = {"label_drop": 0.0, "network_options": {"width": width, "depth": 3}}
    fields |= {"iterations": UPDATES, "lr": 1e-3, "ema": 0.99, **more.pop("fields", {})}
    return Arm(method=method, options=options, fields=fields, scores=against_law, **more)


def make_rows() -> dict[str, Row]:
    # The version, for what `truth` writes.
    truths = {
        g: Row(partial(exact, g), {"exact": g, **OWN}, "none: the ODE", 30 + 15 * g, by_seed=False)
        for g in GUIDANCES
    }
    more = {"fields": {"label_drop": 0.1, "iterations": 1500, "ema": 0.998}, "keep": True}
    nets = {w: arm_of(w, "diffusion", DIFFUSION, **more) for w, _ in CAPACITIES.values()}
    starts = {w: net.row(22.0, truths[0.0]) for w, net in nets.items()}
    rows = {f"diffusion, 35 steps, width {w}": start for w, start in starts.items()}
    for capacity, (width, rank) in CAPACITIES.items():
        for name, (method, options, *costs) in METHODS.items():
            for g, cost in zip(GUIDANCES, costs, strict=True):
                if cost is None:
                    continue
                source = {"exact_teacher": costs[1] is not None, "guidance": g}
                arm = arm_of(width, method, options, init=nets[width], rank=rank, **source)
                needs = (starts[width], truths[g])
                rows[key(name, capacity, g)] = arm.row(4 + cost * UPDATES / 1000, *needs)
    for g, truth_row in truths.items():
        rows[f"teacher's own steps, g = {g:g}"] = Row(
            partial(by_steps, g),
            {"own steps": g, **GRID, **OWN},
            f"none: {GRID['n']} DDIM steps of the exact denoiser",
            15.0 + 15 * g,
            (truth_row,),
            by_seed=False,
        )
    return {**rows, **{f"exact, g = {g:g}": row for g, row in truths.items()}}


def key(name: str, capacity: str, g: float) -> str:
    return f"{name}, {capacity}, g = {g:g}"


ROWS = make_rows()


def arms(g: float) -> list[str]:
    """The names of the students with that guidance."""
    return [
        key(name, capacity, g)
        for name, (*_, guided) in METHODS.items()
        for capacity in CAPACITIES
        if g == 0 or guided is not None
    ]
