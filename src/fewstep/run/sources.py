"""Where a run's weights, teacher and data come from: run folders, shipped names, files, closed
forms, objects.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import data, exact, methods
from fewstep.base.errors import StorageError, UserError, require
from fewstep.base.randomness import normal
from fewstep.base.tensor_file import read_tensors
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser, across
from fewstep.core.method import Method
from fewstep.core.process import Process
from fewstep.data import SPLIT_SEED, Dataset
from fewstep.run.build import OWN, Network, build_method, build_student
from fewstep.run.checkpoint import Checkpoint, fingerprint
from fewstep.run.config import Run, run_from_json
from fewstep.run.facts import Facts
from fewstep.run.generator import Generator, find, load
from fewstep.run.weights import load_weights

log = logging.getLogger("fewstep")

Source = str | Path | Denoiser | Generator  # what init= and teacher= take
INSIDE = "network."  # how a checkpoint begins the names of a network's weights


@dataclass(frozen=True)
class Weights:
    """A network's weights by its own names, their fingerprint, and where they are from in one line."""

    tensors: dict[str, Tensor]
    fingerprint: str
    about: str
    method: Method | None = None  # that they were trained by, where it is known
    facts: Facts | None = None  # of the data they were trained on, likewise
    progress: float = 1.0  # how far that training came
    step: int = 0  # steps they were trained for, earlier stages' and runs' included


def label(given: Source | None, stored: str | None) -> str | None:
    """What a run notes of its init or teacher: a path or name, "own" for an object."""
    if given is not None and not isinstance(given, str | Path):
        return OWN
    source = stored if given is None else given
    return (
        source
        if source is None
        else str(Path(source).resolve() if Path(source).exists() else source)
    )


def labelled(
    run: Run, init: Source | None, teacher: Source | None, saved: Checkpoint | None
) -> Run:
    """The run with the names of its init and teacher: as given, as set, or those of the run that
    goes on.
    """
    before = saved.state["run"] if saved else {}
    return replace(
        run,
        init=label(init, run.init or before.get("init")),
        teacher=label(teacher, run.teacher or before.get("teacher")),
    )


def initial(run: Run, given: Source | None) -> Weights | None:
    """The weights that a run starts from, where it names any."""
    source = run.init if given is None else given
    return None if source is None else weights_of("init", source)


def weights_of(kind: str, given: Source) -> Weights:
    """The network's weights behind an init: an object's, a file's, or the average of a run or
    shipped generator.
    """
    known: dict[str, Any] = {}
    if isinstance(given, Generator):
        known = trained_by(given.run, given.facts, given.method, given.step)
        given = given.denoiser
    if isinstance(given, nn.Module):
        tensors, about = given.state_dict(), "of the module given"
    elif not isinstance(given, str | Path) or str(given) == OWN:
        raise UserError(f"{kind} = {given!r}: expected a run, a .safetensors file or a module")
    elif Path(given).suffix == ".safetensors":
        tensors, about = _from_file(kind, Path(given)), f"of {given}"
    else:
        saved = find(given)
        if "ema" not in saved.groups:
            raise UserError(f"{kind} = {given}: it has no average 'ema' of the weights")
        run, facts = run_from_json(saved.state["run"]), Facts.from_json(saved.state["facts"])
        step = saved.state["step"]
        known = trained_by(run, facts, known_method(run, facts, saved.state.get("stage", 2)), step)
        about = (
            f"of the average of {given}, {run.method} at step {step}, sigma_data"
            f" {facts.sigma_data:g}"
        )
        tensors = saved.groups["ema"]
    if all(name.startswith(INSIDE) for name in tensors):
        tensors = {name.removeprefix(INSIDE): tensor for name, tensor in tensors.items()}
    digest = fingerprint({"network": tensors})
    return Weights(
        tensors, digest, f"{kind}: {len(tensors)} tensors {about} ({digest[:16]})", **known
    )


def trained_by(run: Run, facts: Facts, method: Method | None, step: int) -> dict[str, Any]:
    """What a run's weights bring with them."""
    age = step + (run.age or 0)
    return {"method": method, "step": age, "facts": facts, "progress": step / run.iterations}


