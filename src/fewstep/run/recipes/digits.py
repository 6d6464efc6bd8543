"""Handwritten digits, 8x8, as scikit-learn ships them: class-conditional, minutes on a laptop."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# Chosen on the validation split among 15 settings (docs/log.md): more than 5 stages leave noise in
# the second step.
_ECT: Options = {"p_mean": -0.4, "p_std": 1.8, "stages": 5}
# The papers' laws hardly draw times near 1, where one step starts; this is as wide as ECT's.
_WIDE: Options = {"p_std": 1.8}
_MAPS = ("meanflow", "imf", "soflow", "alphaflow", "psd", "lsd", "esd", "lmd", "emd", "ayf")
_OPTIONS: dict[str, Options] = {
    **dict.fromkeys(_MAPS, _WIDE),
    # Seven jumps, each of the average of the one before: the paper's .999 lags in so short a run.
    "shortcut": {**_WIDE, "mu": 0.9},
    "ect": _ECT,
    "ict": {"s1": 160},
    "ct": {"s1": 20},
    "cd": {"n": 20},
    "gc": {"base": {"method": "ect", **_ECT}, "share": 0.5},  # measured: docs/methods/gc.md
    "tcm": {"base": {"method": "ect", **_ECT}},
    "mcm": {"steps": 16, "steps_end": 64, "c": 0.1},
    "pd": {"steps": 16},
    "tract": {"steps": (64, 8, 1)},
    "direct_cm": {"n": 16, "solver": "heun"},
    "sct": {"warmup": 0.5},
    "scd": {"warmup": 0.5},
    # With the divergence's weight 1 the encoder moves the noise off N(0, 1): docs/methods/vct.md
    "vct": {"base": {"method": "ect", **_ECT}, "encoder_options": {"width": 64}, "weight": 100.0},
}
# Other fields by method: a whole solution for each sample makes an update of direct_cm expensive,
# and a first stage that is not annealed is a bad start for a second (docs/log.md). Of PD each
# stage falls on a line to 0 and hands its last weights on; a slow average would lag in it.
ROUNDS: Options = {
    "lr_clock": "stage",
    "stage_init": "student",
    "decay": "linear",
    "warmup": 0.0,
    "constant": 0.0,
    "final": 0.0,
    "ema": 0.99,
}
_FIELDS: dict[str, Options] = {
    "pd": {**ROUNDS, "iterations": 5000},
    "tract": {**ROUNDS, "iterations": 5000},
    "direct_cm": {"iterations": 1000},
    "tcm": {"iterations": 5000, "split": 0.7, "lr_clock": "stage", "stage_lr": 0.2},
}
# Methods that can learn from a teacher, of these data an exact law, and their options for it.
WITH_TEACHER: dict[str, Options] = {
    "mcm": {"pairs": "addim"},
    **{name: {} for name in ("cd", "pd", "tract", "direct_cm", "scd")},
    **{name: {} for name in ("lmd", "emd", "ayf", "ctm", "cmt", "pcm", "tbcm")},
}


def _digits(recipe: str, method: str, network: str, network_options: Options, **fields: Any) -> Run:
    return Run(
        recipe=recipe,
        method=method,
        method_options=_OPTIONS.get(method, {}),
        network=network,
        network_options=network_options,
        data="digits",
        lr=1e-3,
        **fields,
    )


def teacher_fields(run: Run, teacher: str) -> Options:
    """The fields by which a method of the table learns from the teacher; none for other methods."""
    if run.method not in WITH_TEACHER:
        return {}
    options = {**run.method_options, **WITH_TEACHER[run.method]}
    return {"teacher": teacher, "method_options": options}


def digits(*, method: str = "ect", **fields: Any) -> Run:
    """One-step handwritten digits by class, minutes on a laptop."""
    run = _digits("digits", method, "mlp", {}, iterations=3500)
    return with_values(run, {**_FIELDS.get(method, {}), **fields})


def digits_unet(*, method: str = "ect", **fields: Any) -> Run:
    """The digits by a small DDPM++ U-Net: fewer and slower steps."""
    options = {"width": 32, "mult": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.1}
    run = _digits("digits-unet", method, "song_unet", options, iterations=1200, batch=128)
    return with_values(run, fields)


def digits_dit(*, method: str = "ect", **fields: Any) -> Run:
    """The digits by a small diffusion transformer: fewer and slower steps."""
    options = {"patch": 2, "width": 96, "depth": 4, "heads": 4}
    run = _digits("digits-dit", method, "dit", options, iterations=3000, batch=128)
    return with_values(run, fields)


def digits_mixture(*, method: str = "ect", **fields: Any) -> Run:
    """Samples of ten Gaussians fitted to the digits: data with an exact denoiser and ODE."""
    law = "exact:digits-mixture"
    run = _digits("digits-mixture", method, "mlp", {}, iterations=2000)
    ours: Options = {"data": law, **_FIELDS.get(method, {})}
    if method == "gc":  # whose bias is largest on Gaussians
        ours["method_options"] = {**run.method_options, "share_end": 0.0}
    if method == "tcm":
        ours = {**ours, "iterations": 3000}
    return with_values(run, {**ours, **teacher_fields(run, law), **fields})
