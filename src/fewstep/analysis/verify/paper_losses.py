"""The papers' losses of one sample, written out: `(nets, x0, z, row) -> loss` in torch's own
operations alone. Where rows belong together x0, z, rows and losses are those of a whole group.

Networks are called as `net(x, t)` with one sample and a float, flow maps as `net(x, t, to)`; the
papers' stop-gradient is `.detach()`. No process, coupling, solver, distance or weight of the
package is used, so that a mistake there cannot be here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fewstep.analysis.verify.paper_times import SD, Row, direct_grid

Net = Callable[..., Tensor]


class Nets(NamedTuple):
    """The networks as functions of one sample; balance is u(ln(t) / 4).

    fixed_ema: the average, whose weights get no gradient while its point does.
    """

    student: Net
    ema: Net
    teacher: Net
    frozen: Net
    balance: Callable[[float], Tensor]
    encoder: Callable[[Tensor], tuple[Tensor, Tensor]]
    fixed_ema: Net


Loss = Callable[[Nets, Tensor, Tensor, Row], Tensor]
# x0, z `[G, ...]` and the rows of a group -> their losses `[G]`
GroupLoss = Callable[[Nets, Tensor, Tensor, list[Row]], Tensor]
L = TypeVar("L", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Paper:
    """A method with its options, and the formula of its loss from the paper."""

    method: str
    formula: GroupLoss
    loss: str  # the formula in words
    source: str
    progress: tuple[float, ...]
    options: dict[str, Any]


PAPERS: list[Paper] = []


def alone(formula: Loss) -> GroupLoss:
    """The losses of rows that have nothing to do with each other."""
    return lambda f, x0, z, rows: torch.stack(
        [formula(f, *one) for one in zip(x0, z, rows, strict=True)]
    )


def of_paper(
    method: str,
    loss: str,
    source: str,
    progress: tuple[float, ...] = (0.1, 0.7),
    *,
    together: bool = False,
    **options: Any,
) -> Callable[[L], L]:
    """Adds a row of PAPERS; the formula stands below. Its times are the method's in `paper_times`.

    loss: the formula in words. progress: where in a run it is compared.
    together: the formula is of a group of rows, as many as the method joins, not of one.
    """

    def add(formula: L) -> L:
        of_group = formula if together else alone(formula)
        PAPERS.append(Paper(method, of_group, loss, source, progress, options))
        return formula

    return add


def norm(e: Tensor) -> Tensor:
    return e.square().sum().sqrt()


def pseudo_huber(e: Tensor, c: float) -> Tensor:
    """sqrt(||e||^2 + c^2) - c."""
    return (e.square().sum() + c**2).sqrt() - c


@of_paper("diffusion", "(t^2+sd^2)/(t sd)^2 ||D(x_t,t) - x0||^2 / D", "2206.00364, eq. 8")
def diffusion(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """EDM, eq. 8: (t^2 + sd^2) / (t sd)^2 ||D(x0 + t z, t) - x0||^2 / D."""
    t = row.t
    return (t**2 + SD**2) / (t * SD) ** 2 * (f.student(x0 + t * z, t) - x0).square().mean()


@of_paper("ct", "||D(x_t,t) - D_ema(x_r,r)||^2 / D", "2303.01469, eq. 10")
def ct(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """CM, eq. 10: ||D(x0 + t z, t) - D_ema(x0 + r z, r)||^2 / D."""
    goal = f.ema(x0 + row.r * z, row.r).detach()
    return (f.student(x0 + row.t * z, row.t) - goal).square().mean()


def heun_step(teacher: Net, x: Tensor, t: float, r: float) -> Tensor:
    """EDM, algorithm 1: Euler's step along (x - D)/t, then the mean of the slopes at both ends."""
    slope = (x - teacher(x, t)) / t
    ahead = x + (r - t) * slope
    return x + (r - t) * (slope + (ahead - teacher(ahead, r)) / r) / 2


@of_paper("cd", "||D(x_t,t) - D_ema(Heun(x_t),r)||^2 / D", "2303.01469, eq. 6-8")
def cd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """CM, eq. 6-8: ||D(x_t, t) - D_ema(x_r, r)||^2 / D, x_r one Heun step along the teacher."""
    x_t = x0 + row.t * z
    x_r = heun_step(f.teacher, x_t, row.t, row.r).detach()
    return (f.student(x_t, row.t) - f.ema(x_r, row.r).detach()).square().mean()


