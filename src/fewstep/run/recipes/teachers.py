"""EDM's diffusion models, the teachers and initial weights of most of the other recipes."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values
from fewstep.run.recipes.cifar10 import NCSNPP

# arXiv 2206.00364, table 7, and its code's train.py and README. Every rate rises over 10 million
# samples and is constant then.
_RISE = 10e6


def _edm(recipe: str, batch: int, samples: float, halflife: float, **fields: Any) -> Run:
    """A run over so many samples; the average's half-life is in samples too."""
    iterations = round(samples / batch)
    return Run(
        recipe=recipe,
        iterations=iterations,
        batch=batch,
        sigma_data=0.5,
        optimizer="adam",
        betas=(0.9, 0.999),
        warmup=_RISE / samples,
        constant=1.0,
        clip=1e6,  # none
        ema=0.5 ** (batch / halflife),
        averages=(f"halflife:{halflife:.0f}",),  # the code's: shorter at the start
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
        **fields,
    )


def _cifar10(recipe: str, method: str, network_options: Options) -> Run:
    return _edm(
        recipe,
        512,
        200e6,
        0.5e6,
        method=method,
        data="cifar10-32x32.zip",
        holdout=0.0,
        labels=False,  # --labels for the conditional ones, --cond=1
        network="song_unet",
        network_options={**network_options, "dropout": 0.13, "augment": 9},
        augment=0.12,
        lr=1e-3,
    )


def cifar10_edm_ddpmpp(*, method: str = "diffusion", **fields: Any) -> Run:
    """CIFAR-10 without labels: EDM's diffusion model, DDPM++ (arXiv 2206.00364)."""
    return with_values(_cifar10("cifar10-edm-ddpmpp", method, {}), fields)


def cifar10_edm_ncsnpp(*, method: str = "diffusion", **fields: Any) -> Run:
    """CIFAR-10 without labels: EDM's diffusion model, NCSN++ (arXiv 2206.00364)."""
    return with_values(_cifar10("cifar10-edm-ncsnpp", method, NCSNPP), fields)


def imagenet64_edm(*, method: str = "diffusion", **fields: Any) -> Run:
    """ImageNet-64 by class: EDM's diffusion model, ADM (arXiv 2206.00364)."""
    run = _edm(
        "imagenet64-edm",
        4096,
        2500e6,
        50e6,
        method=method,
        data="imagenet-64x64.zip",
        holdout=0.0,
        network="adm_unet",
        network_options={"dropout": 0.1},
        lr=1e-4,
        precision="fp16",  # --fp16=1 --ls=100
    )
    return with_values(run, fields)
