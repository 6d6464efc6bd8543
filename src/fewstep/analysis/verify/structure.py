"""What every method must be, a user's own included: the names are properties, not formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Check, apart, by_row, worst
from fewstep.analysis.verify.fixtures import SHAPE, batch, cast, disorder, small_network
from fewstep.analysis.verify.solver_checks import denoiser
from fewstep.analysis.verify.spies import Held, Told
from fewstep.base.conditions import Cond
from fewstep.core import abilities, couplings
from fewstep.core.denoiser import Denoiser, Models, Preconditioned
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.core.times import Times


@dataclass(frozen=True)
class Subject:
    """How a method is made, and the shape of the samples that it is tried on."""

    make: Callable[[], Method]
    shape: tuple[int, ...] = SHAPE

    def batch(
        self, method: Method, rows: int = 6, progress: float = 0.6
    ) -> tuple[Tensor, Tensor, Times]:
        return batch(method, rows, progress, self.shape)

    def network(self, classes: int = 0, dropout: float = 0.0) -> Preconditioned:
        return small_network(classes, dropout, shape=self.shape)


def truth(process: Process) -> Denoiser:
    """A teacher that knows Gaussian data, in x_t's dtype."""
    exact = denoiser(process)
    return lambda x_t, t, cond=None: exact(x_t, t).to(x_t.dtype)


def everyone(student: Any, method: Method) -> Models:
    """The student in every place but the teacher's, and a balance that leaves losses as they are."""
    return Models(student, student, truth(method.process), student, balance=torch.zeros_like)  # type: ignore[arg-type]


def grouped(method: Method) -> bool:
    """Whether rows depend on the others of their batch by design: shared trajectories, minibatch
    OT, real strata.
    """
    parts: list[Any] = [method.coupling, abilities.inner(method.coupling)]
    within = any(
        isinstance(part, couplings.MinibatchOT) or abilities.reuse(part) > 1 for part in parts
    )
    return within or isinstance(method.coupling, couplings.Cached)


def per_sample(subject: Subject) -> float:
    """One finite number for each sample, at the start of a run, within it and at its end."""
    method, fine = subject.make(), True
    for progress in (0.0, 0.5, 1.0):
        given = subject.batch(method, progress=progress, rows=16)
        loss = method.loss(cast().models(), *given)
        if loss.shape != (len(given[0]),):
            raise ValueError(
                f"loss of shape {tuple(loss.shape)}, expected one number for each of"
                f" {len(given[0])} rows"
            )
        fine = fine and bool(torch.isfinite(loss).all())
    return 0.0 if fine else math.inf


def ordered(subject: Subject) -> float:
    """`disorder` of the times at the start of a run, within it and at its end."""
    method = subject.make()
    return worst(
        *(disorder(method, subject.batch(method, progress=p, rows=16)[2]) for p in (0.0, 0.5, 1.0))
    )


def student_alone(subject: Subject) -> float:
    """The gradient on ema, teacher and frozen, which must be none; infinite where the student has
    none.
    """
    method, nets = subject.make(), cast()
    method.loss(nets.models(), *subject.batch(method)).sum().backward()
    if nets.student.numbers.grad is None or not bool(nets.student.numbers.grad.any()):
        raise ValueError("no gradient reaches the student")
    others = [net.numbers.grad for net in (nets.ema, nets.teacher, nets.frozen)]
    return worst(*(0.0 if grad is None else grad.abs().max().item() for grad in others))


def detached(subject: Subject) -> float:
    """The gradient against differences of the loss in which the targets do not move."""
    method, nets = subject.make(), cast()
    given = subject.batch(method)
    method.loss(nets.models(), *given).sum().backward()
    held, step, slopes = Held(nets.student, given[2].t), 1e-5, []
    for i in range(4):
        ends = []
        for sign in (-1, 1):
            held.shift = sign * step * torch.eye(4, dtype=torch.float64)[i]
            ends.append(method.loss(replace(nets.models(), student=held), *given).sum().item())
        slopes.append((ends[1] - ends[0]) / (2 * step))
    found = nets.student.numbers.grad
    return (
        math.inf
        if found is None
        else by_row(found[None], torch.tensor([slopes], dtype=torch.float64))
    )


