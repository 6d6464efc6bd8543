"""Pipelines out: stock diffusers gives the run's samples from the same latents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.export.contents import Contents, prepare
from fewstep.export.diffusers_folder import lcm_timesteps, scheduler_class
from fewstep.export.writing import export
from tests.export.generators import small
from tests.foreign.test_diffusers_folder import CM, DDPM, save

CASE = "diffusers_unet2d_default"
COMMON = {"iterations": 1, "batch": 8, "block": 8, "lr": 1e-4, "warmup": 0.0, "picture_every": 0}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> fs.Generator:
    """One update from a folder's weights, which predict noise on DDPM's table."""
    folder = save(tmp_path_factory.mktemp("pipeline"), CASE, DDPM)
    x = torch.rand(40, 3, 16, 16, generator=torch.manual_seed(0)) * 2 - 1
    run = replace(fs.recipes.toy(method="ect", **COMMON), init=str(folder))
    return fs.train(run, x, progress=False, device="cpu")


def pipeline_of(folder: Path) -> Any:
    from diffusers import ConsistencyModelPipeline

    pipeline = ConsistencyModelPipeline.from_pretrained(str(folder), low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(contents: Contents, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What our network sees first, which is where a stock pipeline starts."""
    from fewstep.export.diffusers_folder import latents_of

    return latents_of(contents, inputs["noise"])


def pictures(contents: Contents, n: int) -> np.ndarray:
    """The run's samples as the pipeline has pictures: in [0, 1], channels last."""
    samples = contents.samples(n).float()
    return (samples.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).numpy()


def largest(contents: Contents) -> float:
    """What errors of float32 are relative to: random weights make large samples."""
    return max(1.0, float(contents.samples(16).abs().max()))


@pytest.mark.parametrize("steps", [1, 2])
def test_stock_diffusers_samples_like_the_run(student, steps, tmp_path, monkeypatch):
    contents = prepare(student, steps=steps)
    timesteps = lcm_timesteps(contents)
    assert timesteps is not None
    report = export(contents, tmp_path / "out", "diffusers")
    assert report.difference < 1e-5 * largest(contents)
    settings = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert settings["_class_name"] == "LCMScheduler"
    assert not list((tmp_path / "out").rglob("*.py"))
    pipeline, inputs = pipeline_of(tmp_path / "out"), contents.inputs(4)
    draws = iter(inputs.get("renoise", torch.empty(4, 0)).unbind(1))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(draws)
    )
    how = {"num_inference_steps": 1} if steps == 1 else {"timesteps": timesteps}
    images = pipeline(
        batch_size=4, latents=latents(contents, inputs), output_type="np", **how
    ).images
    assert np.abs(images - pictures(contents, 4)).max() < 1e-5


def test_other_steps_have_a_scheduler_of_their_own(student, tmp_path):
    """Levels between the table's steps; the folder says so in its card."""
    contents = prepare(student.with_later_sigmas((2.0, 0.9, 0.3)), steps=4)
    assert lcm_timesteps(contents) is None
    report = export(contents, tmp_path / "out", "diffusers")
    assert report.difference < 1e-5 * largest(contents)
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["scheduler"] == ["few_step_scheduler", "FewStepScheduler"]
    assert (tmp_path / "out/scheduler/few_step_scheduler.py").is_file()
    assert "trust_remote_code=True" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("heun", 5), ("ddim", 3), ("ancestral", 3), ("addim", 4), ("dpmpp_2m", 5), ("unipc_3", 6)],
)
def test_samplers_of_diffusion_models_are_numbers_too(sampler, steps, tmp_path):
    teacher = fs.load(save(tmp_path / "pipeline", CASE, DDPM), device="cpu")
    contents = prepare(teacher, steps=steps, sampler=sampler)
    report = export(contents, tmp_path / "out", "diffusers")
    # Errors of float32, as often as the level and the steps multiply them.
    assert report.difference < 2e-6 * contents.amplification


def test_a_consistency_model_goes_back_as_it_came(tmp_path):
    contents = prepare(fs.load(save(tmp_path / "cm", "diffusers_unet2d_cm", CM), device="cpu"))
    assert export(contents, tmp_path / "out", "diffusers").difference < 1e-5 * largest(contents)
    assert "class_labels" in (tmp_path / "out/README.md").read_text()


def test_a_scheduler_of_numbers_makes_its_steps():
    """x -> skip x + out F of two evaluations, with noise between."""
    ask = {"in": 0.5, "skip": 2.0, "out": 3.0, "label": 7.0, "point": [["x", 1.0]]}
    step = {"asks": [ask], "result": [["answer 0", 1.0], ["noise", 10.0]]}
    scheduler = scheduler_class()(plans={"2": [step, {**step, "result": [["answer 0", 1.0]]}]})
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [7.0, 7.0]
    x, z = torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2])
    for noise in (z, None):
        out = scheduler.scale_model_input(x, 7.0)
        (x,) = scheduler.step(out, 7.0, x, variance_noise=noise)
    one = 3.5 * torch.tensor([1.0, 2.0]) + 10 * z
    torch.testing.assert_close(x, 3.5 * one)
    with pytest.raises(ValueError, match="expected one of 2"):
        scheduler.set_timesteps(3)


def test_a_network_that_diffusers_has_not_is_named(tmp_path):
    contents = prepare(small("mlp"))
    with pytest.raises(UserError, match=r"class for the network 'mlp': .*--to onnx"):
        export(contents, tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()


WITHOUT = """
import sys
sys.modules["fewstep"] = None
import numpy as np, torch
from diffusers import ConsistencyModelPipeline
options = {"low_cpu_mem_usage": False}
stock = ConsistencyModelPipeline.from_pretrained("stock", **options)
images = stock(batch_size=4, latents=torch.load("latents.pt"), output_type="np").images
assert np.abs(images - np.load("images.npy")).max() < 1e-5
own = ConsistencyModelPipeline.from_pretrained("own", trust_remote_code=True, **options)
images = own(batch_size=2, num_inference_steps=4, output_type="np").images
assert images.shape == (2, 16, 16, 3)
print("same samples")
"""


@pytest.mark.long
def test_both_are_loaded_where_this_package_is_not(student, tmp_path):
    contents = prepare(student, steps=1)
    export(contents, tmp_path / "stock", "diffusers")
    torch.save(latents(contents, contents.inputs(4)), tmp_path / "latents.pt")
    np.save(tmp_path / "images.npy", pictures(contents, 4))
    other = prepare(student.with_later_sigmas((2.0, 0.9, 0.3)), steps=4)
    export(other, tmp_path / "own", "diffusers")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "same samples" in result.stdout, result.stderr
