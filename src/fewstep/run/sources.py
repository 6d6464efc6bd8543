"""Opens what somebody names or passes: run folders, shipped names, files, closed forms, objects."""

from __future__ import annotations

import copy
import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from fewstep import data as datasets
from fewstep import exact, methods
from fewstep.adapters.adapt import convention_of, network_of
from fewstep.base.errors import StorageError, UserError, require
from fewstep.base.randomness import normal
from fewstep.base.tensor_file import read_tensors
from fewstep.core import abilities
from fewstep.core.denoiser import Denoiser
from fewstep.core.method import Method
from fewstep.core.process import Process, edm
from fewstep.networks.ends import weights_of_end
from fewstep.run.build import Network, OwnMethod, build_method, build_student
from fewstep.run.checkpoint import fingerprint, is_single
from fewstep.run.checkpoint.schema import Record
from fewstep.run.config import OWN, Run
from fewstep.run.facts import Facts
from fewstep.run.generator import Generator, load
from fewstep.run.places import find
from fewstep.run.weights import load_weights

if TYPE_CHECKING:
    from fewstep.run.prepare import Prepared

log = logging.getLogger("fewstep")

Source = str | Path | Denoiser | Generator  # what init= and teacher= take
Form = Literal["closed form", "file", "run", "generator", "module", "function", "unknown"]
_END = re.compile(r"(^|\.)end\.body\.")
_HEADS = re.compile(r"(^|\.)(map_augment|logvar_\w+)\.")
INSIDE = "network."  # how a checkpoint begins the names of a network's weights


def form_of(source: Any) -> Form:
    """What a source is, by its type and name; of a .safetensors file by its header."""
    if isinstance(source, Generator):
        return "generator"
    if isinstance(source, nn.Module):
        return "module"
    if isinstance(source, str) and source.startswith("exact:"):
        return "closed form"
    if isinstance(source, str | Path):
        is_weights = Path(source).suffix == ".safetensors" and not is_single(Path(source))
        return "file" if is_weights else "run"
    return "function" if callable(source) else "unknown"


def name_of(source: Source | None) -> str | None:
    """The name of a source in a run: a path in full, "own" for an object."""
    if source is None or not isinstance(source, str | Path):
        return None if source is None else OWN
    return str(Path(source).resolve() if Path(source).exists() else source)


def name_in(name: str | None, source: Source | None) -> str | None:
    """The name of a source in a run that has one for it: of an object, how it was typed."""
    own = name_of(source)
    is_typed = name is not None and ":" in name and not name.startswith("exact:")
    return name if own == OWN and is_typed else own


@dataclass(frozen=True)
class Model:
    """Somebody's network, opened: a denoiser with its process, and what is known of it."""

    name: str
    denoiser: Denoiser
    process: Process
    facts: Facts | None = None  # of the data that it is asked on
    generator: Generator | None = None  # of a run: with its run, method and step
    digest: str = ""  # fingerprint, where it is not that of the denoiser as it is

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its weights; of a denoiser without weights, of its answers to fixed noise."""
        if self.digest:
            return self.digest
        if isinstance(self.denoiser, nn.Module):
            return fingerprint({"teacher": self.denoiser.state_dict()})
        return answers(self.denoiser, self.facts, self.process)

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint[:16]})"


def open_model(
    source: Source,
    student: Prepared | None = None,
    *,
    name: str | None = None,
    ema: str = "ema",
    composite: bool = False,
    network: Network | None = None,
    method: OwnMethod | None = None,
    device: str = "cpu",
) -> Model:
    """The model behind a run folder, shipped name, .safetensors file, exact:NAME or object.

    student: the run that it is opened for. A closed form and a function are asked on its process; a
    file holds the weights of its network as a diffusion model. name: for messages.
    ema, composite, network, method, device: of a run, as `load` takes them.
    Code is not opened by name: only the command line imports a module:function that was typed.
    Raises UserError and StorageError in one line.
    """
    form = form_of(source)
    name = name_of(source) or "" if name is None else name
    if form == "closed form":
        return _open_closed_form(str(source), student)
    if form == "file" and student is not None:
        return _open_file(str(source), student)
    if isinstance(source, str | Path):
        source = load(
            source, ema=ema, composite=composite, network=network, method=method, device=device
        )
    if isinstance(source, Generator):
        process = source.method.process
        return Model(name, source.denoiser, process, source.facts, source)
    if not callable(source):
        raise UserError(
            f"teacher of type {type(source).__name__}: expected a run, a file or a denoiser"
        )
    default = edm() if student is None else student.method.process
    process = abilities.process(source) or default
    return Model(name, source, process, None if student is None else student.facts)


def _open_closed_form(source: str, student: Prepared | None) -> Model:
    """The exact law of that name, on the student's process."""
    name = source.removeprefix("exact:")
    digest = hashlib.sha256(source.encode()).hexdigest()
    if student is None:
        law = exact.named(name)
        return Model(source, law, edm(), digest=digest)
    units = student.facts.units
    require(
        units.are_plain,
        f"teacher {source}: units",
        units.to_json(),
        f"data in the law's own units, such as --data {source}",
    )
    process = student.method.process
    return Model(source, exact.named(name, process), process, student.facts, digest=digest)


