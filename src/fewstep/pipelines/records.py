"""Parts of rows as records, which lie in one file and are mapped as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def pack(parts: Mapping[str, Tensor | np.ndarray]) -> np.ndarray:
    """Parts with B rows as B records; bfloat16, which numpy has not, as the bits of int16."""
    arrays = {name: _bits(part) for name, part in parts.items()}
    fields = [(name, part.dtype, part.shape[1:]) for name, part in arrays.items()]
    # Aligned, so that torch can map each field; zeros, so that bytes between fields are the same.
    records = np.zeros(len(next(iter(arrays.values()))), np.dtype(fields, align=True))
    for name, part in arrays.items():
        records[name] = part
    return records


def _bits(part: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(part, Tensor):
        part = part.detach().cpu()
        part = part.view(torch.int16).numpy() if part.dtype == torch.bfloat16 else part.numpy()
    return part


def tensors_of(records: np.ndarray) -> dict[str, Tensor]:
    """The parts of records of embeddings, which are floats."""
    parts = {name: torch.from_numpy(records[name]) for name in records.dtype.names or ()}
    return {
        name: part.view(torch.bfloat16) if part.dtype == torch.int16 else part
        for name, part in parts.items()
    }
