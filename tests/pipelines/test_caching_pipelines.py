"""What is made once by diffusers' classes is what they give themselves, and is learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep as fs
from fewstep.pipelines.caching import encode_pictures, encode_prompts
from fewstep.pipelines.folder import open_folder
from tests.support.toys import tiny_run

TEXTS = ["a cat", "9 cats", "a, b."]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_those_of_the_encoders(tiny, tmp_path, name, dtype):
    folder = open_folder(tiny(name))
    length = 16 if name in ("sd3", "flux") else None
    table = encode_prompts(folder, TEXTS, cache=tmp_path, length=length, dtype=dtype)
    with folder.encoders(dtype) as encoders:
        whole = folder.family.encode(encoders, TEXTS, length)
        null = folder.family.null(encoders, folder, length)
    rows = table.rows(torch.tensor([0, 1, 2, -1]))
    assert rows.keys() == whole.keys() == null.keys()
    for part, values in rows.items():
        assert values.dtype == dtype
        assert torch.equal(values, torch.cat([whole[part], null[part]]))


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_moments_are_those_of_the_vae(tiny, tmp_path, name):
    folder, vae = open_folder(tiny(name)), open_folder(tiny(name)).load("vae")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "x").mkdir()
    for number, (picture, text) in enumerate(zip(pixels, TEXTS, strict=True)):
        Image.fromarray(picture).save(tmp_path / "x" / f"{number}.png")
        (tmp_path / "x" / f"{number}.txt").write_text(text)
    length = None if name == "sdxl" else 16
    cached = encode_pictures(folder, tmp_path / "x", size=16, length=length)
    content = cached.data()
    law = vae.encode(torch.from_numpy(pixels).movedim(3, 1) / 127.5 - 1).latent_dist
    means, logs = torch.from_numpy(content["x0"].copy()).chunk(2, 1)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    assert torch.allclose(means, (law.mean - shift) * scale, atol=1e-6)
    assert torch.allclose((0.5 * logs).exp(), law.std * scale, rtol=1e-5)
    assert ("micro" in content["cond"]) == (name == "sdxl")


class Network(torch.nn.Module):
    """Asked as a network of a pipeline: rows of a table by label."""

    def __init__(self, prompts):
        super().__init__()
        self.prompts = prompts
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, cond):
        shift = self.prompts.rows(cond["label"])["tokens"].mean((1, 2))
        assert cond["micro"].shape == (len(x), 6)
        assert cond["size"].shape == (len(x), 2)
        assert not x[~cond["mask"].expand_as(x)].any()
        return x * self.weight + shift.reshape(-1, 1, 1) * self.weight


def test_a_run_learns_from_buckets(tiny, tmp_path):
    folder = open_folder(tiny("sdxl"))
    (tmp_path / "x").mkdir()
    for number, side in enumerate((16, 24, 48, 16)):
        pixels = np.random.default_rng(number).integers(0, 256, (16, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x" / f"{number}.png")
        (tmp_path / "x" / f"{number}.txt").write_text(f"{number % 3} cats")
    cached = encode_pictures(folder, tmp_path / "x", buckets=[(16, 16), (8, 24)])
    run = tiny_run(
        iterations=2, batch=4, units="as-is", latents=cached.latents, holdout=0.0, label_drop=0.5
    )
    steps = []
    fs.train(
        run,
        cached.data(),
        network=Network(cached.prompts),
        progress=False,
        device="cpu",
        watch=lambda state: steps.append(next(state.student.parameters()).item()),
    )
    assert len(steps) == 2
    assert len({0.0, *steps}) > 1
