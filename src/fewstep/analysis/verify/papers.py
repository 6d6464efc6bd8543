"""Every method against its paper: times, loss and gradient beside those written out row by row."""

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
from fewstep.analysis.verify.paper_losses import Loss, Nets
from fewstep.analysis.verify.paper_times import Row, Rule
from fewstep.core.method import Method
from fewstep.core.times import Times

ROWS = 12


@dataclass(frozen=True)
class Paper:
    """A method, the rule of its times and the formula of its loss, both from the paper."""

    method: str
    rule: Rule
    formula: Loss
    law: str  # the times in words; "" where an earlier row has them
    loss: str  # the loss in words
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    progress: tuple[float, ...] = (0.1, 0.7)

    def make(self) -> Method:
        method: Method = getattr(methods, self.method)(**self.options)
        return method


PAPERS = [
    Paper(
        "diffusion",
        paper_times.diffusion,
        paper_losses.diffusion,
        law="ln t ~ N(-1.2, 1.2^2)",
        loss="(t^2+sd^2)/(t sd)^2 ||D(x_t,t) - x0||^2 / D",
        source="2206.00364, eq. 8",
    ),
    Paper(
        "ct",
        paper_times.ct,
        paper_losses.ct,
        law="N(k) levels, i uniform",
        loss="||D(x_t,t) - D_ema(x_r,r)||^2 / D",
        source="2303.01469, eq. 10",
    ),
    Paper(
        "cd",
        paper_times.cd,
        paper_losses.cd,
        law="40 Karras levels, i uniform",
        loss="||D(x_t,t) - D_ema(Heun(x_t),r)||^2 / D",
        source="2303.01469, eq. 6-8",
    ),
    Paper(
        "ict",
        paper_times.ict,
        paper_losses.ict,
        law="N doubles, p(i) from erf of ln sigma",
        loss="1/(t-r) huber(D(x_t,t) - sg D(x_r,r)), c ~ sqrt(D)",
        source="2310.14189, table 1",
    ),
    Paper(
        "ect",
        paper_times.ect,
        paper_losses.ect,
        law="r = t (1 - q^-(j+1) (1 + k sigmoid(-bt)))",
        loss="1/(t-r) ||D(x_t,t) - sg D(x_r,r)||",
        source="2406.14548, sec. 3",
    ),
    Paper(
        "ect",
        paper_times.ect,
        paper_losses.ect_edm,
        law="",
        loss="1/c_out(t)^2 huber(D(x_t,t) - sg D(x_r,r)), c = .06",
        source="2406.14548, code",
        options={"weight": "edm", "c": 0.06},
    ),
    Paper(
        "gc",
        paper_times.ict,
        paper_losses.gc,
        law="the times of iCT",
        loss="iCT on x0 := D_ema(x_r,r), same z, where u < mu",
        source="2406.09570, eq. 13-21",
    ),
    Paper(
        "tcm",
        paper_times.tcm,
        paper_losses.tcm,
        law="t log-Student-t, share rho at t', w_b/rho",
        loss="1/(t-r) ||D(x_t,t) - sg f_trunc(x_r,r)||",
        source="2410.14895, eq. 5-10",
    ),
    Paper(
        "mcm",
        paper_times.mcm,
        paper_losses.mcm,
        law="K segments, s one step below t, a its start",
        loss="huber of v: D(x_t,t) - invDDIM(DDIM(x_s, s->a))",
        source="2403.06807, alg. 1",
    ),
    Paper(
        "mcm",
        paper_times.mcm,
        paper_losses.mcm_addim,
        law="",
        loss="the same with x_s an aDDIM step of the teacher",
        source="2403.06807, sec. 4",
        options={"pairs": "addim"},
    ),
    Paper(
        "mcm",
        paper_times.mcm,
        paper_losses.mcm_snr,
        law="",
        loss="(SNR + 1) huber of x0",
        source="2403.06807, app. A",
        options={"space": "x0", "weight": "snr_plus_one"},
    ),
    Paper(
        "direct_cm",
        paper_times.direct_cm,
        paper_losses.direct_cm,
        law="t uniform over the solver's levels, r = a = 0",
        loss="||D(x_t,t) - ODE(x_t, t->0)||^2 / D",
        source="2411.08954, sec. 3",
        options={"n": 9},
    ),
    Paper(
        "sct",
        paper_times.scm,
        paper_losses.scm,
        law="ln(sd tan t) ~ N(-1, 1.4^2), r = t",
        loss="e^-u ||F - sg(F + g/(||g||+c))||^2 / D + u",
        source="2410.11081, alg. 1",
        progress=(0.01, 0.7),
    ),
    Paper(
        "scd",
        paper_times.scm,
        paper_losses.scd,
        law="ln(sd tan t) ~ N(-1, 1.4^2), r = t",
        loss="sCT's along the teacher's velocity",
        source="2410.11081, alg. 1",
        progress=(0.01, 0.7),
    ),
]


