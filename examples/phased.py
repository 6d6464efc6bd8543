"""An outside method: phased consistency models (arXiv 2405.18407). `python examples/phased.py [ITERATIONS]`

The noise is cut into phases, and the student is a consistency model of each: it jumps to the phase's lower
edge. As many steps as phases then sample without noise in between. The package knows nothing of this file.
"""

import sys
from dataclasses import dataclass

import torch

import fewstep as fs

EDGES = (0.0, 0.3, 1.0, 4.0, 80.0)  # noise levels, from the data up


@dataclass(frozen=True)
class Phases:
    """t from a law, a the edge below it, and r between: (t - r) / (t - a) halves from stage to stage."""

    law: fs.times.LogNormal
    edges: tuple[float, ...]
    stages: int
    at_anchor = False  # r > a: a target network is needed

    def __call__(self, u, progress, ordinal=None):
        return self.at(self.law.quantile(u[:, 0]), progress)

    def at(self, t, progress):
        edges = torch.tensor(self.edges, dtype=torch.float64)
        a = edges[torch.searchsorted(edges, t) - 1]
        r = t - (t - a) * 0.5 ** int(1 + progress * self.stages)
        return fs.Times(t, r, a, torch.ones_like(t))


def down_the_edges(process, moves, later_sigmas):
    """The sampler's grid: one move per phase, whatever was asked."""
    return list(EDGES[::-1])


def phased(*, stages: int = 6, c: float = 0.03) -> fs.Method:
    """E 1/(t-r) d(jump(x_t, D(x_t, t), t -> a), jump(x_r, sg D(x_r, r), r -> a)) (eq. 4), d pseudo-Huber."""
    return fs.Method(
        times=Phases(fs.times.LogNormal(mean=-0.8, std=1.8, low=0.002, high=80.0), EDGES, stages),
        target=fs.targets.Student(),
        space=fs.spaces.end,  # compare the points at the anchor
        distance=fs.distances.huber(c),
        weight=fs.weights.inverse_gap,
        sampler=fs.sampling.Sampler(step=fs.solvers.ddim, grid=down_the_edges, default=len(EDGES) - 1),
    )


if __name__ == "__main__":
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    generator = fs.train(fs.recipes.toy(iterations=iterations), method=phased())
    x = generator.sample(2000)
    print(f"energy distance to the ring: {fs.metrics.energy(x, fs.data.load('ring8').test.x0):.4f}")
