"""Folders of pipelines, and their networks and prompts, against diffusers' own calls of them."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

from fewstep.base.errors import UserError
from fewstep.core.guidance import Guided
from fewstep.pipelines.families import FAMILIES, family_of
from tests.pipelines.cases import HEIGHT, NAMES, PROMPTS, WIDTH

GUIDANCE = 4.0


def latents(folder, rows=2, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(rows, folder.channels, HEIGHT // 2, WIDTH // 2, generator=source)


def pack(x):
    """FLUX's patches of latents, as its pipeline makes them."""
    return diffusers.FluxPipeline._pack_latents(x, *x.shape)


def unpack(tokens):
    return diffusers.FluxPipeline._unpack_latents(tokens, HEIGHT, WIDTH, 2)


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
            height=HEIGHT,
            width=WIDTH,
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


@pytest.mark.parametrize("name", NAMES[:-1])
def test_derivatives_under_a_jvp_are_true(name, tiny, opened):
    """In x and the time; and the gradient of the derivative in x, by which students train."""
    folder, _, _ = opened(name)
    network = folder.load(folder.family.network, dtype=torch.float64)
    rows = {key: row[:1].double() for key, row in opened(name)[1].network.rows.items()}
    rows["tokens"] = rows["tokens"][:, :8]
    x, dx, move = (latents(folder, 1, seed).double() for seed in range(3))
    time = torch.tensor([400.0], dtype=torch.float64)
    micro = opened(name)[1].network.micro

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
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    assert vae.encode(picture).latent_dist.mean.shape == (1, 16, 8, 12)
    sd = opened("sd")[0]
    assert (sd.scale, sd.shift, sd.channels) == (0.18215, 0.0, 4)
    assert opened("flux")[0].size == 2 * opened("flux")[2].default_sample_size
    assert [opened(name)[0].embedded_guidance for name in ("flux", "flux-dev")] == [None, 3.5]
    assert opened("sd-v")[0].convention.prediction == "v"


def test_a_class_has_one_family():
    assert family_of({"_class_name": "FluxPipeline"}) is FAMILIES["flux"]
    with pytest.raises(UserError, match="of the class None"):
        family_of({})
