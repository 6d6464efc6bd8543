"""What the next training step depends on besides the run itself, as a value that can be saved and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fewstep import ema
from fewstep.checkpoint import Checkpoint
from fewstep.config import Run
from fewstep.denoiser import Models, Preconditioned
from fewstep.errors import StorageError
from fewstep.generator import Facts, build_student, load_weights
from fewstep.losses import Method


@dataclass
class State:
    """Weights, their averages, the optimizer's moments and the step: no generator, no iterator, no clock."""

    trained: nn.ModuleDict  # what the optimizer moves: the student, and modules that are learned beside it
    averages: dict[str, nn.Module]  # of the student, by name
    optimizer: torch.optim.Optimizer
    step: int = 0

    @property
    def student(self) -> Preconditioned:
        return cast(Preconditioned, self.trained["student"])

    def models(self) -> Models:
        """The networks as the loss takes them."""
        return Models(student=self.student, ema=self.averages["ema"])

    def modules(self) -> dict[str, nn.Module]:
        """All networks by the name of their checkpoint group."""
        return {**dict(self.trained.items()), **self.averages}

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """All of it as named tensors."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.trained.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {**{name: module.state_dict() for name, module in self.modules().items()}, "optimizer": moments}

    def restore(self, saved: Checkpoint) -> None:
        """Takes over a checkpoint. Raises StorageError where its names or shapes are not this state's."""
        for name, module in self.modules().items():
            load_weights(module, saved.groups.get(name, {}), str(saved.path))
        self.step = saved.state["step"]
        moments: dict[str, dict[str, Tensor]] = {}
        for full_name, tensor in saved.groups.get("optimizer", {}).items():
            name, _, key = full_name.rpartition(".")
            moments.setdefault(name, {})[key] = tensor
        if self.step and not moments:
            raise StorageError(
                f"{saved.path} holds no optimizer: it is a generator to sample from, not a run to resume"
            )
        for name, parameter in self.trained.named_parameters():
            found = moments.get(name)  # a weight that no gradient reaches has none
            if found is None:
                continue
            if any(moment.shape not in (parameter.shape, ()) for moment in found.values()):
                raise StorageError(f"{saved.path}: the optimizer's moments of {name!r} are of another shape")
            self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in found.items()}


def new_state(run: Run, facts: Facts, method: Method, network: nn.Module | None, device: torch.device) -> State:
    """Step 0: networks from the run's seed, an empty optimizer."""
    student = build_student(run, facts, method, network).to(device).train()
    trained = nn.ModuleDict({"student": student})
    # Adam's fused kernel is 5 to 10 times faster than its loops on a CPU, where small steps feel it.
    optimizer = torch.optim.Adam(trained.parameters(), lr=run.lr, betas=run.betas, fused=True)
    return State(trained, {"ema": ema.average_of(student)}, optimizer)
