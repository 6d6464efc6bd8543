"""Chinese characters by radical, as installed fonts draw them: pictures without a download."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# Of the digits' recipe: the values of both sets lie near -1 and 1.
_ECT: Options = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
_OPTIONS: dict[str, Options] = {
    "ect": _ECT,
    "gc": {"base": {"method": "ect", **_ECT}, "share": 0.5},
    "tcm": {"base": {"method": "ect", **_ECT}},
    "mcm": {"steps": 16, "steps_end": 64, "c": 0.1},
    "direct_cm": {"n": 16, "solver": "heun"},
}


def _hanzi(recipe: str, method: str, network_options: Options, **fields: Any) -> Run:
    return Run(
        recipe=recipe,
        method=method,
        method_options=_OPTIONS.get(method, {}),
        network="song_unet",
        network_options=network_options,
        data=recipe,
        **fields,
    )


def hanzi(*, method: str = "ect", **fields: Any) -> Run:
    """Chinese characters by radical, 32x32: a small DDPM++ (7.0 M), for a GPU; not measured."""
    options: Options = {"width": 64, "mult": (1, 2, 2), "blocks": 2, "attention": (8,)}
    run = _hanzi("hanzi", method, options, batch=256, lr=5e-4, iterations=20_000, ema=0.9993)
    return with_values(run, fields)


def hanzi16(*, method: str = "ect", **fields: Any) -> Run:
    """The characters at 16x16 by a smaller one (0.8 M): half an hour on a core; not measured."""
    options: Options = {"width": 32, "mult": (1, 2), "blocks": 1, "attention": (8,)}
    run = _hanzi("hanzi16", method, options, batch=64, lr=1e-3, iterations=4000, ema=0.995)
    return with_values(run, fields)
