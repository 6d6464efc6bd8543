"""Randomness by address: every draw is a pure function of (seed, stream, block).

A *block* is a run of consecutive global sample ordinals that is always drawn whole. So a draw does
not depend on workers, ranks, batch boundaries or on where a run was resumed, and no generator state
is ever stored. The seed of a block's generator is a keyed bijection of the block's number on 32
bits (torch's CPU generator uses no more of a seed than that), so two blocks of one stream never
share their numbers. Generators are made in this file alone; `fork_rng` alone changes the global
ones, and restores them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from fewstep.base.surroundings import generator_lock

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
        mix = (right ^ key & 0xFFFF) * 0x9E3779B1 + (key >> 16) & 0xFFFFFFFF
        left, right = right, left ^ (mix ^ mix >> 15) * 0x85EBCA6B >> 13 & 0xFFFF
    return left << 16 | right


def generator(seed: int, stream: str, block: int = 0) -> torch.Generator:
    """A fresh CPU generator at the start of the given block of the given stream."""
    return torch.Generator("cpu").manual_seed(block_seed(seed, stream, block))


@contextmanager
def fork_rng(seed: int, stream: str, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's global generators draw from this stream; afterwards they are as before.

    For code that knows only these (weight initialisation, nn.Dropout): the generators of the CPU
    and of the device. The process has one of each, so one thread at a time is inside: two trainings
    in two threads take turns here, and draw what each would draw alone. What a thread of somebody
    else draws meanwhile is not kept apart.
    """
    with generator_lock:
        yield from _fork(seed, stream, device)


def _fork(seed: int, stream: str, device: torch.device | None) -> Iterator[None]:
    number = block_seed(seed, stream, 0)
    kind = "cpu" if device is None else device.type
    module = torch.get_device_module(kind) if kind != "cpu" else None
    # Of several cuda devices this one; other kinds have one generator.
    where = (device,) if kind == "cuda" else ()
    state = torch.get_rng_state()
    device_state = module.get_rng_state(*where) if module else None
    try:
        torch.default_generator.manual_seed(number)
        if module:
            with torch.cuda.device(device) if where else nullcontext():
                module.manual_seed(number)
        yield
    finally:
        torch.set_rng_state(state)
        if module:
            module.set_rng_state(device_state, *where)


def blocks_of(first: int, count: int, block: int) -> range:
    """The numbers of the blocks that hold the samples first, first + 1, ..."""
    return range(first // block, -(-(first + count) // block))


def rows(draw: Callable[[int], Tensor], first: int, count: int, block: int) -> Tensor:
    """Rows [first, first + count) of a stream whose blocks of `block` rows `draw(number)` gives."""
    numbers = blocks_of(first, count, block)
    whole = torch.cat([draw(number) for number in numbers])
    return whole[first - numbers.start * block :][:count]


def normal(
    seed: int, stream: str, first: int, count: int, shape: tuple[int, ...], block: int
) -> Tensor:
    """Unit normals `[count, *shape]` (float32, CPU) of the samples first, first + 1, ..."""
    numbers = blocks_of(first, count, block)
    whole = torch.empty((len(numbers), block, *shape), dtype=torch.float32, device="cpu")
    source = torch.Generator("cpu")
    for number, part in zip(numbers, whole, strict=True):
        part.normal_(generator=source.manual_seed(block_seed(seed, stream, number)))
    return whole.flatten(0, 1)[first - numbers.start * block :][:count]


def uniform(seed: int, stream: str, first: int, count: int, columns: int, block: int) -> Tensor:
    """Uniforms `[count, columns]` in [0, 1) (float64, CPU) of the samples first, first + 1, ...

    Each column is a stream of its own, so that asking for one more leaves the others as they were.
    """
    numbers = blocks_of(first, count, block)
    whole = torch.empty((columns, len(numbers), block), dtype=torch.float64, device="cpu")
    source = torch.Generator("cpu")
    for column, own in enumerate(whole):
        for number, part in zip(numbers, own, strict=True):
            name = f"{stream} {column}"
            part.uniform_(generator=source.manual_seed(block_seed(seed, name, number)))
    return whole.flatten(1).T[first - numbers.start * block :][:count].contiguous()


@lru_cache(maxsize=4)
def permutation(seed: int, stream: str, number: int, n: int) -> Tensor:
    """The `number`-th shuffle of 0 .. n-1 (of an epoch, say)."""
    return torch.randperm(n, generator=generator(seed, stream, number), device="cpu")


def shuffled_indices(seed: int, stream: str, first: int, count: int, n: int) -> Tensor:
    """Indices `[count]` into a set of n: ordinal o takes entry o mod n of shuffle o // n."""
    epochs = range(first // n, (first + count - 1) // n + 1)
    order = torch.cat([permutation(seed, stream, epoch, n) for epoch in epochs])
    return order[first - epochs[0] * n :][:count]
