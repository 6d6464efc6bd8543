"""Agreement with EDM2's power-function averages and their post-hoc reconstruction."""

from __future__ import annotations

import torch

from fewstep.run.averages import posthoc_coefficients
from fewstep.run.profiles import power_exponent, power_std
from tests.support.cases import Case


def exponents(stds: torch.Tensor) -> torch.Tensor:
    return torch.tensor([power_exponent(std) for std in stds.tolist()], dtype=torch.float64)


def edm2_phema(case: Case) -> None:
    profiles = exponents(case["stds"])
    case.agree("exponents", profiles)
    case.agree(
        "std_back", torch.tensor([power_std(g) for g in profiles.tolist()], dtype=torch.float64)
    )
    times = case["steps"].cumsum(0)
    averages = [torch.zeros_like(case["weights"][0]) for _ in profiles]
    history = []
    for now, dt, weights in zip(times, case["steps"], case["weights"], strict=True):
        rates = [(1 - dt / now) ** (g + 1) for g in profiles]
        averages = [
            beta * old + (1 - beta) * weights for beta, old in zip(rates, averages, strict=True)
        ]
        history.append(torch.stack(averages))
    case.agree("tracked", torch.stack(history, 1))
    at, target = case["snapshot_index"], exponents(case["target_std"])
    snapshots = torch.stack([history[i] for i in at]).flatten(0, 1)  # the profile runs fastest
    shares = posthoc_coefficients(
        times[at].repeat_interleave(len(profiles)),
        profiles.repeat(len(at)),
        times[case["target_index"]],
        target,
    )
    case.agree("coefficients", shares)
    case.agree("reconstructed", shares.T @ snapshots)
    end = times[case["target_index"][0]] / 10
    steps = torch.arange(len(case["response"]), dtype=torch.float64)
    density = torch.where(steps <= end, steps ** target[0], 0.0)
    case.agree("response", (density / density.sum())[:, None])


TESTED = {"edm2_phema": edm2_phema}
