"""Settings for pipelines by name: each is a function `(process, method) -> Recipe`. Needs no torch.

process: whose steps the pipeline's network has: discrete (Stable Diffusion's table) or linear (of
flow matching).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewstep.base.options import Options
from fewstep.run.config import Run

Process = Literal["discrete", "linear"]


@dataclass(frozen=True)
class Recipe:
    """A run, and the defaults of the task beside it."""

    run: Run
    task: Mapping[str, Any]


# What all have: the networks come from a folder, nothing is drawn while they learn, blocks of one
# sample, so that a batch may be cut in any parts.
_FIELDS: dict[str, Any] = {
    "network": "own",
    "data": "own",
    "block": 1,
    "picture_every": 0,
    "checkpoint_every": 250,
    "warmup": 0.0,
    "constant": 1.0,
    "optimizer": "adamw",
    "betas": (0.9, 0.999),
    "weight_decay": 1e-2,
    "clip": 1.0,
}


FLOW_MAPS = ("alphaflow", "ayf", "emd", "esd", "imf", "lmd", "lsd", "psd", "shortcut", "soflow")


def _options(method: str, process: Process) -> Options:
    """A method's options by which it learns from a teacher, on the network's own steps."""
    ratio: Options = {"method": "ect", "pairs": "ddim", "stages": 4}
    options: dict[str, Options] = {
        "direct_cm": {"n": 50, "process": process},
        "cd": {"solver": "ddim"},
        "mcm": {"pairs": "addim", "process": process, "steps": 250, "steps_end": 250},
        "ect": {name: value for name, value in ratio.items() if name != "method"},
        "ict": {"pairs": "ddim"},
        "tcm": {"base": ratio},
        "meanflow": {"velocity": "teacher", "process": process},
    }
    if method in FLOW_MAPS:
        return {"process": process}
    return options.get(method, {})


def lora(process: Process = "discrete", method: str = "direct_cm") -> Recipe:
    """Changes of rank 64 by any method, an evening on one card; settings as of LCM-LoRA."""
    run = Run(
        recipe="lora",
        method=method,
        method_options=_options(method, process),
        batch=16,
        iterations=1000,
        lr=1e-4,
        ema=0.95,
        precision="bf16",
        **_FIELDS,
    )
    return Recipe(run, {"guidance": 7.0})


def _sdxl(recipe: str, goal: str, process: Process) -> Recipe:
    # arXiv 2411.08954, its scripts: both have the same flags. They train 250 updates of 16 pictures
    # of the 10,274 of LAION-Aesthetics 6.5+ that BK-SDM chose.
    run = Run(
        recipe=recipe,
        method="direct_cm",
        method_options={
            "n": 100,
            "solver": "ddim",
            "goal": goal,
            "c": 0.0,  # "l2"
            "process": process,
        },
        batch=16,
        iterations=250,
        lr=1e-4,
        ema=0.0,  # none: what is sampled from are the weights themselves
        precision="fp16",
        seed=24,
        **_FIELDS,
    )
    # w = 9 of the form of imagen: D_u + w (D_c - D_u).
    return Recipe(
        run, {"rank": 64, "alpha": 64.0, "weights": "fp16", "size": 1024, "guidance": 8.0}
    )


def sdxl_direct_cm(process: Process = "discrete", method: str = "direct_cm") -> Recipe:
    """Direct CM of SDXL: regression on the teacher's whole solution of 100 steps, w = 9."""
    return _sdxl("sdxl-direct-cm", "solution", process)


def sdxl_cm(process: Process = "discrete", method: str = "direct_cm") -> Recipe:
    """Its baseline: one step of the teacher, then the student, at equal updates."""
    return _sdxl("sdxl-cm", "student", process)


def lcm_lora(process: Process = "discrete", method: str = "direct_cm") -> Recipe:
    """LCM-LoRA, the known baseline: one of 50 steps of the teacher, then the student."""
    # arXiv 2311.05556 and diffusers' script: Huber 1e-3, skips of 20 timesteps, no average. There w
    # is drawn from [5, 15]; a student without an input for it can learn one only.
    run = Run(
        recipe="lcm-lora",
        method="direct_cm",
        method_options={"n": 50, "goal": "student", "c": 1e-3, "process": process},
        batch=12,
        iterations=1000,
        lr=1e-4,
        ema=0.0,
        precision="fp16",
        **_FIELDS,
    )
    return Recipe(run, {"rank": 64, "guidance": 7.0, "weights": "fp16"})


def t2i_mcm(process: Process = "discrete", method: str = "mcm") -> Recipe:
    """MCM of a text-to-image model: 4 segments of 256 teacher steps, aDDIM, guidance 3."""
    # arXiv 2403.06807, appendix A. There the model is of 512x512 pixels on a shifted cosine; 8 and
    # 16 segments too, and guidance 0.5. 256 steps are not whole ones of a table of 1000.
    steps = 250 if process == "discrete" else 256
    run = Run(
        recipe="t2i-mcm",
        method="mcm",
        method_options={
            "K": 4,
            "steps": steps,
            "steps_end": steps,
            "pairs": "addim",
            "eta": 0.75,
            "distance": "huber",
            "c": 1.0,  # "scaled squared l2": with it SNR + 1 on x0 is weight one on v
            "space": "v",
            "pools": 1,
            "process": process,
        },
        batch=2048,
        iterations=30_000,
        lr=1e-4,  # not stated
        ema=0.9999,  # not stated
        precision="bf16",
        **_FIELDS,
    )
    return Recipe(run, {"rank": 0, "guidance": 3.0})


def sd15_tcm(process: Process = "discrete", method: str = "tcm") -> Recipe:
    """TCM of Stable Diffusion 1.5 by distillation: 80k and 200k updates, guidance 6."""
    # arXiv 2410.14895, appendix: batch 512, CFG 6. What else it took is not stated.
    run = Run(
        recipe="sd15-tcm",
        method="tcm",
        method_options={"base": {"method": "ect", "pairs": "ddim"}},
        batch=512,
        iterations=280_000,
        split=80 / 280,
        lr=1e-5,  # not stated
        ema=0.9999,
        precision="bf16",
        **_FIELDS,
    )
    return Recipe(run, {"rank": 0, "guidance": 5.0, "size": 512})


RECIPES: dict[str, Callable[..., Recipe]] = {
    "lora": lora,
    "sdxl-direct-cm": sdxl_direct_cm,
    "sdxl-cm": sdxl_cm,
    "lcm-lora": lcm_lora,
    "t2i-mcm": t2i_mcm,
    "sd15-tcm": sd15_tcm,
}
