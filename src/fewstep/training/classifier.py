"""A small classifier, trained on the spot: features for labelled data without a download."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewstep.base.cache import cache_file, keep
from fewstep.base.progress import Progress
from fewstep.base.randomness import fork_rng, shuffled_indices
from fewstep.base.surroundings import threads
from fewstep.data import Dataset
from fewstep.data.tensors import labels_in
from fewstep.run.checkpoint import fingerprint

_DECAY = 1e-4
_SEED = 0


@dataclass(frozen=True)
class Classifier:
    """`features [N, ...] -> [N, F]`: the last hidden layer, after its ReLU; F is 32, or 64."""

    network: nn.Sequential
    fingerprint: str  # SHA-256 of its weights

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network[:-1](x.float())
        return features

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """p(class | x) `[N, K]`."""
        logits: Tensor = self.network(x.float())
        return logits.softmax(1)

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        return (self.probabilities(x).argmax(1) == labels).double().mean().item()


@dataclass(frozen=True)
class _Plan:
    """How a classifier is built, and fitted by Adam."""

    layers: Callable[[tuple[int, ...], int], list[nn.Module]]  # by shape and number of classes
    steps: int
    rate: float
    batch: int = 0  # 0: all rows, at a constant rate; else the rate falls to 0 in a straight line


def _dense(shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    first = [nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.ReLU()]
    return [*first, nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, classes)]


def _convolutions(shape: tuple[int, ...], classes: int) -> list[nn.Module]:
    channels, *sides = shape
    layers: list[nn.Module] = []
    for width in (32, 64, 128):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        channels, sides = width, [-(-side // 2) for side in sides]
    size = channels * math.prod(sides)
    return [*layers, nn.Flatten(), nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, classes)]


_SMALL = _Plan(_dense, 400, 3e-3)
_PICTURES = _Plan(_convolutions, 1000, 2e-3, batch=128)


def _plan(dataset: Dataset) -> _Plan:
    """Convolutions for many pictures, of 16 x 16 and more; fewer would be learned by heart."""
    is_large = len(dataset.shape) == 3 and min(dataset.shape[1:]) >= 16
    return _PICTURES if is_large and len(dataset.train) >= 10_000 else _SMALL


def classifier(dataset: Dataset) -> Classifier:
    """The classifier of a data set's training split: the same weights each time, from a cache."""
    plan = _plan(dataset)
    with fork_rng(_SEED, "classifier"):
        network = _network(plan, dataset)
    file = _cache_file(plan, dataset)
    try:
        weights = load_file(file)
        with safe_open(file, "pt") as reader:
            is_whole = reader.metadata() == {"fingerprint": fingerprint({"classifier": weights})}
        network.load_state_dict(weights if is_whole else {})  # an empty one raises RuntimeError
    except (OSError, SafetensorError, RuntimeError):
        _fit(network, plan, dataset)
        metadata = {"fingerprint": fingerprint({"classifier": network.state_dict()})}
        keep(file, lambda part: save_file(network.state_dict(), part, metadata=metadata))
    network.requires_grad_(False)
    return Classifier(network, fingerprint({"classifier": network.state_dict()}))


def _network(plan: _Plan, dataset: Dataset) -> nn.Sequential:
    """Its weights are numbered as if nothing flattened: this is how caches and hashes know them."""
    network, numbers = nn.Sequential(), itertools.count()
    for layer in plan.layers(dataset.shape, dataset.classes):
        network.add_module("flat" if isinstance(layer, nn.Flatten) else str(next(numbers)), layer)
    return network


def _fit(network: nn.Sequential, plan: _Plan, dataset: Dataset) -> None:
    """Adam on one thread, all rows or a fixed stream of them: the bits do not depend on cores."""
    x, labels = dataset.train.x0, labels_in(dataset.train.cond)
    assert labels is not None
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.rate, weight_decay=_DECAY)
    with threads(1), Progress(plan.steps, "step", show=bool(plan.batch)) as progress:
        progress.note(f"{dataset.name}: fits the classifier that the metrics look through, once")
        for step in range(plan.steps):
            rows = x, labels
            if plan.batch:
                first = step * plan.batch
                index = shuffled_indices(_SEED, "classifier", first, plan.batch, len(x))
                rows = x[index], labels[index]
                optimizer.param_groups[0]["lr"] = plan.rate * (1 - step / plan.steps)
            optimizer.zero_grad()
            cross_entropy(network(rows[0]), rows[1]).backward()
            optimizer.step()
            progress.update()


def _cache_file(plan: _Plan, dataset: Dataset) -> Path:
    facts = (dataset.fingerprint(), plan.layers.__name__, plan.steps, plan.rate, plan.batch)
    digest = hashlib.sha256(repr((*facts, _DECAY, _SEED, torch.__version__)).encode()).hexdigest()
    return cache_file(f"classifier-{digest[:16]}.safetensors")
