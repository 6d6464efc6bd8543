"""Folders that diffusers saved, as generators, teachers and initial weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.core.conventions import Convention
from fewstep.foreign.diffusers_folder import recognise_folder
from fewstep.networks._diffusers import DiffusersNetwork

FOLDER = Path(os.environ.get("FEWSTEP_CONFORMANCE") or Path(__file__).parents[1] / "conformance")
CASES = sorted(
    path.stem
    for path in FOLDER.glob("*.json")
    if json.loads(path.read_text()).get("kind") == "diffusers_unet2d"
)
DDPM = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}
DDPM |= {"beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "epsilon"}
CM = {"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 0.002, "sigma_data": 0.5}


def save(folder: Path, case: str, scheduler: dict[str, Any] | None, network: str = "unet") -> Path:
    """A pipeline folder with the network of a conformance case."""
    about = json.loads((FOLDER / f"{case}.json").read_text())
    config = {"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", **about["config"]}
    part = folder / network
    part.mkdir(parents=True)
    (part / "config.json").write_text(json.dumps(config))
    weights = load_file(FOLDER / about["weights"])
    save_file(weights, part / "diffusion_pytorch_model.safetensors")
    index = {"_class_name": "DDPMPipeline", network: ["diffusers", "UNet2DModel"]}
    if scheduler is not None:
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def truth(case: str) -> dict[str, torch.Tensor]:
    """The inputs and outputs of a conformance case."""
    about = json.loads((FOLDER / f"{case}.json").read_text())
    return load_file(FOLDER / about["io"])


@pytest.mark.parametrize("case", CASES)
def test_the_network_answers_as_its_reference(case, tmp_path):
    generator = fs.load(save(tmp_path / "pipeline", case, DDPM), device="cpu")
    values = truth(case)
    labels = values.get("class_labels")
    with torch.no_grad():
        out = generator.denoiser.network(values["x"], values["timesteps"], labels)
    torch.testing.assert_close(out, values["out"], rtol=1e-5, atol=1e-5)
    # And as a denoiser: x0_hat = (x - sigma eps) / alpha at the step's own level.
    process = Convention.from_json(generator.run.convention).process
    t = values["timesteps"].double() + 1
    level = process.level(t)
    alpha = process.alpha(t).float()[:, None, None, None]
    sigma = process.sigma(t).float()[:, None, None, None]
    with torch.no_grad():
        x0_hat = generator.denoiser(values["x"] / alpha, level, labels)
    expected = (values["x"] - sigma * values["out"]) / alpha
    torch.testing.assert_close(x0_hat, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["teacher", "teacher.safetensors"])
def test_an_import_is_stored_and_is_the_same(case, name, tmp_path):
    from fewstep.run.imports import store

    folder = save(tmp_path / "pipeline", case, DDPM)
    out = tmp_path / name
    digest = store(out, recognise_folder(folder), {"file": "pipeline", "sha256": "0" * 64})
    ours, theirs = fs.load(out, device="cpu"), fs.load(folder, device="cpu")
    assert ours.fingerprint == digest
    options = {"n": 2, "steps": 3, "seed": 1}
    assert torch.equal(ours.sample(**options), theirs.sample(**options))


def test_a_consistency_model_is_sampled_in_one_step(tmp_path):
    generator = fs.load(save(tmp_path / "cm", "diffusers_unet2d_cm", CM), device="cpu")
    assert generator.method.denoises is False
    assert generator.sample(2).shape == (2, 3, 8, 8)
    values = truth("diffusers_unet2d_cm")
    sigma = (values["timesteps"].double() / 250).exp()
    with torch.no_grad():
        x = values["x"] * (sigma.square() + 0.25).sqrt().float()[:, None, None, None]
        x0_hat = generator.denoiser(x, sigma, values["class_labels"])
    s = sigma.float()[:, None, None, None]
    skip = 0.25 / ((s - 0.002) ** 2 + 0.25)
    out = (s - 0.002) * 0.5 / (s**2 + 0.25).sqrt()
    torch.testing.assert_close(x0_hat, skip * x + out * values["out"], rtol=1e-4, atol=1e-4)


def test_a_student_starts_from_the_folder_and_learns_from_it(tmp_path):
    """Its first guess is the teacher's; stored, it loads without the folder."""
    folder = save(tmp_path / "pipeline", "diffusers_unet2d_default", DDPM)
    x = torch.rand(40, 3, 16, 16, generator=torch.manual_seed(0)) * 2 - 1
    run = fs.recipes.toy(method="ect", iterations=1, batch=8, block=8, lr=1e-12, warmup=0.0)
    out = tmp_path / "run"
    student = fs.train(
        fs.Run(**{**vars(run), "init": str(folder)}), x, out=out, progress=False, device="cpu"
    )
    teacher = fs.load(folder, device="cpu")
    assert student.run.network == "diffusers"
    level = torch.tensor([0.3, 2.0], dtype=torch.float64)
    x_t = x[:2] + level.float()[:, None, None, None]
    with torch.no_grad():
        guesses = [one.denoiser(x_t, level) for one in (student, teacher)]
    torch.testing.assert_close(*guesses, rtol=1e-3, atol=1e-3)
    again = fs.load(out, device="cpu")
    assert torch.equal(again.sample(2), student.sample(2))


