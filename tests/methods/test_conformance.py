"""Agreement with the numbers that public reference implementations gave, values and gradients.

Dispatches on a case's `kind`; every shape, time and hyper-parameter comes from the case itself.
FEWSTEP_CONFORMANCE=DIR tests another folder of the same format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fewstep as fs
from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm, Scaling, Ve, Vp
from fewstep.core.solvers import Churn, euler, heun, renoise
from tests.support import (
    agree_cm,
    agree_diffusers,
    agree_direct,
    agree_edm2,
    agree_fastgen,
    agree_gc,
    agree_meanflow,
    agree_phema,
    agree_scm,
    agree_unets,
)
from tests.support.cases import Case
from tests.support.toys import Analytic

FOLDER = Path(os.environ.get("FEWSTEP_CONFORMANCE") or Path(__file__).parents[1] / "conformance")
EDM = fs.process.edm()

WAITING: dict[str, str] = {}  # kind: why it is not tested yet


def scalings(case: Case, scaling: Scaling) -> None:
    ours = scaling(EDM, case["sigma"].double())
    for name, value in zip(("c_skip", "c_out", "c_in", "c_noise"), ours, strict=True):
        case.agree(name, value)


def edm_precond_edm(case: Case) -> None:
    scalings(case, Edm(sigma_data=case.settings["sigma_data"]))
    case.agree("D", case.student(dtype=case["x"].dtype)(case["x"], case["sigma_x"]))


def edm_precond_other(case: Case) -> None:
    scaling = {"edm_precond_vp": Vp(), "edm_precond_ve": Ve()}[case.about["kind"]]
    scalings(case, scaling)
    network = Analytic(case.settings["a"], case.settings["b"], case["x"].dtype)
    case.agree("D", Preconditioned(network, scaling)(case["x"], case["sigma_x"]))


def edm_loss(case: Case) -> None:
    settings, student = case.settings, case.student()
    method = fs.methods.diffusion(
        p_mean=settings["P_mean"], p_std=settings["P_std"], sigma_data=settings["sigma_data"]
    )
    by_law = method.times(torch.special.ndtr(case["normal"])[:, None], 0.0)
    case.agree("sigma", by_law.t)
    times = method.times.at(case["sigma"], 0.0)
    case.agree("weight", method.weight(method.process, times))
    loss = method.loss(fs.Models(student), case["y"], case["eps"], times)
    # The reference leaves the pixels apart.
    truth = case["loss"].flatten(1).mean(1)
    torch.testing.assert_close(
        loss.detach(), truth, rtol=case.about["rtol"], atol=case.about["atol"]
    )
    case.agree_on_gradients(loss, student)


class Mixture:
    """The reference's denoiser of a mixture of isotropic Gaussians; counts its calls."""

    def __init__(self, case: Case) -> None:
        self.means, self.logits = case["gmm_means"], case["gmm_weights"].log()
        self.variance, self.calls = case["gmm_s"] ** 2, 0

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.calls += 1
        total = (self.variance + t**2)[:, None]
        apart = (x.flatten(1)[:, None] - self.means).square().sum(2)
        share = torch.softmax(self.logits - apart / (2 * total), 1)
        ends = self.variance * x.flatten(1)[:, None] + (t**2)[:, None, None] * self.means
        return ((share[:, :, None] * ends).sum(1) / total).reshape(x.shape)


def edm_samplers(case: Case) -> None:
    settings, truth = case.settings, Mixture(case)
    steps, churn = settings["num_steps"], settings["churn"]
    case.agree(
        "sigma_grid",
        fs.times.karras(settings["sigma_min"], settings["sigma_max"], steps - 1, settings["rho"]),
    )
    grid = [*case["sigma_grid"].tolist(), 0.0]
    start = case["latents"] * grid[0]

    def run(step: Callable[..., Tensor], noise: Callable[[int], Tensor] | None = None) -> Tensor:
        truth.calls = 0
        return fs.sampling.sample(EDM, truth, start, grid, step, noise=noise)

    case.agree("heun", run(heun))
    assert truth.calls == settings["network_calls_heun"]
    case.agree("heun_ablation", run(heun))
    case.agree("euler", run(euler))
    assert truth.calls == settings["network_calls_euler"]
    case.agree("alpha_two_thirds", run(lambda *args: heun(*args, alpha=2 / 3)))
    churn_step = Churn(
        steps=steps,
        s_churn=churn["S_churn"],
        s_min=churn["S_min"],
        s_max=churn["S_max"],
        s_noise=churn["S_noise"],
    )
    case.agree("heun_churn", run(churn_step, lambda i: case["churn_noise"][i]))


