"""Folders of pipelines, and their networks and prompts, against diffusers' own calls of them."""

from __future__ import annotations

import json
import shutil
from functools import cache

import diffusers
import pytest
import torch
from torch import nn

from fewstep.base.conditions import NO_LABEL
from fewstep.base.errors import UserError
from fewstep.core.denoiser import Guided, Preconditioned
from fewstep.pipelines.families import FAMILIES, family_of
from fewstep.pipelines.folder import open_folder

NAMES = ("sd", "sd-v", "sdxl", "sd3", "flux", "flux-dev")
PROMPTS = ["a cat, 9", "cat"]
GUIDANCE = 4.0
SIDE = 16  # pixels


class Asking(nn.Module):
    """A family's network, asked by numbers of prompts."""

    def __init__(self, folder, network, rows, null, micro=None):
        super().__init__()
        self.folder, self.network = folder, network
        self.rows = {name: torch.cat([rows[name], null[name]]) for name in rows}
        self.micro = micro

    def forward(self, x, label, cond=None):
        number = torch.full((len(x),), NO_LABEL) if cond is None else cond["label"]
        rows = {name: row[number] for name, row in self.rows.items()}  # -1 is the last
        micro = self.micro
        micro = None if micro is None else micro.expand(len(x), -1)
        return self.folder.family.ask(self.network, x, label, rows, micro)


@pytest.fixture(scope="module")
def opened(tiny):
    """By name: the folder, its denoiser and diffusers' own pipeline."""

    @cache
    def of(name):
        folder = open_folder(tiny(name))
        pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny(name), local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        with folder.encoders() as encoders:
            rows = folder.family.encode(encoders, PROMPTS)
            null = folder.family.null(encoders, folder)
        assert encoders == {}  # gone
        micro = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]) if name == "sdxl" else None
        network = Asking(folder, folder.load(folder.family.network), rows, null, micro)
        process = folder.convention.process
        return folder, Preconditioned(network, folder.convention, process), pipeline

    return of


