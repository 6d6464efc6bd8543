"""What is compared: runs and their teacher, all on one data set."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fewstep import methods
from fewstep.base.device import pick_device
from fewstep.base.errors import UserError, require
from fewstep.core import sampling
from fewstep.run.build import Network
from fewstep.run.checkpoint import fingerprint
from fewstep.run.config import Run
from fewstep.run.generator import Generator, load
from fewstep.run.levels import Levels
from fewstep.run.prepare import Prepared
from fewstep.run.sources import Model, open_model
from fewstep.run.teacher_ode import Closed
from fewstep.run.teachers import probe

# How the command line names the user's own method and network of a run, and what they are.
OwnParts = tuple[Mapping[str, str], Mapping[str, Any]]

SOLVERS = ("ddim", "heun", "addim", "ancestral")  # euler is ddim on edm, and no better elsewhere


@dataclass(frozen=True)
class Subject:
    """A generator with its name, and how the command line names it."""

    name: str
    source: str
    generator: Generator
    options: str = ""  # of `fewstep sample`, so that it opens the same weights
    network: Network | None = None  # the user's own
    teacher: bool = False

    @property
    def kind(self) -> Literal["multistep", "segments", "solver", "own"]:
        """How its steps are chosen.

        multistep: later steps at any noise level; segments: a fixed number; solver: a diffusion
        model, by every solver; own: any number by the sampler of its method.
        """
        method = self.generator.method
        own = sampling.sampler(method.sampler)
        if own.only:
            return "segments"
        if own.grid is sampling.multistep_grid:
            return "multistep"
        return "solver" if method.denoises and isinstance(method.sampler, str) else "own"

    def by(self, sampler: str, levels: Levels = ()) -> Generator:
        """The generator with another sampler, unless it is of its kind, and with these levels."""
        generator = self.generator
        if sampler != self.kind:
            generator = replace(generator, method=replace(generator.method, sampler=sampler))
        return generator.with_later_sigmas(levels or None)


def open_runs(
    paths: Sequence[str],
    *,
    ema: str = "ema",
    composite: bool = False,
    device: str = "auto",
    own: Mapping[str, OwnParts] | None = None,
) -> list[Subject]:
    """The runs as subjects. Raises UserError where one is named twice or two have other data.

    composite: ask the frozen first stage of two. own: by run, the user's own method and network.
    """
    subjects = []
    for path in paths:
        names, parts = (own or {}).get(path, ({}, {}))
        generator = load(path, ema=ema, device=device, **parts)
        options = f" --ema {ema}" if ema != "ema" else ""
        if composite and generator.method.trained_from:
            generator = load(path, ema=ema, device=device, composite=True, **parts)
            options += " --composite"
        options += "".join(f" --{kind} {shlex.quote(name)}" for kind, name in names.items())
        subject = Subject(
            _short(path, paths), path, _with_digest(generator), options, parts.get("network")
        )
        subjects.append(subject)
    if composite and not any("composite" in subject.options for subject in subjects):
        raise UserError(f"--composite: none of {', '.join(paths)} has a second stage")
    require(len(set(paths)) == len(paths), "RUN", list(paths), "each of them once")
    for one, other in combinations(subjects, 2):
        same_data(other, one)
    return subjects


def _short(path: str, others: Sequence[str]) -> str:
    """The last part of a path, the whole where another one ends alike."""
    alike = [other for other in others if Path(other).name == Path(path).name]
    return Path(path).name if len(alike) == 1 else path


def same_data(a: Subject, b: Subject) -> None:
    """Raises UserError for subjects of two data sets; networks from elsewhere name none."""
    data = {one.generator.facts.data for one in (a, b)}
    if len(data) == 1 or ("" in data and _shape(a) == _shape(b)):
        return
    first, second = (f"{s.source} ({s.generator.run.data}, {_shape(s)})" for s in (a, b))
    raise UserError(f"{first} and {second} learned from different data: expected one data set")


def _shape(subject: Subject) -> str:
    facts = subject.generator.facts
    classes = f", {facts.classes} classes" if facts.classes else ""
    return "x".join(map(str, facts.shape)) + classes


def open_teacher(
    source: str, student: Subject, *, ema: str = "ema", device: str = "auto"
) -> Subject:
    """The teacher as a subject: a diffusion run, a file of the student's network, or exact:NAME.

    Raises UserError where it learned from other data, does not answer for it, or is no diffusion
    model.
    """
    like = student.generator
    diffusion = methods.diffusion(sigma_data=like.facts.sigma_data)
    prepared = Prepared(like.run, like.facts, diffusion, network=student.network)
    model = open_model(source, prepared, name=source, ema=ema, device=device)
    name = source if source.startswith("exact:") else Path(source).name
    generator = model.generator or _diffusion_generator(model, like, device)
    teacher = Subject(name, source, _with_digest(generator), teacher=True)
    same_data(teacher, student)
    if teacher.kind != "solver":
        raise UserError(
            f"--teacher {source}: trained by {teacher.generator.run.method!r}, which is no"
            " diffusion model: give it as a RUN"
        )
    return teacher


def _diffusion_generator(model: Model, like: Generator, device: str) -> Generator:
    """A generator of a denoiser that no run is known of, on the data of another generator."""
    run = Run(recipe="teacher", method="diffusion", data=like.run.data, labels=like.run.labels)
    denoiser = model.denoiser
    if not isinstance(denoiser, nn.Module):
        probe(model, like.facts)
        denoiser = Closed(denoiser, model.name)
    denoiser.requires_grad_(False).eval().to(pick_device(device))
    method = methods.diffusion(sigma_data=like.facts.sigma_data)
    return Generator(run, like.facts, method, denoiser, 0)


def _with_digest(generator: Generator) -> Generator:
    """The generator with the fingerprint of the weights that are sampled, whichever average."""
    digest = fingerprint({"denoiser": generator.denoiser.state_dict()})
    return replace(generator, fingerprint=digest)
