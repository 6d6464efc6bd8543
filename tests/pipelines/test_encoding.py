"""Embeddings of prompts and of no prompt are the pipelines' own."""

from __future__ import annotations

import json
import shutil

import diffusers
import pytest
import torch

from fewstep.base.errors import UserError
from fewstep.pipelines.folder import open_folder
from tests.pipelines.cases import NAMES, PROMPTS


@torch.no_grad()
def own_rows(pipeline, family, prompts):
    """The pipeline's embeddings of the prompts, and of no prompt."""
    if family == "sd":
        tokens, free = pipeline.encode_prompt(prompts, "cpu", 1, True)
        return {"tokens": tokens}, {"tokens": free}
    if family == "flux":
        encoded = (pipeline.encode_prompt(some) for some in (prompts, [""]))
        rows, null = ({"tokens": tokens, "pooled": pooled} for tokens, pooled, _ in encoded)
        return rows, null
    others = [None] * (family == "sd3")
    tokens, free, pooled, pooled_free = pipeline.encode_prompt(prompts, None, *others)
    return {"tokens": tokens, "pooled": pooled}, {"tokens": free, "pooled": pooled_free}


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_the_pipelines_own(name, opened):
    """Bit for bit, in batches of the same sizes."""
    folder, denoiser, pipeline = opened(name)
    rows, _ = own_rows(pipeline, folder.family.name, PROMPTS)
    _, null = own_rows(pipeline, folder.family.name, ["a"])
    ours = denoiser.network.rows
    assert ours.keys() == rows.keys() == null.keys()
    for key, value in ours.items():
        assert torch.equal(value, torch.cat([rows[key], null[key]]))
        assert float((value[0] - value[1]).abs().max()) > 1e-3
    assert all(not row[-1].any() for row in ours.values()) == (name == "sdxl")


def test_no_prompt_of_sdxl_can_be_the_empty_one(tiny, tmp_path):
    path = shutil.copytree(tiny("sdxl"), tmp_path / "copy")
    index = json.loads((path / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = False
    (path / "model_index.json").write_text(json.dumps(index))
    folder = open_folder(path)
    with folder.encoders() as encoders:
        null = folder.family.null(encoders, folder)
        empty = folder.family.encode(encoders, [""])
    assert all(torch.equal(null[key], empty[key]) and null[key].any() for key in null)


def test_a_shorter_prompt_of_t5(opened):
    folder, _, pipeline = opened("flux")
    with folder.encoders() as encoders:
        rows = folder.family.encode(encoders, PROMPTS, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            rows["tokens"], pipeline.encode_prompt(PROMPTS, max_sequence_length=16)[0]
        )
    folder, _, _ = opened("sd")
    with folder.encoders() as encoders, pytest.raises(UserError, match="length = 16: expected"):
        folder.family.encode(encoders, PROMPTS, 16)


def test_sd3_goes_without_t5(tiny, tmp_path):
    path = tmp_path / "pipeline"
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
        tiny("sd3"), text_encoder_3=None, tokenizer_3=None
    )
    pipeline.save_pretrained(path)
    folder = open_folder(path)
    with folder.encoders() as encoders:
        rows = folder.family.encode(encoders, PROMPTS)
        null = folder.family.null(encoders, folder)
    own = own_rows(pipeline, "sd3", PROMPTS)
    for key in rows:
        torch.testing.assert_close(rows[key], own[0][key])
        torch.testing.assert_close(null[key], own[1][key][:1])
    assert not rows["tokens"][:, -256:].any()
    with pytest.raises(UserError, match="part = 'text_encoder_3': expected one that"):
        folder.load("text_encoder_3")


def test_a_prompt_that_is_cut_is_told(opened, libraries_log):
    folder = opened("sd")[0]
    with folder.encoders() as encoders:
        folder.family.encode(encoders, ["cat " * 30])
    assert "was truncated" in libraries_log.text
