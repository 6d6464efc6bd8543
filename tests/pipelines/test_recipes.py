"""The recipes of SDXL by the numbers of the published script, on the meta device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fewstep.core.method import Method
from fewstep.networks.outline import WithoutMemory
from fewstep.pipelines import recipes
from fewstep.pipelines.distill import method_of
from fewstep.pipelines.families import FAMILIES, UNET_LAYERS
from fewstep.pipelines.folder import open_folder
from fewstep.pipelines.passes import student_of
from fewstep.pipelines.room import evaluations_of, stand_in
from fewstep.training.optimizers import lr_factor
from tests.support.published import SDXL

# Direct CM's script: the layers that it names, its schedule.
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)
BOTH = ("sdxl-direct-cm", "sdxl-cm")


def test_as_many_weights_learn_as_in_pefts():
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model

    recipe = recipes.RECIPES["sdxl-direct-cm"]()
    assert (recipe.task["rank"], recipe.task["alpha"]) == (64, 64)
    assert UNET_LAYERS == LAYERS
    ours = student_of(FAMILIES["sdxl"], SDXL, rank=64)
    assert {p.device.type for p in ours.parameters()} == {"meta"}
    with torch.device("meta"), WithoutMemory():
        theirs = UNet2DConditionModel.from_config(dict(SDXL))
        config = LoraConfig(r=64, lora_alpha=64, target_modules=list(LAYERS))
        inject_adapter_in_model(config, theirs)
    weights = {n: p.numel() for n, p in theirs.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in weights)
    assert sum(p.numel() for p in ours.parameters()) == sum(weights.values()) == 196_751_360
    assert len(list(ours.parameters())) == len(weights)
    assert {type(p) for p in ours.base.parameters() if p.requires_grad} == set()


@pytest.mark.parametrize("name", BOTH)
def test_the_schedule_is_the_scripts(name):
    method: Method = method_of(recipes.RECIPES[name]().run, None)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    kept = (1 - betas).cumprod(0)
    timesteps = torch.arange(1000, 0, -10)
    t = torch.tensor(method.times.times.grid if name == BOTH[0] else method.times.grid)
    assert len(t) == 101
    assert t[-1] == 0
    alpha, sigma = method.process.alpha(t), method.process.sigma(t)
    torch.testing.assert_close(alpha[:-1], kept[timesteps - 1].sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(sigma[:-1], (1 - kept[timesteps - 1]).sqrt(), rtol=1e-6, atol=0)
    assert (alpha[-1], sigma[-1]) == (1, 0)


@pytest.mark.parametrize(("name", "expected"), [("sdxl-direct-cm", 101.0), ("sdxl-cm", 2.0)])
def test_teacher_evaluations_of_an_update(name, expected, tiny):
    """Uniform among 100 starts: (100 + 1) / 2 intervals of a row, each of two evaluations."""
    folder = open_folder(tiny("sdxl"))
    run = recipes.RECIPES[name]().run
    counts = [
        evaluations_of(stand_in(replace(run, seed=seed), folder), guided=True).teacher
        for seed in range(4)
    ]
    # 1024 rows, whose mean has a standard error of 2 * 28.9 / 32.
    assert sum(counts) / 4 == pytest.approx(expected, abs=0 if name == "sdxl-cm" else 6)


@pytest.mark.parametrize("name", BOTH)
def test_other_numbers_are_the_scripts(name):
    recipe = recipes.RECIPES[name]()
    run = recipe.run
    assert (run.batch, run.iterations, run.seed, run.clip) == (16, 250, 24, 1.0)
    assert (run.lr, run.betas, run.weight_decay, run.precision) == (
        1e-4,
        (0.9, 0.999),
        1e-2,
        "fp16",
    )
    factors = {lr_factor(k / 250, run.warmup, run.constant, run.final) for k in range(251)}
    assert factors == {1.0}
    assert 1 + recipe.task["guidance"] == 9
    assert recipe.task["size"] == 1024
    assert run.method_options["n"] == 100
    assert run.method_options["c"] == 0
    assert run.ema == 0
