"""How well a model generates and denoises, at steps of its training."""

from __future__ import annotations

from pathlib import Path

import torch

from fewstep.analysis.claims import reference
from fewstep.analysis.metrics import frechet
from fewstep.analysis.metrics.denoised import denoise
from fewstep.base.conditions import Cond
from fewstep.base.randomness import normal
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process

LOW = (0.2, 1.0)  # noise levels that training data are denoised from


def look_pictures(
    name: str, denoiser: Denoiser, process: Process, cond: Cond = None
) -> dict[str, float]:
    """Scores of one evaluation from pure noise against a data set of pictures."""
    x = denoiser(process.prior(reference.noise(name)), process.t_max, cond)
    return reference.quick_scores(name, x.clamp(-1, 1))


def look_digits(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Without labels."""
    return look_pictures("digits", denoiser, process)


def look_characters(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Without labels."""
    return look_pictures("hanzi16", denoiser, process)


def look_classes(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """One-step digits of all classes in turn, and feature distances of denoised training digits.

    Both are cut to the range of the data; of the denoised ones also the distance before.
    """
    data, judge = reference.data("digits"), reference.judge("digits")
    labels = torch.arange(reference.PICTURES["digits"]) % data.classes
    x0, cond = data.train.x0, data.train.cond
    z = normal(reference.NOISE, "low noise", 0, len(x0), tuple(x0.shape[1:]), 16)
    numbers = look_pictures("digits", denoiser, process, labels)
    goal = judge.features(x0)
    for t in LOW:
        x = denoise(denoiser, process, x0, z, t, cond)
        numbers[f"denoising {t:g}"] = frechet(judge.features(x.clamp(-1, 1)), goal)
        numbers[f"denoising {t:g}, not cut"] = frechet(judge.features(x), goal)
    return numbers
