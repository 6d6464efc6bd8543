"""One function per published method: a composition of parts, in the words a user would write it in.

Each file lists its methods in its own `__all__`.
"""

from fewstep.methods.consistency import *
from fewstep.methods.consistency import __all__ as _consistency
from fewstep.methods.continuous import *
from fewstep.methods.continuous import __all__ as _continuous
from fewstep.methods.direct import *
from fewstep.methods.direct import __all__ as _direct
from fewstep.methods.flow_maps import *
from fewstep.methods.flow_maps import __all__ as _flow_maps
from fewstep.methods.generator_induced import *
from fewstep.methods.generator_induced import __all__ as _generator_induced
from fewstep.methods.map_distillation import *
from fewstep.methods.map_distillation import __all__ as _map_distillation
from fewstep.methods.moments import *
from fewstep.methods.moments import __all__ as _moments
from fewstep.methods.multistep import *
from fewstep.methods.multistep import __all__ as _multistep
from fewstep.methods.phased import *
from fewstep.methods.phased import __all__ as _phased
from fewstep.methods.progressive import *
from fewstep.methods.progressive import __all__ as _progressive
from fewstep.methods.self_distillation import *
from fewstep.methods.self_distillation import __all__ as _self_distillation
from fewstep.methods.trajectories import *
from fewstep.methods.trajectories import __all__ as _trajectories
from fewstep.methods.truncated import *
from fewstep.methods.truncated import __all__ as _truncated
from fewstep.methods.variational import *
from fewstep.methods.variational import __all__ as _variational

__all__ = sorted(
    [
        *_consistency,
        *_continuous,
        *_direct,
        *_flow_maps,
        *_generator_induced,
        *_map_distillation,
        *_moments,
        *_multistep,
        *_phased,
        *_progressive,
        *_self_distillation,
        *_trajectories,
        *_truncated,
        *_variational,
    ]
)
