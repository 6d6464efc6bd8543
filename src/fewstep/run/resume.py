"""What a run that goes on has to be, and how much of its log it has written so far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.base.errors import UserError
from fewstep.run.checkpoint import Checkpoint, RunFolder
from fewstep.run.config import Run, run_from_json
from fewstep.run.facts import Facts

log = logging.getLogger("fewstep")

# On resume, since no weight depends on them, or by its last bits; data and a teacher are known by
# their fingerprints.
MAY_CHANGE = {
    "accumulate",
    "bad_files",
    "checkpoint_every",
    "data",
    "log_every",
    "picture_every",
    "snapshot_every",
    "teacher",
}


def differences(run: dict[str, Any], before: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What may not change when a run is resumed, and did: (name, new value, old value), options one
    by one.
    """
    for name in sorted(run.keys() | before.keys()):
        new, old = run.get(name), before.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            yield from (
                (f"{name.removesuffix('_options')}.{key}", a, b)
                for key, a, b in differences(new, old)
            )
        elif name not in MAY_CHANGE and new != old:
            yield name, new, old


def resumable(out: Path, resume: bool) -> Checkpoint | None:
    """The checkpoint that a run in this folder goes on from. Raises UserError where a run is and
    none is resumed.
    """
    folder = RunFolder(out)
    if not resume and (folder.config.exists() or folder.checkpoints()):
        raise UserError(
            f"{out} already holds a run: continue it with --resume, or choose another --out"
        )
    saved = folder.newest(quarantine=True)
    if saved is None and resume:
        log.warning("fewstep: %s holds no checkpoint: starting from step 0", out)
    return saved


def check_same(saved: Checkpoint, run: Run, facts: Facts, settled: Callable[[Run], Run]) -> Facts:
    """Refuses to go on from a checkpoint with other settings, data or another teacher; returns its
    facts.

    settled: writes out the options of a run, so that those an older version did not know have their
    defaults.
    """
    out = saved.path.parent.parent
    before = run_from_json(
        saved.state["run"]
    )  # fills in the fields that older versions did not know
    if (before.method, before.network) == (run.method, run.network):
        before = settled(before)
    for name, value, old in differences(run.to_json(), before.to_json()):
        raise UserError(
            f"{name} = {value!r}, but the run in {out} was started with {old!r}: "
            "leave it out to continue that run, or start another with --out"
        )
    if run.accumulate != before.accumulate and not run.elastic_exact:
        told = (
            f"accumulate = {run.accumulate}, but the run in {out} was started with"
            f" {before.accumulate}"
        )
        log.warning("fewstep: %s: the last bits may differ", told)
    if saved.state.get("torch") != torch.__version__:
        log.warning(
            "fewstep: %s was written by torch %s: the last bits may differ",
            out,
            saved.state.get("torch"),
        )
    known = Facts.from_json(saved.state["facts"])
    if replace(known, init=facts.init, teacher=facts.teacher) != facts:
        raise UserError(f"the data is not what the run in {out} was started with")
    if known.teacher != facts.teacher:
        raise UserError(f"the teacher is not the one that the run in {out} was started with")
    return known
