"""VCT: consistency training with a trained coupling of data and noise."""

from __future__ import annotations

from dataclasses import replace

from fewstep import core
from fewstep.base.errors import require
from fewstep.base.options import Base, Options
from fewstep.methods.base import method_of

__all__ = ["vct"]


def vct(
    *,
    base: Base = "ect",
    weight: float = 1.0,
    encoder: str = "mlp",
    encoder_options: Options | None = None,
    sigma_data: float = 0.5,
) -> core.Method:
    """Variational consistency training: noise mu(x0) + s(x0) z in both points, mu and s trained.

    The base's loss + weight KL(N(mu, s^2) || N(0, 1)) / D, whose gradient moves the encoder by way
    of x_t. Samples start from N(0, 1) as always, so the mean of the encoder's laws has to stay it.
    Source: VCT, arXiv 2502.18197, section 3 and algorithm 1, on ECT's times. Its weights are beside
    losses of other sizes, and its encoders a quarter as large as the student.

    Args:
        base: the method whose pairs are of one x0 and one z
        weight: of the divergence, which holds the noise near N(0, 1)
        encoder: network of mu and s, by its name
        encoder_options: its options, such as '{"width": 64}'
        sigma_data: standard deviation of the data, for a base of ours
    """
    base = method_of(base, sigma_data)
    fits = isinstance(base.coupling, core.couplings.Data)
    require(fits, "base", type(base.coupling).__name__, "pairs of the data, couplings.Data")
    options = tuple(sorted((encoder_options or {}).items()))
    pairs = core.couplings.Variational(encoder, options)
    terms = (*base.terms, core.terms.Divergence(weight))
    return replace(base, coupling=pairs, terms=terms)
