"""The generator as a pipeline of diffusers: its network, and a scheduler that makes its steps.

A student of a table of noise, asked at the table's own steps, is what `LCMScheduler` does, so stock
diffusers loads it. Every other sampler that is linear in x, the network's answers and the noise is
a scheduler of numbers, whose class lies in the folder.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.base import disk
from fewstep.base.errors import UserError, require
from fewstep.core import noise
from fewstep.core.conventions import Convention
from fewstep.core.denoiser import Preconditioned
from fewstep.core.vocabulary import Range
from fewstep.export.contents import Contents, Inputs
from fewstep.export.scheme import ANSWER, NOISE, Step, X
from fewstep.networks._diffusers import DiffusersNetwork

OWN = "few_step_scheduler"  # the module in the folder, and the asset that it is a copy of
EXACT = 1e-6  # steps of a table that a time may be off
# Beyond all timesteps: then the scheduler's own boundary, which a student in noise has already,
# leaves the guess as it is.
TIMESTEP_SCALING = 1e9


def write(contents: Contents, folder: Path) -> Callable[[Inputs], Tensor]:
    """Writes the pipeline's folder, and returns how it samples. Raises UserError.

    Where diffusers has no class for the network, the message names other targets.
    """
    network = check(contents)
    network.model.save_pretrained(str(folder / "unet"))
    settings = lcm_settings(contents)
    if settings is None:
        settings = {"_class_name": "FewStepScheduler", **own_settings(contents)}
        source = files("fewstep").joinpath("assets", f"{OWN}.py").read_bytes()
        disk.make_folder(folder / "scheduler")
        disk.write(folder / "scheduler" / f"{OWN}.py", source)
    disk.make_folder(folder / "scheduler")
    kind = settings["_class_name"]
    library = OWN if kind == "FewStepScheduler" else "diffusers"
    index = {
        "_class_name": "ConsistencyModelPipeline",
        "scheduler": [library, kind],
        "unet": ["diffusers", "UNet2DModel"],
    }
    _write(folder / "scheduler" / "scheduler_config.json", settings)
    _write(folder / "model_index.json", index)
    return _sampler_of(contents, folder, settings)


def check(contents: Contents) -> Any:
    """The network, of a generator that diffusers can have. Raises UserError for any other."""
    network = network_of(contents)
    require(not contents.half, "half", True, "off: diffusers loads in torch_dtype=torch.float16")
    return network


def network_of(contents: Contents) -> Any:
    """The network of diffusers that the generator has. Raises UserError for any other."""
    denoiser: Any = contents.generator.denoiser
    network = denoiser.network if isinstance(denoiser, Preconditioned) else None
    name = contents.generator.run.network
    if contents.generator.method.ends:
        raise UserError(
            f"--to diffusers: {contents.generator.run.method} is a flow map, whose network takes"
            " two times, and a UNet2DModel takes one, whichever scheduler steps it: --to onnx,"
            " torch and safetensors take every network"
        )
    kind = type(network.model).__name__ if isinstance(network, DiffusersNetwork) else None
    if kind == "UNet2DModel":
        return network
    what = f"{kind}, whose pipeline needs a VAE" if kind else f"class for the network {name!r}"
    raise UserError(
        f"--to diffusers: there is no {what}: expected a student of a UNet2DModel's folder; --to"
        " onnx, torch and safetensors take every network"
    )


# Stock diffusers.


def lcm_settings(contents: Contents) -> dict[str, Any] | None:
    """The configuration of an `LCMScheduler` that makes the same steps; None: there is none."""
    timesteps = lcm_timesteps(contents)
    if timesteps is None:
        return None
    own = _convention(contents)
    assert own is not None
    predictions = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
    betas = betas_of(own)[: timesteps[0] + 1]
    return {
        "_class_name": "LCMScheduler",
        "num_train_timesteps": len(betas),
        "original_inference_steps": len(betas),
        "trained_betas": betas,
        "prediction_type": predictions[own.prediction],
        "clip_sample": False,
        "timestep_scaling": TIMESTEP_SCALING,
    }


def lcm_timesteps(contents: Contents) -> list[int] | None:
    """The timesteps of its evaluations, from 0, where it re-noises between steps of a table."""
    own = _convention(contents)
    if own is None or own.prediction not in ("eps", "x0", "v") or own.label != "t - 1":
        return None
    is_plain = own.range == Range() and own.sign == 1
    steps, level = contents.scheme.steps, contents.generator.method.process.level
    if not is_plain or not isinstance(own.process.schedule, noise.Table):
        return None
    if not all(_re_noises(step) for step in steps):
        return None
    levels = [float(level(step.asks[0].t)) for step in steps]
    noises = [dict(step.result).get(NOISE, 0.0) for step in steps]
    times = own.process.time_at(torch.tensor(levels, dtype=torch.float64)).tolist()
    is_table = all(abs(t - round(t)) < EXACT for t in times)
    is_edm = contents.scheme.start == levels[0] and noises == [*levels[1:], 0.0]
    return [round(t) - 1 for t in times] if is_table and is_edm else None


def _convention(contents: Contents) -> Convention | None:
    denoiser: Any = contents.generator.denoiser
    own = denoiser.scaling if isinstance(denoiser, Preconditioned) else None
    return own if isinstance(own, Convention) else None


def _re_noises(step: Step) -> bool:
    """Whether a step goes to the answer itself, and adds noise."""
    result = dict(step.result)
    is_one = len(step.asks) == 1 and step.stretch is None and step.asks[0].point == ((X, 1.0),)
    return is_one and result.pop(f"{ANSWER} 0", 0.0) == 1.0 and set(result) <= {NOISE}


def betas_of(own: Convention) -> list[float]:
    """The betas whose float32 products are the table's, as near as float32 goes."""
    schedule = own.process.schedule
    assert isinstance(schedule, noise.Table)
    power = torch.tensor(schedule.power, dtype=torch.float64)
    betas: list[float] = []
    product = torch.ones((), dtype=torch.float32)
    for value in power:
        beta = (1 - value / product.double()).float()
        betas.append(float(beta))
        product = product * (1 - beta)
    return betas


