"""What samples are compared with: exact laws or the pictures of a data set, and noise of no run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import exact
from fewstep.analysis.metrics import energy, frechet
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core.process import Process, edm
from fewstep.data import Dataset
from fewstep.run.datasets import dataset_of
from fewstep.statistics.distances import spread
from fewstep.training.classifier import Classifier, classifier

NEAR = 4000  # pictures that energy distances take
NOISE = 1_000_003  # seed of the noise of the scored samples: no run's
PICTURES = {"digits": 4096, "hanzi16": 4096}  # data sets without a law, and their scored samples


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
    """What the scores of pictures depend on beside the arm."""
    return {"samples": PICTURES[name], "noise": NOISE, "version": 1}


@cache
def judge(name: str) -> Classifier:
    """The classifier of data with classes; its last hidden layer gives the features."""
    return classifier(data(name))


@cache
def reference(name: str) -> tuple[Tensor, Tensor, float]:
    """The training split of a data set, its features, and its spread, for energy distances."""
    draws = data(name).train.x0
    return draws, judge(name).features(draws), spread(draws[:NEAR])


def noise(name: str, count: int | None = None, seed: int = NOISE) -> Tensor:
    """The unit noise that `Generator.sample` starts from with that seed, for all scored samples."""
    shape = tuple(data(name).train.x0.shape[1:])
    return normal(seed, "prior", 0, count or PICTURES[name], shape, SAMPLING_BLOCK)


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def quick_scores(name: str, x: Tensor) -> dict[str, float]:
    """Squared Fréchet distances to the reference, and the ratio of total variances.

    The stretched one is of samples that are first given the reference's total variance.
    """
    draws, features, _ = reference(name)
    features_of = judge(name).features
    ratio = (x.var(0).sum() / draws.var(0).sum()).item()
    alike = x.mean(0) + (x - x.mean(0)) / ratio**0.5
    return {
        "feature_frechet": frechet(features_of(x), features),
        "stretched_frechet": frechet(features_of(alike), features),
        "pixel_frechet": frechet(x, draws),
        "variance_ratio": ratio,
    }


def scores(name: str, x: Tensor) -> dict[str, float]:
    """The quick scores, and 1000 times the energy distance."""
    draws, _, distance_within = reference(name)
    return {
        **quick_scores(name, x),
        "energy_x1000": 1000 * energy(x, draws[:NEAR], distance_within),
    }


def ideal(name: str, folder: Path, seed: int) -> dict[str, float]:
    """As good as samples can be: the scores of held-out pictures."""
    held_out = data(name)
    return scores(name, torch.cat([held_out.validation.x0, held_out.test.x0]))
