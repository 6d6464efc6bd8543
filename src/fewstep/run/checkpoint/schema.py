"""What the JSON part of a checkpoint says, and what it has to be."""

from __future__ import annotations

from typing import Any

import torch

from fewstep.base.errors import StorageError, UserError, short_repr
from fewstep.run.checkpoint import Checkpoint
from fewstep.run.config import MOST_COUNT, Run, run_from_json
from fewstep.run.facts import Facts


def checkpoint_state(run: Run, facts: Facts, step: int) -> dict[str, Any]:
    """The JSON part of a checkpoint: enough to rebuild its networks without the script that made
    them.
    """
    return {
        "run": run.to_json(),
        "facts": facts.to_json(),
        "step": step,
        "torch": torch.__version__,
    }


def check_state(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint whose run, facts, step or stage cannot be. Raises StorageError."""
    state = checkpoint.state
    step, rows = state["step"], state.get("teacher_rows", 0)
    checks = {
        "step": (type(step) is int and 0 <= step < MOST_COUNT, "a whole number, 0 or more"),
        "fingerprint": (isinstance(state["fingerprint"], str), "a text"),
        "stage": (type(state.get("stage", 1)) is int and state.get("stage", 1) in (1, 2), "1 or 2"),
        "begun": (
            type(state.get("begun", 0)) is int and 0 <= state.get("begun", 0) < MOST_COUNT,
            "0 or more",
        ),
        "teacher_rows": (type(rows) is int and 0 <= rows < 2**63, "0 or more"),
    }
    for name, (fine, expected) in checks.items():
        if not fine:
            raise StorageError(
                f"{checkpoint.path}: {name} = {short_repr(state[name])}: expected {expected}"
            )
    try:
        run_from_json(state["run"])
        Facts.from_json(state["facts"])
    except (UserError, StorageError) as error:
        raise StorageError(f"{checkpoint.path}: {error}") from error
