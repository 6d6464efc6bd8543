"""What samples are compared with: laws whose denoiser and ODE are known, and noise that is no
run's.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import exact
from fewstep.analysis.metrics import energy, frechet
from fewstep.analysis.metrics.distances import spread
from fewstep.analysis.metrics.features import Classifier, classifier
from fewstep.base.conditions import Cond
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.process import Process, Time, edm
from fewstep.data import Dataset
from fewstep.run.checkpoint import fingerprint
from fewstep.run.sources import dataset_of

SAMPLES = 2000  # that are scored, and trajectories that are solved
REFERENCE = 10_000  # fresh draws of the law that they are compared with
NEAR = 4000  # of those, for energy distances
NOISE = 1_000_003  # seed of the noise that is scored: no run's
PROTOCOL = {"samples": SAMPLES, "reference": REFERENCE, "near": NEAR, "noise": NOISE, "version": 1}


class Counted:
    """The exact denoiser, which counts the samples that it was asked for."""

    def __init__(self, name: str, process: Process) -> None:
        self.law, self.process, self.samples = law_on(name, process), process, 0

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        self.samples += len(x_t)
        return self.law(x_t, t, cond)


@cache
def law_on(name: str, process: Process | None = None) -> Any:
    return exact.named(name, process or edm())


@cache
def data(name: str) -> Dataset:
    """Samples of the law, as runs have them."""
    return dataset_of(f"exact:{name}")


@cache
def judge(name: str) -> Classifier | None:
    """The classifier of a law with classes; its last hidden layer is what features are."""
    return classifier(data(name)) if data(name).classes else None


@cache
def reference(name: str) -> tuple[Tensor, Tensor | None, float]:
    """Fresh draws of the law, their features, and the spread of those that energy distances are to."""
    drawn, eye = law_on(name).sample(REFERENCE, seed=NOISE), judge(name)
    return drawn, eye.features(drawn) if eye else None, spread(drawn[:NEAR])


def kept(file: Path, make: Any) -> dict[str, Tensor]:
    """The tensors of a file, made and written first where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}-{file.name}")
        np.savez(part, **{name: tensor.numpy() for name, tensor in make().items()})
        part.replace(file)
    with np.load(file, allow_pickle=False) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def noise(name: str, count: int | None = None, seed: int = NOISE) -> Tensor:
    """The unit noise that `Generator.sample` starts from with that seed, as many rows as are
    scored.
    """
    return normal(seed, "prior", 0, count or SAMPLES, law_on(name).shape, SAMPLING_BLOCK)


@cache
def solved(shared: Path, name: str, process: Process) -> Tensor:
    """Where the exact ODE leads from the noise that is scored."""
    tells = fingerprint({"solution": {"end": process.sigma(process.t_max), **_numbers(PROTOCOL)}})[
        :12
    ]

    def solve() -> dict[str, Tensor]:
        law = law_on(name, process)
        return {"x0": law.solve(process.prior(noise(name)), process.t_max, 0.0)}

    return kept(shared / f"solution-{name}-{tells}.npz", solve)["x0"]


def _numbers(facts: dict[str, int]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in facts.items()}


def prepared(name: str, process: Process, shared: Path, seed: int) -> dict[str, Any]:
    """A row of its own, so that no two jobs solve the same."""
    x0 = solved(shared, name, process)
    judge(name)
    return {"trajectories": len(x0)}


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def quick(name: str, x: Tensor) -> dict[str, float]:
    """Squared Fréchet distances to fresh draws of the law, and the ratio of total variances."""
    drawn, features, _ = reference(name)
    eye = judge(name)
    told = {
        "pixel_frechet": frechet(x, drawn),
        "variance_ratio": (x.var(0).sum() / drawn.var(0).sum()).item(),
    }
    return (
        told
        if eye is None or features is None
        else {"feature_frechet": frechet(eye.features(x), features), **told}
    )


def scores(name: str, x: Tensor) -> dict[str, float]:
    """`quick`, and 1000 times the energy distance."""
    drawn, _, apart = reference(name)
    return {**quick(name, x), "energy_x1000": 1000 * energy(x, drawn[:NEAR], apart)}


def ideal(name: str, shared: Path, seed: int) -> dict[str, Any]:
    """What the exact solutions score: as good as samples can be; the same for every seed."""
    return {"ode_error": 0.0, **scores(name, solved(shared, name, edm()))}
