"""What a distilled pipeline is shipped as: changes of its weights, and a scheduler of its steps.

| in the folder | |
|---|---|
| `pytorch_lora_weights.safetensors` | the changes, as diffusers' `load_lora_weights` takes them |
| `unet` or `transformer` | instead, where all weights were trained: the network |
| `end_embedding.safetensors` | of a flow map: what tells its network where a step leads |
| `end_embedding.py` | adds it to a pipeline, for which diffusers has no format |
| `scheduler` | of diffusers, which makes the student's steps |
| `README.md` | how it is used |
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from fewstep.base import disk
from fewstep.base.errors import StorageError, require, storage
from fewstep.base.json_file import document
from fewstep.core import noise, sampling, solvers
from fewstep.core.method import Method
from fewstep.export.diffusers_folder import betas_of
from fewstep.networks.roles import LowRank, Pair
from fewstep.pipelines import end_embedding
from fewstep.pipelines.folder import Folder

LORA = "pytorch_lora_weights.safetensors"
END = "end_embedding.safetensors"
INSIDE = "network."  # what the names of layers begin with in a `PipelineNetwork`
CONFIG = "scheduler_config.json"
SCHEDULERS = (
    "LCMScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
CODE = "end_embedding"  # the module that adds it
ABOUT_END = f"""Any number of steps is fine. The network is told where each of them leads, for which
diffusers has no format: `{CODE}.py` adds that to its embedding of the time, and needs torch and
safetensors alone. Without it the weights make nothing sensible."""
SAFE = 1e9  # times of a boundary condition that the student has by itself: it changes nothing


def write(
    out: Path, folder: Folder, network: Any, method: Method, steps: int, dtype: torch.dtype
) -> None:
    """Writes all of it. network: the trained one. steps: in the example. dtype: of the changes.

    Raises StorageError.
    """
    with storage(f"cannot write to {out}"):
        disk.make_folder(out)
        if isinstance(network, LowRank):
            content = to_bytes(lora_of(network, folder.family.network, dtype), {"format": "pt"})
            disk.replace(out / LORA, content)
        else:
            network.network.save_pretrained(str(out / folder.family.network))
        if method.ends:
            disk.replace(out / END, to_bytes(end_of(network)))
            disk.replace(out / f"{CODE}.py", Path(end_embedding.__file__).read_bytes())
        disk.make_folder(out / "scheduler")
        settings = json.dumps(scheduler_of(folder, method), indent=1).encode()
        disk.replace(out / "scheduler" / CONFIG, settings)
        disk.replace(out / "README.md", readme(out, folder, network, method, steps).encode())


def lora_of(role: LowRank, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The role's changes by the names that diffusers has for them, with the scale in B.

    part: unet or transformer.
    """
    tensors: dict[str, Tensor] = {}
    for name, pair in role.pairs.named_modules():
        if isinstance(pair, Pair):
            layer = f"{part}.{name.removeprefix(INSIDE)}"
            pairs = {"A": pair.a.detach(), "B": pair.scale * pair.b.detach()}
            for letter, own in pairs.items():
                tensors[f"{layer}.lora_{letter}.weight"] = own.to("cpu", dtype).contiguous()
    return tensors


def end_of(network: Any) -> dict[str, Tensor]:
    """The weights of a student's embedding of where it leads, as `end_embedding` takes them."""
    own: Any = network.own["end"] if isinstance(network, LowRank) else network.end
    parts = {"inner": own.body[0], "outer": own.body[2]}
    tensors = {"frequencies": own.waves.frequencies}
    for name, layer in parts.items():
        tensors |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    return {name: tensor.detach().to("cpu", torch.float32) for name, tensor in tensors.items()}


def check(method: Method) -> None:
    """Raises UserError for a method whose students step as no scheduler of diffusers does."""
    by = sampling.sampler(method.sampler)
    fine = by.step in (solvers.renoise, solvers.jump) or (by.step is solvers.ddim and by.only)
    need = "one whose students jump, such as direct_cm, cd, mcm, tcm, scd or meanflow"
    name = getattr(by.step, "__name__", type(by.step).__name__)
    require(fine, "method", f"with the sampler {name}", need)
    need = "one that is told its end alone; guidance is the teacher's, --guidance"
    require(method.ends <= 1, "method", "with guidance that its student is told", need)


def renoises(method: Method) -> bool:
    """Whether its students jump to the data and take fresh noise between steps; else by DDIM."""
    return sampling.sampler(method.sampler).step is solvers.renoise


def is_map(method: Method) -> bool:
    """Whether its students are told where they jump, and do so along any times."""
    return sampling.sampler(method.sampler).step is solvers.jump


