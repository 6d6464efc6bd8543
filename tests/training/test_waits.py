"""A step waits for the device once: whatever it decides by, it knows on the host.

The networks and data are on torch's meta device, where a number that is asked for is an error, as
if every wait of a GPU were one. So nothing of a GPU is needed here, and nothing is computed.
"""

from __future__ import annotations

import traceback
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fewstep as fs
from fewstep.run.prepare import prepare
from fewstep.training.batches import draw_batch, to_device
from fewstep.training.hand_over import enter_stage
from fewstep.training.state import new_state
from fewstep.training.step import train_step
from tests.support.toys import tiny_run

META = torch.device("meta")
METHODS = [*fs.methods.__all__]


@pytest.fixture
def waits(monkeypatch):
    """Numbers that are asked of a meta tensor, which gets ones instead."""
    asked: list[Tensor] = []
    tolist = Tensor.tolist

    def ask(x: Tensor):
        if x.device.type != "meta":
            return tolist(x)
        asked.append(x)
        return torch.ones(x.shape).tolist()

    monkeypatch.setattr(Tensor, "tolist", ask)
    return asked


class Copies(TorchDispatchMode):
    """Counts copies from the host to the device that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            goes = args[0].device.type == "cpu" and result.device.type == "meta"
            if goes and not kwargs.get("non_blocking"):
                lines = traceback.extract_stack()
                own = [one for one in lines if "/fewstep/" in one.filename]
                self.blocking.append(f"{own[-1].filename}:{own[-1].lineno}")
        return result


@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_once(method, waits):
    run = tiny_run(method=method, block=16, network_options={"dropout": 0.2})
    prepared = replace(prepare(run), device=META)
    state = new_state(prepared)
    for group in state.optimizer.param_groups:
        group["fused"] = False  # which meta tensors do not have
    if state.teacher:
        state.teacher.denoiser = lambda x_t, t, cond: x_t  # an exact law asks numbers of the data
    stage = enter_stage(prepared.stages, state)
    batch = draw_batch(stage, prepared.arrays, 0)
    with Copies() as copies:
        train_step(stage, state, to_device(batch, META))
    assert set(copies.blocking) == set(), "\n" + "\n".join(sorted(set(copies.blocking)))
    assert len(waits) == 1