def batch_is_items(subject: Subject, dropout: float = 0.0) -> float:
    """Losses and gradients row by row, each with its seed, against those of the batch."""
    method, student = subject.make(), subject.network(dropout=dropout)
    x0, z, times = subject.batch(method)
    models, seeds = everyone(student, method), list(range(len(x0)))
    together = method.loss(models, x0, z, times, seed=seeds)
    together.sum().backward()
    whole = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    student.zero_grad()
    alone = []
    for i in range(len(x0)):
        t, r, a, w = (part[i : i + 1] for part in times[:4])
        rows = Times(t, r, a, w, None if times.u is None else times.u[i : i + 1], times.progress)
        loss = method.loss(models, x0[i : i + 1], z[i : i + 1], rows, seed=[seeds[i]])
        loss.sum().backward()
        alone.append(loss.detach())
    parts = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    return worst(by_row(torch.cat(alone), together), apart(parts, whole))


def single(subject: Subject) -> float:
    """The loss in float32 against the one in float64, within a run and at its end, where gaps are
    smallest.
    """
    method, errors = subject.make(), []
    for progress in (0.6, 1.0):
        (x0, z, times), student = subject.batch(method, progress=progress), subject.network()
        exact = method.loss(everyone(student, method), x0, z, times).detach()
        quick = method.loss(
            everyone(student.float(), method), x0.float(), z.float(), times
        ).detach()
        errors.append(by_row(quick.double(), exact))
    return worst(*errors)


