"""An arm of an experiment: one training, what its samples are measured by, and the command that repeats it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fewstep as fs
from fewstep.config import Run
from fewstep.denoiser import Cond
from fewstep.exact import named
from fewstep.generator import Generator
from fewstep.metrics import energy, frechet
from fewstep.metrics.features import classifier
from fewstep.origins import dataset_of
from fewstep.process import Process, Time
from fewstep.randomness import SAMPLING_BLOCK, normal

DATA = "exact:digits-mixture"
SAMPLES = 2000  # that are scored, and trajectories that are solved exactly
REFERENCE = 10_000  # fresh draws of the law that they are compared with
NOISE = 1_000_003  # seed of the noise that is scored: no run's
KEPT = Path("runs/lab")  # exact solutions; they take a minute

# Unconditional (each class alone is one Gaussian, whose ODE is linear), and small enough for a quarter of a minute.
SETTING: dict[str, Any] = {
    "label_drop": 1.0,
    "network_options": {"depth": 3},
    "batch": 128,
    "iterations": 900,
    "lr": 2e-3,
    "ema": 0.998,
    "picture_every": 0,
    "checkpoint_every": 100_000,
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method with its options and the fields of the run that differ from `SETTING`; `init` is one it goes on from."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    taught: bool = False  # by the exact denoiser
    init: Arm | None = None
    own: Callable[..., fs.Method] | None = None  # a method that has no name here
    steps: int | None = None

    def run(self, seed: int) -> Run:
        fields = {**SETTING, "seed": seed, **self.fields, "method_options": self.options}
        return fs.recipes.digits_mixture(method=self.method, **fields, teacher=DATA if self.taught else None)

    def command(self) -> str:
        """What trains it from a shell."""
        if self.own is not None:
            return f"benchmarks/lab: {self.own.__module__}.{self.own.__name__}, --seed SEED"
        words = [f"fewstep train digits-mixture --method {self.method}"]
        words += [f"--method.{name} {shown(value)}" for name, value in self.options.items() if name != "base"]
        words += based(self.options.get("base"))
        settings = {**SETTING, **self.fields}
        words += [f"--network.{name} {value}" for name, value in settings.pop("network_options").items()]
        words += [f"--{name} {shown(value)}" for name, value in settings.items()]
        words += [f"--teacher {DATA}"] if self.taught else []
        return " ".join([*words, *(["--init INIT"] if self.init else []), "--seed SEED"])


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def based(base: Any) -> list[str]:
    """The words that name a base and its options."""
    if not isinstance(base, dict):
        return [] if base is None else [f"--method.base {base}"]
    return [f"--method.base {base['method']}"] + [
        f"--method.base.{k} {shown(v)}" for k, v in base.items() if k != "method"
    ]


class Counted:
    """The exact denoiser, which counts the samples that it was asked for."""

    def __init__(self, process: Process) -> None:
        self.law, self.process, self.samples = law_on(process), process, 0

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        self.samples += len(x_t)
        return self.law(x_t, t, cond)


@cache
def law_on(process: Process) -> Any:
    return named(DATA.partition(":")[2], process)


@cache
def data() -> Any:
    return dataset_of(DATA)


@cache
def reference() -> tuple[Tensor, Tensor, Any]:
    """Fresh draws of the law, their features, and the features' extractor: the classifier of the data set."""
    drawn, judge = law_on(fs.process.edm()).sample(REFERENCE, seed=NOISE), classifier(data())
    return drawn, judge.features(drawn), judge


@cache
def solved(process: Process) -> Tensor:
    """Where the exact ODE leads from the noise that is scored."""
    file = KEPT / f"solution-{fs.checkpoint.fingerprint({'process': {'end': process.sigma(process.t_max)}})[:12]}.npy"
    if file.exists():
        return torch.from_numpy(np.load(file))
    z = normal(NOISE, "prior", 0, SAMPLES, data().shape, SAMPLING_BLOCK)
    x0 = law_on(process).solve(process.prior(z), process.t_max, 0.0)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, x0.numpy())
    return x0


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def scores(x: Tensor) -> dict[str, float]:
    """Of samples against fresh draws of the law: squared Fréchet distances, energy distance, ratio of variances."""
    drawn, features, judge = reference()
    return {
        "feature_frechet": frechet(judge.features(x), features),
        "pixel_frechet": frechet(x, drawn),
        "energy_x1000": 1000 * energy(x, drawn[: 2 * SAMPLES]),
        "variance_ratio": (x.var(0).sum() / drawn.var(0).sum()).item(),
    }


def exact_scores(seed: int) -> dict[str, float]:
    """What the exact solutions score: as good as samples can be; the same for every seed."""
    return {"ode_error": 0.0, **scores(solved(fs.process.edm()))}


def measured(generator: Generator, steps: int | None) -> dict[str, float]:
    x = generator.sample(SAMPLES, steps=steps, seed=NOISE, cond=-1)
    return {"ode_error": rms(x - solved(generator.method.process)), **scores(x)}


_STARTS: dict[tuple[str, int], Generator] = {}  # that several arms go on from


def trained(arm: Arm, seed: int) -> tuple[Generator, dict[str, float]]:
    """The arm's generator, and its cost: seconds, and evaluations of the teacher per sample and update."""
    if arm.init is not None and (repr(arm.init), seed) not in _STARTS:
        _STARTS[repr(arm.init), seed] = trained(arm.init, seed)[0]
    init = None if arm.init is None else _STARTS[repr(arm.init), seed]
    run = arm.run(seed)
    teacher = None
    if arm.taught:
        process = fs.building.build_method(run, fs.building.facts_of(run, data())).process
        teacher = Counted(process)
    begun = time.process_time()
    generator = fs.train(run, init=init, teacher=teacher, method=arm.own, progress=False, device="cpu")
    cost = {"cpu_seconds": time.process_time() - begun}
    if teacher is not None:
        cost["teacher_evaluations"] = teacher.samples / (run.iterations * run.batch)
    return generator, cost


def outcome(arm: Arm, seed: int) -> dict[str, float]:
    generator, cost = trained(arm, seed)
    return {**measured(generator, arm.steps), **cost}
