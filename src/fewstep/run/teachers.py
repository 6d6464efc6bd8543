"""The teacher of a run: opened, compared with the run's data, and asked once before training."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fewstep.adapters.adapt import Called, convention_of, network_of
from fewstep.adapters.linear_bound import linear_of
from fewstep.adapters.reading import DENOISER, PLAIN, ROWS, Result, Trial, another, certain
from fewstep.adapters.rows import Rows
from fewstep.base.conditions import apply_mask
from fewstep.base.errors import UserError, require, short_repr
from fewstep.base.randomness import normal
from fewstep.core import abilities, sampling
from fewstep.core.conventions import Convention
from fewstep.core.couplings import GeneratorInduced
from fewstep.core.denoiser import Preconditioned, across, diagonal
from fewstep.core.guidance import Guided
from fewstep.core.method import Method
from fewstep.core.scalings import X0
from fewstep.core.vocabulary import Range
from fewstep.data import LABELS, Arrays, augmentation, each
from fewstep.networks.ends import on_diagonal
from fewstep.run.config import OWN, Run
from fewstep.run.facts import Facts
from fewstep.run.generator import Generator
from fewstep.run.sources import Model, Source, name_in, open_model

if TYPE_CHECKING:
    from fewstep.run.prepare import Prepared

FEW = (8, 4)  # rows and levels that a hundred readings are tried on
MOST_FINALISTS = 4  # of those, that are compared on all rows
MOST_ROWS = 4096  # whose mean and covariance make the simple denoiser

log = logging.getLogger("fewstep")


def teacher_of(source: Source | None, student: Prepared) -> Model | None:
    """The teacher that the run's method needs: a frozen denoiser on the process of the student.

    source: one that the run does not name. Raises UserError where the method needs no teacher, gets
    none, or gets one of other data.
    """
    run, facts, method = student.run, student.facts, student.method
    name = run.teacher if source is None else name_in(run.teacher, source)
    if not any("teacher" in stage.method.needs for stage in student.stages):
        _leave_out(name, run.method, is_offer=source is None)
        return None
    if name is None:
        raise UserError(
            f"method {run.method!r} learns from a teacher: give one, --teacher RUN, FILE or"
            " exact:NAME"
        )
    source = name if source is None else source
    if isinstance(source, str) and source == OWN:
        raise UserError("this run's teacher was given as an object: pass it as teacher=")
    check_guidance(method, facts, run.data)
    model = open_model(source, student, name=name)
    _check_augmentation(run, model)
    if predicts_ends(method):
        _check_predictor(model, facts)
    elif model.generator is not None:
        _check_generator(model.generator, facts, guidance_of(method))
    is_theirs = not isinstance(source, str | Path)
    denoiser = _frozen(model.denoiser, is_theirs)
    probe(replace(model, denoiser=denoiser), facts)
    digest = model.fingerprint
    denoiser = _on_device(denoiser, student.device)
    is_foreign = model.generator is None or bool(model.generator.run.convention)
    is_new = student.dataset is not None and student.checkpoint is None
    if is_foreign and is_new and not predicts_ends(method):
        # What was said is of its network, whose guesses guidance leads away from the data's mean.
        plain = denoiser.denoiser if isinstance(denoiser, Guided) else denoiser
        check_reading(replace(model, denoiser=plain), student.arrays, student.device)
    denoiser = across(denoiser, model.process, method.process)
    if not predicts_ends(method):
        denoiser = _one_time(denoiser)
    model = replace(model, denoiser=denoiser, process=method.process, digest=digest)
    return model


def _frozen(denoiser: Any, is_theirs: bool) -> Any:
    """A teacher that does not learn: of somebody's module a copy, so that theirs stays as it is."""
    if isinstance(denoiser, Guided):
        return replace(denoiser, denoiser=_frozen(denoiser.denoiser, is_theirs))
    if not isinstance(denoiser, nn.Module):
        return denoiser
    own = copy.deepcopy(denoiser) if is_theirs else denoiser
    return own.requires_grad_(False).eval()


def _one_time(denoiser: Any) -> Any:
    """A teacher that denoises: a flow map's diagonal, under the guidance that it has."""
    if isinstance(denoiser, Guided):
        return replace(denoiser, denoiser=_one_time(denoiser.denoiser))
    return diagonal(denoiser)