def test_a_student_in_noise_learns_up_to_where_it_begins(tmp_path):
    """Segments end where sampling starts; methods with a highest level have it there."""
    folder = str(save(tmp_path / "pipeline", "diffusers_unet2d_default", DDPM))
    x = torch.rand(40, 3, 16, 16, generator=torch.manual_seed(0)) * 2 - 1
    for name in ("mcm", "ict"):
        run = fs.recipes.toy(method=name, iterations=1, batch=8, block=8, teacher=None)
        run = fs.Run(**{**vars(run), "init": folder})
        if name == "mcm":
            run = fs.Run(**{**vars(run), "method_options": {"K": 2}})
        student = fs.train(run, x, progress=False, device="cpu")
        method = student.method
        top = float(method.process.level(method.process.t_max))
        # 30 deviations of the data, to a step of the table.
        assert top == pytest.approx(30 * student.facts.sigma_data, rel=0.02)
        u = torch.rand(1000, 2, generator=torch.manual_seed(1))
        assert float(method.times(u, 1.0).t.max()) <= method.process.t_max * (1 + 1e-9)


def test_what_is_missing_or_unknown_is_one_line(tmp_path):
    case = "diffusers_unet2d_default"
    with pytest.raises(UserError, match="say what it predicts"):
        fs.load(save(tmp_path / "a", case, None))
    folder = save(tmp_path / "b", case, DDPM)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no diffusion_pytorch_model\.safetensors"):
        fs.load(folder)
    folder = save(tmp_path / "c", case, {**DDPM, "prediction_type": "odd"})
    with pytest.raises(UserError, match="prediction_type = 'odd'"):
        fs.load(folder)
    folder = save(tmp_path / "d", case, DDPM)
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet1DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="expected one network among"):
        fs.load(folder)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDPMScheduler", {}),
        ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_end": 0.012}),
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
        ("DDPMScheduler", {"beta_schedule": "sigmoid", "num_train_timesteps": 100}),
        ("DDPMScheduler", {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}),
    ],
)
def test_a_schedulers_table_is_its_own(kind, options):
    import diffusers

    from fewstep.adapters.ready import scheduler_convention

    scheduler = getattr(diffusers, kind)(**options)
    own = scheduler_convention(scheduler)
    t = torch.arange(1, len(scheduler.alphas_cumprod) + 1, dtype=torch.float64)
    torch.testing.assert_close(
        own.process.alpha(t).square(), scheduler.alphas_cumprod.double(), rtol=1e-6, atol=1e-9
    )


def test_a_dit_is_read_with_its_null_label_and_without_its_variance(tmp_path):
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(0)
    options = {"sample_size": 8, "in_channels": 4, "out_channels": 8, "num_layers": 1}
    options |= {"num_attention_heads": 2, "attention_head_dim": 8, "num_embeds_ada_norm": 5}
    model = DiTTransformer2DModel(**options, patch_size=2).eval()
    for p in model.parameters():
        p.data = 0.1 * torch.randn(p.shape)
    model.save_pretrained(tmp_path / "transformer")
    DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    index = {"transformer": ["diffusers", "DiTTransformer2DModel"], "vae": ["diffusers", "Vae"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    generator = fs.load(tmp_path, device="cpu")
    assert (generator.facts.shape, generator.facts.classes) == ((4, 8, 8), 5)
    assert generator.facts.units.are_plain  # latents
    x, t, label = torch.randn(3, 4, 8, 8), torch.tensor([9.0, 500.0, 7.0]), torch.tensor([0, 4, -1])
    with torch.no_grad():
        ours = generator.denoiser.network(x, t, label)
        theirs = model(x, t, class_labels=torch.tensor([0, 4, 5])).sample[:, :4]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # Guidance asks for no label.
    guided = fs.guide(generator.denoiser, w=2.0)
    assert guided(x, 1.0, label.clamp_min(0)).shape == x.shape


def test_the_derivative_under_a_jvp_is_true(tmp_path):
    """What continuous-time methods need: attention and norms of diffusers have none by default."""
    generator = fs.load(save(tmp_path / "pipeline", CASES[-1], DDPM), device="cpu")
    network = generator.denoiser.network.double()
    source = torch.manual_seed(0)
    shape = generator.facts.shape
    x, dx = (torch.randn(2, *shape, generator=source, dtype=torch.float64) for _ in "ab")
    label = torch.tensor([40.0, 700.0], dtype=torch.float64)
    cond = torch.zeros(2, dtype=torch.long) if generator.facts.classes else None

    def f(x):
        return network(x, label, cond)

    with torch.no_grad():
        tangent = torch.func.jvp(f, (x,), (dx,))[1]
        step = 1e-6
        difference = (f(x + step * dx) - f(x - step * dx)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_derivative_is_true():
    """What they train by, which torch's own kernel of layer norms gets wrong."""
    config = {"_class_name": "DiTTransformer2DModel", "num_attention_heads": 1, "num_layers": 1}
    config |= {"attention_head_dim": 8, "in_channels": 1, "out_channels": 1, "sample_size": 4}
    config |= {"num_embeds_ada_norm": 2, "norm_num_groups": 1}
    torch.manual_seed(0)
    network = DiffusersNetwork((1, 4, 4), 2, config=json.dumps(config)).double().eval()
    x, dx, move, weights = torch.randn(4, 1, 1, 4, 4, dtype=torch.float64)
    label = torch.tensor([40.0], dtype=torch.float64)

    def f(x):
        return (torch.func.jvp(lambda x: network(x, label), (x,), (dx,))[1] * weights).sum()

    x.requires_grad_()
    gradient = torch.autograd.grad(f(x), x)[0]
    with torch.no_grad():
        difference = (f(x + 1e-4 * move) - f(x - 1e-4 * move)) / 2e-4
    torch.testing.assert_close((gradient * move).sum(), difference, rtol=1e-5, atol=1e-6)
