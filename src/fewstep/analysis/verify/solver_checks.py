"""Solvers on Gaussian data, whose ODE is solved; the moves that add noise or variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fewstep.analysis.verify.check import Table, apart, column, over, worst
from fewstep.analysis.verify.fixtures import data, gaussian, shifting, spread
from fewstep.analysis.verify.paper_losses import cosine
from fewstep.core import process as processes
from fewstep.core import sampling, solvers
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process

ORDER = Table("core.solvers", 0.15, "the solver is not of this order on Gaussian data")
MOVE = Table("core.solvers", 1e-12, "the move is not this formula")
MCM = "2403.06807, sec. 4"
Solver = Callable[..., Tensor]


def constant(guess: Tensor) -> Denoiser:
    """A denoiser that says the same whatever it is asked."""
    return lambda x_t, t, cond=None: guess


def examples() -> tuple[Process, ...]:
    """At trig's sigma_data = std every solver would be of a higher order."""
    return (
        processes.edm(),
        processes.trig(),
        processes.linear(),
        processes.cosine(shift=(-1.0, 0.5)),
    )


def order(process: Process, solver: Solver, steps: int) -> float:
    """The order that shows: log2 of the error of this many steps over that of twice as many."""
    high = process.time_at(3.0).item()
    low = process.time_at(0.4).item()
    truth = spread(process, low) / spread(process, high)
    errors = []
    for n in (steps, 2 * steps):
        grid = torch.linspace(high, low, n + 1, dtype=torch.float64).tolist()
        end = sampling.sample(process, gaussian(process), column(1.0)[:, None], grid, solver)
        errors.append(abs(end.item() - truth.item()))
    return math.log2(errors[0] / errors[1])


def off_order(claim: int, *candidates: Solver) -> float:
    """The largest distance of the order that shows from the claim, on every process."""
    errors = []
    for solver in candidates:
        errors += [abs(order(process, solver, 32 * claim) - claim) for process in examples()]
    return worst(*errors)


@ORDER(
    "Euler: error of a PF-ODE falls like n^-1",
    "2206.00364, sec. 3",
    "euler",
    "cd ict ect direct_cm",
)
def order_of_euler() -> float:
    return off_order(1, solvers.euler)


@ORDER("DDIM: error of a PF-ODE falls like n^-1", "2010.02502, eq. 12", "ddim", "mcm direct_cm")
def order_of_ddim() -> float:
    """aDDIM's too."""
    return off_order(1, solvers.ddim, solvers.addim)


@ORDER("Heun: error of a PF-ODE falls like n^-2", "2206.00364, alg. 1", "heun", "cd diffusion")
def order_of_heun() -> float:
    """With its second slope at the end, at 0.8 of the step, and at 2/3 (Ralston)."""
    variants = [partial(solvers.heun, alpha=alpha) for alpha in (0.8, 2 / 3)]
    return off_order(2, solvers.heun, *variants)


def moves(process: Process) -> tuple[Tensor, Tensor]:
    """Times t and s of four moves, as shares of t_max."""
    t = process.t_max * column(0.9, 0.6, 0.5, 0.3)
    s = process.t_max * column(0.7, 0.5, 0.2, 0.29)
    return t, s