def _open_file(path: str, student: Prepared) -> Model:
    """The weights of a file in the student's network, preconditioned as a diffusion model."""
    diffusion = methods.diffusion(sigma_data=student.facts.sigma_data)
    network = copy.deepcopy(student.network)
    denoiser = build_student(student.run, student.facts, diffusion, network)
    weights = weights_of("teacher", path)
    fit(weights, denoiser.network)
    return Model(path, denoiser, diffusion.process, student.facts, digest=weights.fingerprint)


def answers(denoiser: Denoiser, facts: Facts | None, process: Process) -> str:
    """What tells a denoiser without weights from others: the SHA-256 of its answers to fixed noise.

    With conditions that are no labels it is only its type's name.
    """
    if facts is None or facts.cond not in (None, datasets.LABELS):
        return hashlib.sha256(type(denoiser).__qualname__.encode()).hexdigest()
    z = normal(0, "teacher", 0, 8, facts.shape, 8)
    level = torch.logspace(-2, 1, 8, dtype=torch.float64)
    cond = torch.arange(8) % facts.classes if facts.classes else None
    with torch.no_grad():
        x0_hat = denoiser(z, process.time_at(level), cond)
    return fingerprint({"teacher": {"answers": x0_hat}})


@dataclass(frozen=True)
class Weights:
    """A network's weights by its own names, their fingerprint, and their source in one line."""

    tensors: dict[str, Tensor]
    fingerprint: str
    about: str
    method: Method | None = None  # that they were trained by, where it is known
    facts: Facts | None = None  # of the data they were trained on, likewise
    progress: float = 1.0  # how far that training came
    step: int = 0  # steps they were trained for, with those of earlier stages and runs


def weights_of(kind: str, source: Source) -> Weights:
    """The weights of a module or file, or the average of a run or shipped generator.

    kind: init or teacher, for messages. Raises UserError and StorageError.
    """
    form = form_of(source)
    origin: dict[str, Any] = {}
    if isinstance(source, Generator):
        origin = _origin(source.run, source.facts, source.method, source.step)
        source = source.denoiser
    if isinstance(source, nn.Module):
        module = source if convention_of(source) is None else network_of(source)
        tensors = dict(module.state_dict())
        about = "of the module given"
    elif not isinstance(source, str | Path) or str(source) == OWN:
        raise UserError(f"{kind} = {source!r}: expected a run, a .safetensors file or a module")
    elif form == "file":
        tensors = _read_file(kind, Path(source))
        about = f"of {source}"
    else:
        checkpoint = find(source)
        if "ema" not in checkpoint.groups:
            raise UserError(f"{kind} = {source}: it has no average 'ema' of the weights")
        record = checkpoint.record
        run, facts = record.run, record.facts
        method = _method_of(run, facts, record)
        origin = _origin(run, facts, method, record.step)
        tensors = checkpoint.groups["ema"]
        about = (
            f"of the average of {source}, {run.method} at step {record.step}, sigma_data"
            f" {facts.sigma_data:g}"
        )
    if all(name.startswith(INSIDE) for name in tensors):
        tensors = {name.removeprefix(INSIDE): tensor for name, tensor in tensors.items()}
    digest = fingerprint({"network": tensors})
    line = f"{kind}: {len(tensors)} tensors {about} ({digest[:16]})"
    return Weights(tensors, digest, line, **origin)


def _origin(run: Run, facts: Facts, method: Method | None, step: int) -> dict[str, Any]:
    """What `Weights` say of the run that trained them."""
    return {
        "method": method,
        "facts": None if run.convention else facts,  # what came from elsewhere binds no data
        "progress": min(step / run.iterations, 1.0),
        "step": step + (run.age or 0),
    }


