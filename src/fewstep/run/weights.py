"""Named weights: what a network has, what a file declares, and the averages of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fewstep.base.errors import StorageError, UserError
from fewstep.base.tensor_file import Entry, Header
from fewstep.run.averages import reconstruct
from fewstep.run.checkpoint import Checkpoint, RunFolder, fingerprint
from fewstep.run.config import Run
from fewstep.run.profiles import profile

# Groups of a checkpoint that nobody samples from.
NOT_WEIGHTS = {"optimizer", "scale", "balance", "encoder"}


def entries(tensors: Mapping[str, Tensor]) -> Header:
    """What a file of these tensors would declare."""
    return {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def check_weights(network: nn.Module | Mapping[str, Tensor], header: Header, where: str) -> None:
    """Raises StorageError that names the first weight that is missing, too many or unlike its own.

    network: itself, or its `outline`.
    """
    own = entries(network.state_dict() if isinstance(network, nn.Module) else network)
    for name in sorted(own.keys() | header.keys()):
        in_file = header.get(name)
        in_network = own.get(name)
        if in_file != in_network:
            raise StorageError(
                f"{where}: weight {name!r} is {_text(in_file)} in the file and {_text(in_network)}"
                " in the network"
            )


def _text(entry: Entry | None) -> str:
    return "none" if entry is None else f"{entry.dtype} {entry.shape}"


def load_weights(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Loads weights by name. Raises StorageError as `check_weights` does."""
    check_weights(module, entries(tensors), where)
    module.load_state_dict(tensors)


def weights_by_name(
    checkpoint: Checkpoint, run: Run, name: str
) -> tuple[dict[str, Tensor], int, str]:
    """(weights, step, fingerprint) of an average by name.

    A power average that was not tracked is reconstructed from snapshots. Raises UserError.
    """
    groups = checkpoint.groups.keys() - NOT_WEIGHTS
    group = profile(name).name if ":" in name else name
    record = checkpoint.record
    if group in groups:
        return checkpoint.groups[group], record.step, record.fingerprint or ""
    folder = RunFolder(checkpoint.path.parent.parent)
    if group.startswith("power-") and folder.snapshots():
        std = profile(group).value
        step, weights = reconstruct(folder, run, std, record.step)
        return weights, step, fingerprint({group: weights})
    raise UserError(
        f"no weights {name!r} in {checkpoint.path}: expected one of {', '.join(sorted(groups))}"
    )