def latents(folder, rows=2, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(rows, folder.channels, 8, 8, generator=source)


def pack(x):
    """FLUX's patches of latents, as its pipeline makes them."""
    return diffusers.FluxPipeline._pack_latents(x, *x.shape)


def unpack(tokens):
    return diffusers.FluxPipeline._unpack_latents(tokens, 16, 16, 2)


def calls_of(folder, pipeline, **options):
    """What a pipeline's own run of two steps asks its network, and what that answers.

    [(x [2 B or B, ...], timestep, output)], of its scheduler's steps (output, timestep, x, result).
    """
    network = getattr(pipeline, folder.family.network)
    asked, steps = [], []

    def note(module, inputs, keywords, output):
        x = inputs[0] if inputs else keywords["hidden_states"]
        t = inputs[1] if len(inputs) > 1 else keywords["timestep"]
        asked.append((x, torch.as_tensor(t).double(), output[0]))

    step = pipeline.scheduler.step

    def note_step(output, t, x, *rest, **keywords):
        keywords.pop("return_dict", None)
        result = step(output, t, x, *rest, **keywords, return_dict=True)
        steps.append((output, t, x, result))
        return (result.prev_sample,)

    hook = network.register_forward_hook(note, with_kwargs=True)
    pipeline.scheduler.step = note_step
    x = latents(folder)
    try:
        pipeline(
            PROMPTS,
            num_inference_steps=2,
            height=SIDE,
            width=SIDE,
            latents=pack(x) if folder.family.name == "flux" else x,
            output_type="latent",
            **options,
        )
    finally:
        hook.remove()
        pipeline.scheduler.step = step
    return asked, steps


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_asked_as_its_pipeline_asks_it(name, opened):
    """Its outputs, conditional, without a prompt and guided, and the guesses that these mean."""
    folder, denoiser, pipeline = opened(name)
    is_flux = folder.family.name == "flux"
    options = {"guidance_scale": GUIDANCE}
    if is_flux:
        options = {"true_cfg_scale": GUIDANCE, "negative_prompt": ["", ""], "guidance_scale": 3.5}
    asked, steps = calls_of(folder, pipeline, **options)
    if is_flux:  # asks with and without a prompt apart
        pairs = zip(asked[::2], asked[1::2], strict=True)
        asked = [
            (unpack(x), 1000 * t[0], unpack(torch.cat([free, output])))
            for (x, t, output), (_, _, free) in pairs
        ]
    assert len(asked) == len(steps) == 2
    label = torch.arange(2)
    for (x, timestep, output), (guided_output, *_) in zip(asked, steps, strict=True):
        x = x[-2:]  # the same twice, but for flux
        free, plain = output.chunk(2)
        is_table = folder.convention.label == "t - 1"
        t = timestep.reshape(-1)[:1] + 1 if is_table else timestep.reshape(-1)[:1] / 1000
        t = t.expand(2)
        c = denoiser.scaling(denoiser.process, t)
        torch.testing.assert_close(c.in_, torch.ones(2).double())
        with torch.no_grad():
            close(denoiser.output(c, x, {"label": label}), plain)
            close(denoiser.output(c, x, None), free)
            guess = Guided(denoiser, GUIDANCE - 1)(x, t, {"label": label})
        guided_output = unpack(guided_output) if is_flux else guided_output
        skip, out = (part.float()[:, None, None, None] for part in (c.skip, c.out))
        torch.testing.assert_close(guess, skip * x + out * guided_output, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_jump_is_what_the_scheduler_estimates(name, opened):
    """x0 of the network's output: of eps and v as the scheduler says it, of a flow x - t u."""
    folder, denoiser, pipeline = opened(name)
    _, steps = calls_of(folder, pipeline, **({} if name == "flux" else {"guidance_scale": 1.0}))
    scheduler, is_flux = pipeline.scheduler, folder.family.name == "flux"
    if name == "flux-dev":
        denoiser.network.rows["guidance"] = torch.ones(3)
    for number, (output, timestep, x, result) in enumerate(steps):
        if "pred_original_sample" in result:
            x0, t = result.pred_original_sample, timestep.double() + 1
        else:
            sigma = scheduler.sigmas[number]
            x0, t = x - sigma * output, timestep.double() / 1000
            torch.testing.assert_close(sigma.double(), t)
        if name == "sdxl":  # whose scheduler has x = x0 + sigma z
            x = x / (1 + scheduler.sigmas[number].square()).sqrt()
        if is_flux:
            x0, x = unpack(x0), unpack(x)
        with torch.no_grad():
            guess = denoiser(x, t.expand(2), {"label": torch.arange(2)})
        torch.testing.assert_close(guess, x0, rtol=1e-5, atol=1e-4)
    if name == "flux-dev":
        del denoiser.network.rows["guidance"]


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


@pytest.mark.parametrize("name", NAMES[:-1])
def test_derivatives_under_a_jvp_are_true(name, tiny, opened):
    """In x and the time; and the gradient of the derivative in x, by which students train."""
    folder, _, _ = opened(name)
    network = folder.load(folder.family.network, dtype=torch.float64)
    rows = {key: row[:1].double() for key, row in opened(name)[1].network.rows.items()}
    rows["tokens"] = rows["tokens"][:, :8]
    x, dx, move = (latents(folder, 1, seed).double() for seed in range(3))
    time = torch.tensor([400.0], dtype=torch.float64)
    micro = torch.tensor([[16, 16, 0, 0, 16, 16]]) if name == "sdxl" else None

    def ask(x, time):
        return folder.family.ask(network, x, time, rows, micro)

    def f(x):
        return ask(x, time)

    def slope(x):
        return torch.func.jvp(f, (x,), (dx,))[1]

    def compare(true, f, x, dx, step=1e-4, within=1e-4):
        difference = (f(x + step * dx) - f(x - step * dx)) / (2 * step)
        most = within * float(true.abs().max())
        torch.testing.assert_close(true, difference, rtol=within, atol=most)

    with torch.no_grad():
        compare(slope(x), f, x, dx)
        # The networks' waves of the time are in float32.
        one = torch.ones_like(time)
        slope_in_time = torch.func.jvp(lambda time: ask(x, time), (time,), (one,))[1]
        compare(slope_in_time, lambda time: ask(x, time), time, one, step=0.03, within=2e-3)
    x.requires_grad_()
    weights = latents(folder, 1, 3).double()
    gradient = torch.autograd.grad((slope(x) * weights).sum(), x)[0]
    compare((gradient * move).sum(), lambda x: (slope(x) * weights).sum().detach(), x, move)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_names_layers_that_there_are(name, opened):
    folder, denoiser, _ = opened(name)
    layers = [
        layer
        for layer, module in denoiser.network.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    ends = folder.family.targets
    assert [
        end for end in ends if not any(f".{layer}".endswith(f".{end}") for layer in layers)
    ] == []


def test_the_numbers_of_a_folder(opened):
    folder = opened("sd3")[0]
    vae = diffusers.AutoencoderKL.from_pretrained(folder.path / "vae")
    assert (folder.scale, folder.shift) == (vae.config.scaling_factor, vae.config.shift_factor)
    assert (folder.channels, folder.factor, folder.size) == (16, 2, 16)
    picture = torch.zeros(1, 3, SIDE, SIDE)
    assert vae.encode(picture).latent_dist.mean.shape == (1, 16, 8, 8)
    sd = opened("sd")[0]
    assert (sd.scale, sd.shift, sd.channels) == (0.18215, 0.0, 4)
    assert opened("flux")[0].size == 2 * opened("flux")[2].default_sample_size
    assert [opened(name)[0].embedded_guidance for name in ("flux", "flux-dev")] == [None, 3.5]
    assert opened("sd-v")[0].convention.prediction == "v"


def test_a_shorter_prompt_of_t5(opened):
    folder, _, pipeline = opened("flux")
    with folder.encoders() as encoders:
        rows = folder.family.encode(encoders, PROMPTS, 16)
    with torch.no_grad():
        close(rows["tokens"], pipeline.encode_prompt(PROMPTS, max_sequence_length=16)[0])
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
        close(rows[key], own[0][key])
        close(null[key], own[1][key][:1])
    assert not rows["tokens"][:, -256:].any()
    with pytest.raises(UserError, match="part = 'text_encoder_3': expected one that"):
        folder.load("text_encoder_3")


def test_a_prompt_that_is_cut_is_told(opened, caplog):
    folder = opened("sd")[0]
    with folder.encoders() as encoders:
        diffusers.utils.logging.enable_propagation()
        folder.family.encode(encoders, ["cat " * 30])
        diffusers.utils.logging.disable_propagation()
    assert "was truncated" in caplog.text


def test_a_class_has_one_family():
    assert family_of({"_class_name": "FluxPipeline"}) is FAMILIES["flux"]
    with pytest.raises(UserError, match="of the class None"):
        family_of({})
