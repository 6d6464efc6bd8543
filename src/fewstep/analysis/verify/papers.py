"""Every method against its paper: its times, its loss and its gradient beside those written out row
by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep import methods
from fewstep.analysis.verify import paper_losses, paper_times
from fewstep.analysis.verify.check import Check, by_row, worst
from fewstep.analysis.verify.fixtures import Analytic, Cast, cast, data
from fewstep.analysis.verify.paper_losses import Letter, Nets
from fewstep.analysis.verify.paper_times import Row, Rule
from fewstep.core.method import Method
from fewstep.core.times import Times

ROWS = 12


@dataclass(frozen=True)
class Paper:
    """A method, the rule of its times and the formula of its loss, both from the paper."""

    method: str
    rule: Rule
    letter: Letter
    law: str  # the times in words
    loss: str  # the loss in words
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    progress: tuple[float, ...] = (0.1, 0.7)

    def make(self) -> Method:
        method: Method = getattr(methods, self.method)(**self.options)
        return method


EDM, CM, MCM = "2206.00364, eq. 8", "2303.01469, eq. 10", "2403.06807, alg. 1"
PAPERS = [
    Paper(
        "diffusion",
        paper_times.diffusion,
        paper_losses.diffusion,
        "ln t ~ N(-1.2, 1.2^2)",
        "(t^2+sd^2)/(t sd)^2 ||D(x_t,t) - x0||^2 / D",
        EDM,
    ),
    Paper(
        "ct",
        paper_times.ct,
        paper_losses.ct,
        "N(k) levels, i uniform",
        "||D(x_t,t) - D_ema(x_r,r)||^2 / D",
        CM,
    ),
    Paper(
        "cd",
        paper_times.cd,
        paper_losses.cd,
        "40 Karras levels, i uniform",
        "||D(x_t,t) - D_ema(Heun(x_t),r)||^2 / D",
        "2303.01469, eq. 6-8",
    ),
    Paper(
        "ict",
        paper_times.ict,
        paper_losses.ict,
        "N doubles, p(i) from erf of ln sigma",
        "1/(t-r) huber(D(x_t,t) - sg D(x_r,r)), c ~ sqrt(D)",
        "2310.14189, table 1",
    ),
    Paper(
        "ect",
        paper_times.ect,
        paper_losses.ect,
        "r = t (1 - q^-(j+1) (1 + k sigmoid(-bt)))",
        "1/(t-r) ||D(x_t,t) - sg D(x_r,r)||",
        "2406.14548, sec. 3",
    ),
    Paper(
        "ect",
        paper_times.ect,
        paper_losses.ect_edm,
        "",
        "1/c_out(t)^2 huber(D(x_t,t) - sg D(x_r,r)), c = .06",
        "2406.14548, code",
        {"weight": "edm", "c": 0.06},
    ),
    Paper(
        "gc",
        paper_times.ict,
        paper_losses.gc,
        "the times of iCT",
        "iCT on x0 := D_ema(x_r,r), same z, where u < mu",
        "2406.09570, eq. 13-21",
    ),
    Paper(
        "tcm",
        paper_times.tcm,
        paper_losses.tcm,
        "t log-Student-t, share rho at t', w_b/rho",
        "1/(t-r) ||D(x_t,t) - sg f_trunc(x_r,r)||",
        "2410.14895, eq. 5-10",
    ),
    Paper(
        "mcm",
        paper_times.mcm,
        paper_losses.mcm,
        "K segments, s one step below t, a its start",
        "huber of v: D(x_t,t) - invDDIM(DDIM(x_s, s->a))",
        MCM,
    ),
    Paper(
        "mcm",
        paper_times.mcm,
        paper_losses.mcm_addim,
        "",
        "the same with x_s an aDDIM step of the teacher",
        "2403.06807, sec. 4",
        {"pairs": "addim"},
    ),
    Paper(
        "mcm",
        paper_times.mcm,
        paper_losses.mcm_snr,
        "",
        "(SNR + 1) huber of x0",
        "2403.06807, app. A",
        {"space": "x0", "weight": "snr_plus_one"},
    ),
    Paper(
        "direct_cm",
        paper_times.direct_cm,
        paper_losses.direct_cm,
        "t uniform over the solver's levels, r = a = 0",
        "||D(x_t,t) - ODE(x_t, t->0)||^2 / D",
        "2411.08954, sec. 3",
        {"n": 9},
    ),
    Paper(
        "sct",
        paper_times.scm,
        paper_losses.scm,
        "ln(sd tan t) ~ N(-1, 1.4^2), r = t",
        "e^-u ||F - sg(F + g/(||g||+c))||^2 / D + u",
        "2410.11081, alg. 1",
        progress=(0.01, 0.7),
    ),
    Paper(
        "scd",
        paper_times.scm,
        paper_losses.scd,
        "ln(sd tan t) ~ N(-1, 1.4^2), r = t",
        "sCT's along the teacher's velocity",
        "2410.11081, alg. 1",
        progress=(0.01, 0.7),
    ),
]


def rows_of(paper: Paper, u: Tensor, progress: float) -> list[Row]:
    """The paper's times of a batch, row by row."""
    found = [paper.rule(at, progress, number) for number, at in enumerate(u[:, 0].tolist())]
    return [
        row._replace(u=second, progress=progress)
        for row, second in zip(found, u[:, 1].tolist(), strict=True)
    ]


