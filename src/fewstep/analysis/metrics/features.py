"""A small classifier, trained on the spot: features for labelled data without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewstep.base.cache import cache_file, keep
from fewstep.base.randomness import fork_rng
from fewstep.base.surroundings import threads
from fewstep.data import Dataset
from fewstep.run.checkpoint import fingerprint

_STEPS = 400
_RATE = 3e-3
_DECAY = 1e-4
_HIDDEN = 128
_FEATURES = 32
_SEED = 0


@dataclass(frozen=True)
class Classifier:
    """`features [N, ...] -> [N, 32]`: the last hidden layer, after its ReLU."""

    network: nn.Sequential
    fingerprint: str  # SHA-256 of its weights

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network[:-1](x.flatten(1).float())
        return features

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        return (self.network(x.flatten(1).float()).argmax(1) == labels).double().mean().item()


def classifier(dataset: Dataset) -> Classifier:
    """The classifier of a data set's training split: the same weights each time, from a cache."""
    with fork_rng(_SEED, "classifier"):
        network = _network(dataset)
    file = _cache_file(dataset)
    try:
        weights = load_file(file)
        with safe_open(file, "pt") as reader:
            is_whole = reader.metadata() == {"fingerprint": fingerprint({"classifier": weights})}
        network.load_state_dict(weights if is_whole else {})  # an empty one raises RuntimeError
    except (OSError, SafetensorError, RuntimeError):
        _fit(network, dataset)
        metadata = {"fingerprint": fingerprint({"classifier": network.state_dict()})}
        keep(file, lambda part: save_file(network.state_dict(), part, metadata=metadata))
    network.requires_grad_(False)
    return Classifier(network, fingerprint({"classifier": network.state_dict()}))


def _network(dataset: Dataset) -> nn.Sequential:
    size = dataset.train.x0[0].numel()
    return nn.Sequential(
        nn.Linear(size, _HIDDEN),
        nn.ReLU(),
        nn.Linear(_HIDDEN, _FEATURES),
        nn.ReLU(),
        nn.Linear(_FEATURES, dataset.classes),
    )


def _fit(network: nn.Sequential, dataset: Dataset) -> None:
    """Full-batch Adam on one thread: nothing is random, and the bits do not depend on the cores."""
    x = dataset.train.x0.flatten(1)
    cond = dataset.train.cond
    labels = cond["label"] if isinstance(cond, Mapping) else cond
    assert isinstance(labels, Tensor)
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    with threads(1):
        for _ in range(_STEPS):
            optimizer.zero_grad()
            cross_entropy(network(x), labels).backward()
            optimizer.step()


def _cache_file(dataset: Dataset) -> Path:
    settings = (_STEPS, _RATE, _DECAY, _HIDDEN, _FEATURES, _SEED)
    facts = (dataset.fingerprint(), *settings, torch.__version__)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()
    return cache_file(f"classifier-{digest[:16]}.safetensors")
