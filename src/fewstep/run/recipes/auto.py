"""Data of your own: network, size, batch, iterations and learning rate by what the data are."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import AUTO, Run, with_values
from fewstep.run.recipes.toy import FIELDS, FLOW_MAPS

_OPTIONS: dict[str, Options] = {
    **FLOW_MAPS,
    "gc": {"base": {"method": "ect", "stages": 6}, "share": 0.5, "share_end": 0.0},
    "tcm": {"base": {"method": "ect", "stages": 6}, "w_b": 1.0},
    "mcm": {"steps": 16, "steps_end": 64, "c": 0.1},
    "pd": {"steps": 16},
    "tract": {"steps": (64, 8, 1)},
    "direct_cm": {"n": 16, "solver": "heun"},
}


def auto(*, method: str = "ect", **fields: Any) -> Run:
    """Your own data: network and settings that fit them, minutes on two cores."""
    run = Run(
        recipe=AUTO,
        method=method,
        method_options=_OPTIONS.get(method, {}),
        network=AUTO,
        batch=0,
        lr=0.0,
        iterations=0,
        ema=0.99,
        choose_levels=True,
    )
    return with_values(run, {**FIELDS.get(method, {}), **fields})
