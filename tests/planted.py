"""Mistakes that implementations of consistency models really make, each planted in one part of the package.

A row is what is wrong, where it is planted, what stands there instead (made of the original), and the check that must
notice, by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

import fewstep as fs
from fewstep import balances, couplings, curricula, denoiser, ema, losses, sampling, scalings, solvers, spaces, stages
from fewstep import generator as generators
from fewstep import state as states
from fewstep.losses import dropout
from fewstep.process import Process, expand
from fewstep.scalings import Coefficients


@dataclass(frozen=True)
class Bug:
    """`holder.name` is replaced by `make(what is there)`; `caught` is the check that must fail."""

    what: str
    holder: Any
    name: str
    make: Callable[[Any], Any]
    caught: str


def with_gradient(goal):
    def attached(*args):
        with torch.enable_grad():
            return goal(*args)

    return attached


def anchor_off(at):
    def off(self, t, progress):
        found = at(self, t, progress)
        step = found.t - found.r
        return found._replace(a=torch.where(found.r > found.a, found.a + step, found.a))

    return off


def wrong_alpha(addim):
    def moved(process, net, x, t, s, cond=None, **options):
        off = expand(process.alpha(t) - process.alpha(s), x)
        return addim(process, net, x, t, s, cond, **options) + off * net(x, t, cond)

    return moved


def masks_anew(original):
    def drawn(student, rows, seed, device):
        numbers = iter(range(100))
        return lambda who, x, t, cond: dropout(student, rows, None if seed is None else [next(numbers)], device)(
            who, x, t, cond
        )

    return drawn


def generated(*, fresh: bool = False, upper: bool = False, inverted: bool = False):
    """GC's coupling with other noise for the pair, the endpoint made at t, or the wrong share of the rows."""

    def make(original):
        def pairs(self, models, process, x0, z, times, cond):
            rows = (times.u[:, 1] < self.share) != inverted
            at = times.t if upper else times.r
            end = self.predictor(models)(process.mix(x0, z, at), at, cond).clamp(-self.bound, self.bound)
            data = torch.where(expand(rows, x0).bool(), end, x0)
            noise = torch.where(expand(rows, x0).bool(), z.flip(0), z) if fresh else z
            return process.mix(data, noise, times.t), process.mix(data, noise, times.r)

        return pairs

    return make


def other_sigma_data(build):
    def built(run, facts, method, network=None):
        return build(run, facts, replace(method, scaling=scalings.Edm(sigma_data=0.5)), network)

    return built


def raw_weights(hand_over):
    def handed(run, state):
        state.averages["ema"].load_state_dict(state.student.state_dict())
        hand_over(run, state)

    return handed


def not_normalised(weighed):
    def found(self, times, chosen):
        return times._replace(w=torch.where(chosen, self.weight, 1.0))

    return found


def along_from_below(call):
    def moved(self, process, net, x, t, s, cond=None, **options):
        low = torch.tensor([max((g for g in self.grid if g < at), default=0.0) for at in t.tolist()])
        return call(self, process, net, x, torch.maximum(low.double(), s), s, cond, **options)

    return moved


def low_noise_old(original):
    """Re-noises to the level it comes from."""

    def step(process, net, x, t, s, cond=None, *, noise):
        x0_hat = net(x, torch.full((len(x),), t, dtype=torch.float64), cond)
        return x0_hat if s == 0 else process.mix(x0_hat, noise(), t)

    return replace(original, step=step)


def one_sd(call):
    def coefficients(self, process, t):
        c = call(self, process, t)
        s = process.level(t)
        return Coefficients(self.sigma_data / (s**2 + self.sigma_data), c.out, c.in_, c.noise)

    return coefficients


def not_clipped(at):
    def found(self, t, progress):
        widen = 1 + self.k * torch.sigmoid(-self.b * t)
        return at(self, t, progress)._replace(r=t * (1 - (1 - self.ratio(progress)) * widen))

    return found


def batch_mean(loss):
    def averaged(self, models, x0, *args, **options):
        found = loss(self, models, x0, *args, **options)
        return found.mean().expand(len(x0))

    return averaged


def ema_by_student(call):
    return lambda self, models: models.student


def asks_student(call):
    return lambda self, models, *args: call(self, replace(models, teacher=models.student), *args)


def no_correction(heun):
    return lambda process, net, x, t, s, cond=None, **options: solvers.euler(process, net, x, t, s, cond)


def bare_jump(jump):
    def moved(self, x_t, x0_hat, t, s):
        keep, make = self._move(torch.as_tensor(t), torch.as_tensor(s))
        return expand(keep, x_t) * x_t + expand(make, x_t) * x0_hat

    return moved


def swapped_labels(forward):
    def asked(self, x_t, t, cond=None, masks=None):
        return forward(self, x_t, t, None if cond is None else cond.flip(0), masks)

    return asked