def known_method(run: Run, facts: Facts, stage: int) -> Method | None:
    """The method that a stored run was trained by at that stage; None where it is somebody's own."""
    try:
        method = build_method(run, facts)
    except UserError:
        return None
    return method.before if method.before is not None and stage == 1 else method


def _from_file(kind: str, path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except StorageError as error:
        raise UserError(f"{kind} = {error}") from error


def fit(weights: Weights, network: nn.Module) -> None:
    """Loads the weights in the types of the network's own. Raises UserError where names or shapes
    are not its.
    """
    own = network.state_dict()
    tensors = {}
    for name, tensor in weights.tensors.items():
        name = (
            INSIDE + name if INSIDE + name in own else name
        )  # a network that has a `network` of its own
        tensors[name] = (
            tensor.to(own[name].dtype) if name in own and tensor.is_floating_point() else tensor
        )
    try:
        load_weights(network, tensors, weights.about)
    except StorageError as error:
        raise UserError(f"{error}: expected weights of the run's own network") from error


@dataclass(frozen=True)
class Teacher:
    """A frozen denoiser on the process of its student, its fingerprint, and what it is in one line."""

    denoiser: Denoiser
    fingerprint: str
    about: str


def teacher_of(
    given: Source | None,
    run: Run,
    facts: Facts,
    method: Method,
    network: Network | None,
    device: torch.device,
) -> Teacher | None:
    """The teacher that the method needs. Raises UserError where it needs none, gets none, or one of
    other data.
    """
    needed = "teacher" in method.needs
    source = run.teacher if given is None else given
    if source is None and not needed:
        return None
    if source is None:
        raise UserError(
            f"method {run.method!r} learns from a teacher: give one, --teacher RUN, FILE or"
            " exact:NAME"
        )
    if (
        not needed and given is None and str(source).startswith("exact:")
    ):  # a recipe's offer, which costs nothing
        log.warning(
            "fewstep: method %r with these options asks no teacher: %s is left alone",
            run.method,
            source,
        )
        return None
    if not needed:
        raise UserError(
            f"method {run.method!r} learns from no teacher: leave"
            f" teacher={label(given, run.teacher)} out"
        )
    if source == OWN:
        raise UserError("this run's teacher was given as an object: pass it as teacher=")
    check_guidance(method, facts, run.data)
    found, digest = _denoiser(source, run, facts, method, network)
    found = found.requires_grad_(False).eval() if isinstance(found, nn.Module) else found
    probe(label(given, run.teacher), found, facts, abilities.process(found) or method.process)
    found = found.to(device) if isinstance(found, nn.Module) else found
    found = across(found, abilities.process(found) or method.process, method.process)
    return Teacher(found, digest, f"teacher: {label(given, run.teacher)} ({digest[:16]})")


def _denoiser(
    source: Source, run: Run, facts: Facts, method: Method, network: Network | None
) -> tuple[Denoiser, str]:
    """A denoiser and its fingerprint: of its weights, or for a closed form of its name."""
    kind, _, name = str(source).partition(":")
    if isinstance(source, str) and kind == "exact":
        plain = facts.units.shift == 0 and facts.units.scale == 1
        require(
            plain,
            f"teacher {source}: units",
            tuple(facts.units),
            "data in the law's own units, such as --data " + source,
        )
        return exact.named(name, method.process), hashlib.sha256(source.encode()).hexdigest()
    if isinstance(source, str | Path) and Path(source).suffix == ".safetensors":
        diffusion = methods.diffusion(
            sigma_data=facts.sigma_data
        )  # whose preconditioning teachers have
        student = build_student(run, facts, diffusion, copy.deepcopy(network))
        weights = weights_of("teacher", source)
        fit(weights, student.network)
        return student, weights.fingerprint
    given = isinstance(source, nn.Module | Generator)  # somebody else's: frozen as a copy
    if isinstance(source, str | Path):
        source = load(source, device="cpu")
    if isinstance(source, Generator):
        same_data(source.facts, facts)
        g = guidance_of(method)
        if g and not source.run.label_drop:
            raise UserError(
                f"guidance = {g}: expected 0, or a teacher trained with label_drop, which has a"
                " guess for -1"
            )
        theirs = source.method
        if (
            theirs.target is not None
            or "teacher" in theirs.needs
            or abilities.jumps(theirs.coupling)
        ):
            raise UserError(
                f"the teacher was trained by {source.run.method!r} to jump, not to denoise:"
                " expected a diffusion model (--method diffusion) or exact:NAME"
            )
        source = source.denoiser
    if isinstance(source, nn.Module):
        module = copy.deepcopy(source) if given else source
        return module, fingerprint({"teacher": module.state_dict()})
    if not callable(source):
        raise UserError(
            f"teacher of type {type(source).__name__}: expected a run, a file or a denoiser"
        )
    probe(label(source, None), source, facts, abilities.process(source) or method.process)
    return source, answers(source, facts, abilities.process(source) or method.process)


def guidance_of(method: Method) -> float:
    """How strongly the method guides its teacher."""
    coupling = method.coupling
    while (inner := abilities.inner(coupling)) is not None:
        coupling = inner
    return abilities.guidance(coupling)


def check_guidance(method: Method, facts: Facts, name: str) -> None:
    """Refuses guidance where there are no labels to leave out."""
    g = guidance_of(method)
    require(g == 0 or facts.classes > 0, "guidance", g, f"0, since data {name!r} has no labels")


def probe(name: str | None, teacher: Denoiser, facts: Facts, process: Process) -> None:
    """Asks the teacher once. Raises UserError where it does not answer x0_hat for this data."""
    if facts.cond not in (None, data.LABELS):
        return
    x, cond = (
        torch.zeros(2, *facts.shape),
        torch.zeros(2, dtype=torch.long) if facts.classes else None,
    )
    try:
        with torch.no_grad():
            shape = tuple(
                teacher(x, process.time_at(torch.ones(2, dtype=torch.float64)), cond).shape
            )
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        told = str(error).partition("\n")[0]
        raise UserError(
            f"teacher {name} fails on data of shape {facts.shape} with {facts.classes} classes:"
            f" {told}; expected teacher(x_t [B, ...], t [B], cond) -> a tensor like x_t"
        ) from error
    require(
        shape == tuple(x.shape),
        f"teacher {name}: answer of shape",
        shape,
        f"{tuple(x.shape)}, that of x_t",
    )


def answers(teacher: Denoiser, facts: Facts, process: Process) -> str:
    """What tells a denoiser without weights from others: the SHA-256 of its answers to fixed noise.

    With conditions that are no labels it is only its type's name.
    """
    if facts.cond not in (None, data.LABELS):
        return hashlib.sha256(type(teacher).__qualname__.encode()).hexdigest()
    z, level = (
        normal(0, "teacher", 0, 8, facts.shape, 8),
        torch.logspace(-2, 1, 8, dtype=torch.float64),
    )
    cond = torch.arange(8) % facts.classes if facts.classes else None
    with torch.no_grad():
        return fingerprint({"teacher": {"answers": teacher(z, process.time_at(level), cond)}})


def same_data(teacher: Facts, student: Facts, who: str = "the teacher") -> None:
    """Refuses a teacher or first stage of other data than the student's, naming the first
    difference.
    """
    for name in ("shape", "classes", "units", "sigma_data"):
        theirs, ours = getattr(teacher, name), getattr(student, name)
        if theirs != ours:
            remedy = (
                f"set sigma_data={theirs}"
                if name == "sigma_data"
                else "they must learn the same data"
            )
            raise UserError(f"{who} has {name} = {theirs}, the run {ours}: {remedy}")


def dataset_of(name: str, size: int | None = None, bad_files: data.BadFiles = "fail") -> Dataset:
    """The data set of that name or path, or samples of a closed form: exact:NAME.

    Of a closed form 20,000 samples are for training and 2,000 for each held-out split, always the
    same ones.
    """
    kind, _, law = name.partition(":")
    if kind != "exact":
        return data.load(name, size, bad_files)
    require(size is None, "data_size", size, "none, since a closed form has its shape")
    truth = exact.named(law)
    drawn = truth.draw(24_000, SPLIT_SEED)  # not the draw that `sample` gives by default
    train, validation, test = (
        drawn.rows(index) for index in torch.arange(24_000).split([20_000, 2000, 2000])
    )
    return Dataset(name, train, validation, test, truth.classes)
