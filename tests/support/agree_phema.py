"""Agreement with EDM2's power-function averages and their post-hoc reconstruction."""

from __future__ import annotations

import torch

from fewstep.run.averages import posthoc_coefficients
from fewstep.run.profiles import power_exponent, power_std
from tests.support.cases import Case


def exponents(stds: torch.Tensor) -> torch.Tensor:
    return torch.tensor([power_exponent(std) for std in stds.tolist()], dtype=torch.float64)


def edm2_phema(case: Case) -> None:
    tracked = exponents(case["stds"])
    case.agree("exponents", tracked)
    case.agree(
        "std_back", torch.tensor([power_std(g) for g in tracked.tolist()], dtype=torch.float64)
    )
    times, averages = (
        case["steps"].cumsum(0),
        [torch.zeros_like(case["weights"][0]) for _ in tracked],
    )
    history = []
    for now, dt, weights in zip(times, case["steps"], case["weights"], strict=True):
        kept = [(1 - dt / now) ** (g + 1) for g in tracked]
        averages = [
            beta * old + (1 - beta) * weights for beta, old in zip(kept, averages, strict=True)
        ]
        history.append(torch.stack(averages))
    case.agree("tracked", torch.stack(history, 1))
    at, asked = case["snapshot_index"], exponents(case["target_std"])
    stored = torch.stack([history[i] for i in at]).flatten(0, 1)  # the profile runs fastest
    shares = posthoc_coefficients(
        times[at].repeat_interleave(len(tracked)),
        tracked.repeat(len(at)),
        times[case["target_index"]],
        asked,
    )
    case.agree("coefficients", shares)
    case.agree("reconstructed", shares.T @ stored)
    end = times[case["target_index"][0]] / 10
    steps = torch.arange(len(case["response"]), dtype=torch.float64)
    density = torch.where(steps <= end, steps ** asked[0], 0.0)
    case.agree("response", (density / density.sum())[:, None])


TESTED = {"edm2_phema": edm2_phema}
