"""The emoji of an installed font, 3x32x32: pictures in colour without a download."""

from typing import Any

from fewstep.run.config import Run, with_values


def glyphs(*, method: str = "ect", **fields: Any) -> Run:
    """Emoji by Unicode block: DDPM++ (55.7 M), ECT's CIFAR-10 settings, for a GPU; not measured."""
    run = Run(
        recipe="glyphs",
        method=method,
        network="song_unet",
        network_options={"dropout": 0.2},
        data="glyphs",
        batch=128,
        optimizer="radam",
        betas=(0.9, 0.999),
        lr=1e-4,
        warmup=0.0,
        constant=1.0,
        ema=0.9993,
        iterations=8000,
    )
    return with_values(run, fields)
