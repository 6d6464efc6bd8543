"""Run folders and checkpoints: format, reading and writing, shards, saving in the background."""

from __future__ import annotations

from fewstep.base.disk import replace as replace_file
from fewstep.base.disk import write as write_file
from fewstep.run.checkpoint.folder import KEEP, RunFolder
from fewstep.run.checkpoint.format import (
    Checkpoint,
    Groups,
    fingerprint,
    state_fingerprint,
    whole_fingerprint,
)
from fewstep.run.checkpoint.io import peek, read, write, write_shards
from fewstep.run.checkpoint.saver import Saver
from fewstep.run.checkpoint.schema import FORMAT
from fewstep.run.checkpoint.single import is_single, read_single, write_single

__all__ = [
    "FORMAT",
    "KEEP",
    "Checkpoint",
    "Groups",
    "RunFolder",
    "Saver",
    "fingerprint",
    "is_single",
    "peek",
    "read",
    "read_single",
    "replace_file",
    "state_fingerprint",
    "whole_fingerprint",
    "write",
    "write_file",
    "write_shards",
    "write_single",
]
