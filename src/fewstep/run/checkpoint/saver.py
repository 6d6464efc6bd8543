"""Writes checkpoints beside training: a step waits for a copy of its tensors, and not for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.base.world import whole
from fewstep.run.checkpoint.format import Groups


def copied(groups: Groups, keep: bool = True) -> dict[str, dict[str, Tensor]]:
    """The whole tensors as they are now, on the CPU, whatever becomes of the originals.

    keep: where not, nothing is returned, but for tensors in shards the others get what this rank
    holds.
    """

    def copy(tensor: Tensor) -> Tensor:
        return whole(tensor.detach()).to("cpu", copy=True, memory_format=torch.contiguous_format)

    if keep:
        return {
            group: {name: copy(tensor) for name, tensor in kept.items()}
            for group, kept in groups.items()
        }
    for tensor in (tensor for kept in groups.values() for tensor in kept.values()):
        whole(tensor.detach())
    return {}


class Saver:
    """One piece of work at a time in a thread of its own; what it raises is raised by `check` or
    `wait`.
    """

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

        # A daemon: a second request to stop ends the process at once, and the next start finds what
        # was whole.
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what the work raised, without waiting for it."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Waits until all is on the disk. Raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
