"""Which examination a run or a teacher gets, and how a network becomes a teacher."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from fewstep import networks
from fewstep.adapters.candidates import Raw, ranges
from fewstep.analysis.doctor.examination import Examination, examine, take
from fewstep.analysis.doctor.subject import Subject, truth_of
from fewstep.analysis.doctor.teacher import Teacher, denoising
from fewstep.analysis.doctor.teacher_reading import find_reading
from fewstep.analysis.doctor.verdicts import Measure
from fewstep.base.conditions import Cond
from fewstep.base.device import pick_device
from fewstep.base.errors import UserError, unknown
from fewstep.base.memory import Room
from fewstep.base.options import checked_options
from fewstep.core.conventions import Convention, convention
from fewstep.core.denoiser import Preconditioned, Split, in_parts
from fewstep.core.process import edm
from fewstep.data import Dataset
from fewstep.networks.ends import on_diagonal
from fewstep.run.build import call_factory, factory_of
from fewstep.run.sources import fit, weights_of


def run_examination(subject: Subject, *, progress: bool = False) -> Examination:
    """Of a run; where it is a diffusion model, which may teach, also as a teacher."""
    examination = examine(subject, progress=progress)
    if not subject.denoises or not isinstance(subject.ema, Preconditioned):
        return examination
    more = take(teacher_measures(teacher_in(subject)), progress=progress)
    measures = (*examination.measures, *more)
    return Examination(examination.name, examination.about, measures)


def teacher_in(subject: Subject) -> Teacher:
    """A run's average as a teacher of its own data."""
    net: Any = subject.ema
    return Teacher(
        subject.name,
        raw_of(net.network, subject.split),
        read_as(net),
        subject.dataset,
        subject.truth,
        subject.seed,
        subject.device,
    )


def read_as(net: Preconditioned) -> Convention:
    """A denoiser's own scaling and process as the declared reading."""
    if isinstance(net.scaling, Convention):
        return net.scaling
    return Convention(scaling=net.scaling, process=net.process)


def raw_of(network: Callable[..., Any], split: Split) -> Raw:
    """A network as the measures call it, by parts. Raises UserError for output unlike its input."""
    weights = network.parameters() if isinstance(network, nn.Module) else iter(())
    dtype = next((p.dtype for p in weights), None)
    diagonal = partial(on_diagonal, network)

    def ask(x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        try:
            answer = in_parts(diagonal, split, x.to(dtype or x.dtype), label, cond)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the teacher fails on data of shape {tuple(x.shape[1:])}: {reason}; expected "
                "network(x, noise_label [B] float32, cond) -> a tensor like x"
            ) from error
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        if shape != tuple(x.shape):
            raise UserError(
                f"the teacher gave {shape} for {tuple(x.shape)}: expected a tensor of the same"
                " shape"
            )
        return answer.to(x.dtype)

    return ask


def teacher_examination(teacher: Teacher, *, progress: bool = False) -> Examination:
    about = f"declared as {teacher.reading}; data {teacher.dataset.name}"
    return Examination(
        teacher.name, about, tuple(take(teacher_measures(teacher), progress=progress))
    )


def teacher_measures(teacher: Teacher) -> dict[str, Callable[[], Measure]]:
    """The measures of a teacher, by name."""
    return {
        "denoising by noise level": partial(denoising, teacher),
        "reading": partial(find_reading, teacher),
    }


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
    batch: int | None = None,
) -> Teacher:
    """A teacher as it is declared: a raw network, a `Preconditioned` one, or a denoiser.

    A network is called as (x, noise_label [B], cond); a denoiser that is no module as (x_t, t,
    cond), x_t = x0 + t z. A preconditioned one brings its own scaling. Raises UserError.
    """
    known_ranges = ranges(dataset.train.x0)
    if range not in known_ranges:
        raise unknown("range", range, known_ranges)
    interval = known_ranges[range]
    network = source
    if isinstance(source, Preconditioned):
        reading = read_as(source)
        network = source.network
    elif isinstance(source, nn.Module):
        if prediction == "edm" and sigma_data is None:
            sigma_data = dataset.sigma_data() * interval.scale
        reading = convention(prediction, process, range=interval, sigma_data=sigma_data)
    else:
        reading = convention("x0", range=interval)
    place = pick_device(device)
    if isinstance(network, nn.Module):
        network = copy.deepcopy(network).requires_grad_(False).eval().to(place)
    truth = truth_of(dataset, edm())
    split = partial(Room().parts, batch=batch, device=place)
    return Teacher(name, raw_of(network, split), reading, dataset, truth, seed, place)


def from_file(
    path: str, dataset: Dataset, factory: str | Callable[..., Any], options: dict[str, Any]
) -> nn.Module:
    """The network with the weights of a .safetensors file: ours by name, or what a factory makes.

    Raises UserError where names or shapes are not the network's.
    """
    own = None if isinstance(factory, str) else factory
    name = factory if isinstance(factory, str) else getattr(factory, "__qualname__", "own")
    network: nn.Module = build(name, factory_of("network", networks, name, own), dataset, options)
    fit(weights_of("teacher", path), network)
    return network


def build(
    name: str, function: Callable[..., Any], dataset: Dataset, options: dict[str, Any]
) -> Any:
    """What the factory makes of (shape, classes, **options), or of nothing if it takes nothing."""
    args: tuple[Any, ...] = ()
    if inspect.signature(function).parameters:
        args = (dataset.shape, dataset.classes)
    options = checked_options("network", function, options)
    usage = "function(shape, classes, **options) or function() -> a network or denoiser"
    return call_factory("teacher", name, function, usage, *args, **options)
