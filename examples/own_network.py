"""A network and data of your own: `python examples/own_network.py [ITERATIONS]`

The data are signals `[N, 1, 64]`. Any module called as (x, noise_label [B], cond) -> like x will
do. This one is a convolution, whose condition is a number for each sample, the signal's frequency.
"""

import argparse

import torch
from torch import nn

import fewstep as fs


def signals(n: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines of a frequency in 1 .. 4 and any phase; the frequencies beside them."""
    source = torch.Generator().manual_seed(0)
    frequency = 1 + 3 * torch.rand(n, 1, generator=source)
    phase = 2 * torch.pi * torch.rand(n, 1, generator=source)
    return (2 * torch.pi * frequency * torch.linspace(0, 1, 64) + phase).sin()[:, None], frequency


class Convolution(nn.Module):
    """Residual convolutions, their channels shifted by an embedding of (noise_label, frequency)."""

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.inlet = nn.Conv1d(1, width, 9, padding=4)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 9, padding=4 * 4**i, dilation=4**i) for i in range(depth - 1)
        )
        self.outlet = nn.Conv1d(width, 1, 9, padding=4)

    def forward(self, x, noise_label, cond):
        shift = self.embed(torch.stack([noise_label, cond[:, 0] - 2.5], 1))[:, :, None]
        h = self.inlet(x)
        for layer in self.layers:
            h = h + nn.functional.silu(layer(h + shift))
        return self.outlet(nn.functional.silu(h))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=1500)
    iterations = parser.parse_args().iterations
    x0, frequency = signals()
    run = fs.recipes.toy(iterations=iterations, batch=128)
    generator = fs.train(run, {"x0": x0, "cond": frequency}, Convolution())
    frequencies = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    waves = generator.sample(4, cond=frequencies, steps=2)
    periods = (waves[:, 0, 1:] * waves[:, 0, :-1] < 0).sum(1) / 2
    print(f"frequencies {frequencies[:, 0].tolist()}, periods of samples {periods.tolist()}")
