"""Laws of times and curricula, by quantiles, means and limits; `paper_times` has the rest."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch

from fewstep import methods
from fewstep.analysis.verify import paper_times
from fewstep.analysis.verify.check import Table, apart, column, worst
from fewstep.core import times as laws
from fewstep.core.times import curricula
from fewstep.run import stages

TIMES = Table("core.times", 1e-12, "the times do not follow their law")
CURRICULUM = Table("core.times.curricula", 1e-12, "it does not start, end or grow like this")
CLOCK = Table("run.stages", 0.0)


@TIMES(
    "TCM: median 1.221, P(t<1.1) .379, P(t<10) .897",
    "2410.14895, eq. 7",
    "LogStudentT",
    "tcm",
    tolerance=1.5e-3,
)
def student_t() -> float:
    """Published quantiles: the median and the shares below 1.01, 1.1, 2 and 10."""
    t = laws.LogStudentT().quantile((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    shares = [(t < edge).double().mean().item() for edge in (1.01, 1.1, 2.0, 10.0)]
    return worst(
        abs(t.median().item() - 1.221),
        *(abs(a - b) for a, b in zip(shares, (0.081, 0.379, 0.703, 0.897), strict=True)),
    )


@TIMES("TCM, strata: mean(w loss) = E_(t>t') + w_b E_(t=t')", "2410.14895, eq. 8-10", "Atom", "tcm")
def strata_of_a_batch() -> float:
    """Over the rows of one batch: their mean over t > t' plus w_b times their mean at t'."""
    u = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)[:, None].expand(-1, 2)
    times = methods.tcm(rho=0.25, w_b=0.1, realised=True).times(u, 0.5, torch.arange(7))
    at = times.t == 1.0
    loss = 1 + times.t.sqrt()
    truth = loss[~at].mean() + 0.1 * loss[at].mean()
    return abs((times.w * loss).mean().item() - truth.item())


@TIMES("ECT: r/t is at most ratio_max", "definition", "RatioMap", "ect tcm")
def highest_ratio() -> float:
    """Late in a run r / t is ratio_max and no more."""
    rows = methods.ect(stages=40, ratio_max=0.999).times.at(column(1e3), 1.0)
    return abs((rows.r / rows.t).item() - 0.999)


@TIMES("direct_cm: w of shared rows makes levels uniform", "definition", "Shared", "direct_cm")
def shared_weights() -> float:
    """Over every start, mean(w loss) is that of uniform levels, for any loss of t."""
    grid = paper_times.direct_grid(7)
    size = 3
    starts = (torch.arange(7, dtype=torch.float64) + 0.5) / 7
    u = starts.repeat_interleave(size)[:, None].expand(-1, 2)
    times = laws.Shared(levels=laws.Levels(grid=tuple(grid)), size=size)(u, 0.0)
    truth = sum(math.sqrt(t) for t in grid[:-1]) / 7
    return abs((times.w * times.t.sqrt()).mean().item() - truth) / truth


# Curricula.


@CURRICULUM("target's rate mu = exp(s0 ln mu0 / N)", "2303.01469, app. C", "", "ct cd")
def target_rates() -> float:
    """mu0^s0 at CT's single interval, mu0^(s0 / 150) at its last, never falling; CD's 0.95."""
    ct = methods.ct().ema_rate
    cd = methods.cd().ema_rate
    if ct is None or cd is None:
        return math.inf
    rates = [ct(k / 100) for k in range(101)]
    return worst(
        abs(rates[0] - 0.9**2),
        abs(rates[-1] - 0.9 ** (2 / 150)),
        abs(cd(0.5) - 0.95),
        float(rates != sorted(rates)),
    )


@CURRICULUM("gc: mu falls linearly from share to share_end", "definition", "Ramp", "gc")
def ramp() -> float:
    ours = [curricula.Ramp(0.9, 0.3)(p) for p in (0.0, 0.25, 0.5, 1.0)]
    return apart(column(*ours), column(0.9, 0.75, 0.6, 0.3))


@CLOCK("tcm: each stage has its own clock", "definition", "Stage", "tcm")
def clock() -> float:
    """The schedules of each stage begin at its own 0 and end at its 1."""
    run: Any = SimpleNamespace(stage=None, split=0.7, iterations=10, shares=())
    ends = []
    for stage in stages.stages(run, methods.tcm()):
        ends.append((stage.progress(stage.first), stage.progress(stage.last)))
    return float(ends != [(0.0, 1.0), (0.0, 1.0)])


CHECKS = [*TIMES.rows, *CLOCK.rows, *CURRICULUM.rows]
