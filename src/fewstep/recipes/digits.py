"""Handwritten digits, 8x8, as scikit-learn ships them: class-conditional, minutes on a laptop."""

from typing import Any

from fewstep.config import Run, changed

_OPTIONS = {"ect": {"c": 0.06, "stages": 6}}


def digits(*, method: str = "ect", **fields: Any) -> Run:
    """One-step handwritten digits by class, minutes on a laptop."""
    run = Run(
        recipe="digits",
        method=method,
        method_options=_OPTIONS.get(method, {}),
        network="mlp",
        data="digits",
    )
    return changed(run, fields)