def at_anchor(subject: Subject) -> float:
    """At r = a a network that is NaN below t changes nothing: the boundary is known without it."""
    method, nets = subject.make(), cast()
    x0, z, times = subject.batch(method)
    times = times._replace(r=times.a)
    rows = times.t.unique()

    def blind(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        low = torch.isin(t, times.a) & ~torch.isin(t, rows)
        return torch.where(
            low.reshape(-1, *[1] * (x_t.ndim - 1)), torch.nan, nets.student(x_t, t, cond)
        )

    found, wanted = (
        method.loss(everyone(student, method), x0, z, times) for student in (blind, nets.student)
    )
    known = torch.isfinite(wanted)  # a weight may be infinite where the method has no rows
    return apart(found[known], wanted[known])


def shared_masks(subject: Subject) -> float:
    """0 where the student's pass and a pass at r have the masks of one draw, and no other is made."""
    method = subject.make()
    x0, z, times = subject.batch(method)
    student = Told(cast().student)
    method.loss(everyone(student, method), x0, z, times, seed=3)
    own = [
        drawn for t, drawn in student.asked if t.shape == times.t.shape and torch.equal(t, times.t)
    ]
    below = [drawn for t, drawn in student.asked if not bool(torch.isin(t, times.t).all())]
    lonely = bool(below) and student.drawn not in below
    return float((student.drawn != 1) + (student.drawn not in own) + lonely)


def seeded(subject: Subject) -> float:
    """One seed gives one loss, another seed another; and torch's own generator is left where it
    was, by times too.
    """
    method, student = subject.make(), subject.network(dropout=0.5)
    before = torch.get_rng_state()
    given, afresh = subject.batch(method), subject.batch(method)
    models = everyone(student, method)
    first, again, other, quiet, silent = (
        method.loss(models, *given, seed=seed).detach() for seed in (1, 1, 2, None, None)
    )
    moved = not torch.equal(before, torch.get_rng_state())
    times = apart(afresh[2].t, given[2].t) + apart(afresh[2].r, given[2].r)
    return (
        times
        + apart(again, first)
        + apart(silent, quiet)
        + float(torch.equal(first, other))
        + float(moved)
    )


def known_point(subject: Subject) -> float:
    """Where the data is one point, whoever always says so has loss 0, and a gradient that is
    finite.
    """
    method = subject.make()
    _, z, times = subject.batch(method)
    point, said = (
        torch.full_like(z, 0.7),
        torch.full((), 0.7, dtype=torch.float64, requires_grad=True),
    )

    def knows(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return said.to(x_t.dtype).expand(x_t.shape)

    models = Models(knows, knows, knows, knows, balance=torch.zeros_like)  # type: ignore[arg-type]
    loss = method.loss(models, point, z, times)
    (slope,) = torch.autograd.grad(loss.sum(), said)
    for what, found in (("loss", loss.abs().max()), ("gradient", slope)):
        if not math.isfinite(found.item()):
            raise ValueError(f"the {what} is {found.item()} where the student is the goal")
    return loss.abs().max().item()


def labelled(subject: Subject) -> float:
    """Another label in the last row changes the last row's loss, and no other's."""
    method, student = subject.make(), subject.network(classes=3)
    given, models = subject.batch(method), everyone(student, method)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss, other = (
        method.loss(models, *given, cond).detach()
        for cond in (labels, labels.index_fill(0, labels[-1:] + 3, 1))
    )
    return apart(other[:5], loss[:5]) + float(other[5] == loss[5])


Property = tuple[str, Callable[[Subject], float], float, str]
PROPERTIES: list[Property] = [
    (
        "loss is finite, one number for each sample",
        per_sample,
        0.0,
        "a mean over the batch, or a division by 0?",
    ),
    (
        "the seed decides the dropout, nothing else is random",
        seeded,
        1e-12,
        "a global generator is read, or no seed",
    ),
    (
        "times a <= r <= t <= t_max, t > a",
        ordered,
        1e-9,
        "the neighbour r lies between t and its anchor a",
    ),
    (
        "gradient reaches the student, nobody else",
        student_alone,
        0.0,
        "a network that is not trained is asked with gradient",
    ),
    (
        "target is detached: gradient with targets held still",
        detached,
        1e-4,
        "the goal carries gradient: detach it",
    ),
    (
        "a batch is its items",
        batch_is_items,
        1e-8,
        "a row's loss depends on the others: a mean over the batch inside?",
    ),
    (
        "a batch is its items, under dropout",
        partial(batch_is_items, dropout=0.4),
        1e-8,
        "the masks of a row depend on its batch",
    ),
    (
        "float32 agrees with float64",
        single,
        1e-3,
        "digits are lost: a small difference of large numbers?",
    ),
    (
        "r = a asks no network at r",
        at_anchor,
        1e-12,
        "the boundary is asked of the network instead of being known",
    ),
    (
        "dropout masks are shared by both passes",
        shared_masks,
        0.0,
        "student and target must run under one draw of masks: losses.dropout",
    ),
    (
        "a known data point has loss 0",
        known_point,
        1e-9,
        "the goal is not the data where everybody knows it",
    ),
    (
        "labels reach the rows they belong to",
        labelled,
        1e-12,
        "the condition is not passed on row by row",
    ),
]
PER_ROW = {
    "a batch is its items",
    "a batch is its items, under dropout",
    "labels reach the rows they belong to",
}


def checks_of(
    subject: Subject, name: str, method: str | None = None, quick: bool = True
) -> list[Check]:
    """The properties of a method; those of single rows only where its rows do not depend on each
    other by design.

    method: the name of ours whose setting it is, where it is one.
    """
    skipped = PER_ROW if grouped(subject.make()) else set()
    of, where = (name, name) if method is None else (method, f"fewstep.methods.{method}")
    return [
        Check(
            f"{name}: {text}",
            "definition",
            partial(measure, subject),
            tolerance,
            f"{look}; see {where}",
            (of,),
            quick,
        )
        for text, measure, tolerance, look in PROPERTIES
        if text not in skipped
    ]