def scheduler_of(folder: Folder, method: Method) -> dict[str, Any]:
    """The configuration of a scheduler of diffusers that makes the steps of a student.

    Of a table LCMScheduler, DDIMScheduler for segments, or EulerDiscreteScheduler for flow maps; of
    flow matching FlowMatchEulerDiscreteScheduler, which re-noises where it says
    `stochastic_sampling`. n steps start at the times top (n - i) / n of the table, of 1 with flow
    matching; those of flow maps at the times of their own sampler.
    Raises UserError as `check`.
    """
    check(method)
    own = folder.convention
    if not isinstance(own.process.schedule, noise.Table):
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 1.0,
            "use_dynamic_shifting": False,
            "stochastic_sampling": renoises(method),
        }
    top = top_step(folder, method)
    predictions = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
    settings = {
        "num_train_timesteps": top,
        "trained_betas": betas_of(own)[:top],
        "prediction_type": predictions[own.prediction],
    }
    if is_map(method):
        return {"_class_name": "EulerDiscreteScheduler", **settings, "timestep_spacing": "trailing"}
    settings["clip_sample"] = False
    if renoises(method):
        return {
            "_class_name": "LCMScheduler",
            **settings,
            "original_inference_steps": top,
            "timestep_scaling": SAFE,
        }
    return {
        "_class_name": "DDIMScheduler",
        **settings,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
    }


def top_step(folder: Folder, method: Method) -> int:
    """The step of the folder's table where the method's students begin."""
    level = method.process.level(method.process.t_max)
    own = folder.convention.process
    return round(float(own.time_at(level).clamp(max=own.t_max)))


def times_of(folder: Folder, method: Method, steps: int) -> list[float]:
    """The times, on the folder's own process, at which its student is asked in so many steps."""
    own = folder.convention.process
    top = own.t_max
    is_table = isinstance(own.schedule, noise.Table)
    if is_map(method):
        grid = sampling.sampler(method.sampler).times(method.process, steps)[:-1]
        if own == method.process:
            return grid
        levels = method.process.level(torch.tensor(grid, dtype=torch.float64))
        times = own.time_at(levels).clamp(max=own.t_max)
        return (times.round() if is_table else times).tolist()
    if is_table:
        top = top_step(folder, method)
        return [float(top - step * top // steps) for step in range(steps)]
    return [top * (steps - step) / steps for step in range(steps)]


def levels_of(folder: Folder, method: Method, steps: int) -> tuple[float, ...]:
    """The noise levels of the later steps: `later_sigmas` of our own sampler."""
    times = torch.tensor(times_of(folder, method, steps)[1:], dtype=torch.float64)
    return tuple(folder.convention.process.level(times).tolist())


def call_options(folder: Folder, method: Method, steps: int) -> dict[str, Any]:
    """What stock pipelines are called with, so that they make the student's steps."""
    is_table = isinstance(folder.convention.process.schedule, noise.Table)
    options: dict[str, Any] = {"num_inference_steps": steps}
    if not is_table:  # a pipeline of SD3 would end at a step that makes nothing
        options = {"sigmas": times_of(folder, method, steps)}
    elif is_map(method):
        options = {"timesteps": [int(t) - 1 for t in times_of(folder, method, steps)]}
    guidance = folder.embedded_guidance
    return {**options, "guidance_scale": 1.0 if guidance is None else guidance}


def scheduler_kind(out: Path) -> str:
    """The class of the scheduler that was written there. Raises StorageError."""
    path = out / "scheduler" / CONFIG
    with storage(f"{path} cannot be read"):
        settings = document(path.read_bytes(), path)
    kind = settings.get("_class_name") if isinstance(settings, dict) else None
    if kind not in SCHEDULERS:
        raise StorageError(f"{path}: _class_name = {kind!r}: expected {', '.join(SCHEDULERS)}")
    return str(kind)


def readme(out: Path, folder: Folder, network: Any, method: Method, steps: int) -> str:
    """How stock diffusers samples with it."""
    pipeline, part = folder.family.pipeline[0], folder.family.network
    kind = scheduler_of(folder, method)["_class_name"]
    if isinstance(network, LowRank):
        load = f'pipe.load_lora_weights("{out.name}")'
    else:
        load = f'pipe.{part} = type(pipe.{part}).from_pretrained("{out.name}", subfolder="{part}")'
    imports = f"from diffusers import {kind}, {pipeline}"
    about = "Guidance is in the weights: `guidance_scale` stays as it is here."
    if method.ends:
        imports = f'import sys\n\n{imports}\n\nsys.path.append("{out.name}")\nimport {CODE}'
        load += f'\n{CODE}.add(pipe, "{out.name}/{END}")'
        about += "\n\n" + ABOUT_END
    variant = ', variant="fp16"' if folder.has_half_alone else ""
    options = call_options(folder, method, steps)
    call = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"""# A few-step version of {folder.path.name}

```python
{imports}

pipe = {pipeline}.from_pretrained("{folder.path.name}"{variant})
{load}
pipe.scheduler = {kind}.from_pretrained("{out.name}", subfolder="scheduler")
picture = pipe("a prompt", {call}).images[0]
```

{about}
"""
