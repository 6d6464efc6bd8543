"""A field that is drawn step by step from itself: `python examples/rollout.py [ITERATIONS]`

A tracer on a periodic grid of 16 x 16 is carried by a wind, spreads, and has random sources. The
model learns the next state given the present one; then each of its states is the next condition.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from side_by_side import iterations, side_by_side

import fewstep as fs

SIDE, STEPS = 16, 20
K = torch.fft.fftfreq(SIDE, 1 / SIDE)
WAVES = K[:, None].square() + K.square()  # squares of the wave numbers
DECAY = torch.exp(-0.05 * WAVES - 2j * torch.pi * (K[:, None] + 0.5 * K) / SIDE)  # spread, wind
SIZE = torch.where(WAVES > 0, 1 / (1 + WAVES), 0)  # deviation of each wave, for ever
# The present state is 256 numbers, and this network sees each of them beside the next state's.
OPTIONS = {"width": 256, "depth": 2, "features_at": "both"}
NETWORK = {"network": "mlp", "network_options": OPTIONS, "batch": 256}


def sources(n: int, source: torch.Generator) -> torch.Tensor:
    """Noise [N, 1, 16, 16] whose waves have their stationary size."""
    return torch.fft.ifft2(
        SIZE * torch.fft.fft2(torch.randn(n, 1, SIDE, SIDE, generator=source))
    ).real


def advance(state: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    fresh = torch.fft.fft2(sources(len(state), source)) * (1 - DECAY.abs().square()).sqrt()
    return torch.fft.ifft2(DECAY * torch.fft.fft2(state) + fresh).real


def spectrum(states: torch.Tensor) -> torch.Tensor:
    """Power [T, 8] of the wave numbers 1 .. 8 at each time, of states [T, N, 1, 16, 16]."""
    power, ring = torch.fft.fft2(states).abs().square().mean((1, 2)), WAVES.sqrt().round()
    return torch.stack([power[:, ring == k].mean(1) for k in range(1, 9)], 1)


def persistence(states: torch.Tensor) -> float:
    """Correlation of a state with the next one."""
    return float(torch.corrcoef(torch.stack([states[:-1].flatten(), states[1:].flatten()]))[0, 1])


def main(rows: int = 20000, runs: int = 200, **settings):
    source = torch.Generator().manual_seed(0)
    present = sources(rows, source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.npz"
        np.savez(path, x0=advance(present, source).numpy(), cond=present.numpy())
        settings = {**NETWORK, "data": path, **settings}
        teacher = fs.train(fs.recipes.auto(method="diffusion", **settings))
        student = fs.train(fs.recipes.auto(**settings))
    first = sources(runs, source)

    def roll(following) -> torch.Tensor:
        """The states [runs * STEPS, 1, 16, 16] after the first, each by the one before."""
        states = [first]
        for moment in range(STEPS):
            states.append(following(states[-1], moment))
        return torch.stack(states[1:], 1).flatten(0, 1)

    truth, again = (roll(lambda state, moment: advance(state, source)) for _ in range(2))
    truth = truth.unflatten(0, (runs, STEPS)).transpose(0, 1)

    def draw(model: fs.Generator, steps: int) -> torch.Tensor:
        return roll(lambda state, k: model.sample(runs, steps=steps, cond=state, seed=k))

    def judge(states: torch.Tensor) -> dict[str, str]:
        states = states.unflatten(0, (runs, STEPS)).transpose(0, 1)
        off = states.var((1, 2, 3, 4)) / truth.var((1, 2, 3, 4)) - 1
        worst = (spectrum(states) / spectrum(truth) - 1).abs().mean(0).max()
        return {
            "variance off, step 1": f"{off[0]:+.1%}",
            f"step {STEPS}": f"{off[-1]:+.1%}",
            "spectrum off": f"{worst:.1%}",
            "correlation with the next": f"{persistence(states):.3f}",
        }

    states = side_by_side(teacher, student, draw, judge, again)[2]
    states = states.unflatten(0, (runs, STEPS)).transpose(0, 1)
    return torch.cat([first[None], truth]), torch.cat([first[None], states])


if __name__ == "__main__":
    main(iterations=iterations(__doc__))
