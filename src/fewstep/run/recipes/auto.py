"""Data of your own: network, size, batch, iterations and learning rate by what the data are."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import AUTO, Run, with_values
from fewstep.run.recipes.toy import FIELDS

# With c = 0 the best guess is a median, by which the frequent category of a table wins; with c of
# about the data's size it is a mean (docs/log.md).
_ECT: Options = {"c": 0.3, "stages": 6}
_OPTIONS: dict[str, Options] = {
    "ect": _ECT,
    "gc": {"base": {"method": "ect", **_ECT}, "share": 0.5, "share_end": 0.0},
    "tcm": {"base": {"method": "ect", **_ECT}, "w_b": 1.0},
    "mcm": {"steps": 16, "steps_end": 64, "c": 0.1},
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
        choose_levels=True,
    )
    return with_values(run, {**FIELDS.get(method, {}), **fields})