def forgets_moments(restore):
    def restored(self, saved):
        restore(self, saved)
        self.optimizer.state.clear()

    return restored


def from_the_first(normal):
    return lambda seed, stream, first, count, shape, block: normal(seed, stream, 0, count, shape, block)


def without_alpha(velocity):
    def found(self, x_t, x0_hat, t):
        return velocity(self, x_t, x0_hat, t) - expand(self.schedule.alpha_rate(t), x_t) * x0_hat

    return found


GC, MCM_V = (
    "gc: iCT on x0 := D_ema(x_r,r), same z, where u < mu",
    "mcm: huber of v: D(x_t,t) - invDDIM(DDIM(x_s, s->a))",
)
CD, TCM = "cd: ||D(x_t,t) - D_ema(Heun(x_t),r)||^2 / D", "tcm: 1/(t-r) ||D(x_t,t) - sg f_trunc(x_r,r)||"
SCT, ATOM = "sct: e^-u ||F - sg(F + g/(||g||+c))||^2 / D + u", "TCM: mean(w loss) = E_(t>t') + w_b E_(t=t')"
ECT = "ect: 1/(t-r) ||D(x_t,t) - sg D(x_r,r)||"
Tangent, Method = fs.tangents.Tangent, fs.Method
weights, targets, distances, times = fs.weights, fs.targets, fs.distances, fs.times

