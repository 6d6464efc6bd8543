"""Every draw is a function of its address: no batch, order, restart or other stream changes it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.base import randomness
from fewstep.base.randomness import block_seed, fork_rng, normal, shuffled_indices, uniform


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), start=st.integers(0, 2**32 - 2000))
def test_blocks_of_a_stream_never_share_a_seed(seed, start):
    seeds = {block_seed(seed, "noise", block) for block in range(start, start + 2000)}
    assert len(seeds) == 2000
    assert all(0 <= s < 2**32 for s in seeds)


def test_the_seed_is_a_bijection():
    """The Feistel rounds can be undone, so all 2^32 block numbers have different seeds."""
    keys = randomness._round_keys(5, "noise")
    for block in (0, 1, 2, 65535, 65536, 2**31, 2**32 - 1):
        value = block_seed(5, "noise", block)
        left, right = value >> 16, value & 0xFFFF
        for key in reversed(keys):
            mix = (left ^ key & 0xFFFF) * 0x9E3779B1 + (key >> 16) & 0xFFFFFFFF
            left, right = right ^ (mix ^ mix >> 15) * 0x85EBCA6B >> 13 & 0xFFFF, left
        assert left << 16 | right == block


def test_streams_and_seeds_are_apart():
    draws = [
        normal(s, name, 0, 4096, (1,), 64).flatten()
        for s in (0, 1, 2**32)
        for name in ("noise", "time")
    ]
    table = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert table.abs().max() < 5 / 4096**0.5


@settings(max_examples=40)
@given(
    first=st.integers(0, 200),
    count=st.integers(1, 100),
    block=st.integers(1, 33),
    cut=st.integers(0, 100),
)
def test_rows_do_not_depend_on_how_they_are_asked_for(first, count, block, cut):
    cut = min(cut, count)
    whole = normal(0, "noise", first, count, (2, 3), block)
    parts = [normal(0, "noise", first, cut, (2, 3), block)] if cut else []
    parts += [normal(0, "noise", first + cut, count - cut, (2, 3), block)] if count > cut else []
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(
        uniform(0, "time", first, count, 2, block)[-1:],
        uniform(0, "time", first + count - 1, 1, 2, block),
    )


@settings(max_examples=40)
@given(n=st.integers(1, 50), first=st.integers(0, 300), count=st.integers(1, 120))
def test_every_epoch_visits_every_sample_once(n, first, count):
    order = shuffled_indices(3, "order", 0, first + count, n)
    assert torch.equal(order[first:], shuffled_indices(3, "order", first, count, n))
    for epoch in order[: len(order) // n * n].reshape(-1, n):
        assert torch.equal(epoch.sort().values, torch.arange(n))


def test_draws_have_the_law_they_claim():
    z, u = normal(0, "noise", 0, 40_000, (1,), 32), uniform(0, "time", 0, 40_000, 1, 32)
    assert z.mean().item() == pytest.approx(0, abs=4 / 200)
    assert z.std().item() == pytest.approx(1, abs=4 / 283)
    assert u.mean().item() == pytest.approx(0.5, abs=4 * 0.289 / 200)
    assert 0 <= u.min() < u.max() < 1


def test_code_that_knows_only_the_global_generator_leaves_it_alone():
    state = torch.get_rng_state()
    with fork_rng(0, "init"):
        first = torch.randn(3)
    with fork_rng(0, "init"):
        assert torch.equal(first, torch.randn(3))
    assert torch.equal(torch.get_rng_state(), state)
