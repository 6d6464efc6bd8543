"""What samples are compared with: exact laws or the pictures of a data set, and noise of no run."""

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
from fewstep.analysis.metrics.features import Classifier, classifier
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.process import Process, edm
from fewstep.data import Dataset
from fewstep.run.checkpoint import fingerprint
from fewstep.run.datasets import dataset_of
from fewstep.statistics.distances import spread

SAMPLES = 2000  # scored samples, and exact trajectories
REFERENCE = 10_000  # draws of the law that they are compared with
NEAR = 4000  # of those, for energy distances
NOISE = 1_000_003  # seed of the noise of the scored samples: no run's
PICTURES = {"digits": 4096, "hanzi16": 4096}  # data sets without a law, and their scored samples
PROTOCOL = {"samples": SAMPLES, "reference": REFERENCE, "near": NEAR, "noise": NOISE, "version": 1}


@cache
def law_on(name: str, process: Process | None = None) -> Any:
    return exact.named(name, process or edm())


@cache
def data(name: str) -> Dataset:
    """The data set of that name, or samples of the law, as runs have them."""
    return dataset_of(source(name))


def source(name: str) -> str:
    """What a run calls these data."""
    return name if name in PICTURES else f"exact:{name}"


def protocol(name: str) -> dict[str, int]:
    """What the scores of samples depend on beside the arm."""
    if name in PICTURES:
        return {"samples": PICTURES[name], "noise": NOISE, "version": 1}
    return PROTOCOL


def no_labels(name: str, count: int) -> Tensor | None:
    """The condition "no label" for so many rows; None for a law without classes."""
    return torch.full((count,), -1) if data(name).classes else None


@cache
def judge(name: str) -> Classifier | None:
    """The classifier of a law with classes; its last hidden layer gives the features."""
    return classifier(data(name)) if data(name).classes else None


@cache
def reference(name: str) -> tuple[Tensor, Tensor | None, float]:
    """Draws that samples are scored against, their features, and their spread.

    New ones of a law, the training split of pictures. The spread is for energy distances.
    """
    draws = data(name).train.x0 if name in PICTURES else law_on(name).sample(REFERENCE, seed=NOISE)
    network = judge(name)
    features = network.features(draws) if network else None
    return draws, features, spread(draws[:NEAR])


def noise(name: str, count: int | None = None, seed: int = NOISE) -> Tensor:
    """The unit noise that `Generator.sample` starts from with that seed, for all scored samples."""
    shape = tuple(data(name).train.x0.shape[1:])
    rows = count or PICTURES.get(name, SAMPLES)
    return normal(seed, "prior", 0, rows, shape, SAMPLING_BLOCK)


@cache
def solution(folder: Path, name: str, process: Process) -> Tensor:
    """Where the exact ODE leads from the noise of the scored samples; one file for all jobs."""
    protocol = {key: torch.tensor(value) for key, value in PROTOCOL.items()}
    digest = fingerprint({"solution": {"end": process.sigma(process.t_max), **protocol}})[:12]
    file = folder / f"solution-{name}-{digest}.npy"
    if not file.exists():
        x0 = law_on(name, process).solve(process.prior(noise(name)), process.t_max, 0.0)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}-{file.name}")
        np.save(part, x0.numpy())
        part.replace(file)
    return torch.from_numpy(np.load(file, allow_pickle=False))


def prepare(name: str, process: Process, folder: Path, seed: int) -> dict[str, Any]:
    """A row of its own, so that no two jobs solve the same trajectories."""
    x0 = solution(folder, name, process)
    judge(name)
    return {"trajectories": len(x0)}


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def quick_scores(name: str, x: Tensor) -> dict[str, float]:
    """Squared Fréchet distances to the reference, and the ratio of total variances.

    The stretched one is of samples that are first given the reference's total variance.
    """
    draws, features, _ = reference(name)
    network = judge(name)
    scores = {}
    ratio = (x.var(0).sum() / draws.var(0).sum()).item()
    if network is not None and features is not None:
        scores["feature_frechet"] = frechet(network.features(x), features)
        alike = x.mean(0) + (x - x.mean(0)) / ratio**0.5
        scores["stretched_frechet"] = frechet(network.features(alike), features)
    scores["pixel_frechet"] = frechet(x, draws)
    scores["variance_ratio"] = ratio
    return scores


def scores(name: str, x: Tensor) -> dict[str, float]:
    """The quick scores, and 1000 times the energy distance."""
    draws, _, distance_within = reference(name)
    return {
        **quick_scores(name, x),
        "energy_x1000": 1000 * energy(x, draws[:NEAR], distance_within),
    }


def ideal(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """As good as samples can be: the scores of the exact solutions, or of held-out pictures."""
    if name in PICTURES:
        held_out = data(name)
        return scores(name, torch.cat([held_out.validation.x0, held_out.test.x0]))
    return {"ode_error": 0.0, **scores(name, solution(folder, name, edm()))}