def times_apart(paper: Paper) -> float:
    """The method's t, r, a and weights against the paper's, relative to t."""
    errors = []
    for progress in (*paper.progress, 1.0):
        _, _, u = data(64, stream="verify times")
        found = paper.make().times(u, progress, torch.arange(len(u)))
        wanted = torch.tensor([row[:4] for row in rows_of(paper, u, progress)], dtype=torch.float64)
        off = (torch.stack(found[:4], 1) - wanted).abs() / torch.cat(
            [wanted[:, :1].expand(-1, 3), wanted[:, 3:]], 1
        )
        errors.append(off.max().item())
    return worst(*errors)


def alone(net: Analytic) -> Callable[[Tensor, float], Tensor]:
    """A network as a function of one sample and a float."""
    return lambda x, t: net(x[None], torch.tensor([t], dtype=torch.float64))[0]


def by_the_letter(paper: Paper, nets: Cast, x0: Tensor, z: Tensor, rows: list[Row]) -> Tensor:
    """The paper's loss of every row, the row's weight included."""
    written = Nets(
        alone(nets.student),
        alone(nets.ema),
        alone(nets.teacher),
        alone(nets.frozen),
        lambda label: nets.balance(torch.tensor(label, dtype=torch.float64)),
    )
    return torch.stack(
        [row.w * paper.letter(written, x, n, row) for x, n, row in zip(x0, z, rows, strict=True)]
    )


def losses(paper: Paper, progress: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(loss `[B]`, gradient) of the method and of the paper, at the paper's own times."""
    x0, z, u = data(ROWS)
    rows = rows_of(paper, u, progress)
    t, r, a, w = torch.tensor([row[:4] for row in rows], dtype=torch.float64).T
    ours, theirs = cast(), cast()
    found = paper.make().loss(ours.models(), x0, z, Times(t, r, a, w, u, progress))
    wanted = by_the_letter(paper, theirs, x0, z, rows)
    mix = (
        torch.linspace(1.0, 2.0, ROWS, dtype=torch.float64) / wanted.detach().abs()
    )  # no row hides another
    for loss in (found, wanted):
        (loss * mix).sum().backward()
    return (found, ours.gradients()), (wanted, theirs.gradients())


def value_apart(paper: Paper) -> float:
    """The largest relative error of a row's loss."""
    return worst(*(by_row(*(part[0] for part in losses(paper, p))) for p in paper.progress))


def gradient_apart(paper: Paper) -> float:
    """The relative error of the gradient for all networks, those included that must not have one."""
    return worst(*(by_row(*(part[1][None] for part in losses(paper, p))) for p in paper.progress))


def checks() -> list[Check]:
    """Times, loss and gradient of every row of the table."""
    found = []
    for paper in PAPERS:
        name, page = (
            paper.method,
            f"docs/methods/{'scm' if paper.method in ('sct', 'scd') else paper.method}.md",
        )
        where = f"see fewstep.methods.{name} and the parts it names, {page}"
        if paper.law:
            told = (
                f"the times of {name} are not those of the paper: the law, the grid, or a row's"
                f" weight; {where}"
            )
            check = Check(
                f"{name}: {paper.law}",
                paper.source,
                partial(times_apart, paper),
                1e-6,
                told,
                (paper.method,),
            )
            found.append(check)
        told = (
            f"the loss of {name} at the paper's own times is not its formula: pairs, target,"
            " distance or weight; "
        )
        found.append(
            Check(
                f"{name}: {paper.loss}",
                paper.source,
                partial(value_apart, paper),
                1e-6,
                told + where,
                (name,),
            )
        )
        told = (
            f"the gradient of {name} is not that of its formula: is the target detached, was the"
            " right network asked?; "
        )
        found.append(
            Check(
                f"{name}: gradient of {paper.loss}",
                paper.source,
                partial(gradient_apart, paper),
                1e-6,
                told + where,
                (name,),
            )
        )
    return found
