"""Randomness is addressed, not carried: every draw is a pure function of (seed, stream, block).

A *block* is a run of consecutive global sample ordinals that is always drawn whole, so a draw does
not depend on workers, ranks, batch boundaries or on where a run was resumed, and no generator state
is ever stored. The seed of a block's generator is a keyed bijection of the block's number on 32
bits (torch's CPU generator uses no more of a seed than that), so two blocks of one stream never
share their numbers.
This file is where generators are made; the global ones are only ever borrowed, by `fork_rng`, and put
back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

SAMPLING_BLOCK = 16  # samples of one draw when sampling; training has its own block size

_ROUNDS = 4  # Feistel rounds: enough to decorrelate neighbouring block numbers


@lru_cache(maxsize=256)
def _round_keys(seed: int, stream: str) -> tuple[int, ...]:
    digest = hashlib.sha256(f"{seed}|{stream}".encode()).digest()
    return tuple(int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(_ROUNDS))


def block_seed(seed: int, stream: str, block: int) -> int:
    """The 32-bit seed of a block: a bijection of `block` in [0, 2^32) for each (seed, stream)."""
    left, right = block >> 16 & 0xFFFF, block & 0xFFFF
    for key in _round_keys(seed, stream):
        mixed = (right ^ key & 0xFFFF) * 0x9E3779B1 + (key >> 16) & 0xFFFFFFFF
        left, right = right, left ^ (mixed ^ mixed >> 15) * 0x85EBCA6B >> 13 & 0xFFFF
    return left << 16 | right


def generator(seed: int, stream: str, block: int = 0) -> torch.Generator:
    """A fresh CPU generator at the start of the given block of the given stream."""
    return torch.Generator().manual_seed(block_seed(seed, stream, block))


@contextmanager
def fork_rng(seed: int, stream: str, device: torch.device | None = None) -> Iterator[None]:
    """Runs code that knows only torch's global generators (weight initialisation, nn.Dropout) on a
    stream of its own.

    The generators of the CPU and of the device start at the stream and are put back afterwards.
    """
    number, kind = block_seed(seed, stream, 0), "cpu" if device is None else device.type
    there = torch.get_device_module(kind) if kind != "cpu" else None
    where = (
        () if kind != "cuda" else (device,)
    )  # of several devices this one; others have one generator
    kept = torch.get_rng_state(), there.get_rng_state(*where) if there else None
    try:
        torch.default_generator.manual_seed(number)
        if there:
            with torch.cuda.device(device) if where else nullcontext():
                there.manual_seed(number)
        yield
    finally:
        torch.set_rng_state(kept[0])
        if there:
            there.set_rng_state(kept[1], *where)


def rows(draw: Callable[[int], Tensor], first: int, count: int, block: int) -> Tensor:
    """Rows [first, first + count) of a stream whose blocks of `block` rows `draw(number)` gives."""
    start, stop = first // block, -(-(first + count) // block)
    drawn = torch.cat([draw(number) for number in range(start, stop)])
    return drawn[first - start * block :][:count]


def normal(
    seed: int, stream: str, first: int, count: int, shape: tuple[int, ...], block: int
) -> Tensor:
    """Unit normals `[count, *shape]` (float32, CPU) of the samples first, first + 1, ..."""
    return rows(
        lambda b: torch.randn((block, *shape), generator=generator(seed, stream, b)),
        first,
        count,
        block,
    )


def uniform(seed: int, stream: str, first: int, count: int, columns: int, block: int) -> Tensor:
    """Uniforms `[count, columns]` in [0, 1) (float64, CPU) of the samples first, first + 1, ...

    Each column is a stream of its own, so that asking for one more leaves the others as they were.
    """

    def column(name: str) -> Tensor:
        return rows(
            lambda b: torch.rand(block, generator=generator(seed, name, b), dtype=torch.float64),
            first,
            count,
            block,
        )

    return torch.stack([column(f"{stream} {number}") for number in range(columns)], 1)


@lru_cache(maxsize=4)
def permutation(seed: int, stream: str, number: int, n: int) -> Tensor:
    """The `number`-th shuffle of 0 .. n-1 (of an epoch, say)."""
    return torch.randperm(n, generator=generator(seed, stream, number))


def shuffled_indices(seed: int, stream: str, first: int, count: int, n: int) -> Tensor:
    """Indices `[count]` into a set of n: ordinal o takes entry o mod n of shuffle o // n."""
    epochs = range(first // n, (first + count - 1) // n + 1)
    order = torch.cat([permutation(seed, stream, epoch, n) for epoch in epochs])
    return order[first - epochs[0] * n :][:count]