def ect_precond(case: Case) -> None:
    shift = {"train": 0.0, "eval": case.settings["sigma_min"]}[case.settings["mode"]]
    scalings(case, Edm(sigma_data=case.settings["sigma_data"], shift=shift))


def ect_t_to_r(case: Case) -> None:
    for i, config in enumerate(case.settings["configurations"]):
        stages = len(case[f"r_{i}"])
        k = config["k"] if config["adj"] == "sigmoid" else 0.0  # a constant map widens nothing
        law = fs.times.LogNormal(mean=0.0, std=1.0)
        sampler = fs.times.RatioMap(
            law=law, q=config["q"], k=k, b=config["b"], stages=stages, ratio_max=1.0
        )
        shares = [(stage + 0.5) / stages for stage in range(stages)]
        case.agree(f"r_{i}", torch.stack([sampler.at(case["t"], share).r for share in shares]))
        case.agree(
            f"ratio_{i}",
            torch.tensor([sampler.ratio(share) for share in shares], dtype=torch.float64),
        )


def ect_loss(case: Case) -> None:
    settings = case.settings
    for i, config in enumerate(settings["configurations"]):
        student, stages = case.student(), config["stage"] + 1
        method = fs.methods.ect(
            p_mean=settings["P_mean"],
            p_std=settings["P_std"],
            q=config["q"],
            k=config["k"],
            b=config["b"],
            c=config["c"],
            stages=stages,
            ratio_max=1.0,
        )
        progress = (config["stage"] + 0.5) / stages
        by_law = method.times(torch.special.ndtr(case["normal"])[:, None], progress)
        case.agree(f"t_{i}", by_law.t)
        times = method.times.at(case[f"t_{i}"], progress)
        case.agree(f"r_{i}", times.r)
        loss = method.loss(fs.Models(student), case["y"], case["eps"], times)
        case.agree(f"loss_{i}", loss)
        case.agree_on_gradients(loss, student, f"_{i}")


def ect_sampler(case: Case) -> None:
    settings = case.settings
    student = case.student(shift=settings["sigma_min"])
    start = settings["t_max"] * case["latents"]
    for name, middle in (("one_step", []), ("few_step", settings["mid_t"])):
        grid = [settings["t_max"], *middle, 0.0]
        noise = [*case["noise"][: len(middle)], torch.zeros_like(start)]
        case.agree(
            name,
            fs.sampling.sample(EDM, student, start, grid, renoise, noise=lambda i, n=noise: n[i]),
        )


TESTED: dict[str, Callable[[Case], None]] = {
    "edm_precond_edm": edm_precond_edm,
    "edm_precond_vp": edm_precond_other,
    "edm_precond_ve": edm_precond_other,
    "edm_loss": edm_loss,
    "edm_samplers": edm_samplers,
    "ect_precond_train": ect_precond,
    "ect_precond_eval": ect_precond,
    "ect_t_to_r": ect_t_to_r,
    "ect_loss": ect_loss,
    "ect_sampler": ect_sampler,
    **agree_cm.TESTED,
    **agree_diffusers.TESTED,
    **agree_direct.TESTED,
    **agree_edm2.TESTED,
    **agree_fastgen.TESTED,
    **agree_gc.TESTED,
    **agree_meanflow.TESTED,
    **agree_phema.TESTED,
    **agree_scm.TESTED,
    **agree_unets.TESTED,
}


@pytest.mark.parametrize("sidecar", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_agrees_with_the_reference(sidecar):
    about = json.loads(sidecar.read_text())
    kind = about.get("kind", "")
    if kind not in TESTED:
        pytest.skip(f"{kind}: {WAITING.get(kind, 'a kind that no test knows')}")
    TESTED[kind](Case.read(sidecar))


def test_the_folder_has_cases_and_no_kind_is_both_tested_and_waiting():
    assert any(FOLDER.glob("*.json")), f"no cases in {FOLDER}"
    assert not TESTED.keys() & WAITING.keys()
