"""What the next training step depends on besides the run itself, as a value that can be saved and compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep import ema
from fewstep.checkpoint import Checkpoint
from fewstep.config import Run
from fewstep.denoiser import Preconditioned
from fewstep.generator import Facts, build_student, load_weights


@dataclass
class State:
    """Weights, their average, the optimizer's moments and the step: no generator, no iterator, no clock."""

    student: Preconditioned
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """All of it as named tensors."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.student.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {"student": self.student.state_dict(), "ema": self.average.state_dict(), "optimizer": moments}

    def restore(self, saved: Checkpoint) -> None:
        """Takes over a checkpoint. Raises StorageError where its names or shapes are not this state's."""
        where = str(saved.path)
        load_weights(self.student, saved.groups.get("student", {}), where)
        load_weights(self.average, saved.groups.get("ema", {}), where)
        moments: dict[str, dict[str, Tensor]] = {}
        for full_name, tensor in saved.groups.get("optimizer", {}).items():
            name, _, key = full_name.rpartition(".")
            moments.setdefault(name, {})[key] = tensor
        for name, parameter in self.student.named_parameters():
            if name in moments:
                self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in moments[name].items()}
        self.step = saved.state["step"]


def new_state(run: Run, facts: Facts, network: nn.Module | None, device: torch.device) -> State:
    """Step 0: networks from the run's seed, an empty optimizer."""
    student = build_student(run, facts, network).to(device)
    # Adam's fused kernel is 5 to 10 times faster than its loops on a CPU, where small steps feel it.
    optimizer = torch.optim.Adam(student.parameters(), lr=run.lr, betas=run.betas, fused=True)
    return State(student, ema.average_of(student), optimizer)
