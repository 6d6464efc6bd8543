"""Mistakes in what a move adds, what a coupling clips and assigns, and what a stage keeps."""

from __future__ import annotations

from dataclasses import replace

import torch

from fewstep.core import couplings, distances, noise, solvers
from fewstep.training import hand_over
from tests.planted.makers import Bug


def other_rule(addim):
    def move(*args, final_step="addim", **options):
        other = {"addim": "ddim", "ddim": "addim"}[final_step]
        return addim(*args, final_step=other, **options)

    return move


def frozen_lives(hand_over):
    def hand_over_alive(run, state):
        hand_over(run, state)
        state.frozen = state.student

    return hand_over_alive


BUGS = [
    Bug(
        "aDDIM's last step the other way",
        solvers,
        "addim",
        other_rule,
        "aDDIM: the last step adds x_var, or is DDIM's",
    ),
    Bug(
        "variance 0.1 / (1/2 + SNR)",
        solvers.PriorVariance,
        "__call__",
        lambda f: lambda self, x0_hat, t: f(replace(self, prior=1 / self.prior), x0_hat, t),
        "aDDIM: x_var = 0.1 / (2 + SNR) by default",
    ),
    Bug(
        "ancestral noise of half the deviation",
        solvers,
        "ancestral",
        lambda f: lambda *args, eta=1.0, **options: f(*args, eta=eta / 2, **options),
        "DDIM with noise: eta 0 is DDIM, 1 ancestral",
    ),
    Bug(
        "endpoints not clipped",
        couplings.GeneratorInduced,
        "__call__",
        lambda f: lambda self, *args: f(replace(self, bound=1e9), *args),
        "gc: endpoints are clipped to [-bound, bound]",
    ),
    Bug(
        "noise in the order it came",
        couplings.MinibatchOT,
        "__call__",
        lambda f: couplings.Data().__call__.__func__,
        "minibatch OT: least sum ||x0_i - z_j||^2",
    ),
    Bug(
        "the shift of the log-SNR of the other sign",
        noise.Cosine,
        "_part",
        lambda f: lambda self, t, shift: f(self, t, -shift),
        "process cosine: shift s: log-SNR s - 2 ln tan u, same ends",
    ),
    Bug(
        "huber of elements, summed",
        distances.ElementHuber,
        "__call__",
        lambda f: lambda self, x, y: f(self, x, y) * torch.tensor(x[0].numel()),
        "huber of every element, their mean",
    ),
    Bug(
        "the frozen network is the student",
        hand_over,
        "hand_over",
        frozen_lives,
        "tcm: stage 2 starts from stage 1's average",
    ),
]
