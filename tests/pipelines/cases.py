"""Tiny pipelines that are opened, and their networks as denoisers."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from torch import nn

from fewstep.base.conditions import NO_LABEL
from fewstep.core.denoiser import Preconditioned
from fewstep.pipelines.folder import Folder, open_folder

NAMES = ("sd", "sd-v", "sdxl", "sd3", "flux", "flux-dev")
PROMPTS = ["a cat, 9", "cat"]
HEIGHT, WIDTH = 16, 24  # pixels; twice the latents


class Asking(nn.Module):
    """A family's network, asked by numbers of prompts."""

    def __init__(self, folder, network, rows, null, micro=None):
        super().__init__()
        self.folder, self.network = folder, network
        self.rows = {name: torch.cat([rows[name], null[name]]) for name in rows}
        self.micro = micro

    def forward(self, x, label, cond=None):
        number = torch.full((len(x),), NO_LABEL) if cond is None else cond["label"]
        rows = {name: row[number] for name, row in self.rows.items()}  # -1 is the last
        micro = self.micro
        micro = None if micro is None else micro.expand(len(x), -1)
        return self.folder.family.ask(self.network, x, label, rows, micro)


def denoiser_in(path: Path) -> tuple[Folder, Preconditioned, diffusers.DiffusionPipeline]:
    """The folder, its denoiser and diffusers' own pipeline."""
    folder = open_folder(path)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    with folder.encoders() as encoders:
        rows = folder.family.encode(encoders, PROMPTS)
        null = folder.family.null(encoders, folder)
    assert encoders == {}  # gone
    is_sdxl = folder.family.name == "sdxl"
    micro = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]]) if is_sdxl else None
    network = Asking(folder, folder.load(folder.family.network), rows, null, micro)
    return folder, Preconditioned(network, folder.convention, folder.convention.process), pipeline
