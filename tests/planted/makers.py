"""What stands in a part's place when a mistake is planted: functions of the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from fewstep.core import scalings, solvers
from fewstep.core.method import dropout
from fewstep.core.process import expand
from fewstep.core.scalings import Coefficients


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
        return lambda who, x, t, cond: dropout(
            student, rows, None if seed is None else [next(numbers)], device
        )(who, x, t, cond)

    return drawn


def generated(*, fresh: bool = False, upper: bool = False, inverted: bool = False):
    """GC's coupling with other noise for the pair, the endpoint made at t, or the wrong share of
    the rows.
    """

    def make(original):
        def pairs(self, models, process, x0, z, times, cond):
            rows = (times.u[:, 1] < self.share) != inverted
            at = times.t if upper else times.r
            end = self.predictor(models)(process.mix(x0, z, at), at, cond).clamp(
                -self.bound, self.bound
            )
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
        low = torch.tensor(
            [max((g for g in self.grid if g < at), default=0.0) for at in t.tolist()]
        )
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


def by_student(find):
    def found(path):
        saved = find(path)
        return replace(saved, groups={**saved.groups, "ema": saved.groups["student"]})

    return found


def guided_by_w(both):
    def found(self, x_t, t, cond):
        guess, plain = both(self, x_t, t, cond)
        return guess - (guess - plain) / self.scale, plain

    return found


def guided_twice(both):
    return lambda self, x_t, t, cond: (both(self, x_t, t, cond)[0],) * 2


def no_correction(heun):
    return lambda process, net, x, t, s, cond=None, **options: solvers.euler(
        process, net, x, t, s, cond
    )


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
    return lambda seed, stream, first, count, shape, block: normal(
        seed, stream, 0, count, shape, block
    )


def without_alpha(velocity):
    def found(self, x_t, x0_hat, t):
        return velocity(self, x_t, x0_hat, t) - expand(self.schedule.alpha_rate(t), x_t) * x0_hat

    return found
