"""Trajectories of a teacher, solved once and kept: data for `direct_cm` with source = cache."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fewstep import data as datasets
from fewstep.base.conditions import Cond, apply_mask, pick
from fewstep.base.device import pick_device
from fewstep.base.errors import StorageError, UserError, require
from fewstep.base.progress import Progress
from fewstep.base.randomness import SAMPLING_BLOCK, normal, shuffled_indices
from fewstep.base.surroundings import surroundings
from fewstep.core.couplings import Teacher, Trajectory
from fewstep.core.denoiser import Denoiser
from fewstep.core.guidance import guided
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.solvers import Along
from fewstep.run.build import Network, build_method
from fewstep.run.checkpoint import replace_file
from fewstep.run.config import Run
from fewstep.run.facts import facts_of
from fewstep.run.prepare import Prepared, dataset_of, origin_of
from fewstep.run.sources import Source
from fewstep.run.teachers import teacher_of


@surroundings()
def trajectories(
    run: Run,
    n: int,
    teacher: Source | None = None,
    *,
    network: Network | None = None,
    start: Literal["prior", "data"] = "prior",
    out: str | Path | None = None,
    batch: int = 1024,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Tensor]:
    """n solutions of the teacher's ODE from t_max to 0, as the run's method `direct_cm` solves it.

    Returns, and writes to `out` (.safetensors, whole or not at all), {"x0": ends `[n, *shape]`,
    "path": points `[n, levels, *shape]`, "levels": their times, "cond": labels or other conditions
    of the data, in its units}: data for a run with --method.source cache. x0 and path are in the
    model's units, and so are that run's samples.
    start: prior is sigma(t_max) z, where sampling starts; data is mix(x0, z, t_max), where training
    does. x0, where it is needed, and conditions are the training split's in a shuffled order; noise
    depends on run.seed and the row alone.
    Memory and disk: 4 n (levels + 1) bytes per element of a sample. Raises UserError and
    StorageError.
    """
    require(n >= 2, "n", n, "at least 2 trajectories")
    require(batch >= 1, "batch", batch, "at least 1")
    require(start in ("prior", "data"), "start", start, "prior or data")
    is_name = out is None or Path(out).suffix == ".safetensors"
    require(is_name, "out", str(out), "a name that ends in .safetensors")
    place = pick_device(device)
    dataset = dataset_of(run, origin=origin_of(run, None, teacher))
    facts = facts_of(run, dataset)
    method = build_method(run, facts)
    solver, guidance = _solver(run, method)
    guide = teacher_of(teacher, Prepared(run, facts, method, dataset, network, device=place))
    assert guide is not None
    x, cond = _starts(run, dataset, method.process, n, start)
    denoiser = guided(guide.denoiser, guidance)
    paths = []
    with Progress(n, "path", show=progress) as bar:
        for rows in torch.arange(n).split(batch):
            cond_here = datasets.each(lambda part: part.to(place), pick(cond, rows))
            paths.append(_solve(method, solver, denoiser, x[rows].to(place), cond_here))
            bar.update(len(rows))
    path = torch.cat(paths)
    levels = torch.tensor(solver.grid[:-1], dtype=torch.float64)
    result = {"x0": path[:, -1].clone(), "path": path[:, :-1].contiguous(), "levels": levels}
    result |= {name or "cond": part for name, part in datasets.leaves(dataset.user_cond(cond))}
    if out is not None:
        about = {"teacher": guide.fingerprint, "start": start, "data": dataset.name}
        _write(Path(out), result, about)
    return result


def _solver(run: Run, method: Method) -> tuple[Along, float]:
    """What solves the method's trajectories, and the guidance of its teacher."""
    coupling = method.coupling
    if isinstance(coupling, Teacher | Trajectory) and isinstance(coupling.solver, Along):
        return coupling.solver, coupling.guidance
    raise UserError(
        f"method {run.method!r} solves no trajectories: expected direct_cm with source = teacher"
    )


def _starts(
    run: Run, dataset: datasets.Dataset, process: Process, n: int, start: str
) -> tuple[Tensor, Cond]:
    """Where the trajectories start, `[n, *shape]` at t_max, and their conditions."""
    order = shuffled_indices(run.seed, "trajectories", 0, n, len(dataset.train))
    samples = dataset.train.rows(order)
    z = normal(run.seed, "trajectories", 0, n, dataset.shape, SAMPLING_BLOCK)
    z = apply_mask(z, samples.cond)
    if start == "prior":
        return process.prior(z), samples.cond
    x0 = apply_mask(samples.x0, samples.cond)
    return process.mix(x0, z, process.t_max), samples.cond


def _solve(method: Method, solver: Along, teacher: Denoiser, x: Tensor, cond: Cond) -> Tensor:
    """The points `[B, levels + 1, ...]` of the trajectories from x at t_max to 0."""
    points = [
        point.cpu()
        for _, point in solver.points(method.process, teacher, x, solver.grid[0], 0.0, cond)
    ]
    return torch.stack(points, 1)


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.contiguous() for name, tensor in tensors.items()}
        replace_file(path, tensors_to_bytes(content, about))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
