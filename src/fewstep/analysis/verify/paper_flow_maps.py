"""The papers' losses of flow maps, written out as in `paper_losses`, on x_t = (1 - t) x0 + t z.

There the velocity of a guess is u(x, t, a) = (x - D(x, t, to=a)) / t. Rows of the diagonal, to = t,
are flow matching: u(x, t, t) is to be z - x0. CTM alone is on x_t = x0 + t z.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.analysis.verify.paper_losses import Net, Nets, heun_step, norm, of_paper
from fewstep.analysis.verify.paper_times import SD, Row, direct_grid

Velocity = Callable[[Tensor, float, float], Tensor]
Pair = tuple[Tensor, Tensor]  # the student's velocity and its goal, which has no gradient


def velocity(net: Net) -> Velocity:
    return lambda x, t, a: (x - net(x, t, a)) / t


def mix(x0: Tensor, z: Tensor, t: float) -> Tensor:
    return (1 - t) * x0 + t * z


def along(u: Velocity, x: Tensor, t: float, a: float, v: Tensor, step: float = 1e-5) -> Tensor:
    """du/dt along (v, 1), by central differences."""
    above, below = (u(x + h * v, t + h, a) for h in (step, -step))
    return ((above - below) / (2 * step)).detach()


def adaptive(loss: Tensor, p: float = 1.0, c: float = 0.01) -> Tensor:
    """loss / sg(loss + c)^p."""
    return loss / (loss.detach() + c) ** p


def pair(f: Nets, x0: Tensor, z: Tensor, row: Row, goal: Callable[..., Tensor]) -> Pair:
    """u and goal(u, x_t, v), or z - x0 on the diagonal."""
    u, x, v = velocity(f.student), mix(x0, z, row.t), z - x0
    at_goal = v if row.to == row.t else goal(u, x, v)
    return u(x, row.t, row.to), at_goal.detach()


def mean_flow(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Pair:
    """v - (t - a) du/dt."""

    def goal(u: Velocity, x: Tensor, v: Tensor) -> Tensor:
        return v - (row.t - row.a) * along(u, x, row.t, row.a, v)

    return pair(f, x0, z, row, goal)


@of_paper("meanflow", "||u - sg(v - (t-a) du/dt)||^2 / sg(.. + c)", "2505.13447, eq. 11")
def meanflow(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """MeanFlow, eq. 10-11, section 4.3: v = z - x0, c = 0.01."""
    u, goal = mean_flow(f, x0, z, row)
    return adaptive((u - goal).square().sum())


@of_paper("imf", "||u + (t-a) sg(du/dt) - v||^2 + ||u(t,t) - v||^2", "2512.02012, alg. 1")
def imf(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """iMF, algorithm 1: du/dt along the student's own u(x, t, t); each by its adaptive weight."""
    u, t, x, v = velocity(f.student), row.t, mix(x0, z, row.t), z - x0
    own = u(x, t, t)
    mean = u(x, t, row.to) + (t - row.to) * along(u, x, t, row.to, own.detach())
    return adaptive((mean - v).square().sum()) + adaptive((own - v).square().sum())


