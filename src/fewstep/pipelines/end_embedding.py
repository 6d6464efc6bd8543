"""Tells a network of diffusers where each step leads, which a flow map's LoRA needs beside it.

    end_embedding.add(pipe, "pipeline/end_embedding.safetensors")

This file lies beside such a LoRA, and needs torch and safetensors alone.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


class EndEmbedding:
    """Adds W_2 silu(W_1 (cos, sin)(f gap) + b_1) + b_2 to the embedding of the time, in all rows.

    gap = angle(t) - angle(end) with the angle atan(sigma / alpha); the end of a step of the
    pipeline's scheduler is where its next one begins, and of the last one the data.
    active: without it the network is as it was.
    """

    def __init__(self, pipe: Any, part: nn.Module, weights: dict[str, Tensor]) -> None:
        self.pipe, self.weights, self.active = pipe, weights, True
        self.hook = part.register_forward_hook(self._change)

    def gap(self) -> Tensor:
        """Of the step that the scheduler is at."""
        scheduler = self.pipe.scheduler
        step = scheduler.step_index
        if step is None:
            step = scheduler.begin_index or 0
        sigma = scheduler.sigmas[step : step + 2].double().cpu()
        # Schedulers of flow matching have alpha = 1 - sigma, others sigma / alpha as their sigmas.
        is_flow = type(scheduler).__name__.startswith("Flow")
        angle = torch.atan2(sigma, 1 - sigma if is_flow else torch.ones_like(sigma))
        return angle[:1] - angle[1:]

    def _change(self, part: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        if not self.active:
            return None
        own = {name: tensor.to(out.device) for name, tensor in self.weights.items()}
        self.weights = own
        angle = self.gap().float().to(out.device) * own["frequencies"]
        waves = torch.cat([angle.cos(), angle.sin()])[None]
        inner = functional.linear(waves, own["inner.weight"], own["inner.bias"])
        more = functional.linear(functional.silu(inner), own["outer.weight"], own["outer.bias"])
        return out + more.to(out.dtype)


def add(pipe: Any, path: str) -> EndEmbedding:
    """Adds the embedding in a file to the network of a pipeline, in place of one before.

    It stays there as `network.end_embedding`.
    """
    network = getattr(pipe, "unet", None) or pipe.transformer
    before = getattr(network, "end_embedding", None)
    if before is not None:
        before.hook.remove()
    part = getattr(network, "time_embedding", None)
    if part is None:
        part = network.time_text_embed.timestep_embedder
    network.end_embedding = EndEmbedding(pipe, part, load_file(path))
    return network.end_embedding
