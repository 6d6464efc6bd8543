"""Agreement with the schedulers of diffusers, whose timestep is a table's time less one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.core import solvers
from fewstep.core.denoiser import Denoiser, Preconditioned
from fewstep.core.scalings import X0, Edm, Eps, Scaling, V
from tests.support.cases import Case

KINDS: dict[str, Scaling] = {"epsilon": Eps(), "v_prediction": V(), "sample": X0()}


class Tanh(nn.Module):
    """The reference's network, tanh(a x + b (t - shift) / scale)."""

    def __init__(self, case: Case, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        numbers = case.about["notes"][0].replace(" ", "").split(",")
        self.a, self.b = (float(word.split("=")[1]) for word in numbers)
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor, label: Tensor, cond=None) -> Tensor:
        label = label.reshape(-1, *[1] * (x.ndim - 1))
        return torch.tanh(self.a * x + self.b * (label - self.shift) / self.scale)


def clip(denoiser: Denoiser, bound: float | None) -> Denoiser:
    def inside(x, t, cond=None):
        x0_hat = denoiser(x, t, cond)
        return x0_hat if bound is None else x0_hat.clamp(-bound, bound)

    return inside


def table(config: dict) -> fs.process.Process:
    first, last, n = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
    if config["trained_betas"] is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
    elif config["beta_schedule"] == "linear":
        betas = torch.linspace(first, last, n, dtype=torch.float64)
    elif config["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, n, dtype=torch.float64) ** 2
    else:
        assert config["beta_schedule"] == "squaredcos_cap_v2"
        share = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        power = ((share + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
        betas = (1 - power[1:] / power[:-1]).clamp(max=0.999)
    if not config["rescale_betas_zero_snr"]:
        return fs.process.discrete(betas=betas)
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])  # arXiv 2305.08891, algorithm 1
    return fs.process.discrete(alphas_cumprod=root.square())


def ddim(case: Case) -> None:
    settings, config = case.settings, case.settings["config"]
    if config["thresholding"]:
        pytest.skip("dynamic thresholding looks at a whole sample's values: no part of ours")
    process, steps = table(config), settings["num_inference_steps"]
    bound = config["clip_sample_range"] if config["clip_sample"] else None
    network = Preconditioned(Tanh(case, 1000, shift=1), KINDS[config["prediction_type"]], process)
    denoiser = clip(network, bound)
    end = 0.0 if config["set_alpha_to_one"] else 1.0
    for i, t in enumerate(case["timesteps"].tolist()):
        before = t - config["num_train_timesteps"] // steps
        s = before + 1.0 if before >= 0 else end
        x = case["model_input"][i].double()
        case.agree_at("pred_original_sample", i, denoiser(x, t + 1.0))
        if bound is not None:
            # From here the reference takes x0 clipped and the noise unclipped: no denoiser's DDIM
            # move.
            continue
        noise = case["noise"][i].double()
        ours = solvers.ancestral(
            process, denoiser, x, t + 1.0, s, eta=settings["eta"], noise=lambda n=noise: n
        )
        case.agree_at("trajectory", i, ours)
        if not settings["eta"]:
            case.agree_at("trajectory", i, solvers.ddim(process, denoiser, x, t + 1.0, s))


def edm_euler(case: Case) -> None:
    config, sigmas = case.settings["config"], case["sigmas"].double()
    sign = {"epsilon": 1.0, "v_prediction": -1.0}[config["prediction_type"]]

    class WithSign(Tanh):
        def forward(self, x: Tensor, label: Tensor, cond=None) -> Tensor:
            return sign * super().forward(x, label)

    process = fs.process.edm()
    denoiser = Preconditioned(WithSign(case, 1.0), Edm(sigma_data=config["sigma_data"]))
    x = case["sample"].double()
    for i in range(len(sigmas) - 1):
        case.agree_at("pred_original_sample", i, denoiser(x, sigmas[i]))
        x = solvers.euler(process, denoiser, x, sigmas[i], sigmas[i + 1])
        case.agree_at("trajectory", i, x)


def multistep(case: Case) -> None:
    settings, config = case.settings, case.settings["config"]
    sigmas, low, process = case["sigmas"].double(), config["sigma_min"], fs.process.edm()
    scaling = Edm(sigma_data=config["sigma_data"], shift=low, noise_scale=250)
    network = Preconditioned(Tanh(case, 100), scaling)
    denoiser = clip(network, 1.0 if settings["clip_denoised"] else None)
    x, last = case["sample"].double(), len(case["timesteps"]) - 1
    for i in range(last + 1):
        t, s = sigmas[i].item(), 0.0 if i == last else sigmas[i + 1].item()
        # Noise of variance s^2 - sigma_min^2.
        scale = config["s_noise"] * (1 - (low / s) ** 2) ** 0.5 if s else 0.0
        fresh = case["noise"][i].double() * scale
        x = solvers.renoise(process, denoiser, x, t, s, noise=lambda n=fresh: n)
        case.agree_at("trajectory", i, x)


def lcm(case: Case) -> None:
    """LCM: a boundary at timestep 0 in ten times the timestep, then re-noising on the table."""
    config, process = case.settings["config"], table(case.settings["config"])
    network = Preconditioned(Tanh(case, 1000, shift=1), KINDS[config["prediction_type"]], process)

    def denoiser(x, t, cond=None):
        time = ((t - 1) * config["timestep_scaling"]).reshape(-1, *[1] * (x.ndim - 1))
        skip, out = 0.25 / (time**2 + 0.25), time / (time**2 + 0.25).sqrt()
        return out * network(x, t) + skip * x

    times = [t + 1.0 for t in case["timesteps"].tolist()]
    for i, t in enumerate(times):
        x, noise = case["model_input"][i].double(), case["noise"][i].double()
        s = times[i + 1] if i + 1 < len(times) else 0.0
        case.agree_at("denoised", i, denoiser(x, torch.full((len(x),), t)))
        case.agree_at(
            "trajectory", i, solvers.renoise(process, denoiser, x, t, s, noise=lambda n=noise: n)
        )


def tcd(case: Case) -> None:
    """TCD: its lower time is rounded down to a step of its table, whose first is also its end."""
    settings, config, last = case.settings, case.settings["config"], len(case["timesteps"]) - 1
    if config["thresholding"] or config["clip_sample"]:
        pytest.skip("clipped or thresholded guesses with the unclipped noise: no denoiser's move")
    process = table(config)
    network = Preconditioned(Tanh(case, 1000, shift=1), KINDS[config["prediction_type"]], process)
    steps = [*case["timesteps"].tolist(), 0]
    for i in range(last + 1):
        x, noise = case["model_input"][i].double(), case["noise"][i].double()
        t, s = steps[i] + 1.0, steps[i + 1] + 1.0
        low = math.floor((1 - settings["eta"]) * steps[i + 1]) + 1.0
        case.agree_at("pred_noised_sample", i, solvers.ddim(process, network, x, t, low))
        gamma = 1 - low / s
        ours = solvers.strategic(process, network, x, t, s, noise=lambda n=noise: n, gamma=gamma)
        case.agree_at("trajectory", i, ours)


TESTED = {
    "diffusers_ddim": ddim,
    "diffusers_edm_euler": edm_euler,
    "diffusers_cm": multistep,
    "diffusers_lcm": lcm,
    "diffusers_tcd": tcd,
}
