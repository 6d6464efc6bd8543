"""Two-dimensional toy sets: seconds to a picture that shows what a method does."""

from typing import Any

from fewstep.config import Run, changed

_OPTIONS = {"ect": {"stages": 6}}


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
    return changed(run, fields)
