"""ImageNet by class at 64x64 and 128x128: multistep consistency models of the UViT for K steps."""

import math
from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# arXiv 2403.06807, architecture: stages of R residual or T transformer blocks @ channels.
_NETWORKS: dict[str, Options] = {
    # 3R@256, 3T@512, 16T@1024; dropout 0.2 in the middle; 394 M weights
    "64-small": {"width": 256, "dropout": 0.2, "dropout_stages": 1},
    # twice the channels; dropout 0.1 in all transformer blocks; 1.23 B
    "64-large": {"width": 512, "dropout": 0.1, "dropout_stages": 2},
    # 3R@128 at full resolution before it; dropout 0.1 in the middle; 397 M
    "128-small": {"width": 128, "dropout": 0.1, "dropout_stages": 1},
    # twice the channels; dropout 0.1 everywhere but at 128x128; 1.25 B
    "128-large": {"width": 256, "dropout": 0.1, "dropout_stages": 3},
}
_STAGES: dict[int, Options] = {
    64: {"mult": (1, 2, 4), "blocks": (3, 3, 16), "residual_stages": 1},
    128: {"mult": (1, 2, 4, 8), "blocks": (3, 3, 3, 16), "residual_stages": 2},
}
# Noise resolution of the shifted cosine at t = 0; at t = 1 it is the picture's own, 64 or 128.
_LOWEST = 32


def _mcm(side: int, size: str, method: str, k: int) -> Run:
    shift = (2 * math.log(_LOWEST / side), 0.0)
    # Algorithm 1 and the appendix where nothing else is said.
    mcm: Options = {
        "K": k,  # 1, 2, 4, 8, 16 in the paper
        "steps": 64,
        "steps_end": 1280,
        "annealed": 0.5,  # 100k of 200k iterations
        "eta": 0.75,  # "xvar_frac", of distillation
        # of the root mean square: the one reading that agrees with all that the text says
        "distance": "huber",
        "c": 1e-4,
        # What "v-loss" means for a norm that is not squared. The formula to the letter, SNR + 1 on
        # the norm of x0's error, gives the lowest step a weight of 5.5e5: space = x0, weight =
        # snr_plus_one.
        "space": "v",
        "weight": "one",
        "pools": 1 if side == 128 else 0,  # multiscale loss with one 2x2 average, at 128 only
        "shift": shift,
    }
    # The teacher and initial weights: simple diffusion (arXiv 2301.11093), whose times are uniform
    # on the cosine and whose loss is the v-loss, since sigma_data = 1.
    diffusion: Options = {"law": "cosine", "shift": shift}
    return Run(
        recipe=f"imagenet{side}-mcm-{size}",
        method=method,
        method_options={"mcm": mcm, "diffusion": diffusion}.get(method, {}),
        network="uvit",
        network_options={**_STAGES[side], **_NETWORKS[f"{side}-{size}"]},
        data=f"imagenet-{side}x{side}.zip",
        holdout=0.0,
        # v-prediction: "a v-prediction one" is the paper's example of a fitting model
        sigma_data=1.0,
        batch=2048,
        iterations=200_000,
        # optimizer, betas, rate, warm-up, clipping and average: not stated; chosen
        optimizer="adam",
        betas=(0.9, 0.99),
        lr=1e-4,
        warmup=0.05,
        constant=1.0,
        clip=1.0,
        ema=0.9999,
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
    )


# K is the paper's name.


def imagenet64_mcm_small(*, method: str = "mcm", K: int = 4, **fields: Any) -> Run:  # noqa: N803
    """ImageNet-64 by class: MCM for K steps, UViT of 394 M weights (arXiv 2403.06807)."""
    return with_values(_mcm(64, "small", method, K), fields)


def imagenet64_mcm_large(*, method: str = "mcm", K: int = 4, **fields: Any) -> Run:  # noqa: N803
    """ImageNet-64 by class: MCM for K steps, UViT of 1.23 G weights (arXiv 2403.06807)."""
    return with_values(_mcm(64, "large", method, K), fields)


def imagenet128_mcm_small(*, method: str = "mcm", K: int = 4, **fields: Any) -> Run:  # noqa: N803
    """ImageNet-128 by class: MCM for K steps, UViT of 397 M weights (arXiv 2403.06807)."""
    # The paper guides this one's teacher but gives no scale: --method.guidance, here 0 (none).
    return with_values(_mcm(128, "small", method, K), fields)


def imagenet128_mcm_large(*, method: str = "mcm", K: int = 4, **fields: Any) -> Run:  # noqa: N803
    """ImageNet-128 by class: MCM for K steps, UViT of 1.25 G weights (arXiv 2403.06807)."""
    return with_values(_mcm(128, "large", method, K), fields)
