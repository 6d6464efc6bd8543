"""The first consistency models: CD and CT with LPIPS, on CIFAR-10 and on ImageNet-64."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values
from fewstep.run.recipes.cifar10 import NCSNPP

# arXiv 2303.01469, table 3, and its codes: consistency_models_cifar10's configs and launch.sh,
# consistency_models' scripts/launch.sh. Both flip half of the pictures.
_CIFAR10_NETWORK: Options = {**NCSNPP, "fourier_scale": 16.0}
# 10 million samples (cifar10_ve_cd.py, cifar10_k_ve.py: optim.warmup); ImageNet's code has none
_CIFAR10_WARMUP = 10_000_000 / 512
# The label of the code's networks for ImageNet; CIFAR-10's have ln(t) / 4.
_LABEL: Options = {"noise_scale": 250.0}
_LPIPS: Options = {"distance": "lpips"}


def _cm(recipe: str, **fields: Any) -> Run:
    """What all four have in common."""
    return Run(
        recipe=recipe,
        sigma_data=0.5,
        optimizer="radam",
        betas=(0.9, 0.999),  # RAdam's own
        constant=1.0,
        clip=1e6,  # none in either code
        flip=True,
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
        **fields,
    )


def _cifar10(recipe: str, method: str) -> Run:
    options: dict[str, Options] = {
        "cd": {"n": 18, "mu": 0.0, **_LPIPS},  # model.num_scales; table 3's mu
        "ct": {"s0": 2, "s1": 150, "mu0": 0.9, **_LPIPS},
    }
    return _cm(
        recipe,
        method=method,
        method_options=options.get(method, {}),
        network="song_unet",
        network_options={**_CIFAR10_NETWORK, "dropout": 0.0},
        data="cifar10-32x32.zip",
        holdout=0.0,
        labels=False,
        batch=512,
        iterations=800_000,
        lr=4e-4,
        warmup=_CIFAR10_WARMUP / 800_000,
        ema=0.9999,
    )


def cifar10_cd(*, method: str = "cd", **fields: Any) -> Run:
    """CIFAR-10 without labels: CD with LPIPS of EDM's NCSN++ (arXiv 2303.01469)."""
    return with_values(_cifar10("cifar10-cd", method), fields)


def cifar10_ct(*, method: str = "ct", **fields: Any) -> Run:
    """CIFAR-10 without labels: CT with LPIPS from scratch, NCSN++ (arXiv 2303.01469)."""
    return with_values(_cifar10("cifar10-ct", method), fields)


def _imagenet64(recipe: str, method: str, lr: float, iterations: int, second: float) -> Run:
    options: dict[str, Options] = {
        "cd": {"n": 40, "mu": 0.95, **_LPIPS, **_LABEL},
        "ct": {"s0": 2, "s1": 200, "mu0": 0.95, **_LPIPS, **_LABEL},
        "diffusion": _LABEL,
    }
    return _cm(
        recipe,
        method=method,
        method_options=options.get(method, {}),
        network="adm_unet",
        network_options={"dropout": 0.0},
        data="imagenet-64x64.zip",
        holdout=0.0,
        batch=2048,
        iterations=iterations,
        lr=lr,
        warmup=0.0,
        ema=0.5 ** (2048 / 25e6),  # 0.999943: --ema_rate
        precision="fp16",  # --use_fp16
        later_sigmas=(second,),
    )


def imagenet64_cd(*, method: str = "cd", **fields: Any) -> Run:
    """ImageNet-64 by class: CD with LPIPS of CM's own EDM teacher, ADM (arXiv 2303.01469)."""
    # Levels of the second steps: points 22 of 40 and 106 of 201 (launch.sh: --ts).
    return with_values(_imagenet64("imagenet64-cd", method, 8e-6, 600_000, 1.38237), fields)


def imagenet64_ct(*, method: str = "ct", **fields: Any) -> Run:
    """ImageNet-64 by class: CT with LPIPS from scratch, ADM (arXiv 2303.01469)."""
    # launch.sh has lr 1e-4, table 3 has 8e-6 for both. Its command names a teacher, whose weights
    # cm_train.py copies into the student; the paper trains from scratch.
    return with_values(_imagenet64("imagenet64-ct", method, 1e-4, 800_000, 1.91284), fields)
