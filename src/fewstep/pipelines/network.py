"""A pipeline's network, asked as networks are here: `(x, noise label, cond) -> output`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError
from fewstep.networks.ends import EndEmbedding
from fewstep.networks.roles import Common, part_of
from fewstep.pipelines.families import Family
from fewstep.pipelines.prompts import Prompts


class PipelineNetwork(nn.Module):
    """network(x `[B, C, h, w]`, label `[B]`, cond) by the embeddings of the condition's prompts.

    cond: {"label": the prompt's number in the table, -1 for none, "micro": SDXL's micro-conditions
    `[B, 6]`}. With "size" `[B, 2]` the rows have several sizes: x is `[B, C, P]`, the h w latents
    of each row in its first places, and the rows of one size pass together.
    A flow map's network is told where it leads, end `[B, ends]`: an embedding of it is added to
    that of the time, 0 at first. Without `end` nothing is added.
    Copies share the table of prompts.
    """

    at_once = True  # guidance is one pass of twice the rows

    def __init__(
        self,
        family: Family,
        network: nn.Module,
        prompts: Prompts,
        *,
        guidance: float | None = None,
        ends: int = 0,
    ) -> None:
        """guidance: that a network of flux takes as an input, where it takes one."""
        super().__init__()
        self.family, self.guidance = family, guidance
        self.block_kinds = family.blocks
        self.network = network
        self.prompts = Common(prompts)
        self.ends = ends
        if ends:
            self.end = EndEmbedding(ends, self._time.linear_2.out_features)

    @property
    def _time(self) -> Any:
        """The part that embeds the time."""
        return self.network.get_submodule(self.family.time)

    def forward(
        self, x: Tensor, noise_label: Tensor, cond: Cond = None, *, end: Tensor | None = None
    ) -> Tensor:
        parts = cond if isinstance(cond, Mapping) else {"label": cond}
        label, micro, size = (parts.get(name) for name in ("label", "micro", "size"))
        if not isinstance(label, Tensor):
            raise UserError("a pipeline is asked for prompts: expected a condition with labels")
        rows = self._rows(label)
        more = None if end is None else part_of(self, "end")(end.new_zeros(()), end)

        def ask(x: Tensor, index: Tensor | None) -> Tensor:
            def pick(part: Any) -> Any:
                return part if part is None or index is None else part[index]

            some = {name: pick(part) for name, part in rows.items()}
            with adding(pick(more), self._time):
                return self.family.ask(self.network, x, pick(noise_label), some, pick(micro))

        x = x.to(next(self.network.parameters()).dtype)
        return ask(x, None) if size is None else by_size(x, size, ask)  # type: ignore[arg-type]

    def _rows(self, label: Tensor) -> dict[str, Tensor]:
        """The embeddings of prompts, in the network's own type."""
        dtype = next(self.network.parameters()).dtype
        rows = {name: part.to(dtype) for name, part in self.prompts.value.rows(label).items()}
        if self.guidance is not None:
            rows["guidance"] = torch.full_like(label, self.guidance, dtype=dtype)
        return rows


@contextmanager
def adding(more: Tensor | None, module: nn.Module) -> Iterator[None]:
    """Inside, `more` is added to what the module gives."""
    if more is None:
        yield
        return
    handle = module.register_forward_hook(lambda _, args, out: out + more.to(out.dtype))
    try:
        yield
    finally:
        handle.remove()


def by_size(x: Tensor, size: Tensor, ask: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """ask(x `[b, C, h, w]`, index `[b]`) for the rows of each size, in x's own layout `[B, C, P]`.

    size `[B, 2]`: h and w of each row. Behind its h w places the result is 0.
    """
    kinds, kind_of = size.unique(dim=0, return_inverse=True)
    results, places = [], []
    for number, (h, w) in enumerate(kinds.tolist()):
        index = (kind_of == number).nonzero().flatten()
        part = ask(x[index, :, : h * w].unflatten(2, (h, w)), index)
        results.append(pad(part.flatten(2), (0, x.shape[2] - h * w)))
        places.append(index)
    return torch.cat(results)[torch.cat(places).argsort()]
