"""What one stage hands to the next."""

from __future__ import annotations

import copy

import torch

from fewstep.run.config import Run
from fewstep.run.stages import Stage, stage_at
from fewstep.training import optimizers
from fewstep.training.precision import LossScale
from fewstep.training.state import State


def hand_over(run: Run, state: State) -> None:
    """The average becomes the next stage's student and frozen network, and goes on as its average.

    The optimizer is new. All that counts steps goes on: the averages' ages (others than `ema` keep
    what they hold) and the learning rate.
    Source: TCM, arXiv 2410.14895, its code, which loads the average into all three.
    """
    average = state.averages["ema"]
    with torch.no_grad():
        for module in filter(None, (state.student, state.averages.get("target"))):
            module.load_state_dict(average.state_dict())
    if state.spare is None:
        state.frozen = copy.deepcopy(average)
    else:
        state.spare.load_state_dict(average.state_dict())
        state.frozen = state.spare
    state.optimizer = optimizers.build(run, state.trainable.parameters())
    if run.precision == "fp16":
        state.scale = LossScale()
    state.stage_start = state.step


def enter_stage(stages: list[Stage], state: State) -> Stage:
    """The stage of the next step; where it begins, the state is handed over to it."""
    stage = stage_at(stages, state.step)
    if stage.number == 2 and state.frozen is None:
        hand_over(stage.run, state)
    state.stage_start = stage.first
    return stage