@MOVE("aDDIM: x_s = a_s x0 + sqrt(s_s^2 + d z_var/|e|^2) e", MCM, "addim", "mcm")
def addim() -> float:
    """e is the noise of the guess, z_var = (a_s - a_t s_s / s_t)^2 x_var; sample by sample.

    A sample of x_var = 0 moves as by DDIM.
    """
    x0, z, _ = data(4)
    var = column(0.3, 0.0, 0.1, 0.02)
    guess = z.tanh() + x0
    errors = []
    for process in (processes.cosine(), *examples()):
        t, s = moves(process)
        x_t = process.mix(x0, z, t)
        rows = []
        for i in range(4):
            alpha_t, sigma_t = process.alpha(t[i]), process.sigma(t[i])
            alpha_s, sigma_s = process.alpha(s[i]), process.sigma(s[i])
            eps = (x_t[i] - alpha_t * guess[i]) / sigma_t
            z_var = (alpha_s - alpha_t * sigma_s / sigma_t) ** 2 * var[i]
            length = (sigma_s**2 + eps.numel() / eps.square().sum() * z_var).sqrt()
            rows.append(alpha_s * guess[i] + length * eps)
        ours = solvers.addim(process, constant(guess), x_t, t, s, x_var=var)
        errors.append(apart(ours, torch.stack(rows)))
    return worst(*errors)


@MOVE("aDDIM: the last step adds x_var, or is DDIM's", MCM, "addim", "mcm", tolerance=1e-7)
def last_step() -> float:
    """At s = 0: x_var d / ||eps||^2 is added to the sample; with final_step = ddim nothing."""
    process = processes.edm()
    x0, z, _ = data(3)
    t = column(0.5, 2.0, 3.0)
    s = column(0.0, 0.0, 1.0)
    var = 0.04
    x_t = process.mix(x0, z, t)
    guess = z.tanh() + x0

    def move(rule: str) -> Tensor:
        return solvers.addim(process, constant(guess), x_t, t, s, x_var=var, final_step=rule)  # type: ignore[arg-type]

    paper = move("addim")
    plain = move("ddim")
    eps = (x_t - guess) / over(t, x_t)
    with_noise = guess + over((var / eps.square().flatten(1).mean(1)).sqrt(), eps) * eps
    return worst(
        apart(paper[:2], with_noise[:2]), apart(plain[:2], guess[:2]), apart(plain[2], paper[2])
    )


@MOVE("aDDIM: x_var = 0.1 / (2 + SNR) by default", MCM, "PriorVariance", "mcm")
def prior_variance() -> float:
    t = (0.1, 0.4, 0.9)
    truth = []
    for at in t:
        alpha, sigma = cosine(at)
        truth.append(0.1 / (2 + (alpha / sigma) ** 2))
    ours = solvers.PriorVariance(process=processes.cosine())(torch.zeros(3, 2), column(*t))
    return apart(ours, column(*truth))


def lambdas(*times: float) -> list[float]:
    """ln(alpha / sigma) of the cosine process."""
    return [math.log(alpha / sigma) for alpha, sigma in map(cosine, times)]


def exponential(t: float, s: float, x: Tensor, guess: Tensor) -> Tensor:
    """sigma_s / sigma_t x - alpha_s (e^-h - 1) guess."""
    start, end = lambdas(t, s)
    alpha_s, sigma_s = cosine(s)
    return sigma_s / cosine(t)[1] * x - alpha_s * math.expm1(start - end) * guess


@MOVE("DPM-Solver++ 2M: D_0 + (D_0 - D_1) / 2r", "2211.01095, alg. 2", "dpm_solver", "diffusion")
def dpm_solver() -> float:
    """The first move is of the first order; r = h_last / h."""
    x, _, _ = data(2)
    past = solvers.Past(99)
    ours = x
    for t, s in ((0.9, 0.7), (0.7, 0.4)):
        ours = solvers.dpm_solver(2)(processes.cosine(), shifting, ours, t, s, past=past)
    old = shifting(x, column(0.9))
    middle = exponential(0.9, 0.7, x, old)
    new = shifting(middle, column(0.7))
    first, second, third = lambdas(0.9, 0.7, 0.4)
    r = (second - first) / (third - second)
    return apart(ours, exponential(0.7, 0.4, middle, new + (new - old) / (2 * r)))


