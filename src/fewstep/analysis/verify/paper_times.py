"""The papers' times of one row, in Python's numbers alone: nothing here is of the package."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import NamedTuple

NORMAL = NormalDist()
LOW, HIGH, SD = 0.002, 80.0, 0.5


class Row(NamedTuple):
    """The times and the weight of one row of a batch."""

    t: float  # the student's
    r: float  # its neighbour's
    a: float  # the end, the anchor
    w: float = 1.0
    u: float = 0.0  # the row's second uniform
    progress: float = 0.0
    to: float = 0.0  # the end that a flow map is told: a, or t on the diagonal


# u, progress, number of the row, of flow maps the other uniforms -> its times
Rule = Callable[..., Row]
# the uniforms of each row of a group, progress, number of the first row -> their times
GroupRule = Callable[[list[list[float]], float, int], list[Row]]


def alone(rule: Rule) -> GroupRule:
    """The times of rows that have nothing to do with each other."""
    return lambda group, progress, number: [
        rule(u, progress, i, *others) for i, (u, *others) in enumerate(group, number)
    ]


def log_normal(
    u: float, mean: float, std: float, low: float = 0.0, high: float = math.inf
) -> float:
    """t with ln t ~ N(mean, std^2) between low and high, at probability u."""
    below = NORMAL.cdf((math.log(low) - mean) / std) if low else 0.0
    above = NORMAL.cdf((math.log(high) - mean) / std) if high < math.inf else 1.0
    return math.exp(mean + std * NORMAL.inv_cdf(below + u * (above - below)))


def karras(n: int, low: float = LOW, high: float = HIGH) -> list[float]:
    """sigma_i = (low^(1/7) + i/n (high^(1/7) - low^(1/7)))^7, i = 0 .. n."""
    first = low ** (1 / 7)
    last = high ** (1 / 7)
    return [(first + i / n * (last - first)) ** 7 for i in range(n + 1)]


def diffusion(u: float, progress: float, number: int) -> Row:
    """EDM: ln sigma ~ N(-1.2, 1.2^2), and the data itself is the target."""
    return Row(log_normal(u, -1.2, 1.2), 0.0, 0.0)


def cd(u: float, progress: float, number: int) -> Row:
    """CM: 40 levels, the interval uniform."""
    grid = karras(39)
    i = int(u * 39)
    return Row(grid[i + 1], grid[i], 0.0)


def ct(u: float, progress: float, number: int) -> Row:
    """CM: N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1 levels, s0 = 2, s1 = 150."""
    levels = max(math.ceil(math.sqrt(progress * (151**2 - 2**2) + 2**2) - 1) + 1, 2)
    grid = karras(levels - 1)
    i = int(u * (levels - 1))
    return Row(grid[i + 1], grid[i], 0.0)


def ict(u: float, progress: float, number: int) -> Row:
    """iCT: min(10 2^floor(k/K'), 1280) intervals, p(i) ~ erf difference of the log-normal law."""
    intervals = min(10 * 2 ** math.floor(progress * (math.log2(1280 // 10) + 1)), 1280)
    grid = karras(intervals)
    edges = [math.erf((math.log(s) + 1.1) / (math.sqrt(2) * 2.0)) for s in grid]
    mass = list(accumulate(b - a for a, b in pairwise(edges)))
    i = bisect_left(mass, u * mass[-1])
    return Row(grid[i + 1], grid[i], 0.0)


def neighbour(t: float, ratio: float) -> float:
    """ECT: r = max(0, t (1 - (1 - ratio) n(t))), n(t) = 1 + 8 sigmoid(-t)."""
    return max(0.0, t * (1 - (1 - ratio) * (1 + 8 / (1 + math.exp(t)))))


def ect(u: float, progress: float, number: int) -> Row:
    """ECT: ln t ~ N(-1.1, 2^2); ratio = 1 - 2^-(j+1) in the j-th of 8 stages."""
    t = log_normal(u, -1.1, 2.0)
    return Row(t, neighbour(t, 1 - 2.0 ** -(min(math.floor(8 * progress), 7) + 1)), 0.0)


def cmt(u: float, progress: float, number: int) -> Row:
    """CMT's second stage: ECT's t, ratio = 0.996."""
    t = log_normal(u, -1.1, 2.0)
    return Row(t, neighbour(t, 0.996), 0.0)


@lru_cache(maxsize=1)
def _student_t() -> tuple[list[float], list[float]]:
    """ln t and its probability below: ln t = 0.2 T, T Student's with nu = 0.01, t in 1 .. 80.

    By the trapezoidal rule in asinh(T / 0.1), in which the density's core and tail are smooth.
    """
    nu = 0.01
    scale = 0.2
    n = 40_000
    root = math.sqrt(nu)
    top = math.asinh(math.log(HIGH) / (scale * root))
    nodes = [top * i / n for i in range(n + 1)]
    # the density of T is (1 + T^2/nu)^(-(nu+1)/2), and dT = sqrt(nu) cosh y dy
    height = [(1 + math.sinh(y) ** 2) ** (-(nu + 1) / 2) * math.cosh(y) for y in nodes]
    mass = [0.0, *accumulate((a + b) / 2 for a, b in pairwise(height))]
    return [scale * root * math.sinh(y) for y in nodes], [part / mass[-1] for part in mass]


def log_student_t(u: float) -> float:
    """TCM's t at probability u: linear between the nodes of `_student_t`, which is good to 1e-8."""
    logs, mass = _student_t()
    i = min(max(bisect_left(mass, u), 1), len(mass) - 1)
    share = (u - mass[i - 1]) / (mass[i] - mass[i - 1])
    return math.exp(logs[i - 1] + share * (logs[i] - logs[i - 1]))


def tcm(u: float, progress: float, number: int) -> Row:
    """TCM: a quarter of the rows at t' = 1, whose mean loss counts w_b = 0.1; ECT's last ratio."""
    ratio = 1 - 2.0**-8
    rho = 0.25
    if math.floor((number + 1) * rho) > math.floor(number * rho):
        return Row(1.0, neighbour(1.0, ratio), 0.0, 0.1 / rho)
    t = log_student_t(u)
    return Row(t, neighbour(t, ratio), 0.0, 1 / (1 - rho))


def mcm(u: float, progress: float, number: int, segments: int = 4) -> Row:
    """MCM: T = 64 .. 1280 steps over half of the run, t = (i+1)/T, s = i/T, a = floor(i/n) n/T."""
    share = min(progress / 0.5, 1.0)
    steps = math.exp(math.log(64) + share * (math.log(1280) - math.log(64)))
    inside = max(1, round(steps / segments))
    total = inside * segments
    i = math.floor(u * total)
    return Row((i + 1) / total, i / total, (i // inside) * inside / total)


def pcm(u: float, progress: float, number: int) -> Row:
    """PCM: 4 phases of 12 of the teacher's steps."""
    i = math.floor(u * 48)
    return Row((i + 1) / 48, i / 48, i // 12 / 4)


def pd(u: float, progress: float, number: int) -> Row:
    """PD: a student of n = 4 even steps; t = 1 - i/n, r = a = t - 1/n."""
    i = math.floor(u * 4)
    return Row(1 - i / 4, 1 - (i + 1) / 4, 1 - (i + 1) / 4)


def tract(u: float, progress: float, number: int) -> Row:
    """TRACT: the steps of a teacher of 12 in 4 segments."""
    i = math.floor(u * 12)
    return Row((i + 1) / 12, i / 12, i // 3 / 4)


def direct_grid(n: int = 9) -> list[float]:
    """n solver steps: the Karras levels from 80 to 0.002, and 0."""
    return [*reversed(karras(n - 1)), 0.0]


def direct_cm(u: float, progress: float, number: int) -> Row:
    """Direct CM: t uniform over the solver's levels; the solution at 0 is the goal."""
    return Row(direct_grid()[math.floor(u * 9)], 0.0, 0.0)


def scm(u: float, progress: float, number: int) -> Row:
    """sCM: ln(sd tan t) ~ N(-1, 1.4^2) between 0.002 and 80; r = t, the limit."""
    t = math.atan(log_normal(u, -1.0, 1.4, LOW, HIGH) / SD)
    return Row(t, t, 0.0)


def logit_normal(u: float, mean: float = -0.4, std: float = 1.0) -> float:
    """sigmoid(N(mean, std^2)) at probability u."""
    return 1 / (1 + math.exp(-mean - std * NORMAL.inv_cdf(u)))


def to_end(t: float, r: float, a: float) -> Row:
    return Row(t, r, a, to=a)


def flow_map(diagonal: float, near: Callable[[float], float] = lambda progress: 0.0) -> Rule:
    """t, a = max, min of two logit-normal(-.4, 1), r = t - near (t - a); a share has to = t.

    Of n rows n (1 - diagonal), rounded down, are those with a < t.
    """

    def rule(u: float, progress: float, number: int, v: float, *others: float) -> Row:
        one, other = logit_normal(u), logit_normal(v)
        if math.floor((number + 1) * (1 - diagonal)) == math.floor(number * (1 - diagonal)):
            return Row(one, 0.0, 0.0, to=one)
        t, a = max(one, other), min(one, other)
        share = others[0] if others else 1 - near(progress)
        return to_end(t, a + share * (t - a), a)

    return rule


def alpha(progress: float) -> float:
    """alpha-Flow: 1 - sigmoid(25 (progress - 1/2)), from .005 of its ends on these."""
    share = 1 / (1 + math.exp(25 * (progress - 0.5)))
    return share if 0.005 <= share <= 0.995 else float(round(share))


def shortcut(u: float, progress: float, number: int, v: float) -> Row:
    """Every eighth row jumps 2 d from a multiple of it, d = 2^-k, k = 1 .. 7; others t alone."""
    if (number + 1) % 8:
        t = logit_normal(u, 0.0)
        return Row(t, 0.0, 0.0, to=t)
    d = 2.0 ** -(1 + math.floor(7 * u))
    a = 2 * d * math.floor(v / (2 * d))
    return to_end(a + 2 * d, a + d, a)


def tvm(u: float, progress: float, number: int, v: float) -> Row:
    """a logit-normal(-.4, 1), (t - a) / (1 - a) logit-normal(-.8, 1)."""
    a = logit_normal(v)
    t = a + (1 - a) * logit_normal(u, -0.8)
    return to_end(t, t, a)


def ayf(u: float, progress: float, number: int, v: float) -> Row:
    """t, a = max, min of two logit-normal(-.8, 1)."""
    a, t = sorted((logit_normal(u, -0.8), logit_normal(v, -0.8)))
    return to_end(t, t, a)


def ctm(u: float, progress: float, number: int, v: float, s: float) -> Row:
    """CTM: t a level, a one below or 0, r one below t down to a; each uniform."""
    grid = direct_grid(18)
    i = math.floor(18 * u)
    a = i + 1 + math.floor((18 - i) * v)
    r = i + 1 + math.floor((a - i) * s)
    return to_end(grid[i], grid[r], grid[a])


def imm(group: list[list[float]], progress: float, number: int) -> list[Row]:
    """IMM, alike in all rows: t in .006 .. .994, a below, t/(1-t) falls by 160/2^12 to r >= a."""
    u, v = group[0]
    t = 0.006 + 0.988 * u
    level = max(0.0, t / (1 - t) - 160 / 2**12)
    return [to_end(t, max(level / (1 + level), v * t), v * t)] * len(group)


def tbcm(group: list[list[float]], progress: float, number: int) -> list[Row]:
    """TBCM: sCM's, one time in each of as many parts of the law as there are rows, downwards."""
    size = len(group)
    return [scm((size - 1 - i + u) / size, progress, number) for i, (u,) in enumerate(group)]


# method -> the rule of each row's times, and the rule in words
BY_ROW: dict[str, tuple[Rule, str]] = {
    "diffusion": (diffusion, "ln t ~ N(-1.2, 1.2^2)"),
    "ct": (ct, "N(k) levels, i uniform"),
    "cd": (cd, "40 Karras levels, i uniform"),
    "ict": (ict, "N doubles, p(i) from erf of ln sigma"),
    "ect": (ect, "r = t (1 - q^-(j+1) (1 + k sigmoid(-bt)))"),
    "gc": (ict, "the times of iCT"),
    "tcm": (tcm, "t log-Student-t, share rho at t', w_b/rho"),
    "cmt": (cmt, "r = t (1 - .004 (1 + 8 sigmoid(-t)))"),
    "vct": (ect, "the times of ECT"),
    "pcm": (pcm, "K phases, r one step below t, a its start"),
    "mcm": (mcm, "K segments, s one step below t, a its start"),
    "pd": (pd, "t uniform over the student's steps, a the next"),
    "tract": (tract, "t uniform over the teacher's steps, a its segment's start"),
    "direct_cm": (direct_cm, "t uniform over the solver's levels, r = a = 0"),
    "sct": (scm, "ln(sd tan t) ~ N(-1, 1.4^2), r = t"),
    "scd": (scm, "ln(sd tan t) ~ N(-1, 1.4^2), r = t"),
    "meanflow": (flow_map(0.75), "t, a logit-normal, 3/4 of the rows diagonal"),
    "imf": (flow_map(0.5), "t, a logit-normal, 1/2 of the rows diagonal"),
    "soflow": (
        flow_map(0.75, lambda progress: 0.1 * (0.002 / 0.1) ** progress),
        "l = t + q (a - t), q from .1 to .002 exponentially",
    ),
    "alphaflow": (flow_map(0.25, alpha), "r = t - alpha (t - a), alpha from 1 to 0"),
    "shortcut": (shortcut, "1/8 of the rows dyadic"),
    "psd": (flow_map(0.75), "r uniform in (a, t)"),
    "lsd": (flow_map(0.75), "t, a logit-normal, 3/4 of the rows diagonal"),
    "esd": (flow_map(0.75), "t, a logit-normal, 3/4 of the rows diagonal"),
    "tvm": (tvm, "the gap and the end logit-normal"),
    "lmd": (flow_map(0.25), "t, a logit-normal, 1/4 of the rows diagonal"),
    "emd": (flow_map(0.25), "t, a logit-normal, 1/4 of the rows diagonal"),
    "ayf": (ayf, "t, a logit-normal(-.8, 1)"),
    "ctm": (ctm, "levels a <= r < t, uniform"),
}
# method -> the rule of a group's times, and the rule in words
TIMES: dict[str, tuple[GroupRule, str]] = {
    **{method: (alone(rule), words) for method, (rule, words) in BY_ROW.items()},
    "imm": (imm, "t, a uniform, r a step of level below t, for 4 rows"),
    "tbcm": (tbcm, "sCM's times, one of each stratum, falling"),
}
