"""An arm of an experiment: one training, what its samples are measured by, and the command that
repeats it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from fewstep.analysis.claims import reference
from fewstep.analysis.claims.measurements import Row
from fewstep.core.denoiser import Denoiser
from fewstep.core.method import Method
from fewstep.core.process import Process, edm
from fewstep.run import recipes
from fewstep.run.build import build_method, with_defaults
from fewstep.run.config import Run
from fewstep.run.facts import facts_of
from fewstep.run.generator import Generator, load
from fewstep.training.state import State
from fewstep.training.train import train

MIXTURE = "digits-mixture"

# Unconditional (each class alone is one Gaussian, whose ODE is linear), and small enough for a
# quarter of a minute.
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
PLANE: dict[str, Any] = {name: value for name, value in SETTING.items() if name != "label_drop"}

Look = Callable[
    [Path, Denoiser, Process], dict[str, float]
]  # (folder of what is shared, the average, process)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method with its options and the fields of the run that differ from the setting; `init` is
    one it goes on from.

    marks: steps after which `look` measures the average on the way. keep: the generator stays in
    the shared folder.
    own: makes a method that has no name. extra: measured at the end besides.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    law: str = MIXTURE
    taught: bool = False  # by the exact denoiser
    init: Arm | None = None
    own: Callable[..., Method] | None = None
    marks: tuple[int, ...] = ()
    look: Look | None = None
    extra: Callable[[Path, Generator], dict[str, Any]] | None = None
    keep: bool = False

    @property
    def setting(self) -> dict[str, Any]:
        return {**(SETTING if self.law == MIXTURE else PLANE), **self.fields}

    def run(self, seed: int) -> Run:
        make = recipes.digits_mixture if self.law == MIXTURE else recipes.toy
        data = f"exact:{self.law}"
        fields = {**self.setting, "seed": seed, "method_options": self.options, "data": data}
        return make(method=self.method, **fields, teacher=data if self.taught else None)

    def command(self) -> str:
        """What trains it from a shell."""
        if self.own is not None:
            return (
                f"in Python: fewstep.train(..., method={self.own.__module__}.{self.own.__name__})"
            )
        recipe = "digits-mixture" if self.law == MIXTURE else f"toy --data exact:{self.law}"
        words = [f"fewstep train {recipe} --method {self.method}"]
        words += [
            f"--method.{name} {shown(value)}"
            for name, value in self.options.items()
            if name != "base"
        ]
        words += based(self.options.get("base"))
        settings = {**self.setting}
        words += [
            f"--network.{name} {value}" for name, value in settings.pop("network_options").items()
        ]
        words += [f"--{name.replace('_', '-')} {shown(value)}" for name, value in settings.items()]
        words += [f"--teacher exact:{self.law}"] if self.taught else []
        return " ".join([*words, *(["--init STAGE_1"] if self.init else []), "--seed SEED"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that its numbers depend on, as JSON: every option is written out."""
        own = None if self.own is None else f"{self.own.__module__}.{self.own.__name__}"
        seen = [f"{f.__module__}.{f.__name__}" if f else None for f in (self.look, self.extra)]
        run = {
            name: value
            for name, value in with_defaults(self.run(0)).to_json().items()
            if name != "seed"
        }
        init = self.init.settings if self.init else None
        return {
            "run": run,
            "init": init,
            "own": own,
            "marks": list(self.marks),
            "seen": seen,
            **reference.PROTOCOL,
        }

    def row(self, cost: float, *needs: Row) -> Row:
        return Row(partial(outcome, self), self.settings, self.command(), cost, needs)


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def based(base: Any) -> list[str]:
    """The words that name a base and its options."""
    if not isinstance(base, dict):
        return [] if base is None else [f"--method.base {base}"]
    options = {name: value for name, value in base.items() if name != "method"}
    return [
        f"--method.base {base['method']}",
        *(f"--method.base.{k} {shown(v)}" for k, v in options.items()),
    ]


def solutions(law: str, process: Process | None = None) -> Row:
    """The row that solves the trajectories that all arms on a process are compared with."""
    on = process or edm()
    settings = {"solved": law, "process": str(on), **reference.PROTOCOL}
    return Row(
        partial(reference.prepared, law, on),
        settings,
        "none: the ODE solved exactly",
        25.0,
        (),
        seeded=False,
    )


def ideal(law: str) -> Row:
    """The row of the exact solutions themselves."""
    settings = {"ideal": law, **reference.PROTOCOL}
    told = "none: the ODE solved exactly, from the noise that every arm is scored on"
    return Row(partial(reference.ideal, law), settings, told, 3.0, (solutions(law),), seeded=False)


def measured(shared: Path, law: str, generator: Generator) -> dict[str, float]:
    cond = -1 if generator.run.label_drop else None
    x = generator.sample(reference.SAMPLES, seed=reference.NOISE, cond=cond)
    away = x - reference.solved(shared, law, generator.method.process)
    return {"ode_error": reference.rms(away), **reference.scores(law, x)}


def home(arm: Arm, shared: Path, seed: int) -> Path:
    """Where the generator of an arm that others go on from is kept."""
    return shared / f"start-{arm.row(0.0).digest}-{seed}"


def kept(generator: Generator, folder: Path) -> None:
    """Puts the generator there in one move; who comes second leaves what is there."""
    part = folder.with_name(f".{os.getpid()}-{folder.name}")
    generator.save(part)
    if folder.exists():
        shutil.rmtree(part)
    else:
        part.rename(folder)


def started(arm: Arm, shared: Path, seed: int) -> Generator:
    """The generator that an arm goes on from: out of the shared folder, or trained and put there."""
    folder = home(arm, shared, seed)
    if not folder.exists():
        kept(trained(arm, shared, seed)[0], folder)
    return load(folder, device="cpu")


def trained(arm: Arm, shared: Path, seed: int) -> tuple[Generator, dict[str, Any]]:
    """The arm's generator, its curve, and what it cost: CPU seconds, teacher evaluations per sample
    and update.
    """
    run, curve, looked = arm.run(seed), list[dict[str, float]](), 0.0
    init = None if arm.init is None else started(arm.init, shared, seed)
    process = (
        edm() if arm.own else build_method(run, facts_of(run, reference.data(arm.law))).process
    )
    teacher = reference.Counted(arm.law, process) if arm.taught else None

    def watch(state: State) -> None:
        nonlocal looked
        if arm.look is not None and state.step in arm.marks:
            begun = time.process_time()
            with torch.no_grad():
                curve.append(
                    {"step": state.step, **arm.look(shared, state.averages["ema"], process)}
                )
            looked += time.process_time() - begun

    begun = time.process_time()
    generator = train(
        run, init=init, teacher=teacher, method=arm.own, progress=False, device="cpu", watch=watch
    )
    cost: dict[str, Any] = {"cpu_seconds": time.process_time() - begun - looked}
    if teacher is not None:
        cost["teacher_evaluations"] = teacher.samples / (run.iterations * run.batch)
    return generator, {**cost, **({"curve": curve} if curve else {})}


def outcome(arm: Arm, shared: Path, seed: int) -> dict[str, Any]:
    """What the row of an arm holds."""
    generator, cost = trained(arm, shared, seed)
    if arm.keep:
        kept(generator, home(arm, shared, seed))
    extra = arm.extra(shared, generator) if arm.extra else {}
    return {**measured(shared, arm.law, generator), **cost, **extra}
