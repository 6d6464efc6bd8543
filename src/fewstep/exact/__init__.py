"""Exact truths: laws of data whose denoisers are closed forms, as teachers and as references.

Each is a denoiser `(x_t, t, cond=None) -> x0_hat` on any process and has `.process`, `.shape`,
`.classes`, `.mean`, `.variance`, `.sample(n, seed)`, `.draw(n, seed)` (with labels),
`.posterior_variance(x_t, t)`, `.posterior(x_t, t, n)` (exact draws of x0 given x_t),
`.log_density(x_t, t)`, `.solve(x, t, s)`, the probability-flow ODE's solution to 1e-8, and
`.solution(x, t, s)`, the same with its error; `library` is that ODE by SciPy. Called with `to=a` it
is the flow map: the x0_hat whose `process.jump` from t to a ends where `solve` does. `expectation`
is of any function of x_r given x_t; `named` has laws of 1 to 1024 numbers.

`recursions` has the end of each method on Gaussian data, grid by grid, and the loss of an exact
model there; `oracle` the end of consistency training and distillation on any law of the line;
`transport` the costs of pairs of data and noise; `line` the line's quantiles.
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
