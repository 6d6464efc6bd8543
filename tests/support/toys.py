"""What the tests share: a Gaussian truth, small processes, tiny networks, tiny runs."""

from __future__ import annotations

import itertools
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.base import disk
from fewstep.base.conditions import Cond
from fewstep.core import compiling
from fewstep.core.denoiser import Denoiser, Preconditioned
from fewstep.core.process import per_row
from fewstep.core.scalings import Edm
from fewstep.training import loop
from fewstep.training.state import State

Gaussian = partial(fs.exact.Gaussian, mean=0.3, std=0.5)
GAUSSIAN = Gaussian()  # on edm

# A run of six steps as options of `fewstep train toy`.
TINY = shlex.split(
    "--iterations 6 --batch 16 --block 4 --network.width 16 --network.depth 1"
    " --checkpoint-every 2 --picture-every 0 --log-every 1 --device cpu"
)


class Analytic(nn.Module):
    """The reference vectors' network: tanh(a u + b c_noise), two trainable numbers."""

    def __init__(self, a: float, b: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=dtype))
        self.b = nn.Parameter(torch.tensor(b, dtype=dtype))

    def forward(self, u: Tensor, noise_label: Tensor, cond: Cond = None) -> Tensor:
        return torch.tanh(self.a * u + self.b * noise_label.reshape(-1, *[1] * (u.ndim - 1)))


class Spy:
    """A denoiser that keeps the times of every call's rows, in order."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.calls = inner, []

    @property
    def times(self) -> Tensor:
        return torch.cat([torch.empty(0, dtype=torch.float64), *self.calls])

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        self.calls.append(per_row(t, x_t))
        return self.inner(x_t, t, cond)


def small_student(
    shape: tuple[int, ...],
    classes: int = 0,
    *,
    dropout: float = 0.0,
    seed: int = 0,
    ends: int = 0,
) -> Preconditioned:
    """A float64 MLP with weights that are all alive (zero initialisation would hide mistakes)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = fs.networks.mlp(shape, classes, ends=ends, width=16, depth=2, dropout=dropout)
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    return Preconditioned(network, Edm()).double()


def tiny_run(**fields: object) -> fs.Run:
    """A run of seconds: six steps of a small network on the toy ring."""
    settings: dict[str, object] = {
        "iterations": 6,
        "batch": 16,
        "block": 4,
        "lr": 1e-3,
        "network_options": {"width": 16, "depth": 1, "dropout": 0.1},
        "checkpoint_every": 2,
        "picture_every": 0,
        "log_every": 1,
    }
    return fs.recipes.toy(**{**settings, **fields})


def graphs_of_passes(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """From now on torch's compiler traces passes and leaves the kernels as they are: its graphs."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch._dynamo.reset()
    return graphs


class Killed(BaseException):
    """As a kill: nothing is saved for it."""


def kill_at(step: int) -> Callable[[State], None]:
    """Ends a run after that step, once what it saves is on the disk: no thread outlives it."""

    def watch(state: State) -> None:
        if state.step == step:
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()
            raise Killed

    return watch


@contextmanager
def killed_before(change: int) -> Iterator[None]:
    """Inside, what runs is killed before that change of the disk, counted from 0; it must come."""
    changes = itertools.count()

    def watch(call: str, path: Path) -> None:
        if next(changes) >= change:
            raise Killed

    with mock.patch.object(disk, "watch", watch), pytest.raises(Killed):
        yield


def prints_of_failures(monkeypatch, kind: type[Exception]) -> list[tuple[str, str]]:
    """Fingerprints of the state before and after each step that fails in this way from now on."""
    whole = loop.train_step
    prints = []

    def noting(stage, state, batch):
        before = state.fingerprint()
        try:
            return whole(stage, state, batch)
        except kind:
            prints.append((before, state.fingerprint()))
            raise

    monkeypatch.setattr(loop, "train_step", noting)
    return prints
