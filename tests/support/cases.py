"""Cases of the reference vectors: a sidecar with its tensors, compared within its tolerance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fewstep.core.denoiser import Preconditioned
from fewstep.core.scalings import Edm
from tests.support.toys import Analytic


@dataclass(frozen=True)
class Case:
    """A sidecar and its tensors, with the case's own tolerance."""

    about: dict[str, Any]
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)  # of a network's case

    @classmethod
    def read(cls, sidecar: Path) -> Case:
        """The case of a sidecar: its tensors are in one file of its name, a network's in two."""
        about = json.loads(sidecar.read_text())
        io = sidecar.with_name(about.get("io", sidecar.with_suffix(".safetensors").name))
        return cls(
            about,
            load_file(io),
            load_file(sidecar.with_name(about["weights"])) if "weights" in about else {},
        )

    @property
    def settings(self) -> dict[str, Any]:
        return self.about["hyperparameters"]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def agree(self, name: str, ours: Tensor) -> None:
        tolerance = {"rtol": self.about["rtol"], "atol": self.about["atol"]}
        for key, other in self.about.get("tolerance_by_tensor", {}).items():
            if key in name:
                pair = other if isinstance(other, list) else (other, other)
                tolerance = dict(zip(("rtol", "atol"), pair, strict=True))
        truth = self.tensors[name]
        torch.testing.assert_close(
            ours.detach().to(truth.dtype), truth, **tolerance, msg=lambda m: f"{name}: {m}"
        )

    def agree_at(self, name: str, i: int, ours: Tensor) -> None:
        """Agreement with the i-th entry of a tensor that has one per step."""
        Case(self.about, {name: self.tensors[name][i]}).agree(name, ours)

    def student(self, shift: float = 0.0, dtype: torch.dtype = torch.float64) -> Preconditioned:
        network = Analytic(self.settings["a"], self.settings["b"], dtype)
        return Preconditioned(network, Edm(sigma_data=self.settings["sigma_data"], shift=shift))

    def agree_on_gradients(self, loss: Tensor, student: Preconditioned, suffix: str = "") -> None:
        """Gradients of the batch mean, which show where the reference stops them."""
        loss.mean().backward()
        for name in ("a", "b"):
            self.agree(f"grad_{name}{suffix}", getattr(student.network, name).grad)
