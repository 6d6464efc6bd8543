"""The second time of a network: `end` `[B, ends]`, numbers that say where its answer leads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.base.errors import UserError, require
from fewstep.networks.embedding import NoiseFeatures
from fewstep.networks.transformer_blocks import zero

WAVES = 5  # frequencies 1/2 .. 8 of a number: low ones, since the derivative along it is trained


def ends_fit(count: int, end: Tensor | None) -> None:
    """A network of `count` end numbers needs as many, one of 0 takes none; else a UserError."""
    if not count and end is not None:
        raise UserError("this network is not told its end time: got end")
    if count and (end is None or end.ndim != 2 or end.shape[1] != count):
        given = "none" if end is None else list(end.shape)
        raise UserError(f"this network is told its end time, end [B, {count}]: got {given}")


def zero_mlp(inputs: int, width: int) -> nn.Module:
    """Linear(silu(Linear)), 0 at first."""
    inner, outer = nn.Linear(inputs, width), nn.Linear(width, width)
    zero(outer)
    return nn.Sequential(inner, nn.SiLU(), outer)


class EndEmbedding(nn.Module):
    """emb + body(cos and sin of each number of `end`), `[B, width]`, `[B, ends]` -> `[B, width]`.

    With ends = 0 it is emb, and has no weights. body(inputs, width) makes what is 0 at first, so
    that weights of a one-time network give its outputs, to the bit, for every `end`. A network
    makes it last, so that its other weights are those of a one-time network of the same seed.
    Raises UserError where `end` does not fit.
    """

    def __init__(
        self, ends: int, width: int, body: Callable[[int, int], nn.Module] = zero_mlp
    ) -> None:
        super().__init__()
        require(ends >= 0, "ends", ends, "how many end numbers there are, or 0 for none")
        self.ends = ends
        if ends:
            self.waves = NoiseFeatures(WAVES, 0.5, 8.0)
            self.body = body(2 * WAVES * ends, width)

    def forward(self, emb: Tensor, end: Tensor | None) -> Tensor:
        ends_fit(self.ends, end)
        if end is None:
            return emb
        waves: Tensor = self.waves(end.flatten()).reshape(len(end), -1)
        return emb + self.body(waves.to(emb.dtype))


def weights_of_end(network: nn.Module) -> set[str]:
    """The names that a two-time network has, and a one-time network of its kind has not."""
    places = [name for name, one in network.named_modules() if isinstance(one, EndEmbedding)]
    return {
        name for name in network.state_dict() if any(name.startswith(f"{at}.") for at in places)
    }


def ends_in(weights: Mapping[str, Tensor]) -> int:
    """How many end numbers the network takes that has these weights, by their names and shapes."""
    inner = sorted(name for name in weights if ".end.body." in f".{name}")
    sizes = (weights[name].shape[1] for name in inner if weights[name].ndim > 1)
    return next(sizes, 0) // (2 * WAVES)


def on_diagonal(network: Callable[..., Any], x: Tensor, *args: Any) -> Any:
    """network(x, noise_label, cond, *masks), with zeros for `end` where it takes one: t to t."""
    # A law is told its end as a time, `to=`.
    ends = getattr(network, "ends", 0) if isinstance(network, nn.Module) else 0
    if not ends:
        return network(x, *args)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return network(x, *args, end=torch.zeros(len(x), ends, dtype=dtype, device=x.device))
