"""An arm of an experiment: one training, the scores of its samples, and the command for it."""

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

from fewstep.adapters.adapt import network_of
from fewstep.analysis.claims import reference, solutions
from fewstep.analysis.claims.claim import Row
from fewstep.core.denoiser import Denoiser
from fewstep.core.guidance import Guided
from fewstep.core.method import Method
from fewstep.core.process import Process, edm
from fewstep.networks.low_rank import low_rank
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
# Real digits, without labels: the network still improves when these updates end.
DIGITS: dict[str, Any] = {
    **PLANE,
    "labels": False,
    "network_options": {"width": 128, "depth": 3},
    "iterations": 3500,
    "lr": 1e-3,
}
# A small U-Net, as in the recipe, on pictures that cannot be learned by heart.
HANZI: dict[str, Any] = {
    **DIGITS,
    "network_options": {"width": 32, "mult": (1, 2), "blocks": 1, "attention": (8,)},
    "batch": 64,
    "iterations": 1200,
    "ema": 0.995,
}
# law or data set -> recipe, and what its runs have where an arm says nothing
HOMES: dict[str, tuple[str, dict[str, Any]]] = {
    MIXTURE: ("digits-mixture", SETTING),
    "digits": ("digits", DIGITS),
    "hanzi16": ("hanzi16", HANZI),
}

# Fields of a run that cannot change a number here: the seed has its own place in the store, and
# exact laws have no files and one device.
READING = ("bad_files", "units", "channel_axis", "columns", "label_column", "condition_columns")
# Younger than numbers that are kept: no setting where they have these values, their defaults.
LATER = {
    "shares": [],
    "stage_init": "average",
    "noise_scale": 0.25,
    "holdout": 0.1,
    "flip": False,
    "augment": 0.0,
}
LATER_OF_MCM = {**LATER, "process": "cosine"}  # which others had before
NO_SETTING = (
    "seed",
    "elastic_exact",
    "choose_levels",
    "convention",
    "keep_checkpoints",
    "cache",
    *READING,
)

