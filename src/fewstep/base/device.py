"""Which device a run uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewstep.base.errors import UserError


def pick_device(name: str, local: int | None = None) -> torch.device:
    """The device of that name; "auto" is the first available of cuda, mps, cpu. Raises UserError.

    local: the number of this process among several on this machine; each takes a cuda device of its
    own, of those it sees.
    """
    have = ["cpu"]
    if torch.backends.mps.is_available():
        have.insert(0, "mps")
    if torch.cuda.is_available():
        have.insert(0, "cuda")
    name = have[0] if name == "auto" else name
    kind, _, index = str(name).partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in have or (index and not (index.isdecimal() and int(index) < count)):
        raise UserError(f"device {name!r} is not here: expected auto or one of {', '.join(have)}")
    if kind == "cuda" and local is not None:
        if index:
            raise UserError(
                f"device {name!r}: expected cuda, of which each of several processes takes its own"
            )
        return torch.device("cuda", local % count)
    return torch.device(name)


def first_weight(module: nn.Module) -> nn.Parameter | None:
    """The first of its parameters, None without any.

    `next(module.parameters())` puts together names of all modules on the way, which takes as long
    as a layer of a small network.
    """
    for weight in module._parameters.values():
        if weight is not None:
            return weight
    inner = (first_weight(part) for part in module._modules.values() if part is not None)
    return next((weight for weight in inner if weight is not None), None)


def send(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. A copy from the host is not waited for, on CUDA.

    There CUDA has taken the host's numbers before the call returns, unless these are pinned, and
    the device goes on with what it was given. Of other kinds it is not known (meta is for tests).
    """
    if x.device == device:
        return x
    is_sent = x.device.type == "cpu" and device.type in ("cuda", "meta") and not x.is_pinned()
    return x.to(device, non_blocking=is_sent)


def channels_last(module: nn.Module) -> None:
    """Lays weights of convolutions out with the channels last in memory; values are unchanged.

    A convolution with such a weight gives pictures and volumes laid out so, which what follows
    keeps. Kernels of series have no such layout.
    """
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in module.parameters():
        if weight.ndim in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.ndim])
