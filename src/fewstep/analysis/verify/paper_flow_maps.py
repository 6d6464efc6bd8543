"""The papers' losses of flow maps, written out as in `paper_losses`, on x_t = (1 - t) x0 + t z.

There the velocity of a guess is u(x, t, a) = (x - D(x, t, to=a)) / t. Rows of the diagonal, to = t,
are flow matching: u(x, t, t) is to be z - x0.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fewstep.analysis.verify.paper_losses import Net, Nets, norm, of_paper
from fewstep.analysis.verify.paper_times import Row

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