# (folder of common files, averaged network, process) -> numbers
Look = Callable[[Path, Denoiser, Process], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method with its options, and the fields of the run that differ from the setting.

    exact_teacher: the exact denoiser teaches, by `guidance`. teacher: the arm whose generator does.
    init: the arm that this one goes on from; rank: by low-rank adapters of its weights alone.
    factory: makes a method that has no name.
    marks: steps after which `look` measures the average. extra: is measured besides at the end.
    scores: in place of those of pictures, against `Solutions`; a law that has none is not scored.
    keep: the generator stays in the folder of common files.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    law: str = MIXTURE
    exact_teacher: bool = False
    guidance: float = 0.0
    teacher: Arm | None = None
    init: Arm | None = None
    rank: int = 0
    factory: Callable[..., Method] | None = None
    marks: tuple[int, ...] = ()
    look: Look | None = None
    extra: Callable[[Path, Generator], dict[str, Any]] | None = None
    scores: Callable[[Arm, Path, int, Generator], dict[str, Any]] | None = None
    keep: bool = False

    @property
    def recipe(self) -> str:
        return HOMES.get(self.law, ("toy", PLANE))[0]

    @property
    def setting(self) -> dict[str, Any]:
        return {**HOMES.get(self.law, ("toy", PLANE))[1], **self.fields}

    def run(self, seed: int) -> Run:
        data = reference.source(self.law)
        fields = {**self.setting, "seed": seed, "method_options": self.options, "data": data}
        teacher = data if self.exact_teacher else None
        return recipes.RECIPES[self.recipe](method=self.method, **fields, teacher=teacher)

    @property
    def protocol(self) -> dict[str, int]:
        if self.scores is not None:
            return solutions.PROTOCOL
        return reference.protocol(self.law) if self.law in reference.PICTURES else {}

    def command(self) -> str:
        """What trains it from a shell."""
        if in_python := self.in_python():
            return f"in Python: fewstep.train(..., {', '.join(in_python)})"
        recipe = self.recipe
        if recipe == "toy":
            recipe += f" --data {reference.source(self.law)}"
        options = {f"method.{name}": value for name, value in self.options.items()}
        if isinstance(base := options.pop("method.base", None), dict):
            options["method.base"] = base["method"]
            options |= {f"method.base.{k}": v for k, v in base.items() if k != "method"}
        setting = self.setting
        options |= {f"network.{k}": v for k, v in setting.pop("network_options").items()}
        options |= {name.replace("_", "-"): value for name, value in setting.items()}
        if self.exact_teacher:
            options["teacher"] = f"exact:{self.law}"
        if self.teacher:
            options["teacher"] = "TEACHER"
        if self.init:
            options["init"] = "STAGE_1"
        flags = [_flag(name, value) for name, value in options.items()]
        return " ".join([f"fewstep train {recipe} --method {self.method}", *flags, "--seed SEED"])

    def in_python(self) -> list[str]:
        """The arguments that a shell cannot give."""
        own = []
        if self.factory is not None:
            own.append(f"method={self.factory.__module__}.{self.factory.__name__}")
        if self.rank:
            own.append(f"network=low_rank(init's network, {self.rank}, SEED)")
        if self.guidance:
            own.append(f"teacher=Guided(exact law, {self.guidance:g})")
        return own

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that its numbers depend on, as JSON: every option is written out.

        Functions stand for themselves by name, and fields that are not set are left out, so that
        neither a new module path nor a new field of runs or networks makes old numbers invalid.
        """
        run = _without_later(with_defaults(self.run(0)).to_json())
        options = run["network_options"]
        run["network_options"] = {k: v for k, v in options.items() if v is not None}
        return {
            "run": {k: v for k, v in run.items() if k not in NO_SETTING and v is not None},
            "init": self.init.settings if self.init else None,
            **({"taught by": self.teacher.settings} if self.teacher else {}),
            **({"guidance": self.guidance} if self.guidance else {}),
            **({"rank": self.rank} if self.rank else {}),
            "own": _name(self.factory),
            "marks": list(self.marks),
            "seen": [_name(self.look), _name(self.extra), _name(self.scores)],
            **self.protocol,
        }

    def row(self, cost: float, *needs: Row) -> Row:
        return Row(partial(measure, self), self.settings, self.command(), cost, needs)


def _without_later(values: dict[str, Any]) -> dict[str, Any]:
    """A run, and the options in it, without what younger versions added and leave as it was."""
    later = LATER_OF_MCM if "K" in values else LATER
    return {
        name: _without_later(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in later or value != later[name]
    }


def _flag(name: str, value: Any) -> str:
    """An option as the command line has it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _name(function: Callable[..., Any] | None) -> str | None:
    return None if function is None else function.__name__


def ideal(law: str) -> Row:
    """The row of pictures that no arm learned."""
    settings = {"ideal": law, **reference.protocol(law)}
    command = "none: the pictures that no arm learned"
    return Row(partial(reference.ideal, law), settings, command, 3.0, by_seed=False)


def scores_of(arm: Arm, folder: Path, seed: int, generator: Generator) -> dict[str, Any]:
    """Of samples against the law's solutions, or, without labels, against the pictures."""
    if arm.scores is not None:
        return arm.scores(arm, folder, seed, generator)
    if arm.law not in reference.PICTURES:
        return {}
    cond = -1 if generator.run.label_drop else None
    x = generator.sample(reference.PICTURES[arm.law], seed=reference.NOISE, cond=cond)
    return reference.scores(arm.law, generator.facts.units.to_model(x))


def path_of(arm: Arm, folder: Path, seed: int) -> Path:
    """Where the generator of an arm lies for those that go on from it."""
    return folder / f"start-{arm.row(0.0).digest}-{seed}"


def save(generator: Generator, path: Path) -> None:
    """Writes the generator in one move; if it is there already, it stays."""
    part = path.with_name(f".{os.getpid()}-{path.name}")
    generator.save(part)
    if path.exists():
        shutil.rmtree(part)
    else:
        part.rename(path)


def start_of(arm: Arm, folder: Path, seed: int) -> Generator:
    """The generator that an arm goes on from: read from the folder, or trained and written."""
    path = path_of(arm, folder, seed)
    if not path.exists():
        save(train_arm(arm, folder, seed)[0], path)
    return load(path, device="cpu")


def train_arm(arm: Arm, folder: Path, seed: int) -> tuple[Generator, dict[str, Any]]:
    """The arm's generator, its curve, and its cost.

    The cost is CPU seconds, and evaluations of the teacher per sample and update.
    """
    run = arm.run(seed)
    init = None if arm.init is None else start_of(arm.init, folder, seed)
    process = edm()
    if arm.factory is None:
        process = build_method(run, facts_of(run, reference.data(arm.law))).process
    teacher: Any = reference.law_on(arm.law, process) if arm.exact_teacher else None
    if arm.guidance:
        teacher = Guided(teacher, arm.guidance)
    network = None
    if init is not None and arm.rank:
        network, init = low_rank(network_of(init.denoiser), arm.rank, seed), None
    if arm.teacher is not None:
        teacher = start_of(arm.teacher, folder, seed)
    curve: list[dict[str, float]] = []
    looking = 0.0  # CPU seconds of the looks, which are no cost of the training
    teacher_rows = 0

    def watch(state: State) -> None:
        nonlocal looking, teacher_rows
        teacher_rows = state.teacher_rows
        if arm.look is not None and state.step in arm.marks:
            start = time.process_time()
            with torch.no_grad():
                numbers = arm.look(folder, state.averages["ema"], process)
            curve.append({"step": state.step, **numbers})
            looking += time.process_time() - start

    start = time.process_time()
    generator = train(
        run,
        network=network,
        init=init,
        teacher=teacher,
        method=arm.factory,
        progress=False,
        device="cpu",
        watch=watch,
    )
    facts: dict[str, Any] = {"cpu_seconds": time.process_time() - start - looking}
    if teacher is not None:
        facts["teacher_evaluations"] = teacher_rows / (run.iterations * run.batch)
    if curve:
        facts["curve"] = curve
    return generator, facts


def measure(arm: Arm, folder: Path, seed: int) -> dict[str, Any]:
    """The numbers of an arm's row."""
    generator, facts = train_arm(arm, folder, seed)
    if arm.keep:
        save(generator, path_of(arm, folder, seed))
    extra = arm.extra(folder, generator) if arm.extra else {}
    return {**scores_of(arm, folder, seed, generator), **facts, **extra}