BUGS = [
    Bug("weight 1 for 1/(t-r)", weights, "inverse_gap", lambda f: weights.one, "weight 1/(t - r)"),
    Bug("weight 1 for 1/(t-r), in the loss", weights, "inverse_gap", lambda f: weights.one, ECT),
    Bug("weight SNR for SNR + 1", weights, "snr_plus_one", lambda f: weights.snr, "weight SNR + 1"),
    Bug("weight SNR, in the loss", weights, "snr_plus_one", lambda f: weights.snr, "mcm: (SNR + 1) huber of x0"),
    Bug("target not detached", Method, "goal", with_gradient, f"ect: gradient of {ECT[5:]}"),
    Bug(
        "target not detached, by differences",
        Method,
        "goal",
        with_gradient,
        "ect: target is detached: gradient with targets held still",
    ),
    Bug(
        "frozen network gets a gradient",
        Method,
        "goal",
        with_gradient,
        "tcm: gradient reaches the student, nobody else",
    ),
    Bug("anchor a step off", times.Segments, "at", anchor_off, "MCM: r >= a = start of t's segment, n steps each"),
    Bug(
        "anchor a step off, in the times",
        times.Segments,
        "at",
        anchor_off,
        "mcm: K segments, s one step below t, a its start",
    ),
    Bug(
        "alpha of the wrong time in aDDIM",
        solvers,
        "addim",
        wrong_alpha,
        "aDDIM: x_s = a_s x0 + sqrt(s_s^2 + d z_var/|e|^2) e",
    ),
    Bug(
        "eps^2 averaged over the batch",
        couplings,
        "mse",
        lambda f: lambda x, y: f(x, y).mean().expand(len(x)),
        "aDDIM: x_var = eta |x0 - x0_hat|^2/d, each sample's",
    ),
    Bug("masks not shared", losses, "dropout", masks_anew, "ict: dropout masks are shared by both passes"),
    Bug(
        "sign of the log-normal mean",
        times.LogNormal,
        "quantile",
        lambda f: lambda self, u: f(replace(self, mean=-self.mean), u),
        "ln t ~ N(mean, std^2): E ln t = mean, its sign too",
    ),
    Bug("GC: rows inverted", couplings.GeneratorInduced, "__call__", generated(inverted=True), GC),
    Bug("GC: endpoint from the upper point", couplings.GeneratorInduced, "__call__", generated(upper=True), GC),
    Bug("GC: new noise for the pair", couplings.GeneratorInduced, "__call__", generated(fresh=True), GC),
    Bug(
        "GC: share inverted",
        couplings.GeneratorInduced,
        "__call__",
        lambda f: lambda self, *a: f(replace(self, share=1 - self.share / 2), *a),
        GC,
    ),
    Bug(
        "sigma_data changed on reload",
        generators,
        "build_student",
        other_sigma_data,
        "sigma_data, weights and samples survive a reload",
    ),
    Bug("stage 2 from raw weights", stages, "hand_over", raw_weights, "tcm: stage 2 starts from stage 1's average"),
    Bug(
        "stage 2 from raw weights, in a run",
        stages,
        "hand_over",
        raw_weights,
        "tcm: frozen network = average at the switch",
    ),
    Bug("TCM: w_b not over its share", times.Atom, "_weighed", not_normalised, ATOM),
    Bug(
        "TCM: share of the atom inverted",
        times.Atom,
        "__call__",
        lambda f: lambda self, *a: f(replace(self, share=1 - self.share), *a),
        ATOM,
    ),
    Bug(
        "TCM: student asked below t'", targets.Truncated, "__call__", lambda f: lambda self, models: models.student, TCM
    ),
    Bug("CD: target by the student", targets.Ema, "__call__", ema_by_student, CD),
    Bug("CD: the student's own ODE", couplings.Teacher, "__call__", asks_student, CD),
    Bug("CT: target by the student", targets.Ema, "__call__", ema_by_student, "ct: ||D(x_t,t) - D_ema(x_r,r)||^2 / D"),
    Bug("Heun without its correction", solvers, "heun", no_correction, "Heun: error of a PF-ODE falls like n^-2"),
    Bug(
        "huber: c without sqrt(D)",
        distances.RootHuber,
        "__call__",
        lambda f: lambda self, x, y: distances.huber(self.c)(x, y),
        "huber: sqrt(|e|^2 + c^2) - c, c ~ sqrt(D)",
    ),
    Bug(
        "norm of means instead of sums",
        distances,
        "l2_norm",
        lambda f: lambda x, y: distances.mse(x, y).sqrt(),
        "L2 norm: sqrt of the sum over the sample",
    ),
    Bug(
        "c_skip with sigma_data not squared",
        scalings.Edm,
        "__call__",
        one_sd,
        "EDM: c_skip = sd^2/(t^2+sd^2), c_out = t sd/sqrt(..)",
    ),
    Bug("r not clipped at 0", times.RatioMap, "at", not_clipped, "ect: r = t (1 - q^-(j+1) (1 + k sigmoid(-bt)))"),
    Bug(
        "ECT: q^-j for q^-(j+1)",
        times.RatioMap,
        "ratio",
        lambda f: lambda self, p: 1 - (1 - f(self, p)) * self.q,
        "ECT: r/t -> 1 - q^-(j+1), gap 5 times at t = 0",
    ),
    Bug(
        "N(k) off by one",
        curricula.Progressive,
        "__call__",
        lambda f: lambda self, p: f(self, p) + 1,
        "ct: N(k) levels, i uniform",
    ),
    Bug(
        "iCT: doubles too late",
        curricula.Doubling,
        "__call__",
        lambda f: lambda self, p: f(self, max(p - 0.125, 0)),
        "ict: N doubles, p(i) from erf of ln sigma",
    ),
    Bug(
        "iCT: intervals uniform",
        times.Adjacent,
        "__call__",
        lambda f: lambda self, *a: f(replace(self, law=None), *a),
        "iCT: p(i) ~ erf(..s_(i+1)..) - erf(..s_i..)",
    ),
    Bug(
        "re-noised with the old level",
        sampling.SAMPLERS,
        "multistep",
        low_noise_old,
        "sampler: x = T z, x0 = D, x = x0 + tau z', x0 = D",
    ),
    Bug(
        "Direct CM: ODE started a level below",
        solvers.Along,
        "__call__",
        along_from_below,
        "direct_cm: ||D(x_t,t) - ODE(x_t, t->0)||^2 / D",
    ),
    Bug(
        "sCM: no warm-up of the tangent",
        Tangent,
        "goal",
        lambda f: lambda self, *a: f(replace(self, warmup=0.0), *a),
        SCT,
    ),
    Bug("sCM: tangent not normalised", Tangent, "normalised", lambda f: lambda self, g: g, SCT),
    Bug(
        "sCM: sign of the tangent",
        Tangent,
        "normalised",
        lambda f: lambda self, g: -f(self, g),
        f"sct: gradient of {SCT[5:]}",
    ),
    Bug(
        "sCM: e^u for e^-u",
        balances.LogVariance,
        "__call__",
        lambda f: lambda self, loss, t, models: f(self, loss, t, replace(models, balance=lambda x: -models.balance(x))),
        SCT,
    ),
    Bug("a mean over the batch inside the loss", Method, "loss", batch_mean, "ect: a batch is its items"),
    Bug("MCM compared in x0, not in v", spaces, "v", lambda f: spaces.x0, MCM_V),
    Bug("the network asked at the boundary", Process, "jump", bare_jump, "mcm: r = a asks no network at r"),
    Bug(
        "velocity without alpha'",
        Process,
        "velocity",
        without_alpha,
        "process: velocity = d/ds jump, rate = d/dt mix",
    ),
    Bug(
        "labels in another order",
        denoiser.Preconditioned,
        "forward",
        swapped_labels,
        "ct: labels reach the rows they belong to",
    ),
    Bug(
        "EMA: rate and its complement swapped",
        ema,
        "update",
        lambda f: lambda average, model, rate: f(average, model, 1 - rate),
        "EMA: n moves leave beta^n of the difference",
    ),
    Bug(
        "a resumed run forgets its moments",
        states.State,
        "restore",
        forgets_moments,
        "ect: a resumed run is the run, bit for bit",
    ),
    Bug(
        "noise of a sample depends on its batch",
        generators,
        "normal",
        from_the_first,
        "samples do not depend on the sampling batch",
    ),
]