@of_paper(
    "soflow", "||f(x_t,t,a) - sg f(x_l,l,a)||^2 / ((t-l)(t-a)), adaptive", "2512.15657, alg. 1"
)
def soflow(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """SoFlow: f = x - (t - a) u, over mse / (t - l)^2 + c; on the diagonal flow matching."""
    u = velocity(f.student)
    x_t, x_l = mix(x0, z, row.t), mix(x0, z, row.r)
    e = u(x_t, row.t, row.to) - (z - x0)
    share = 1.0
    if row.to < row.t:
        goal = x_l - (row.r - row.a) * u(x_l, row.r, row.a).detach()
        step = row.t - row.r
        e = (x_t - (row.t - row.a) * u(x_t, row.t, row.a) - goal) / step
        share = step / (row.t - row.a)
    size = e.square().mean()
    return share * adaptive(size)


@of_paper(
    "alphaflow",
    "alpha ||u - sg(alpha v + (1-alpha) u_r)||^2 / sg(.. + c)",
    "2510.20771, eq. 10",
    progress=(0.1, 0.55, 0.9),
)
def alphaflow(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """alpha-Flow: u_r = u(x_r, r, a) at r = t - alpha (t - a), goals in +-4; 0 is MeanFlow."""
    share = (row.t - row.r) / (row.t - row.a)

    def goal(u: Velocity, x: Tensor, v: Tensor) -> Tensor:
        if share == 0:
            return mean_flow(f, x0, z, row)[1].clamp(-4, 4)
        return (share * v + (1 - share) * u(x + (row.r - row.t) * v, row.r, row.a)).clamp(-4, 4)

    u, at_goal = pair(f, x0, z, row, goal)
    return (share or 1.0) * adaptive((u - at_goal).square().sum(), c=1e-3)


def two_jumps(u: Velocity, x: Tensor, row: Row) -> Tensor:
    """The mean velocity of t -> r -> a."""
    first = u(x, row.t, row.r)
    second = u(x - (row.t - row.r) * first, row.r, row.a)
    return ((row.t - row.r) * first + (row.r - row.a) * second) / (row.t - row.a)


@of_paper("shortcut", "||u - sg(u_ema + u_ema')/2||^2 / D, d = 2^-k", "2410.12557, alg. 1")
def shortcut(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """Shortcut, algorithm 1: the average's two jumps of d, in +-4."""

    def goal(u: Velocity, x: Tensor, v: Tensor) -> Tensor:
        return two_jumps(velocity(f.ema), x, row).clamp(-4, 4)

    u, at_goal = pair(f, x0, z, row, goal)
    return (u - at_goal).square().mean()


@of_paper("psd", "||u - sg((t-r) u(t,r) + (r-a) u(r,a))/(t-a)||^2 / D", "2505.18825, eq. 13")
def psd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """PSD: the student's own two jumps."""
    u, goal = pair(f, x0, z, row, lambda u, x, v: two_jumps(u, x, row))
    return (u - goal).square().mean()


def lagrangian(f: Nets, x0: Tensor, z: Tensor, row: Row, v_of: Velocity) -> Tensor:
    """||dX/da - sg v(X, a)||^2 / D, X = x - (t - a) u(x, t, a); dX/da by differences."""
    u, x, t, a = velocity(f.student), mix(x0, z, row.t), row.t, row.a
    if row.to == t:
        return (u(x, t, t) - (z - x0)).square().mean()
    step = 1e-5
    above, below = (x - (t - end) * u(x, t, end) for end in (a + step, a - step))
    x_a = (x - (t - a) * u(x, t, a)).detach()
    return ((above - below) / (2 * step) - v_of(x_a, a, a).detach()).square().mean()


@of_paper("lsd", "||dX/da - sg v(X,a)||^2 / D", "2505.18825, eq. 12", step=1e-5)
def lsd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """LSD: v is the student's own diagonal."""
    return lagrangian(f, x0, z, row, velocity(f.student))


@of_paper("lmd", "||dX/da - v_teacher(X,a)||^2 / D", "2406.07507, eq. 3.2", step=1e-5)
def lmd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """LMD: v is the teacher's."""
    return lagrangian(f, x0, z, row, lambda x, t, a: (x - f.teacher(x, t)) / t)


@of_paper("tvm", "||dX/da - sg v_ema(X,a)||^2 + ||u(x_a,a,a) - v||^2", "2511.19797", step=1e-5)
def tvm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """TVM: the average's diagonal at X, and flow matching at the end, each over D."""
    own = velocity(f.student)(mix(x0, z, row.a), row.a, row.a)
    return lagrangian(f, x0, z, row, velocity(f.ema)) + (own - (z - x0)).square().mean()


def eulerian(f: Nets, x0: Tensor, z: Tensor, row: Row, v_of: Velocity) -> Tensor:
    """||u - sg(v - (t - a) du/dt)||^2 / D, v and the derivative of the velocity given."""

    def goal(u: Velocity, x: Tensor, v: Tensor) -> Tensor:
        v = v_of(x, row.t, row.t).detach()
        return v - (row.t - row.a) * along(u, x, row.t, row.a, v)

    u, at_goal = pair(f, x0, z, row, goal)
    return (u - at_goal).square().mean()


@of_paper("esd", "||u - sg(v - (t-a) du/dt)||^2 / D, v = u(t,t)", "2505.18825, eq. 11")
def esd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """ESD: v is the student's own diagonal."""
    return eulerian(f, x0, z, row, velocity(f.student))


@of_paper("emd", "||u - sg(v_teacher - (t-a) du/dt)||^2 / D", "2406.07507, eq. 3.6")
def emd(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """EMD: v is the teacher's."""
    return eulerian(f, x0, z, row, lambda x, t, a: (x - f.teacher(x, t)) / t)


@of_paper("ayf", "||u - sg(u + g/(||g||+c))||^2 / D", "2506.14603, alg. 1", progress=(0.02, 0.7))
def ayf(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """AYF: g = v_teacher - u - w (t - a) du/dt, w rises from 0 to 1 over 5 % of the run."""
    u, x, t, a = velocity(f.student), mix(x0, z, row.t), row.t, row.a
    v = ((x - f.teacher(x, t)) / t).detach()
    own = u(x, t, a)
    g = v - own.detach() - min(1.0, row.progress / 0.05) * (t - a) * along(u, x, t, a, v)
    return (own - (own.detach() + g / (norm(g) + 0.1))).square().mean()


@of_paper(
    "ctm",
    "||end X(t,a) - sg end X_ema(r,a)||^2 / D + denoising",
    "2310.02279, eq. 6-7",
    progress=(0.5,),
    diffusion=0.7,
)
def ctm(f: Nets, x0: Tensor, z: Tensor, row: Row) -> Tensor:
    """CTM, eq. 6-7: x_r by the teacher's Heun steps on 18 levels; the average carries both to 0.

    X(t, a) = a/t x + (1 - a/t) D(x, t, a). Denoising is 0.7 of EDM's loss on the diagonal.
    """
    t, r, a = row[:3]
    x_t = x0 + t * z

    def jump(net: Net, x: Tensor, t: float) -> Tensor:
        return a / t * x + (1 - a / t) * net(x, t, a)

    def end(x: Tensor) -> Tensor:
        return f.fixed_ema(x, a, 0.0) if a > 0 else x

    grid = direct_grid(18)
    x, now = x_t, t
    for stop in grid[grid.index(t) + 1 : grid.index(r) + 1]:
        # To the data Heun's step is Euler's, which is the guess itself.
        x = heun_step(f.teacher, x, now, stop) if stop > 0 else f.teacher(x, now)
        now = stop
    goal = end(jump(f.ema, x, r) if r > a else x).detach()
    weight = 0.7 * (t**2 + SD**2) / (t * SD) ** 2
    denoising = weight * (f.student(x_t, t, t) - x0).square().mean()
    return (end(jump(f.student, x_t, t)) - goal).square().mean() + denoising


@of_paper(
    "imm",
    "w MMD^2 of X(t,a) and sg X(r,a), 4 rows each",
    "2503.07565, eq. 12-13",
    progress=(0.5,),
    together=True,
)
def imm(f: Nets, x0: Tensor, z: Tensor, rows: list[Row]) -> Tensor:
    """IMM, eq. 12: mean k(x,x') + mean k(y,y') - 2 mean k(x,y), k = exp(-||x - y|| / (c_out D)).

    c_out is the factor of F in X(t, a), and a distance over it counts 1e-8 at least.
    w = sigmoid(5 - l) / 2 (-l') alpha / (alpha^2 + sigma^2) with l = 2 ln((1 - t) / t).
    """
    t, r, a = rows[0][:3]
    c_out = (t - a) * SD / math.sqrt(t**2 + (1 - t) ** 2 * SD**2)

    def jump(x0: Tensor, z: Tensor, t: float) -> Tensor:
        x = mix(x0, z, t)
        return x - (t - a) * velocity(f.student)(x, t, a) if t > a else x

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        # The root has no gradient at 0.
        apart = norm(x - y) if x is not y else x.new_zeros(())
        return torch.exp(-(apart / c_out).clamp_min(1e-8) / x.numel())

    def mean(xs: list[Tensor], ys: list[Tensor]) -> Tensor:
        return torch.stack([kernel(x, y) for x in xs for y in ys]).mean()

    xs = [jump(x, noise, t) for x, noise in zip(x0, z, strict=True)]
    ys = [jump(x, noise, r).detach() for x, noise in zip(x0, z, strict=True)]
    mmd = mean(xs, xs) + mean(ys, ys) - 2 * mean(xs, ys)
    share = 1 / (1 + math.exp(2 * math.log((1 - t) / t) - 5))
    fall = 2 / (t * (1 - t))
    weight = share / 2 * fall * (1 - t) / ((1 - t) ** 2 + t**2)
    return (weight * mmd).expand(len(rows))
