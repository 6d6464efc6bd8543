"""Folders of pipelines that are not what they should be: each is one line."""

from __future__ import annotations

import json
import shutil
import sys

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.base.errors import StorageError, UserError
from fewstep.pipelines.folder import open_folder


def test_weights_in_half_precision_alone(tiny, tmp_path):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny("sd"))
    pipeline.save_pretrained(tmp_path / "pipeline", variant="fp16")
    folder = open_folder(tmp_path / "pipeline")
    network = folder.load("unet", torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny("sd"), tmp_path / "copy")


WRONG = {
    "no pipeline": (lambda at: (at / "model_index.json").unlink(), "no model_index.json there"),
    "another class": (
        lambda at: change(at / "model_index.json", _class_name="KandinskyPipeline"),
        "of the class 'KandinskyPipeline': expected one of StableDiffusionPipeline,"
        " StableDiffusionXLPipeline, StableDiffusion3Pipeline, FluxPipeline",
    ),
    "a folder gone": (lambda at: shutil.rmtree(at / "unet"), "no part unet: expected"),
    "a part without class": (
        lambda at: change(at / "model_index.json", text_encoder=[None, None]),
        "no part text_encoder",
    ),
    "another network": (
        lambda at: change(at / "model_index.json", unet=["diffusers", "UNet2DModel"]),
        "unet is a UNet2DModel: expected a UNet2DConditionModel",
    ),
    "inpainting": (
        lambda at: change(at / "unet" / "config.json", in_channels=9),
        "from 9 channels to 4: expected 4 and 4",
    ),
    "guidance as input": (
        lambda at: change(at / "unet" / "config.json", time_cond_proj_dim=256),
        "time_cond_proj_dim = 256: expected none",
    ),
    "no number": (
        lambda at: change(at / "vae" / "config.json", scaling_factor="big"),
        "scaling_factor = 'big': expected a number",
    ),
    "no scheduler": (
        lambda at: change(at / "model_index.json", scheduler=[None, None]),
        "scheduler = None: expected one",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_folder_is_one_line(case, copy):
    spoil, words = WRONG[case]
    spoil(copy)
    with pytest.raises(UserError) as caught:
        open_folder(copy)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_configuration_is_one_line(copy):
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(StorageError, match=r"config\.json cannot be read"):
        open_folder(copy)


def spoil_weights(part, spoil):
    file = next(part.glob("*.safetensors"))
    tensors = load_file(file)
    spoil(tensors, next(name for name in tensors if name.endswith("norm1.weight")))
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["text_encoder", "unet"])
def test_damaged_weights_are_one_line(name, copy, capfd):
    """Those that are missing would be random ones, and a library says so beside."""
    folder = open_folder(copy)
    capfd.readouterr()
    spoil_weights(copy / name, lambda tensors, key: tensors.pop(key))
    with pytest.raises(StorageError, match=rf"{name}: 1 weights are missing, as .*norm1\.weight"):
        folder.load(name)
    spoil_weights(copy / name, lambda tensors, key: tensors.update({key: torch.zeros(3)}))
    with pytest.raises(StorageError, match=r"norm1\.weight") as caught:
        folder.load(name)
    assert "\n" not in str(caught.value)
    file = next((copy / name).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        StorageError, match=f"{name} cannot be read as a {folder.family.parts[name]}"
    ):
        folder.load(name)
    file.unlink()
    with pytest.raises(StorageError, match=f"{name} cannot be read"):
        folder.load(name)
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="part = 'unet_2': expected one of tokenizer, text_enc"):
        folder.load("unet_2")


def test_a_missing_extra_is_one_line(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs peft: pip install 'fewstep\[t2i\]' brings it"):
        open_folder(tiny("sd"))
