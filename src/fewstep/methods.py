"""One function per published method: a composition of parts, in the words a user would write it in."""

from typing import Literal

import fewstep as fs


def diffusion(*, p_mean: float = -1.2, p_std: float = 1.2, sigma_data: float = 0.5) -> "fs.Method":
    """Denoising score matching, the training of teachers: E (t^2+sd^2)/(t sd)^2 ||D(x_t, t) - x0||^2 / D.

    Source: EDM, arXiv 2206.00364, eq. 8 and table 1.

    Args:
        p_mean: mean of ln t
        p_std: standard deviation of ln t
        sigma_data: standard deviation of the data, for weight and preconditioning
    """
    return fs.Method(
        times=fs.times.Clean(law=fs.times.LogNormal(mean=p_mean, std=p_std)),
        distance=fs.distances.mse,
        weight=fs.weights.Edm(sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
        sampler="heun",
    )


def ect(
    *,
    p_mean: float = -1.1,
    p_std: float = 2.0,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    stages: int = 8,
    ratio_max: float = 0.9999,
    c: float = 0.0,
    weight: Literal["inverse_gap", "edm"] = "inverse_gap",
    sigma_data: float = 0.5,
) -> "fs.Method":
    """Easy consistency tuning: E weight d(D(x_t, t), sg D(x_r, r)), r -> t stage by stage.

    Source: ECT, arXiv 2406.14548; its CIFAR-10 settings (8 stages of 25k of 200k iterations).
    Its code has no ratio_max.

    Args:
        p_mean: mean of ln t
        p_std: standard deviation of ln t
        q: the gap t - r shrinks by q from stage to stage
        k: at small t the gap is 1 + k/2 times wider
        b: how fast that widening falls with t
        stages: stages over the whole run
        ratio_max: cap on r / t, since in float32 smaller gaps are rounding
        c: pseudo-Huber constant, 0 is the L2 norm
        weight: inverse_gap = 1/(t-r) (CIFAR-10); edm = 1/c_out(t)^2 (ImageNet-64)
        sigma_data: standard deviation of the data, for the weight edm and the preconditioning
    """
    law = fs.times.LogNormal(mean=p_mean, std=p_std)
    return fs.Method(
        times=fs.times.RatioMap(law=law, q=q, k=k, b=b, stages=stages, ratio_max=ratio_max),
        target=fs.targets.Student(),
        distance=fs.distances.huber(c),
        weight=fs.weights.named(weight, sigma_data),
        scaling=fs.scalings.Edm(sigma_data=sigma_data),
    )
