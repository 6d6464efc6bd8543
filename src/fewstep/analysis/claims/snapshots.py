"""How well a consistency model denoises at low noise and generates, at steps of its training."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from torch import Tensor

from fewstep.analysis.claims import reference
from fewstep.analysis.claims.arms import MIXTURE
from fewstep.base.randomness import normal
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process
from fewstep.exact import transport

LOW = (0.2, 0.3, 0.5)  # noise levels of the denoising error
ROWS = 256


@cache
def low_noise(law: str) -> list[tuple[float, Tensor, Tensor]]:
    """A level, new data under its noise, and where the exact ODE leads; of each level."""
    exact_law = reference.law_on(law)
    x0 = exact_law.sample(ROWS, seed=reference.NOISE + 1)
    z = normal(reference.NOISE, "low noise", 0, ROWS, exact_law.shape, 16)
    return [(t, x0 + t * z, transport.ends(exact_law, x0, z, t)) for t in LOW]


def look(law: str, folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Errors of one evaluation to the exact ODE's solution, at low noise and from pure noise."""
    no_labels = reference.no_labels(law, ROWS)
    errors = [
        reference.rms(denoiser(x.float(), t, no_labels) - end) for t, x, end in low_noise(law)
    ]
    numbers = one_step(law, folder, denoiser, process)
    generation = numbers.pop("ode_error")
    return {"denoising": sum(errors) / len(LOW), "generation": generation, **numbers}


def one_step(law: str, folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Scores of one evaluation from pure noise, against the exact solution and the law."""
    prior = process.prior(reference.noise(law))
    x = denoiser(prior, process.t_max, reference.no_labels(law, reference.SAMPLES))
    error = reference.rms(x - reference.solution(folder, law, process))
    return {"ode_error": error, **reference.quick_scores(law, x)}


def look_pictures(
    name: str, folder: Path, denoiser: Denoiser, process: Process
) -> dict[str, float]:
    """Scores of one evaluation from pure noise against a data set of pictures, without labels."""
    x = denoiser(process.prior(reference.noise(name)), process.t_max, None)
    return reference.quick_scores(name, x.clamp(-1, 1))


def look_digits(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look_pictures("digits", folder, denoiser, process)


def look_mixture(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look(MIXTURE, folder, denoiser, process)


def look_plane(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    return look("grid25", folder, denoiser, process)
