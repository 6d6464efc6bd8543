"""A small classifier trained on the spot, whose last hidden layer measures labelled data without a
download.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewstep.base.randomness import fork_rng
from fewstep.data import Dataset
from fewstep.run.checkpoint import fingerprint

_STEPS, _RATE, _DECAY, _HIDDEN, _FEATURES, _SEED = 400, 3e-3, 1e-4, 128, 32, 0


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
    """The classifier of a data set's training split: the same weights each time, kept in the user's
    cache.
    """
    with fork_rng(_SEED, "classifier"):
        network = _network(dataset)
    file = _cache_file(dataset)
    try:
        kept = load_file(file)
        with safe_open(file, "pt") as opened:
            known = opened.metadata() == {"fingerprint": fingerprint({"classifier": kept})}
        network.load_state_dict(kept if known else {})
    except (OSError, SafetensorError, RuntimeError):
        _fit(network, dataset)
        _keep(network, file)
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
    """Full-batch Adam on one thread: nothing random, and the same bits on machines with more cores."""
    x, cond = dataset.train.x0.flatten(1), dataset.train.cond
    labels = cond["label"] if isinstance(cond, Mapping) else cond
    assert isinstance(labels, Tensor)
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_STEPS):
            optimizer.zero_grad()
            cross_entropy(network(x), labels).backward()
            optimizer.step()
    finally:
        torch.set_num_threads(threads)


def _cache_file(dataset: Dataset) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    facts = (
        dataset.fingerprint(),
        _STEPS,
        _RATE,
        _DECAY,
        _HIDDEN,
        _FEATURES,
        _SEED,
        torch.__version__,
    )
    return (
        home
        / "fewstep"
        / f"classifier-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.safetensors"
    )


def _keep(network: nn.Sequential, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".tmp-{os.getpid()}")
        told = {"fingerprint": fingerprint({"classifier": network.state_dict()})}
        save_file(network.state_dict(), temporary, metadata=told)
        temporary.rename(file)
    except OSError:
        pass  # a cache that cannot be written costs a second next time
