"""Posteriors of a simulator's parameters: `python examples/posterior.py [ITERATIONS]`

An epidemic starts with one infected in a thousand. Contact and recovery rate are log-normal; a
survey finds the infected of 200 people at each of ten times. Which rates made such counts?
"""

import torch
from side_by_side import iterations, side_by_side

import fewstep as fs

PEOPLE, DRAWS = 200, 100
CENTRE, WIDTH = torch.tensor([0.6, 0.2]).log(), torch.tensor([0.4, 0.3])  # rates [1/day]


def shares(logs: torch.Tensor) -> torch.Tensor:
    """The infected at ten times in 60 days, shares of all [N, 10], by rates' logarithms [N, 2]."""
    contact, recovery = logs.exp().unbind(1)
    sick = torch.full((len(logs),), 1e-3)
    healthy, sick_shares, days = 1 - sick, [], 0.25
    for moment in range(1, 241):
        new, recoveries = days * contact * healthy * sick, days * recovery * sick
        healthy, sick = healthy - new, sick + new - recoveries
        if moment % 24 == 0:
            sick_shares.append(sick)
    return torch.stack(sick_shares, 1).clamp(0, 1)


def simulate(n: int, source: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the rates [N, 2], and the infected whom the surveys find [N, 10]."""
    logs = CENTRE + WIDTH * torch.randn(n, 2, generator=source)
    share = shares(logs)
    return logs, torch.binomial(torch.full_like(share, PEOPLE), share, source)


def main(rows: int = 20000, held_out: int = 300, **settings):
    source = torch.Generator().manual_seed(0)
    logs, counts = simulate(rows, source)
    data = {"x0": logs, "cond": counts}
    teacher = fs.train(fs.recipes.auto(method="diffusion", **settings), data)
    student = fs.train(fs.recipes.auto(**settings), data)
    truth, surveys = simulate(held_out, source)
    cond = surveys.repeat_interleave(DRAWS, 0)

    def draw(model: fs.Generator, steps: int) -> torch.Tensor:
        return model.sample(len(cond), steps=steps, cond=cond)

    def judge(samples: torch.Tensor) -> dict[str, str]:
        samples = samples.reshape(held_out, DRAWS, 2)
        p = fs.metrics.uniformity(fs.metrics.ranks(samples, truth), DRAWS)
        inside = fs.metrics.coverage(samples, truth, level=0.8).mean(0)
        return {
            "CRPS": f"{fs.metrics.crps(samples, truth).mean():.4f}",
            "p of ranks": f"{p[0]:.2g}, {p[1]:.2g}",
            "in 80 % interval": f"{inside[0]:.1%}, {inside[1]:.1%}",
            "width / prior's": f"{(samples.std(1).mean(0) / WIDTH).mean():.3f}",
        }

    samples = side_by_side(teacher, student, draw, judge)
    return truth, samples[2].reshape(held_out, DRAWS, 2)


if __name__ == "__main__":
    main(iterations=iterations(__doc__))