def rows_of(paper: Paper, u: Tensor, progress: float) -> list[Row]:
    """The paper's times of a batch, row by row."""
    rows = []
    for number, (first, second) in enumerate(u.tolist()):
        row = paper.rule(first, progress, number)
        rows.append(row._replace(u=second, progress=progress))
    return rows


def times_apart(paper: Paper) -> float:
    """The method's t, r, a (relative to t) and weights against the paper's."""
    errors = []
    for progress in (*paper.progress, 1.0):
        _, _, u = data(64, stream="verify times")
        times = paper.make().times(u, progress, torch.arange(len(u)))
        ours = torch.stack(times[:4], 1)
        truth = torch.tensor([row[:4] for row in rows_of(paper, u, progress)], dtype=torch.float64)
        size = torch.cat([truth[:, :1].expand(-1, 3), truth[:, 3:]], 1)
        errors.append(((ours - truth).abs() / size).max().item())
    return worst(*errors)


def one_sample(net: Analytic) -> Callable[[Tensor, float], Tensor]:
    """A network as a function of one sample and a float."""
    return lambda x, t: net(x[None], torch.tensor([t], dtype=torch.float64))[0]


def paper_loss(paper: Paper, nets: Cast, x0: Tensor, z: Tensor, rows: list[Row]) -> Tensor:
    """The paper's loss of every row, the row's weight included."""
    functions = Nets(
        one_sample(nets.student),
        one_sample(nets.ema),
        one_sample(nets.teacher),
        one_sample(nets.frozen),
        lambda label: nets.balance(torch.tensor(label, dtype=torch.float64)),
    )
    losses = [
        row.w * paper.formula(functions, x, noise, row)
        for x, noise, row in zip(x0, z, rows, strict=True)
    ]
    return torch.stack(losses)


def losses(paper: Paper, progress: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(ours, the paper's) loss `[B]`, and (ours, the paper's) gradient, at the paper's times."""
    x0, z, u = data(ROWS)
    rows = rows_of(paper, u, progress)
    t, r, a, w = torch.tensor([row[:4] for row in rows], dtype=torch.float64).T
    ours = cast()
    theirs = cast()
    loss = paper.make().loss(ours.models(), x0, z, Times(t, r, a, w, u, progress))
    truth = paper_loss(paper, theirs, x0, z, rows)
    # Each row has a weight of its own, so that the gradient of no row hides another's.
    mix = torch.linspace(1.0, 2.0, ROWS, dtype=torch.float64) / truth.detach().abs()
    (loss * mix).sum().backward()
    (truth * mix).sum().backward()
    return (loss, truth), (ours.gradients()[None], theirs.gradients()[None])


def value_apart(paper: Paper) -> float:
    """The largest relative error of a row's loss."""
    return worst(*(by_row(*losses(paper, progress)[0]) for progress in paper.progress))


def gradient_apart(paper: Paper) -> float:
    """The relative error of the gradient for all networks, those that must have none included."""
    return worst(*(by_row(*losses(paper, progress)[1]) for progress in paper.progress))


WRONG_TIMES = "the times are not those of the paper: the law, the grid, or a row's weight"
WRONG_LOSS = "the loss at the paper's own times is not its formula: pairs, target, distance, weight"
WRONG_GRADIENT = "the gradient is not its formula's: a target not detached, or the wrong network"


def checks_of(paper: Paper) -> list[Check]:
    """Times, loss and gradient of one row of the table."""
    name = paper.method
    page = "scm" if name in ("sct", "scd") else name
    where = f"see fewstep.methods.{name} and the parts it names, docs/methods/{page}.md"
    rows = [
        (paper.law, times_apart, WRONG_TIMES),
        (paper.loss, value_apart, WRONG_LOSS),
        (f"gradient of {paper.loss}", gradient_apart, WRONG_GRADIENT),
    ]
    return [
        Check(
            f"{name}: {title}",
            paper.source,
            partial(measure, paper),
            1e-6,
            f"{problem}; {where}",
            (name,),
        )
        for title, measure, problem in rows
        if title
    ]


def checks() -> list[Check]:
    return [check for paper in PAPERS for check in checks_of(paper)]
