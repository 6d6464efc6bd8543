"""Which times a method looks at: laws as quantile functions, and samplers of `Times`.

A sampler is `(u, progress, ordinal) -> Times`. `u [B, k]` are uniforms that belong to the samples,
so a sample's times do not depend on its batch; `progress` in [0, 1] is the share of training done,
the only thing a schedule may depend on.
"""

from fewstep.core.times.continuous import Atom, Clean, Limit, RatioMap
from fewstep.core.times.core import AtAnchor, AtNeighbour, Law, Times, TimeSampler
from fewstep.core.times.flow import Between, Diagonal, Dyadic, Ends, Gap, LogitNormal, Told
from fewstep.core.times.grids import Adjacent, Levels, Segments, Shared, Steps, karras
from fewstep.core.times.groups import Grouped, LevelStep, Spans, Strata
from fewstep.core.times.laws import AtLevel, LevelsOf, LogNormal, LogStudentT, at_level

__all__ = [
    "Adjacent",
    "AtAnchor",
    "AtLevel",
    "AtNeighbour",
    "Atom",
    "Between",
    "Clean",
    "Diagonal",
    "Dyadic",
    "Ends",
    "Gap",
    "Grouped",
    "Law",
    "LevelStep",
    "Levels",
    "LevelsOf",
    "Limit",
    "LogNormal",
    "LogStudentT",
    "LogitNormal",
    "RatioMap",
    "Segments",
    "Shared",
    "Spans",
    "Steps",
    "Strata",
    "TimeSampler",
    "Times",
    "Told",
    "at_level",
    "karras",
]