def _method_of(run: Run, facts: Facts, record: Record) -> Method | None:
    """The method that trained a stored run last; None where it is somebody's own."""
    try:
        return record.trained(build_method(run, facts))
    except UserError:
        return None


def _read_file(kind: str, path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except StorageError as error:
        raise UserError(f"{kind} = {error}") from error


def fit(weights: Weights, network: nn.Module) -> None:
    """Loads the weights into the network, in the types that it has.

    Those of a one-time network fit a two-time one, which keeps the weights of its end as they are.
    Raises UserError where names or shapes are not those of the network.
    """
    own = network.state_dict()
    of_end = weights_of_end(network)
    given = _by_own_names(_without_heads(weights, own.keys()), own.keys(), of_end)
    if of_end and given.keys() == own.keys() - of_end:
        text = "fewstep: weights %s: of a one-time network; the %d of the end time stay fresh"
        log.info(text, weights.about, len(of_end))
        given |= {name: own[name] for name in of_end}
    tensors = {}
    for name, tensor in given.items():
        if name in own and tensor.is_floating_point():
            tensor = tensor.to(own[name].dtype)
        tensors[name] = tensor
    try:
        load_weights(network, tensors, weights.about)
    except StorageError as error:
        raise UserError(f"{error}: expected weights of the run's own network") from error


def _without_heads(weights: Weights, own: Iterable[str]) -> Weights:
    """The weights without those that only training used, where the network has no place for them.

    EDM's augmentation labels and EDM2's log-variance: without them every output is the same.
    """
    names = set(own)
    idle = [
        name
        for name in weights.tensors
        if _HEADS.search(name) and name not in names and INSIDE + name not in names
    ]
    if not idle:
        return weights
    log.info("fewstep: weights %s: without %s, which training alone uses", weights.about, idle)
    tensors = {name: one for name, one in weights.tensors.items() if name not in idle}
    return replace(weights, tensors=tensors)


def _by_own_names(weights: Weights, own: Iterable[str], of_end: set[str]) -> dict[str, Tensor]:
    """The weights under the names of the network, with or without those of its end.

    Others often begin all names with model., module., _orig_mod. or ema., and keep several models
    in a file: the prefix is found by the network's own names. Raises UserError where none fits.
    """
    tensors, names = weights.tensors, set(own)
    if names and all(INSIDE + name in names for name in tensors):
        return {INSIDE + name: tensor for name, tensor in tensors.items()}
    some = sorted(names - of_end)[:1]
    ends = {name[: -len(one)] for one in some for name in tensors if name.endswith(f".{one}")}
    # Of a file's models first an average: it is what is sampled from.
    prefixes = ["", *sorted(ends, key=lambda prefix: ("ema" not in prefix, prefix))]
    for prefix in prefixes:
        inside = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if inside.keys() in (names, names - of_end):
            if prefix:
                rest = len(tensors) - len(inside)
                text = "fewstep: weights %s: those named %s... are taken; %d others are not"
                log.warning(text, weights.about, prefix, rest)
            return inside
    common = names & tensors.keys()
    missing, left = sorted(names - common), sorted(tensors.keys() - common)
    if left and not missing and all(map(_END.search, left)):
        raise UserError(
            f"{weights.about}: of a network that is told its end time, and the run's is not:"
            " expected weights of a one-time network, or a method of two times"
        )
    counts = [f"{len(names)} weights"]
    counts += [f"lacks {len(missing)}, first {missing[0]!r}"] if missing else []
    counts += [f"has {len(left)} others, first {left[0]!r}"] if left else []
    raise UserError(
        f"{weights.about}: of the network's {', '.join(counts)}: expected weights of the run's own"
        " network"
    )


def facts_of_source(source: Source | None) -> Facts | None:
    """What a source says of the data it learned; None of files, closed forms and objects."""
    if isinstance(source, Generator):
        return source.facts
    record = _record_of(source)
    return None if record is None else record.facts


def run_of_source(source: Source | None) -> Run | None:
    """The run behind a source; None of files, closed forms and objects."""
    if isinstance(source, Generator):
        return source.run
    record = _record_of(source)
    return None if record is None else record.run


def _record_of(source: Source | None) -> Record | None:
    if source is None or form_of(source) != "run" or str(source) == OWN:
        return None
    return find(source).record  # type: ignore[arg-type]
