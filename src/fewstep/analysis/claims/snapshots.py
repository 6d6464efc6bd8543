"""What a consistency model is asked along its training: to denoise at low noise, and to generate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fewstep.analysis.claims import reference
from fewstep.analysis.claims.arms import MIXTURE
from fewstep.base.randomness import normal
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process
from fewstep.exact import transport

LOW = (0.2, 0.3, 0.5)  # noise levels at which it is asked to denoise
ROWS = 256


def noised(shared: Path, law: str) -> dict[str, Tensor]:
    """Fresh data under low noise, `x 0.2` and so on, and where the exact ODE leads from there, `end
    0.2`.
    """

    def make() -> dict[str, Tensor]:
        truth_of, found = reference.law_on(law), dict[str, Tensor]()
        x0 = truth_of.sample(ROWS, seed=reference.NOISE + 1)
        z = normal(reference.NOISE, "low noise", 0, ROWS, truth_of.shape, 16)
        for t in LOW:
            found |= {f"x {t:g}": x0 + t * z, f"end {t:g}": transport.ends(truth_of, x0, z, t)}
        return found

    return reference.kept(shared / f"low-{law}-{ROWS}-{'-'.join(map(str, LOW))}.npz", make)


def look(law: str, shared: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Errors to the exact ODE of one evaluation: at low noise, and from pure noise."""
    points = noised(shared, law)
    away = [
        denoiser(points[f"x {t:g}"].float(), t, _none(law, ROWS)) - points[f"end {t:g}"]
        for t in LOW
    ]
    x = denoiser(process.prior(reference.noise(law)), process.t_max, _none(law, reference.SAMPLES))
    made = {
        "generation": reference.rms(x - reference.solved(shared, law, process)),
        **reference.quick(law, x),
    }
    return {"denoising": sum(reference.rms(part) for part in away) / len(LOW), **made}


def look_mixture(shared: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look(MIXTURE, shared, denoiser, process)


def look_plane(shared: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look("grid25", shared, denoiser, process)


def _none(law: str, rows: int) -> Tensor | None:
    return torch.full((rows,), -1) if reference.data(law).classes else None
