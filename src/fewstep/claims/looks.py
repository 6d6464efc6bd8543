"""What a consistency model is asked along its training: to denoise at low noise, and to generate."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fewstep.claims import truth
from fewstep.claims.arms import MIXTURE
from fewstep.denoiser import Denoiser
from fewstep.exact import transport
from fewstep.process import Process
from fewstep.randomness import normal

LOW = (0.2, 0.3, 0.5)  # noise levels at which it is asked to denoise
ROWS = 256


def noised(shared: Path, law: str) -> dict[str, Tensor]:
    """Fresh data under low noise, `x 0.2` and so on, and where the exact ODE leads from there, `end 0.2`."""

    def make() -> dict[str, Tensor]:
        truth_of, found = truth.law_on(law), dict[str, Tensor]()
        x0 = truth_of.sample(ROWS, seed=truth.NOISE + 1)
        z = normal(truth.NOISE, "low noise", 0, ROWS, truth_of.shape, 16)
        for t in LOW:
            found |= {f"x {t:g}": x0 + t * z, f"end {t:g}": transport.ends(truth_of, x0, z, t)}
        return found

    return truth.kept(shared / f"low-{law}-{ROWS}-{'-'.join(map(str, LOW))}.npz", make)


def look(law: str, shared: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Errors to the exact ODE of one evaluation: at low noise, and from pure noise."""
    points = noised(shared, law)
    away = [denoiser(points[f"x {t:g}"].float(), t, _none(law, ROWS)) - points[f"end {t:g}"] for t in LOW]
    x = denoiser(process.prior(truth.noise(law)), process.t_max, _none(law, truth.SAMPLES))
    made = {"generation": truth.rms(x - truth.solved(shared, law, process)), **truth.quick(law, x)}
    return {"denoising": sum(truth.rms(part) for part in away) / len(LOW), **made}


def look_mixture(shared: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look(MIXTURE, shared, denoiser, process)


def look_plane(shared: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look("grid25", shared, denoiser, process)


def _none(law: str, rows: int) -> Tensor | None:
    return torch.full((rows,), -1) if truth.data(law).classes else None
