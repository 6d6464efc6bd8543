"""Which examination a subject gets, and how a network becomes one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fewstep import networks
from fewstep.analysis.doctor.examination import Examination, examine, take
from fewstep.analysis.doctor.interpretations import Range, Raw, Reading, make_reading, ranges
from fewstep.analysis.doctor.subject import Subject, truth_of
from fewstep.analysis.doctor.teacher import Teacher, teacher_measures
from fewstep.base.conditions import Cond
from fewstep.base.device import pick_device
from fewstep.base.errors import UserError, unknown
from fewstep.base.options import checked_options
from fewstep.core.denoiser import Preconditioned
from fewstep.core.process import edm
from fewstep.core.scalings import X0
from fewstep.data import Dataset
from fewstep.run.build import chosen, made
from fewstep.run.sources import fit, weights_of


def run_examination(subject: Subject, *, progress: bool = False) -> Examination:
    """Of a run; where it is a diffusion model, which may teach, also as a teacher."""
    found = examine(subject, progress=progress)
    if not subject.denoises or not isinstance(subject.ema, Preconditioned):
        return found
    more = take(teacher_measures(teacher_in(subject)), progress=progress)
    return Examination(found.name, found.about, (*found.measures, *more))


def teacher_in(subject: Subject) -> Teacher:
    """A run's average as a teacher of its own data."""
    net: Any = subject.ema
    given = read_as(net)
    return Teacher(subject.name, raw_of(net.network), given, subject.dataset, subject.truth, subject.seed,
                   next(net.parameters()).device)  # fmt: skip


def read_as(net: Preconditioned) -> Reading:
    """A denoiser's own scaling and process as the declared reading."""
    kind = type(net.scaling).__name__.lower()
    return Reading(
        kind,
        net.scaling,
        net.process,
        type(net.process.schedule).__name__.lower(),
        Range("[-1, 1]"),
    )


def raw_of(network: Callable[..., Any]) -> Raw:
    """A network as it is asked here; what it gives must be like its input. Raises UserError."""
    dtype = (
        next((p.dtype for p in network.parameters()), None)
        if isinstance(network, nn.Module)
        else None
    )

    def ask(x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        try:
            found = network(x.to(dtype or x.dtype), label, cond)
        except (TypeError, ValueError, RuntimeError) as error:
            told = str(error).partition("\n")[0]
            raise UserError(
                f"the teacher fails on data of shape {tuple(x.shape[1:])}: {told}; expected "
                "network(x, noise_label [B] float32, cond) -> a tensor like x"
            ) from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != tuple(x.shape):
            raise UserError(
                f"the teacher gave {shape} for {tuple(x.shape)}: expected a tensor of the same"
                " shape"
            )
        return found.to(x.dtype)

    return ask


def teacher_examination(teacher: Teacher, *, progress: bool = False) -> Examination:
    about = f"declared as {teacher.reading}; data {teacher.dataset.name}"
    return Examination(
        teacher.name, about, tuple(take(teacher_measures(teacher), progress=progress))
    )


def teacher_of(
    source: Any,
    dataset: Dataset,
    *,
    name: str = "teacher",
    prediction: str = "edm",
    process: str = "edm",
    range: str = "[-1, 1]",
    sigma_data: float | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Teacher:
    """A teacher with what it is declared to be: a raw network, a `Preconditioned` one, or any
    denoiser.

    A network is called as (x, noise_label [B], cond); a denoiser that is no module as (x_t, t,
    cond), x_t = x0 + t z.
    A preconditioned one brings its own scaling. Raises UserError.
    """
    known = ranges(dataset.train.x0)
    if range not in known:
        raise unknown("range", range, known)
    place = pick_device(device)
    if isinstance(source, Preconditioned):
        given, network = read_as(source), source.network
    elif isinstance(source, nn.Module):
        scale = known[range].scale
        sd = dataset.sigma_data() * scale if sigma_data is None else sigma_data
        given, network = make_reading(prediction, process, known[range], sd), source
    else:
        given, network = Reading("x0", X0(), edm(), "edm", known[range]), source
    if isinstance(network, nn.Module):
        network = copy.deepcopy(network).requires_grad_(False).eval().to(place)
    return Teacher(name, raw_of(network), given, dataset, truth_of(dataset, edm()), seed, place)


def from_file(
    path: str, dataset: Dataset, factory: str | Callable[..., Any], options: dict[str, Any]
) -> nn.Module:
    """The network with the weights of a .safetensors file: one of ours by name, or what a factory
    makes.

    Raises UserError where names or shapes are not the network's.
    """
    own = None if isinstance(factory, str) else factory
    name = factory if isinstance(factory, str) else getattr(factory, "__qualname__", "own")
    network = build(name, chosen("network", networks, name, own), dataset, options)
    fit(weights_of("teacher", path), network)
    return network


def build(
    name: str, function: Callable[..., Any], dataset: Dataset, options: dict[str, Any]
) -> Any:
    """What the factory makes of (shape, classes, **options), or of nothing where it takes no
    arguments.
    """
    takes = bool(inspect.signature(function).parameters)
    options = checked_options("network", function, options)
    called = "function(shape, classes, **options) or function() -> a network or denoiser"
    return made(
        "teacher",
        name,
        function,
        called,
        *((dataset.shape, dataset.classes) if takes else ()),
        **options,
    )
