"""What replaces a part when a mistake is planted: functions of the right one."""

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
    """`holder.name` is replaced by `make(the original)`; `check` is the one that must fail."""

    what: str
    holder: Any
    name: str
    make: Callable[[Any], Any]
    check: str


def with_gradient(goal):
    def goal_with_gradient(*args):
        with torch.enable_grad():
            return goal(*args)

    return goal_with_gradient


def anchor_off(at):
    def at_next(self, t, progress):
        times = at(self, t, progress)
        step = times.t - times.r
        return times._replace(a=torch.where(times.r > times.a, times.a + step, times.a))

    return at_next


def wrong_alpha(addim):
    def move(process, net, x, t, s, cond=None, **options):
        difference = expand(process.alpha(t) - process.alpha(s), x)
        return addim(process, net, x, t, s, cond, **options) + difference * net(x, t, cond)

    return move


def masks_anew(original):
    def new_masks(student, rows, seed, device):
        numbers = iter(range(100))

        def call(who, x, t, cond, to=None):
            seeds = None if seed is None else [next(numbers)]
            return dropout(student, rows, seeds, device)(who, x, t, cond, to)

        return call

    return new_masks


def wrong_gc(*, fresh: bool = False, upper: bool = False, other_rows: bool = False):
    """GC's coupling with other noise for the pair, the endpoint of x_t, or on the other rows."""

    def make(original):
        def pairs(self, models, process, x0, z, times, cond):
            rows = (times.u[:, 1] < self.share) != other_rows
            at = times.t if upper else times.r
            end = self.predictor(models)(process.mix(x0, z, at), at, cond)
            where = expand(rows, x0).bool()
            data = torch.where(where, end.clamp(-self.bound, self.bound), x0)
            noise = torch.where(where, z.flip(0), z) if fresh else z
            return process.mix(data, noise, times.t), process.mix(data, noise, times.r)

        return pairs

    return make


def other_sigma_data(build):
    def build_other(run, facts, method, network=None):
        return build(run, facts, replace(method, scaling=scalings.Edm(sigma_data=0.5)), network)

    return build_other


def raw_weights(hand_over):
    def hand_over_student(run, state):
        state.averages["ema"].load_state_dict(state.student.state_dict())
        hand_over(run, state)

    return hand_over_student


def weight_not_over_share(original):
    return lambda self, times, rows: times._replace(w=torch.where(rows, self.weight, 1.0))


def along_from_below(call):
    def move(self, process, net, x, t, s, cond=None, **options):
        below = [max((level for level in self.grid if level < at), default=0.0) for at in t]
        start = torch.maximum(torch.tensor(below, dtype=torch.float64), s)
        return call(self, process, net, x, start, s, cond, **options)

    return move


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
    def at_below_0(self, t, progress):
        widen = 1 + self.k * torch.sigmoid(-self.b * t)
        return at(self, t, progress)._replace(r=t * (1 - (1 - self.ratio(progress)) * widen))

    return at_below_0


def batch_mean(loss):
    def mean_loss(self, models, x0, *args, **options):
        return loss(self, models, x0, *args, **options).mean().expand(len(x0))

    return mean_loss


def ema_by_student(call):
    return lambda self, models: models.student


def asks_student(call):
    return lambda self, models, *args: call(self, replace(models, teacher=models.student), *args)


def by_student(find):
    def find_student(path):
        checkpoint = find(path)
        groups = {**checkpoint.groups, "ema": checkpoint.groups["student"]}
        return replace(checkpoint, groups=groups)

    return find_student


def guided_by_w(both):
    def both_by_w(self, *args):
        guess, plain = both(self, *args)
        return guess - (guess - plain) / self.scale, plain

    return both_by_w


def guided_twice(both):
    return lambda self, *args: (both(self, *args)[0],) * 2


def no_correction(heun):
    return lambda process, net, x, t, s, cond=None, **options: solvers.euler(
        process, net, x, t, s, cond
    )


def bare_jump(jump):
    def jump_anyway(self, x_t, x0_hat, t, s):
        keep, make = self.move(torch.as_tensor(t), torch.as_tensor(s))
        return expand(keep, x_t) * x_t + expand(make, x_t) * x0_hat

    return jump_anyway


def swapped_labels(forward):
    def forward_flipped(self, x_t, t, cond=None, *more, **options):
        return forward(self, x_t, t, None if cond is None else cond.flip(0), *more, **options)

    return forward_flipped


def forgets_moments(restore):
    def restore_weights(self, checkpoint):
        restore(self, checkpoint)
        self.optimizer.state.clear()

    return restore_weights


def from_the_first(normal):
    return lambda seed, stream, first, count, shape, block: normal(
        seed, stream, 0, count, shape, block
    )


def without_alpha(velocity):
    def part_of_velocity(self, x_t, x0_hat, t):
        return velocity(self, x_t, x0_hat, t) - expand(self.schedule.alpha_rate(t), x_t) * x0_hat

    return part_of_velocity
