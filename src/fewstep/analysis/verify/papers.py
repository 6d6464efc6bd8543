"""Every method against its paper: times, loss and gradient beside those written out by row.

Rows that belong together, as many as the method's `group`, are written out together.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from fewstep.analysis.verify import (  # noqa: F401 - they add their rows to PAPERS
    paper_flow_maps,
    paper_tangents,
)
from fewstep.analysis.verify.builtin import build
from fewstep.analysis.verify.check import Check, by_row, worst
from fewstep.analysis.verify.fixtures import Analytic, Cast, cast, data
from fewstep.analysis.verify.paper_losses import PAPERS, Nets, Paper
from fewstep.analysis.verify.paper_times import TIMES, Row
from fewstep.core.times import Times

ROWS = 12


def groups_of(paper: Paper, rows: int) -> list[slice]:
    """The rows of a batch that belong together."""
    size = build(paper.method, paper.options).group
    return [slice(i, i + size) for i in range(0, rows, size)]


def rows_of(paper: Paper, u: Tensor, progress: float) -> list[Row]:
    """The paper's times of a batch, group by group."""
    rule, _ = TIMES[paper.method]
    given = u if build(paper.method, paper.options).ends else u[:, :1]
    groups = groups_of(paper, len(u))
    rows = [row for one in groups for row in rule(given[one].tolist(), progress, one.start)]
    others = u[:, 1].tolist()
    return [row._replace(u=v, progress=progress) for row, v in zip(rows, others, strict=True)]


def times_apart(paper: Paper) -> float:
    """The method's t, r, a (relative to t) and weights against the paper's, in every stage."""
    errors = []
    for progress in torch.linspace(0, 1, 11, dtype=torch.float64).tolist():
        method = build(paper.method, paper.options)
        _, _, u = data(64 * method.group, stream="verify times", uniforms=method.uniforms)
        times = method.times(u, progress, torch.arange(len(u)))
        to = torch.zeros_like(times.t) if times.to is None else times.to
        ours = torch.stack([*times[:3], to, times.w], 1)
        rows = rows_of(paper, u, progress)
        truth = torch.tensor([[*row[:3], row.to, row.w] for row in rows], dtype=torch.float64)
        size = torch.cat([truth[:, :1].expand(-1, 4), truth[:, 4:]], 1)
        errors.append(((ours - truth).abs() / size).max().item())
    return worst(*errors)


def one_sample(net: Analytic) -> Callable[..., Tensor]:
    """A network as a function of one sample and a float, or two of a flow map."""
    return lambda x, t, *to: net(x[None], torch.tensor([t], dtype=torch.float64), None, *to)[0]


def paper_loss(paper: Paper, nets: Cast, x0: Tensor, z: Tensor, rows: list[Row]) -> Tensor:
    """The paper's loss of every row, the row's weight included."""
    functions = Nets(
        one_sample(nets.student),
        one_sample(nets.ema),
        one_sample(nets.teacher),
        one_sample(nets.frozen),
        lambda label: nets.balance(torch.tensor(label, dtype=torch.float64)),
        nets.encoder,
        one_sample(deepcopy(nets.ema).requires_grad_(False)),
    )
    groups = groups_of(paper, len(rows))
    losses = [paper.formula(functions, x0[one], z[one], rows[one]) for one in groups]
    return torch.tensor([row.w for row in rows], dtype=torch.float64) * torch.cat(losses)


def losses(paper: Paper, progress: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(ours, the paper's) loss `[B]`, and (ours, the paper's) gradient, at the paper's times."""
    method = build(paper.method, paper.options)
    x0, z, u = data(ROWS, uniforms=method.uniforms)
    rows = rows_of(paper, u, progress)
    t, r, a, w = torch.tensor([row[:4] for row in rows], dtype=torch.float64).T
    to = torch.tensor([row.to for row in rows], dtype=torch.float64) if method.ends else None
    ours = cast()
    theirs = cast()
    times = Times(t, r, a, w, u, progress, to)
    loss = method.loss(ours.models(), x0, z, times)
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


# Pages that several methods share, by method.
TOGETHER = {
    **dict.fromkeys(("sct", "scd"), "scm"),
    **dict.fromkeys(("meanflow", "imf"), "meanflow"),
    **dict.fromkeys(("psd", "lsd", "esd"), "psd"),
    **dict.fromkeys(("lmd", "emd", "ayf"), "lmd"),
}
WRONG_TIMES = "the times are not those of the paper: the law, the grid, or a row's weight"
WRONG_LOSS = "the loss at the paper's own times is not its formula: pairs, target, distance, weight"
WRONG_GRADIENT = "the gradient is not its formula's: a target not detached, or the wrong network"


def checks_of(paper: Paper) -> list[Check]:
    """Loss and gradient of one row of the table; the times too of a method's first."""
    name = paper.method
    page = TOGETHER.get(name, name)
    where = f"see fewstep.methods.{name} and the parts it names, docs/methods/{page}.md"
    rows = [
        (paper.loss, value_apart, WRONG_LOSS),
        (f"gradient of {paper.loss}", gradient_apart, WRONG_GRADIENT),
    ]
    if paper == next(one for one in PAPERS if one.method == name):
        rows.insert(0, (TIMES[name][1], times_apart, WRONG_TIMES))
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
    ]


def checks() -> list[Check]:
    return [check for paper in PAPERS for check in checks_of(paper)]
