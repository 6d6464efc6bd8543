"""Sets of points of any number: `python examples/point_sets.py [ITERATIONS]`

3 to 16 points stand on a circle of radius 1, each off by 0.02. The mask says which of the 16 places
have a point; what stands in the others counts for nothing. From a file a tenth of the sets is held
out, by which the noise level of the second step is chosen when training ends.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from side_by_side import iterations, side_by_side

import fewstep as fs

PLACES, SCATTER = 16, 0.02


def sets(n: int, source: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [N, 16, 2], and the mask [N, 16] of those that there are."""
    count = torch.randint(3, PLACES + 1, (n, 1), generator=source)
    mask = torch.arange(PLACES) < count
    angle = 2 * torch.pi * torch.rand(n, PLACES, generator=source)
    radius = 1 + SCATTER * torch.randn(n, PLACES, generator=source)
    points = radius[..., None] * torch.stack([angle.cos(), angle.sin()], 2)
    return points * mask[..., None], mask


def scatter(points: torch.Tensor, mask: torch.Tensor) -> float:
    """Deviation of the points' distances from the middle of the circle of radius 1."""
    return float((points.norm(dim=2) - 1)[mask].square().mean().sqrt())


def main(rows: int = 5000, draws: int = 1000, **settings):
    source = torch.Generator().manual_seed(0)
    points, mask = sets(rows, source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sets.npz"
        np.savez(path, x0=points.numpy(), mask=mask.numpy())
        teacher = fs.train(fs.recipes.auto(method="diffusion", data=path, **settings))
        student = fs.train(fs.recipes.auto(data=path, **settings))
    others, request = sets(draws, source)

    def draw(model: fs.Generator, steps: int) -> torch.Tensor:
        return model.sample(draws, steps=steps, cond={"mask": request})

    def judge(samples: torch.Tensor) -> dict[str, str]:
        radial = scatter(samples, request)
        return {"radial scatter": f"{radial:.4f}", "/ the data's": f"{radial / SCATTER:.2f}"}

    samples = side_by_side(teacher, student, draw, judge, others)
    return points, mask, samples[2], request


if __name__ == "__main__":
    main(iterations=iterations(__doc__))