# A scheduler of its own.


def own_settings(contents: Contents) -> dict[str, Any]:
    """The configuration of a `FewStepScheduler`. Raises UserError for what it cannot make."""
    steps = [_own_step(contents, step) for step in contents.scheme.steps]
    count = len(contents.scheme.times)
    return {"plans": {str(count): steps}, "start": contents.scheme.start}


def _own_step(contents: Contents, step: Step) -> dict[str, Any]:
    first = step.asks[0].point
    need = "a sampler that asks at x itself first: --to onnx takes this one"
    require(first == ((X, 1.0),), "the first point of a step", first, need)
    denoiser: Any = contents.generator.denoiser
    asks = []
    for ask in step.asks:
        t = torch.tensor([ask.t], dtype=torch.float64)
        c = denoiser.scaling(denoiser.process, t)
        names = {"in": c.in_, "skip": c.skip, "out": c.out, "label": c.noise}
        numbers = {name: float(value) for name, value in names.items()}
        asks.append({**numbers, "point": [list(pair) for pair in ask.point]})
    result: dict[str, Any] = {"asks": asks, "result": [list(pair) for pair in step.result]}
    if step.memory is not None:
        result["memory"] = [[list(pair) for pair in part] for part in step.memory]
    if step.stretch is not None:
        result["stretch"] = asdict(step.stretch)
    return result


def scheduler_class() -> Any:
    """The class in the folder, from the file that it is a copy of."""
    place = str(files("fewstep").joinpath("assets", f"{OWN}.py"))
    spec = importlib.util.spec_from_file_location(OWN, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FewStepScheduler


# Read again.


def _sampler_of(
    contents: Contents, folder: Path, settings: dict[str, Any]
) -> Callable[[Inputs], Tensor]:
    """How the pipeline samples, by its own network and scheduler, with noise of ours."""
    from diffusers import LCMScheduler, UNet2DModel

    unet_class: Any = UNet2DModel
    options = {"local_files_only": True, "low_cpu_mem_usage": False}  # True warns of accelerate
    unet = unet_class.from_pretrained(str(folder / "unet"), **options)
    is_stock = settings["_class_name"] == "LCMScheduler"
    kind: Any = LCMScheduler if is_stock else scheduler_class()
    scheduler = kind.from_config(settings)
    facts = contents.generator.facts

    def sample(inputs: Inputs) -> Tensor:
        x = inputs["noise"]
        if is_stock:
            x = latents_of(contents, x)
            scheduler.set_timesteps(timesteps=lcm_timesteps(contents))
        else:
            x = x * scheduler.init_noise_sigma
            scheduler.set_timesteps(len(contents.scheme.times))
        draws = iter(inputs.get("renoise", torch.empty(len(x), 0)).unbind(1))
        times = scheduler.timesteps
        for number, t in enumerate(times):
            point = scheduler.scale_model_input(x, t)
            out = unet(point, t, class_labels=inputs.get("label"), return_dict=False)[0]
            if is_stock:
                last = number == len(times) - 1
                x = scheduler.step(out, t, x, generator=torch.Generator()).denoised
                if not last:
                    power = scheduler.alphas_cumprod[times[number + 1]]
                    x = power.sqrt() * x + (1 - power).sqrt() * next(draws)
            else:
                x = scheduler.step(out, t, x, variance_noise=_next(scheduler, draws))[0]
        return facts.units.to_user(x)

    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return sample(inputs)

    return run


def latents_of(contents: Contents, z: Tensor) -> Tensor:
    """The latents of a stock pipeline for unit noise z: what our network gets of it first."""
    denoiser: Any = contents.generator.denoiser
    t = torch.tensor([contents.scheme.times[0]], dtype=torch.float64)
    scale = denoiser.scaling(denoiser.process, t).in_.to(z.dtype)
    return scale * (contents.scheme.start * z)


def _next(scheduler: Any, draws: Any) -> Tensor | None:
    """The next noise, where the step that ends with this answer takes some."""
    step = scheduler.steps[scheduler.step_number]
    is_end = scheduler.ask_number == len(step["asks"]) - 1
    return next(draws) if is_end and any(name == NOISE for name, _ in step["result"]) else None


def _write(path: Path, values: dict[str, Any]) -> None:
    disk.write(path, (json.dumps(values, indent=1) + "\n").encode())