@MOVE(
    "UniPC 2: the guess at its end corrects a move",
    "2302.04867, alg. 1",
    "unipc",
    "diffusion",
    tolerance=1e-8,
)
def unipc() -> float:
    """The second move made again, exactly for guesses that are quadratic in lambda."""
    x, _, _ = data(2)
    past = solvers.Past(99)
    point = x
    for t, s in ((0.9, 0.7), (0.7, 0.4), (0.4, 0.3)):
        point = solvers.unipc(2)(processes.cosine(), shifting, point, t, s, past=past)
    (_, a, old, _), (_, b, new, _), (_, ours, end, _) = past.points
    first, second, third = lambdas(0.9, 0.7, 0.4)
    h = third - second
    weight = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    e = (h * (weight - 1)).exp()
    means = [(torch.trapezoid(e * weight**k) / torch.trapezoid(e)).item() for k in (1, 2)]
    r = (first - second) / h
    # The parabola through (r, old), (0, new), (1, end).
    curve = ((old - new) / r - (end - new)) / (r - 1)
    guess = new + means[0] * (end - new - curve) + means[1] * curve
    once = exponential(0.9, 0.7, a, (old + new) / 2)
    return worst(apart(b, once), apart(ours, exponential(0.7, 0.4, b, guess)))


@MOVE("DDIM with noise: eta 0 is DDIM, 1 ancestral", "2010.02502, eq. 16", "ancestral", "diffusion")
def eta() -> float:
    """Noise of deviation eta sqrt((1 - a_s) / (1 - a_t)) sqrt(1 - a_t / a_s), a = alpha^2."""
    x, eps, _ = data(2)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = cosine(0.8), cosine(0.5)
    guess = shifting(x, column(0.8))
    errors = []
    for share in (0.0, 0.3, 1.0):
        by = sampling.with_eta(sampling.sampler("ddim"), share)
        up = share * sigma_s / sigma_t * math.sqrt(1 - (alpha_t / alpha_s) ** 2)
        noise = {"noise": lambda: eps} if by.noisy else {}
        ours = by.step(processes.cosine(), shifting, x, 0.8, 0.5, **noise)
        straight = math.sqrt(sigma_s**2 - up**2) * (x - alpha_t * guess) / sigma_t
        errors.append(apart(ours, alpha_s * guess + straight + up * eps))
    return worst(*errors)


@MOVE(
    "churn: t_hat = (1 + gamma) t, its noise, the move", "2206.00364, alg. 2", "Churn", "diffusion"
)
def churn() -> float:
    """x_hat = x + sqrt(t_hat^2 - t^2) S_noise eps, then the solver from t_hat."""
    x, eps, _ = data(2)
    step = solvers.Churn(steps=10, s_churn=2.0, s_noise=1.1, solver=solvers.euler)
    ours = step(processes.edm(), shifting, x, 3.0, 1.0, noise=lambda: eps)
    high = 3.0 * 1.2
    above = x + math.sqrt(high**2 - 9.0) * 1.1 * eps
    truth = above + (1.0 - high) * (above - shifting(above, column(high, high))) / high
    return apart(ours, truth)


@MOVE("TCD: down to (1 - gamma) s, up to s again", "2402.19159, sec. 4", "strategic", "mcm")
def strategic() -> float:
    """x0_hat's DDIM step to (1 - gamma) s, then the forward process from there to s."""
    x, eps, _ = data(1)
    alpha_t, sigma_t = cosine(0.9)
    alpha_s, sigma_s = cosine(0.5)
    alpha_l, sigma_l = cosine(0.5 * 0.6)
    guess = shifting(x, column(0.9))
    low = alpha_l * guess + sigma_l / sigma_t * (x - alpha_t * guess)
    k = alpha_s / alpha_l
    truth = k * low + math.sqrt(sigma_s**2 - k**2 * sigma_l**2) * eps
    ours = solvers.strategic(
        processes.cosine(), shifting, x, 0.9, 0.5, noise=lambda: eps, gamma=0.4
    )
    return apart(ours, truth)


CHECKS = [*ORDER.rows, *MOVE.rows]
