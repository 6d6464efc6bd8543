"""A folder of a pipeline that computes little: what `fewstep.pipelines.caching` asks of one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

CHANNELS, FACTOR, SCALE, SHIFT = 4, 2, 0.5, 0.25


class Autoencoder(nn.Module):
    """Means and log-variances of pictures, each a function of the picture alone."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.linspace(-1, 1, 3 * CHANNELS).reshape(CHANNELS, 3))

    def encode(self, x):
        means = torch.einsum("dc,bchw->bdhw", self.mix, avg_pool2d(x, FACTOR))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=means, logvar=means - 1))


def encode(encoders, prompts, length=None):
    """Numbers that the letters of each prompt decide."""
    codes = [torch.tensor([*text.encode()], dtype=torch.float64) for text in prompts]
    angles = torch.stack([one.mean() + torch.arange(6) * len(one) for one in codes])
    rows = angles.sin().to(encoders["dtype"])
    return {"tokens": rows.reshape(-1, 3, 2), "pooled": rows[:, :3] + 1}


@dataclass
class Folder:
    """loads: the parts that were loaded, in their order."""

    path: Path
    micro: bool = False
    loads: list[str] = field(default_factory=list)
    scale, shift, channels, factor, size = SCALE, SHIFT, CHANNELS, FACTOR, 8

    def __post_init__(self):
        for name in ("text_encoder", "vae", "unet"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
            (self.path / name / "config.json").write_text("{}")
        self.config = {"addition_embed_type": "text_time"} if self.micro else {}
        self.family = SimpleNamespace(
            encoders=("text_encoder", "tokenizer_2"),
            network="unet",
            encode=encode,
            null=lambda encoders, folder, length=None: encode(encoders, ["nothing"], length),
        )

    def load(self, name, dtype=torch.float32, device="cpu"):
        self.loads.append(name)
        return Autoencoder()

    @contextmanager
    def encoders(self, dtype=torch.float32, device="cpu"):
        self.loads.append("encoders")
        yield {"dtype": dtype}
