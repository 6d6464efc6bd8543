"""Networks of others as denoisers, and the reading that fits what they answer.

`adapt` takes any callable with a few words about it; `diffusers`, `azula`, `physicsnemo`, `sbi` and
`policy` take what those packages hand over.
"""

from fewstep.adapters.adapt import adapt
from fewstep.adapters.ready import azula, diffusers, physicsnemo, policy, sbi

__all__ = ["adapt", "azula", "diffusers", "physicsnemo", "policy", "sbi"]
