"""A method of your own: phased consistency models. `python examples/phased.py [ITERATIONS]`

The noise levels are cut into phases; in each the student is a consistency model, which jumps to the
lower edge (arXiv 2405.18407). As many steps as phases then sample without new noise.
"""

import argparse
from dataclasses import dataclass

import torch

import fewstep as fs

EDGES = (0.0, 0.3, 1.0, 4.0, 80.0)  # noise levels, from the data up
PHASES = len(EDGES) - 1


@dataclass(frozen=True)
class Phases:
    """t from a law, a the edge below it, r between: (t - r) / (t - a) halves in each stage."""

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


def down_the_edges(process, moves, levels):
    """The sampler's grid: one move for each phase."""
    return list(EDGES[::-1])


def phased(*, stages: int = 6, c: float = 0.03) -> fs.Method:
    """E d(jump(x_t, D(x_t, t), t -> a), jump(x_r, sg D(x_r, r), r -> a)) / (t - r) (eq. 4)."""
    law = fs.times.LogNormal(mean=-0.8, std=1.8, low=0.002, high=80.0)
    return fs.Method(
        times=Phases(law, EDGES, stages),
        target=fs.targets.Student(),
        space=fs.spaces.end,  # compare the points at the anchor
        distance=fs.distances.huber(c),
        weight=fs.weights.inverse_gap,
        sampler=fs.sampling.Sampler(
            step=fs.solvers.ddim, grid=down_the_edges, default=PHASES, only=True
        ),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=1500)
    iterations = parser.parse_args().iterations
    generator = fs.train(fs.recipes.toy(iterations=iterations), method=phased())
    distance = fs.metrics.energy(generator.sample(2000), fs.data.load("ring8").test.x0)
    print(f"energy distance to the ring: {distance:.4f}")
