"""Two-dimensional toy sets: seconds to a picture that shows what a method does."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values
from fewstep.run.recipes.digits import ROUNDS, teacher_fields

# In few dimensions an adaptive weight moves the minimum off the mean, and one
# step starts at times that the papers' laws hardly draw (docs/methods/meanflow.md).
FLOW_MAPS: dict[str, Options] = {
    **{name: {"p": 0.0, "p_std": 2.0} for name in ("meanflow", "imf", "soflow", "alphaflow")},
    **{name: {"p_std": 2.0} for name in ("psd", "lsd", "esd", "lmd", "emd", "ayf")},
    # The papers' averages of .999 lag in so short a run.
    "shortcut": {"p_std": 2.0, "mu": 0.99},
    "ctm": {"mu": 0.99},
}
_OPTIONS: dict[str, Options] = {
    **FLOW_MAPS,
    "ect": {"stages": 6},
    "gc": {"base": {"method": "ect", "stages": 6}, "share": 0.5, "share_end": 0.0},
    "tcm": {"base": {"method": "ect", "stages": 6}, "w_b": 1.0},
    "mcm": {"steps": 16, "steps_end": 64, "c": 0.1},
    "pd": {"steps": 16},
    "tract": {"steps": (64, 8, 1)},
    "direct_cm": {"n": 16, "solver": "heun"},
    "cmt": {"reuse": 4},
    "vct": {
        "base": {"method": "ect", "stages": 6},
        "encoder_options": {"width": 32, "depth": 1},
        "weight": 10.0,  # with 1 the encoder moves the noise off N(0, 1): docs/methods/vct.md
    },
}
# Other fields by method: a whole solution for each sample makes an update of direct_cm expensive.
FIELDS: dict[str, Options] = {
    "direct_cm": {"batch": 128, "iterations": 2000},
    "tcm": {"iterations": 4000, "split": 0.75, "stage_lr": 0.3},
    "pd": ROUNDS,
    "tract": ROUNDS,
}


def toy(*, method: str = "ect", **fields: Any) -> Run:
    """A ring of eight Gaussians in the plane, a minute on a laptop."""
    run = Run(
        recipe="toy",
        method=method,
        method_options=_OPTIONS.get(method, {}),
        network="mlp",
        network_options={"width": 128, "depth": 2},
        data="ring8",
        batch=512,
        lr=2e-3,
        iterations=3000,
    )
    teacher = teacher_fields(run, "exact:ring8")
    return with_values(run, {**FIELDS.get(method, {}), **teacher, **fields})