@of_paper("ict", "1/(t-r) huber(D(x_t,t) - sg D(x_r,r)), c ~ sqrt(D)", "2310.14189, table 1")
def ict(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """iCT: 1/(t-r) (sqrt(||e||^2 + c^2) - c), e = D(x_t, t) - sg D(x_r, r), c = 0.00054 sqrt(D)."""
    e = f.student(x0 + row.t * z, row.t) - f.student(x0 + row.r * z, row.r).detach()
    return pseudo_huber(e, 0.00054 * math.sqrt(x0.numel())) / (row.t - row.r)


def ect_target(net: Net, x0: Tensor, z: Tensor, r: float) -> Tensor:
    """ECT: the data where r = 0, else sg D(x_r, r)."""
    return net(x0 + r * z, r).detach() if r > 0 else x0


@of_paper("ect", "1/(t-r) ||D(x_t,t) - sg D(x_r,r)||", "2406.14548, sec. 3")
def ect(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """ECT on CIFAR-10: ||D(x_t, t) - target|| / (t - r)."""
    e = f.student(x0 + row.t * z, row.t) - ect_target(f.student, x0, z, row.r)
    return norm(e) / (row.t - row.r)


@of_paper(
    "ect",
    "1/c_out(t)^2 huber(D(x_t,t) - sg D(x_r,r)), c = .06",
    "2406.14548, code",
    weight="edm",
    c=0.06,
)
def ect_edm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """ECT on ImageNet-64: (t^2 + sd^2) / (t sd)^2 (sqrt(||e||^2 + c^2) - c), c = 0.06."""
    e = f.student(x0 + row.t * z, row.t) - ect_target(f.student, x0, z, row.r)
    return (row.t**2 + SD**2) / (row.t * SD) ** 2 * pseudo_huber(e, 0.06)


@of_paper("cmt", "ECT's loss with one gap", "2509.24526, sec. 3")
def cmt(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """CMT's second stage: ECT's loss."""
    return ect(f, x0, z, row)


@of_paper("gc", "iCT on x0 := D_ema(x_r,r), same z, where u < mu", "2406.09570, eq. 13-21")
def gc(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """GC, eq. 13-15 and 21: iCT, but where u < mu = 0.5 x0 is D_ema(x_r, r), clipped to 3 sd."""
    if row.u < 0.5:
        x0 = f.ema(x0 + row.r * z, row.r).detach().clamp(-3 * SD, 3 * SD)
    return ict(f, x0, z, row)


@of_paper("tcm", "1/(t-r) ||D(x_t,t) - sg f_trunc(x_r,r)||", "2410.14895, eq. 5-10")
def tcm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """TCM, eq. 5-10: ECT's loss, the target by the frozen network where r < t' = 1."""
    who = f.frozen if row.r < 1.0 else f.student
    e = f.student(x0 + row.t * z, row.t) - ect_target(who, x0, z, row.r)
    return norm(e) / (row.t - row.r)


def cosine(t: float) -> tuple[float, float]:
    """alpha and sigma of the cosine schedule: log-SNR = -2 ln tan u, u even from 15 to -15."""
    first = math.atan(math.exp(-7.5))
    last = math.atan(math.exp(7.5))
    snr = math.tan(first + t * (last - first)) ** -2
    return math.sqrt(snr / (1 + snr)), math.sqrt(1 / (1 + snr))


def mcm_error(f: Nets, x0: Tensor, z: Tensor, row: Row, addim: bool) -> tuple[Tensor, float]:
    """MCM, algorithm 1: the error of D(x_t, t), and sigma_t.

    Its goal is the x0 whose DDIM step from t to a lands on that of x_s.
    """
    alpha_t, sigma_t = cosine(row.t)
    alpha_s, sigma_s = cosine(row.r)
    alpha_a, sigma_a = cosine(row.a)
    x_t = alpha_t * x0 + sigma_t * z
    x_s = alpha_s * x0 + sigma_s * z
    if addim:
        guess = f.teacher(x_t, row.t)
        eps = (x_t - alpha_t * guess) / sigma_t
        var = (alpha_s - alpha_t * sigma_s / sigma_t) ** 2 * 0.75 * (x0 - guess).square().mean()
        x_s = alpha_s * guess + (sigma_s**2 + x0.numel() / eps.square().sum() * var).sqrt() * eps
    x_a = x_s.detach()
    if row.r > row.a:
        ref = f.student(x_s.detach(), row.r).detach()
        x_a = alpha_a * ref + sigma_a / sigma_s * (x_s.detach() - alpha_s * ref)
    goal = (x_a - sigma_a / sigma_t * x_t) / (alpha_a - alpha_t * sigma_a / sigma_t)
    return f.student(x_t, row.t) - goal, sigma_t


@of_paper("mcm", "huber of v: D(x_t,t) - invDDIM(DDIM(x_s, s->a))", "2403.06807, alg. 1")
def mcm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """MCM: the error in v, that of x0 over sigma_t; sqrt(mean square + c^2) - c, c = 1e-4."""
    e, sigma_t = mcm_error(f, x0, z, row, addim=False)
    return ((e / sigma_t).square().mean() + 1e-8).sqrt() - 1e-4


@of_paper(
    "mcm", "the same with x_s an aDDIM step of the teacher", "2403.06807, sec. 4", pairs="addim"
)
def mcm_addim(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """MCM's distillation: x_s by an aDDIM step of the teacher."""
    e, sigma_t = mcm_error(f, x0, z, row, addim=True)
    return ((e / sigma_t).square().mean() + 1e-8).sqrt() - 1e-4


@of_paper("mcm", "(SNR + 1) huber of x0", "2403.06807, app. A", space="x0", weight="snr_plus_one")
def mcm_snr(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """MCM as written: weight SNR + 1 on the distance of x0."""
    e, sigma_t = mcm_error(f, x0, z, row, addim=False)
    return ((1 - sigma_t**2) / sigma_t**2 + 1) * ((e.square().mean() + 1e-8).sqrt() - 1e-4)


@of_paper("vct", "ECT of mu + s z, + KL(N(mu, s^2) | N(0, 1)) / D", "2502.18197, alg. 1")
def vct(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """VCT: ECT with the encoder's noise, whose gradient comes by way of x_t alone."""
    mean, log_std = f.encoder(x0)
    z = mean + log_std.exp() * z
    e = f.student(x0 + row.t * z, row.t) - ect_target(f.student, x0, z.detach(), row.r)
    kl = 0.5 * (mean**2 + torch.exp(log_std) ** 2 - 1 - 2 * log_std)
    return norm(e) / (row.t - row.r) + kl.sum() / x0.numel()


def ddim(net: Net, x: Tensor, t: float, s: float) -> Tensor:
    """alpha_s D(x, t) + sigma_s (x - alpha_t D(x, t)) / sigma_t, without gradient."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = cosine(t), cosine(s)
    guess = net(x, t).detach()
    return alpha_s * guess + sigma_s * (x - alpha_t * guess) / sigma_t


def truncated_snr(f: Nets, x_t: Tensor, x_a: Tensor, row: Row) -> Tensor:
    """max(SNR, 1) ||D(x_t, t) - x||^2 / D, where x's DDIM step from x_t lands on x_a."""
    (alpha_t, sigma_t), (alpha_a, sigma_a) = cosine(row.t), cosine(row.a)
    goal = (x_a - sigma_a / sigma_t * x_t) / (alpha_a - alpha_t * sigma_a / sigma_t)
    return max(alpha_t**2 / sigma_t**2, 1) * (f.student(x_t, row.t) - goal).square().mean()


@of_paper(
    "pd", "max(SNR,1) ||D - invDDIM(DDIM DDIM x_t)||^2 / D", "2202.00512, alg. 2", steps=8, last=4
)
def pd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """PD, algorithm 2: one step of the student makes two of the student before."""
    alpha, sigma = cosine(row.t)
    x_t = alpha * x0 + sigma * z
    middle = (row.t + row.a) / 2
    x_a = ddim(f.frozen, ddim(f.frozen, x_t, row.t, middle), middle, row.a)
    return truncated_snr(f, x_t, x_a, row)


@of_paper("pcm", "huber of DDIM(x_t, t->a) - DDIM_ema(DDIM x_t, r->a)", "2405.18407, eq. 4")
def pcm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """PCM: both points at the phase's start, the mean of sqrt(e^2 + c^2) - c with c = 1e-3."""
    (alpha, sigma), (alpha_a, sigma_a) = cosine(row.t), cosine(row.a)
    x_t = alpha * x0 + sigma * z
    x_r = ddim(f.teacher, x_t, row.t, row.r)
    goal = ddim(f.ema, x_r, row.r, row.a) if row.r > row.a else x_r
    guess = f.student(x_t, row.t)
    e = alpha_a * guess + sigma_a * (x_t - alpha * guess) / sigma - goal
    return ((e**2 + 1e-6).sqrt() - 1e-3).mean()


@of_paper(
    "tract",
    "max(SNR,1) ||D - invDDIM(DDIM_ema DDIM x_t)||^2 / D",
    "2303.04248, sec. 3",
    steps=(48, 12, 4),
)
def tract(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """TRACT: a step of the student before, then the self-teacher to the segment's start."""
    alpha, sigma = cosine(row.t)
    x_t = alpha * x0 + sigma * z
    x_a = ddim(f.frozen, x_t, row.t, row.r)
    if row.r > row.a:
        x_a = ddim(f.ema, x_a, row.r, row.a)
    return truncated_snr(f, x_t, x_a, row)


@of_paper("direct_cm", "||D(x_t,t) - ODE(x_t, t->0)||^2 / D", "2411.08954, sec. 3", n=9)
def direct_cm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """Direct CM: ||D(x_t, t) - x||^2 / D, x the end of the teacher's DDIM steps from x_t to 0."""
    x_t = x0 + row.t * z
    x = x_t
    here = row.t
    for there in direct_grid():
        if there < row.t:
            guess = f.teacher(x, here).detach()
            x = guess + there / here * (x - guess)
            here = there
    return (f.student(x_t, row.t) - x).square().mean()
