"""What is compared: runs and their teacher, all on one data set, each with the samplers that suit
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep import exact, methods
from fewstep.base.conditions import Cond
from fewstep.base.device import pick_device
from fewstep.base.errors import UserError, require
from fewstep.core import sampling
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Time
from fewstep.run.build import build_student
from fewstep.run.checkpoint import fingerprint
from fewstep.run.config import Run
from fewstep.run.generator import Generator, load
from fewstep.run.sources import fit, probe, weights_of

SOLVERS = ("ddim", "heun", "addim", "ancestral")  # euler is ddim on edm, and no better elsewhere


@dataclass(frozen=True)
class Subject:
    """A generator with its name, and how it is told on the command line."""

    name: str
    given: str
    generator: Generator
    options: str = ""  # of `fewstep sample`, so that it opens the same weights
    teacher: bool = False

    @property
    def kind(self) -> Literal["multistep", "segments", "solver"]:
        """multistep: later steps at any noise level; segments: as many as it was trained for;
        solver: an ODE's.
        """
        own = sampling.sampler(self.generator.method.sampler)
        if own.only:
            return "segments"
        return "multistep" if own.grid is sampling.multistep_grid else "solver"

    def by(self, sampler: str) -> Generator:
        """The generator with another sampler as its own."""
        return replace(self.generator, method=replace(self.generator.method, sampler=sampler))


class Closed(nn.Module):
    """A closed form as a module; its only weights are the digest of its name, by which it is told
    from others.
    """

    mark: Tensor

    def __init__(self, truth: Denoiser, name: str) -> None:
        super().__init__()
        self.truth = truth
        digest = torch.tensor(list(hashlib.sha256(name.encode()).digest()), dtype=torch.float32)
        self.mark = nn.Parameter(digest, requires_grad=False)

    def forward(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        return self.truth(x_t, t, cond)


def open_runs(
    given: Sequence[str],
    *,
    ema: str = "ema",
    composite: bool = False,
    device: str = "auto",
    **own: Any,
) -> list[Subject]:
    """The runs as subjects. composite: ask the frozen first stage of those that have two.

    Raises UserError where a run is named twice or two learned from different data.
    """
    found = []
    for path in given:
        generator = load(path, ema=ema, device=device, **own)
        two = composite and generator.method.before is not None
        if two:
            generator = load(path, ema=ema, device=device, composite=True, **own)
        generator = _marked(generator)
        options = (f" --ema {ema}" if ema != "ema" else "") + (" --composite" if two else "")
        found.append(Subject(_short(path, given), path, generator, options))
    if composite and not any("composite" in subject.options for subject in found):
        raise UserError(f"--composite: none of {', '.join(given)} has a second stage")
    require(len(set(given)) == len(given), "RUN", list(given), "each of them once")
    for other in found[1:]:
        same_data(other, found[0])
    return found


def _short(path: str, others: Sequence[str]) -> str:
    """The last part of a path, the whole where another one ends alike."""
    alike = [other for other in others if Path(other).name == Path(path).name]
    return Path(path).name if len(alike) == 1 else path


def same_data(a: Subject, b: Subject) -> None:
    """Refuses subjects of two data sets."""
    if a.generator.facts.data != b.generator.facts.data:
        told = [f"{s.given} ({s.generator.run.data}, {_shape(s)})" for s in (a, b)]
        raise UserError(
            f"{told[0]} and {told[1]} learned from different data: expected runs of one data set"
        )


def _shape(subject: Subject) -> str:
    facts = subject.generator.facts
    return "x".join(map(str, facts.shape)) + (f", {facts.classes} classes" if facts.classes else "")


def open_teacher(
    given: str, student: Subject, *, ema: str = "ema", device: str = "auto"
) -> Subject:
    """The teacher as a subject: a diffusion run, a .safetensors file of the student's network, or
    exact:NAME.

    Raises UserError where it learned from other data, does not answer for it, or is no diffusion
    model.
    """
    like = student.generator
    diffusion = methods.diffusion(sigma_data=like.facts.sigma_data)
    run = Run(recipe="teacher", method="diffusion", data=like.run.data, labels=like.run.labels)
    denoiser: nn.Module
    if given.startswith("exact:"):
        units = like.facts.units
        plain = units.shift == 0 and units.scale == 1
        require(
            plain,
            f"teacher {given}: units",
            tuple(units),
            "data in the law's own units, such as --data " + given,
        )
        truth = exact.named(given.partition(":")[2], diffusion.process)
        probe(given, truth, like.facts, diffusion.process)
        denoiser = Closed(truth, given)
    elif Path(given).suffix == ".safetensors":
        denoiser = build_student(like.run, like.facts, diffusion)
        fit(weights_of("teacher", given), denoiser.network)
    else:
        teacher = Subject(
            Path(given).name, given, _marked(load(given, ema=ema, device=device)), teacher=True
        )
        same_data(teacher, student)
        if teacher.kind != "solver":
            told = teacher.generator.run.method
            raise UserError(
                f"--teacher {given}: trained by {told!r}, which is no diffusion model: give it as"
                " a RUN"
            )
        return teacher
    denoiser.requires_grad_(False).eval().to(pick_device(device))
    name = given if given.startswith("exact:") else Path(given).name
    return Subject(
        name, given, _marked(Generator(run, like.facts, diffusion, denoiser, 0)), teacher=True
    )


def _marked(generator: Generator) -> Generator:
    """The generator with the fingerprint of the weights that are sampled, whichever average they
    are.
    """
    return replace(
        generator, fingerprint=fingerprint({"denoiser": generator.denoiser.state_dict()})
    )
