"""One function per published method: a composition of parts, as a user would write it."""

from fewstep.methods.consistency import cd, ct, diffusion, ect, ict
from fewstep.methods.continuous import scd, sct
from fewstep.methods.direct import direct_cm
from fewstep.methods.generator_induced import gc
from fewstep.methods.multistep import mcm
from fewstep.methods.truncated import tcm

__all__ = ["cd", "ct", "diffusion", "direct_cm", "ect", "gc", "ict", "mcm", "scd", "sct", "tcm"]
