"""Writes checkpoints beside training: a step waits for a copy of its tensors, not for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.base.world import whole
from fewstep.run.checkpoint.format import Groups


def copy_groups(groups: Groups, keep: bool = True) -> dict[str, dict[str, Tensor]]:
    """Copies of the whole tensors on the CPU, which later updates do not change.

    keep: False on ranks that save nothing. They return nothing, but take part where tensors are in
    shards, so that the other ranks receive their parts.
    """
    if keep:
        return {
            group: {name: _copy(tensor) for name, tensor in tensors.items()}
            for group, tensors in groups.items()
        }
    for tensors in groups.values():
        for tensor in tensors.values():
            whole(tensor.detach())
    return {}


def _copy(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)


class Saver:
    """One piece of work at a time in its own thread; `check` and `wait` raise what it raised."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins the work once the one before it is done."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised where the run can stop for it
                self._failure = error

        # A daemon, so that a second request to stop ends the process at once; the next start finds
        # the checkpoints that were finished.
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what the work raised, without waiting for it."""
        if self._failure is not None:
            failure = self._failure
            self._failure = None
            raise failure

    def wait(self) -> None:
        """Waits until all is on the disk. Raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
