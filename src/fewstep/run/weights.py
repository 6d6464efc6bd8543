"""Named weights: what a network has, what a file declares, and the averages that a checkpoint
holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fewstep.base.errors import StorageError, UserError
from fewstep.base.tensor_file import Entry, Header
from fewstep.run import averages
from fewstep.run.checkpoint import Checkpoint, RunFolder, fingerprint
from fewstep.run.config import Run
from fewstep.run.profiles import profile

NOT_WEIGHTS = {"optimizer", "scale", "balance"}  # groups of a checkpoint that nobody samples from


def entries(tensors: Mapping[str, Tensor]) -> Header:
    """What a file of these tensors would declare."""
    return {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def check_weights(network: nn.Module | Mapping[str, Tensor], header: Header, where: str) -> None:
    """Raises a StorageError that names the first weight that is missing, left over, or of another
    type or shape.

    network: itself, or its `outline`.
    """
    own = entries(network.state_dict() if isinstance(network, nn.Module) else network)
    for name in sorted(own.keys() | header.keys()):
        have, want = header.get(name), own.get(name)
        if have != want:
            told = [("none" if w is None else f"{w.dtype} {w.shape}") for w in (have, want)]
            raise StorageError(
                f"{where}: weight {name!r} is {told[0]} in the file and {told[1]} in the network"
            )


def load_weights(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Loads weights by name. Raises StorageError as `check_weights` does."""
    check_weights(module, entries(tensors), where)
    module.load_state_dict(tensors)


def chosen_weights(
    checkpoint: Checkpoint, run: Run, ema: str
) -> tuple[dict[str, Tensor], int, str]:
    """(weights, step, fingerprint) of an average by name; a power average that was not tracked is
    reconstructed.
    """
    weights = checkpoint.groups.keys() - NOT_WEIGHTS
    name = profile(ema).name if ":" in ema else ema
    if name in weights:
        return checkpoint.groups[name], checkpoint.state["step"], checkpoint.state["fingerprint"]
    folder = RunFolder(checkpoint.path.parent.parent)
    if name.startswith("power-") and folder.snapshots():
        step, found = averages.reconstruct(
            folder, run, profile(name).value, checkpoint.state["step"]
        )
        return found, step, fingerprint({name: found})
    raise UserError(
        f"no weights {ema!r} in {checkpoint.path}: expected one of {', '.join(sorted(weights))}"
    )
