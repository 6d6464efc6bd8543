"""What a run that goes on may change, and the checkpoint that it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.base.errors import UserError
from fewstep.run import lock
from fewstep.run.checkpoint import Checkpoint, RunFolder
from fewstep.run.config import Run, field_name
from fewstep.run.facts import Facts

log = logging.getLogger("fewstep")

# No weight depends on these, or its last bits alone; data and a teacher are known by fingerprints.
MAY_CHANGE = {
    "accumulate",
    "bad_files",
    "cache",
    "checkpoint_every",
    "cond",
    "data",
    "eval_every",
    "eval_metric",
    "extend",
    "keep_checkpoints",
    "log_every",
    "picture_every",
    "snapshot_every",
    "teacher",
    "test",
    "validation",
}


def differences(
    run: dict[str, Any], before: dict[str, Any], may_change: Set[str] = MAY_CHANGE
) -> Iterator[tuple[str, Any, Any]]:
    """(name, new value, old value) of what changed and may not, options one by one.

    run, before: what `Run.to_json` gives of the two.
    """
    for name in sorted(run.keys() | before.keys()):
        new, old = run.get(name), before.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            kind = name.removesuffix("_options")
            yield from ((f"{kind}.{key}", a, b) for key, a, b in differences(new, old, may_change))
        elif name not in may_change and new != old:
            yield name, new, old


def checkpoint_in(out: Path, resume: bool) -> Checkpoint | None:
    """The checkpoint that a run in this folder goes on from.

    Raises UserError where the folder holds a run and `resume` is not asked for.
    """
    folder = RunFolder(out)
    if not resume:
        lock.refuse_old(out)
    checkpoint = folder.newest(quarantine=True)
    if checkpoint is None and resume:
        log.warning("fewstep: %s holds no checkpoint: starting from step 0", out)
    return checkpoint


def check_same(
    checkpoint: Checkpoint, run: Run, facts: Facts, complete: Callable[[Run], Run]
) -> Facts:
    """The facts of the checkpoint. Raises UserError where its settings, data or teacher are others.

    complete: writes out all options of a run; an older version did not know those of today.
    """
    out = checkpoint.path.parent.parent
    record = checkpoint.record
    before = record.run
    if (before.method, before.network) == (run.method, run.network):
        before = complete(before)
    for name, value, old in differences(run.to_json(), before.to_json()):
        if name == "iterations" and value > old:
            raise UserError(
                f"iterations = {value}, but the run in {out} was started with {old}, by which its"
                " schedules go; to train it longer, with these at their last values: --extend"
                f" {value - old}; with schedules and an optimizer of its own: --init {out}"
                " --out NEW"
            )
        raise UserError(
            f"{field_name(name)} = {value!r}, but the run in {out} was started with {old!r}: "
            "leave it out to continue that run, or start another with --out"
        )
    if run.steps < record.step:
        raise UserError(
            f"extend = {run.extend}: expected at least {record.step - run.iterations}, since the"
            f" run in {out} is at step {record.step} already"
        )
    if run.accumulate != before.accumulate and not run.elastic_exact:
        log.warning(
            "fewstep: accumulate = %s, but the run in %s was started with %s: the last bits may"
            " differ",
            run.accumulate,
            out,
            before.accumulate,
        )
    if record.torch != torch.__version__:
        log.warning(
            "fewstep: %s was written by torch %s: the last bits may differ", out, record.torch
        )
    old_facts = record.facts
    if replace(old_facts, init=facts.init, teacher=facts.teacher) != facts:
        raise UserError(
            f"the data is not what the run in {out} was started with: bring the old data back, or"
            " start another run (--out)"
        )
    if old_facts.teacher != facts.teacher:
        raise UserError(f"the teacher is not the one that the run in {out} was started with")
    return old_facts
