"""Exact truths: laws of data whose denoisers are closed forms, as teachers and as what tests compare with.

Each is a denoiser `(x_t, t, cond=None) -> x0_hat` on any process and has `.process`, `.shape`, `.classes`,
`.sample(n, seed)`, `.draw(n, seed)` (with labels), `.posterior_variance(x_t, t)`, `.log_density(x_t, t)` and
`.solve(x, t, s)`, the probability-flow ODE's solution to 1e-8.
`recursions` has where each method ends on Gaussian data, grid by grid; `transport` what pairs of data and noise cost.
"""

from fewstep.exact import oracle, recursions, transport
from fewstep.exact.draws import Expectation, expectation
from fewstep.exact.gaussian import Gaussian
from fewstep.exact.line import Line, line
from fewstep.exact.mixture import Empirical, Mixture
from fewstep.exact.named import digits_mixture, grid25, named, ring8, rings64, smooth32, two_modes
from fewstep.exact.solutions import Solution, library

__all__ = [
    "Empirical",
    "Expectation",
    "Gaussian",
    "Line",
    "Mixture",
    "Solution",
    "digits_mixture",
    "expectation",
    "grid25",
    "library",
    "line",
    "named",
    "oracle",
    "recursions",
    "ring8",
    "rings64",
    "smooth32",
    "transport",
    "two_modes",
]