def _on_device(denoiser: Any, device: torch.device) -> Any:
    if isinstance(denoiser, Guided):
        return replace(denoiser, denoiser=_on_device(denoiser.denoiser, device))
    return denoiser.to(device) if isinstance(denoiser, nn.Module) else denoiser


def _leave_out(name: str | None, method: str, is_offer: bool) -> None:
    """Raises UserError where there is a teacher for a method that needs none.

    is_offer: a recipe may name a closed form, which costs nothing: then it is a warning.
    """
    if name is None:
        return
    if is_offer and name.startswith("exact:"):
        log.warning(
            "fewstep: method %r with these options needs no teacher: %s is not used", method, name
        )
        return
    raise UserError(f"method {method!r} learns from no teacher: leave teacher={name} out")


def _check_generator(teacher: Generator, facts: Facts, guidance: float) -> None:
    """Raises UserError where a run is no teacher of data with these facts.

    A flow map is one by its diagonal.
    """
    same_data(teacher.facts, facts, is_foreign=bool(teacher.run.convention))
    if guidance and not teacher.run.label_drop:
        raise UserError(
            f"guidance = {guidance}: expected 0, or a teacher trained with label_drop, which has a"
            " guess for -1"
        )
    if _jumps(teacher.method) and not teacher.method.ends:
        raise UserError(
            f"the teacher was trained by {teacher.run.method!r} to jump, not to denoise:"
            " expected a diffusion model (--method diffusion), a flow map or exact:NAME"
        )


def _check_augmentation(run: Run, teacher: Model) -> None:
    """Raises UserError where pictures are changed in ways that the teacher is not told of.

    A network or function that is passed from Python is taken at its word.
    """
    is_own = teacher.generator is None and not teacher.name.startswith("exact:")
    options = {} if teacher.generator is None else teacher.generator.run.network_options
    fits = is_own or options.get("augment") == augmentation.LABELS
    need = f"0, since teacher {teacher.name} has not learned from such pictures"
    require(not run.augment or fits, "augment", run.augment, need)


def predicts_ends(method: Method) -> bool:
    """Whether the method asks its teacher for endpoints, as gc does with predictor = teacher."""
    coupling = method.coupling
    return isinstance(coupling, GeneratorInduced) and "teacher" in abilities.needs(
        coupling.predictor
    )


def _check_predictor(teacher: Model, facts: Facts) -> None:
    """Raises UserError where a named teacher does not jump to the data from every time.

    A network or function that is passed from Python is taken at its word.
    """
    generator = teacher.generator
    expected = "a run that was trained to jump to the data, such as of ect or ict"
    if generator is None:
        named = teacher.name.startswith("exact:") or teacher.name.endswith(".safetensors")
        require(not named, "predictor = teacher: teacher", teacher.name, expected)
        return
    same_data(generator.facts, facts, is_foreign=bool(generator.run.convention))
    theirs = generator.method
    fits = _jumps(theirs) and theirs.trained_from == 0
    fits = fits and sampling.sampler(theirs.sampler).default == 1
    require(fits, "predictor = teacher: a teacher trained by", generator.run.method, expected)


def _jumps(method: Method) -> bool:
    """Whether its students jump along a trajectory, in place of denoising."""
    is_taught = method.target is not None or "teacher" in method.needs
    return is_taught or abilities.jumps(method.coupling)


def guidance_of(method: Method) -> float:
    """How strongly the method guides its teacher."""
    coupling = method.coupling
    while (inner := abilities.inner(coupling)) is not None:
        coupling = inner
    return abilities.guidance(coupling)


def check_guidance(method: Method, facts: Facts, name: str) -> None:
    """Raises UserError where a method guides, and the data of that name has no labels."""
    g = guidance_of(method)
    require(g == 0 or facts.classes > 0, "guidance", g, f"0, since data {name!r} has no labels")


def probe(teacher: Model, facts: Facts) -> None:
    """Asks the teacher once. Raises UserError where it gives no x0_hat for such data."""
    if facts.cond not in (None, LABELS):
        return
    x = torch.zeros(2, *facts.shape)
    t = teacher.process.time_at(torch.ones(2, dtype=torch.float64))
    cond = torch.zeros(2, dtype=torch.long) if facts.classes else None
    try:
        with torch.no_grad():
            shape = tuple(teacher.denoiser(x, t, cond).shape)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"teacher {teacher.name} fails on data of shape {facts.shape} with {facts.classes}"
            f" classes: {reason}; expected teacher(x_t [B, ...], t [B], cond) -> a tensor like x_t"
        ) from error
    require(
        shape == tuple(x.shape),
        f"teacher {teacher.name}: answer of shape",
        shape,
        f"{tuple(x.shape)}, that of x_t",
    )


