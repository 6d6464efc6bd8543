"""What one stage hands to the next."""

from __future__ import annotations

import torch

from fewstep.run.averages import average_of
from fewstep.run.config import Run
from fewstep.run.stages import Stage, stage_at
from fewstep.training import optimizers
from fewstep.training.precision import LossScale
from fewstep.training.state import State


def hand_over(run: Run, state: State) -> None:
    """The average becomes the next stage's student and frozen network, and goes on as its average.

    With stage_init = student they are the raw weights; with initial the average is frozen, and
    student and average are what the run began with.
    The optimizer is new. All that counts steps goes on: the averages' ages (others than `ema` keep
    what they hold) and the learning rate.
    Source: TCM, arXiv 2410.14895, its code, which loads the average into all three.
    """
    average = state.averages["ema"]
    state.frozen = state.frozen or state.spare or average_of(average)
    last = state.student if run.stage_init == "student" else average
    start = state.averages["initial"] if run.stage_init == "initial" else last
    with torch.no_grad():
        state.frozen.load_state_dict(last.state_dict())
        for module in (state.student, average, state.averages.get("target")):
            if module is not None and module is not start:
                module.load_state_dict(start.state_dict())
    state.optimizer = optimizers.build(run, state.trainable.parameters())
    if run.precision == "fp16":
        state.scale = LossScale()
    state.stage_start = state.step
    state.stage += 1


def enter_stage(stages: list[Stage], state: State) -> Stage:
    """The stage of the next step; where it begins, the state is handed over to it."""
    stage = stage_at(stages, state.step)
    if stage.number > state.stage:
        hand_over(stage.run, state)
    state.stage_start = stage.first
    return stage
