"""Handwritten digits, 8x8, as scikit-learn ships them: class-conditional, minutes on a laptop."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, changed

# Chosen on the validation split among 15 settings (docs/log.md): more stages than 5 leave noise in
# the second step.
_ECT: Options = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
_OPTIONS: dict[str, Options] = {
    "ect": _ECT,
    "ict": {"s1": 160},
    "ct": {"s1": 20},
    "cd": {"n": 20},
    "gc": {"base": {"method": "ect", **_ECT}, "share": 0.5, "share_end": 0.0},
    "tcm": {"base": {"method": "ect", **_ECT}},
    "mcm": {"steps": 16, "steps_end": 64, "c": 0.1},
    "direct_cm": {"n": 16, "solver": "heun"},
    "sct": {"warmup": 0.5},
    "scd": {"warmup": 0.5},
}
# What else differs: a whole solution for each sample makes an update of direct_cm dear, and a first
# stage that is not
# annealed is a bad start for a second (docs/log.md).
_FIELDS: dict[str, Options] = {
    "direct_cm": {"iterations": 1000},
    "tcm": {"iterations": 5000, "split": 0.7, "lr_clock": "stage", "stage_lr": 0.2},
}
# Where the denoiser is known it teaches the methods that learn from one: the options that ask it.
_TAUGHT: dict[str, Options] = {"cd": {}, "mcm": {"pairs": "addim"}, "direct_cm": {}, "scd": {}}


def _digits(recipe: str, method: str, network: str, network_options: Options, **fields: Any) -> Run:
    options = _OPTIONS.get(method, {})
    return Run(
        recipe=recipe,
        method=method,
        method_options=options,
        network=network,
        network_options=network_options,
        data="digits",
        lr=1e-3,
        **fields,
    )


def taught(run: Run, truth: str, methods: dict[str, Options]) -> Options:
    """The fields by which a method of the table learns from a known truth; none for the others."""
    if run.method not in methods:
        return {}
    return {"teacher": truth, "method_options": {**run.method_options, **methods[run.method]}}


def digits(*, method: str = "ect", **fields: Any) -> Run:
    """One-step handwritten digits by class, minutes on a laptop."""
    return changed(
        _digits("digits", method, "mlp", {}, iterations=3500), {**_FIELDS.get(method, {}), **fields}
    )


def digits_unet(*, method: str = "ect", **fields: Any) -> Run:
    """The digits by a small DDPM++ U-Net: fewer and slower steps."""
    options = {"width": 32, "mult": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.1}
    return changed(
        _digits("digits-unet", method, "song_unet", options, iterations=1200, batch=128), fields
    )


def digits_dit(*, method: str = "ect", **fields: Any) -> Run:
    """The digits by a small diffusion transformer: fewer and slower steps."""
    options = {"patch": 2, "width": 96, "depth": 4, "heads": 4}
    return changed(
        _digits("digits-dit", method, "dit", options, iterations=3000, batch=128), fields
    )


def digits_mixture(*, method: str = "ect", **fields: Any) -> Run:
    """Samples of ten Gaussians fitted to the digits: data whose denoiser and ODE are known exactly."""
    truth = "exact:digits-mixture"
    run = _digits("digits-mixture", method, "mlp", {}, iterations=2000)
    shorter = {"tcm": {"iterations": 3000}}.get(method, {})
    return changed(
        run,
        {
            "data": truth,
            **_FIELDS.get(method, {}),
            **shorter,
            **taught(run, truth, _TAUGHT),
            **fields,
        },
    )
