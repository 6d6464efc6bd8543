"""Laws of times, curricula and the rates of averages, by their formulas."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from fewstep import methods
from fewstep.analysis.verify.check import Check, apart, column, worst
from fewstep.core import times as laws
from fewstep.core.times import curricula
from fewstep.run import profiles

EVEN = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


def log_mean() -> float:
    """The mean and standard deviation of ln t, over even probabilities, are those that the law was
    given.
    """
    logs = laws.LogNormal(mean=-1.1, std=2.0).quantile(EVEN).log()
    inverse = [NormalDist(-1.1, 2.0).inv_cdf(u) for u in (0.1, 0.5, 0.9)]
    found = laws.LogNormal(mean=-1.1, std=2.0).quantile(column(0.1, 0.5, 0.9)).log()
    return worst(
        abs(logs.mean().item() + 1.1),
        abs(logs.std().item() - 2.0) / 10,
        apart(found, column(*inverse)),
    )


def student_t() -> float:
    """Published quantiles of TCM's law: median 1.221 and the shares below 1.01, 1.1, 2 and 10."""
    t = laws.LogStudentT().quantile((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    shares = [(t < edge).double().mean().item() for edge in (1.01, 1.1, 2.0, 10.0)]
    told = (0.081, 0.379, 0.703, 0.897)
    return worst(
        abs(t.median().item() - 1.221), *(abs(a - b) for a, b in zip(shares, told, strict=True))
    )


def atom() -> float:
    """mean(w loss) = mean over t > t' plus w_b times the mean over t = t', for a loss of 2 here and
    3 there.
    """
    times = methods.tcm(rho=0.25, w_b=0.1).times(
        torch.stack([EVEN, EVEN], 1), 0.5, torch.arange(4000)
    )
    at = times.t == 1.0
    loss = torch.where(at, 3.0, 2.0)
    return worst(
        abs(at.double().mean().item() - 0.25),
        abs((times.w * loss).mean().item() - (2.0 + 0.1 * 3.0)),
    )


def index_law() -> float:
    """How often iCT chooses each of 10 intervals, against the erf differences."""
    times = methods.ict().times(torch.stack([EVEN, EVEN], 1), 0.0)
    grid = laws.karras(0.002, 80.0, 10).flip(0)
    count = torch.bincount(torch.searchsorted(grid, times.t) - 1, minlength=10).double() / len(EVEN)
    law = torch.erf((grid.log() + 1.1) / (math.sqrt(2) * 2.0)).diff()
    return apart(count, law / law.sum())


def ratio_map() -> float:
    """r / t -> ratio for large t, 1 - (1 - ratio)(1 + k/2) for small t, and r = 0 below, in every
    stage.
    """
    times, errors = methods.ect().times, []
    for stage in range(8):
        gap = 2.0 ** -(stage + 1)
        found = times.at(column(1e-9, 1e3), (stage + 0.5) / 8)
        errors.append(apart(found.r / found.t, column(max(0.0, 1 - 5 * gap), 1 - gap)))
    return worst(*errors)


def anchors() -> float:
    """Every segment holds n steps; its lowest neighbour is its start, its highest t the next one's
    start.
    """
    times = methods.mcm(K=4, steps=32, steps_end=32).times.at(torch.arange(32), 0.0)
    inside = torch.arange(32) % 8
    starts = (torch.arange(32) // 8).double() / 4
    gaps = worst(apart(times.t - times.r, torch.full_like(times.t, 1 / 32)), apart(times.a, starts))
    return worst(
        gaps,
        apart(times.r - times.a, inside.double() / 32),
        apart(times.t[inside == 7], starts[::8] + 0.25),
    )


def rates() -> float:
    """mu(p) = exp(s0 ln mu0 / N(p)) for CT, and the constant of CD."""
    ct, cd = methods.ct().ema_rate, methods.cd().ema_rate
    if ct is None or cd is None:
        return math.inf
    intervals = [max(math.ceil(math.sqrt(p * (151**2 - 4) + 4) - 1), 1) for p in (0.0, 0.3, 1.0)]
    told = [math.exp(2 * math.log(0.9) / n) for n in intervals]
    return worst(
        *(abs(ct(p) - mu) for p, mu in zip((0.0, 0.3, 1.0), told, strict=True)), abs(cd(0.5) - 0.95)
    )


def growth() -> float:
    """The ends of the curricula: iCT 10 to 1280 by doubling, MCM 64 to 1280 by half of the run, CT
    1 to 150.
    """
    found = [
        f(p)
        for f in (curricula.Doubling(), curricula.Exponential(), curricula.Progressive())
        for p in (0.0, 0.5, 1.0)
    ]
    half = math.ceil(math.sqrt(0.5 * (151**2 - 4) + 4) - 1)
    return apart(column(*found), column(10, 160, 1280, 64, 1280, 1280, 1, half, 150))


def power_average() -> float:
    """beta_k = (1 - 1/k)^(g+1) makes an average in which step k weighs (k/n)^(g+1) -
    ((k-1)/n)^(g+1).
    """
    exponent, n, total = 6.94, 50, 0.0
    for k in range(n):
        rate = profiles.power_rate(k, exponent)
        total = rate * total + (1 - rate) * k
    wanted = sum(
        k * (((k + 1) / n) ** (exponent + 1) - (k / n) ** (exponent + 1)) for k in range(n)
    )
    return abs(total - wanted)


def checks() -> list[Check]:
    law, size = "see fewstep.times", "see fewstep.curricula"
    doubling = ("ict", "gc", "mcm", "ct")
    return [
        Check(
            "ln t ~ N(mean, std^2): E ln t = mean, its sign too",
            "2206.00364, table 1",
            log_mean,
            1e-3,
            law,
        ),
        Check(
            "TCM: median 1.221, P(t<1.1) .379, P(t<10) .897",
            "2410.14895, eq. 7",
            student_t,
            1.5e-3,
            law,
            ("tcm",),
        ),
        Check(
            "TCM: mean(w loss) = E_(t>t') + w_b E_(t=t')",
            "2410.14895, eq. 8-10",
            atom,
            1e-9,
            f"{law}.Atom",
            ("tcm",),
        ),
        Check(
            "iCT: p(i) ~ erf(..s_(i+1)..) - erf(..s_i..)",
            "2310.14189, sec. 3.5",
            index_law,
            1e-3,
            law,
            ("ict", "gc"),
        ),
        Check(
            "ECT: r/t -> 1 - q^-(j+1), gap 5 times at t = 0",
            "2406.14548, sec. 3",
            ratio_map,
            1e-6,
            law,
            ("ect", "tcm"),
        ),
        Check(
            "MCM: r >= a = start of t's segment, n steps each",
            "2403.06807, alg. 1",
            anchors,
            1e-9,
            law,
            ("mcm",),
        ),
        Check(
            "target's rate mu = exp(s0 ln mu0 / N)",
            "2303.01469, app. C",
            rates,
            1e-12,
            size,
            ("ct", "cd"),
        ),
        Check(
            "N: 10 2^stage, 64 .. 1280, CT's square root",
            "2310.14189, 2403.06807",
            growth,
            1e-12,
            size,
            doubling,
        ),
        Check(
            "power EMA: step k weighs like t^g",
            "2312.02696, sec. 3.1",
            power_average,
            1e-9,
            "see fewstep.run.profiles",
        ),
    ]