def check_reading(teacher: Model, data: Arrays, device: torch.device) -> None:
    """Compares what was said of a foreign teacher with how it denoises rows of the data.

    Raises UserError where another reading is certainly the right one, with its words. Where none
    is right, a warning.
    """
    own = convention_of(teacher.denoiser)
    if own is None and isinstance(teacher.denoiser, Preconditioned):
        own = Convention(scaling=teacher.denoiser.scaling, process=teacher.denoiser.process)
    network: Any = teacher.denoiser
    if own is not None:
        network = partial(on_diagonal, network_of(teacher.denoiser))
    reading = own or Convention(scaling=X0(), process=teacher.process)
    rows = data.rows(torch.arange(min(len(data), ROWS)))
    z = normal(0, "teacher's reading", 0, len(rows), rows.x0.shape[1:], len(rows))
    z = apply_mask(z, rows.cond)
    cond = each(lambda part: part.to(device), rows.cond)
    noisy = Rows(rows.x0.to(device), cond, z.to(device))
    x0 = data.rows(torch.arange(min(len(data), MOST_ROWS))).x0
    trial = Trial(network, reading, noisy, linear_of(x0), x0)
    result = trial.own()
    if result is not None and own is not None:
        _check_end(teacher, trial, result)
    if result is None or result.score <= DENOISER:
        return
    log.info("fewstep: teacher %s: other readings of its output are tried", teacher.name)
    best = trial.finalists(trial.few(*FEW).ranking()[:MOST_FINALISTS])
    if best and best[0].score < PLAIN and certain(result, best[0]):
        message = f"{another(result, best)}: say it so, {words(best[0].reading)}"
        raise UserError(f"teacher {teacher.name}: {message}")
    log.warning(
        "fewstep: teacher %s: its error is %.3g times that of a simple denoiser of these data, and"
        " no other reading of its output is right: is it trained, and did it learn these data in"
        " other units? units = as-is leaves yours, LOW..HIGH brings a range to [-1, 1]",
        teacher.name,
        result.score,
    )


def _check_end(teacher: Model, trial: Trial, own: Result) -> None:
    """Raises UserError where a flow map's diagonal is certainly a better denoiser by another word.

    By the wrong one it is asked for a jump to the data, which is no mean of them.
    """
    inner = copy.copy(network_of(teacher.denoiser))
    if not isinstance(inner, Called) or inner.end is None:
        return
    word = inner.end
    inner.end = "t - r" if word == "r" else "r"
    other = replace(trial, network=partial(on_diagonal, inner)).own()
    if other is not None and certain(own, other):
        raise UserError(
            f"teacher {teacher.name}: by end = {word!r} its diagonal has the error"
            f" {own.score:.3g} of the bound, by {inner.end!r} {other.score:.3g}: say it so,"
            f" end = {inner.end!r}"
        )


def words(reading: Convention) -> str:
    """What says a reading, in Python as on the command line."""
    values = {"prediction": reading.prediction, "process": reading.process_name}
    values |= {"label": reading.label} if reading.label else {}
    if reading.prediction == "edm":
        values["sigma_data"] = f"{reading.sigma_data:.3g}"
    values |= {"range": reading.range.name} if reading.range != Range() else {}
    values |= {"sign": "-1"} if reading.sign < 0 else {}
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def same_data(
    teacher: Facts, student: Facts, who: str = "the teacher", *, is_foreign: bool = False
) -> None:
    """Raises UserError where a teacher or first stage learned other data than the student's.

    is_foreign: it has no units but a range, and its own preconditioning.
    """
    names = ["shape", "classes"]
    names += [] if is_foreign else ["units", "sigma_data"]
    for name in names:
        theirs = getattr(teacher, name)
        ours = getattr(student, name)
        if theirs == ours:
            continue
        remedy = "they must learn the same data"
        if name == "sigma_data":
            remedy = f"set sigma_data={theirs}"
        raise UserError(
            f"{who} has {name} = {short_repr(theirs)}, the run {short_repr(ours)}: {remedy}"
        )
