"""Requests share batches, and none sees the others: same samples, fair turns, errors of its own."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep.base.errors import NonFiniteError
from fewstep.base.randomness import generator
from fewstep.run.plan import cut, join, make
from fewstep.serve import batching
from fewstep.serve.batching import Batcher
from tests.support.toys import graphs_of_passes, tiny_run


@pytest.fixture(scope="module")
def digits():
    return fs.load("digits", device="cpu")


@pytest.fixture(scope="module")
def featured():
    data = {
        "x0": torch.randn(40, 2, generator=generator(0, "x")),
        "cond": {
            "label": torch.arange(40) % 3,
            "features": torch.randn(40, 2, generator=generator(0, "y")),
        },
    }
    return fs.train(tiny_run(iterations=1), data, progress=False, device="cpu")


@pytest.fixture
def batcher_of():
    """Starts batchers, whose `batches` lists the batches: [(seed, rows), ...] each.

    The first batch, of seed 999, waits until `go` is set.
    """
    started = []

    def start(g, monkeypatch, batch=8, **options):
        batches, go, busy = [], threading.Event(), threading.Event()

        def spy(one, pieces):
            batches.append([(plan.seed, rows) for plan, rows in pieces])
            if pieces[0][0].seed == 999:
                busy.set()
                assert go.wait(10)
            return make(one, pieces)

        monkeypatch.setattr(batching, "make", spy)
        batcher = Batcher(g, batch=batch, workers=1, **options)
        batcher.start()
        started.append((batcher, go))
        blocker = batcher.submit(g.plan(1, seed=999))
        assert busy.wait(10)
        return batcher, batches, go, blocker

    yield start
    for batcher, go in started:
        go.set()
        batcher.close()


@pytest.mark.parametrize("steps", [1, 3])
def test_rows_of_several_plans_are_those_of_each_alone(featured, steps):
    features = torch.tensor([[0.5, -1.0], [2.0, 0.0], [0.1, 0.2]])
    plans = [
        featured.plan(3, seed=5, steps=steps, cond={"label": 2, "features": features}),
        featured.plan(2, seed=6, steps=steps, cond={"label": 0, "features": features[:2]}),
    ]
    alone = [make(featured, [(plan, range(plan.n))]) for plan in plans]
    both = make(featured, [(plans[1], range(1, 2)), (plans[0], range(3)), (plans[1], range(1))])
    expected = torch.cat([alone[1][1:], alone[0], alone[1][:1]])
    torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-5)
    assert (alone[0] - alone[0].flip(0)).abs().max() > 1e-3


def test_pieces_are_cut_where_parts_begin(digits):
    plans = [digits.plan(n, seed=n) for n in (5, 1, 7)]
    pieces = [(plans[0], range(2, 5)), (plans[1], range(1)), (plans[2], range(0, 7))]
    rows = [(plan.seed, row) for plan, part in pieces for row in part]
    for first in range(11):
        for stop in range(first, 12):
            inside = cut(pieces, range(first, stop))
            assert [(p.seed, row) for p, part in inside for row in part] == rows[first:stop]


def test_conditions_of_any_kind_are_joined():
    one = {"a": torch.zeros(2, 3), "b": {"c": torch.ones(2)}}
    both = join([one, one])
    assert both["a"].shape == (4, 3)
    assert both["b"]["c"].tolist() == [1.0] * 4
    assert join([None, None]) is None


def test_requests_that_wait_share_a_batch(digits, batcher_of, monkeypatch):
    batcher, batches, go, _ = batcher_of(digits, monkeypatch)
    results = [batcher.submit(digits.plan(2, seed=s, steps=1 + (s == 1))) for s in range(4)]
    go.set()
    for s, result in enumerate(results):
        expected = digits.sample(2, seed=s, steps=1 + (s == 1))
        torch.testing.assert_close(result.result(10), expected, rtol=1e-5, atol=1e-5)
    whole = range(2)
    assert batches[1:] == [[(0, whole), (2, whole), (3, whole)], [(1, whole)]]


def test_a_large_request_lets_small_ones_go_between(digits, batcher_of, monkeypatch):
    batcher, batches, go, _ = batcher_of(digits, monkeypatch)
    large = batcher.submit(digits.plan(20, seed=0))
    small = [batcher.submit(digits.plan(3, seed=s)) for s in (1, 2)]
    go.set()
    torch.testing.assert_close(large.result(10), digits.sample(20, seed=0), rtol=1e-5, atol=1e-5)
    assert [result.result(10).shape for result in small] == [(3, 1, 8, 8)] * 2
    assert batches[1:] == [
        [(0, range(8))],
        [(1, range(3)), (2, range(3)), (0, range(8, 10))],
        [(0, range(10, 18))],
        [(0, range(18, 20))],
    ]


def test_who_has_gone_takes_no_rows(digits, batcher_of, monkeypatch):
    batcher, batches, go, _ = batcher_of(digits, monkeypatch)
    results = [batcher.submit(digits.plan(2, seed=s)) for s in range(4)]
    assert results[0].cancel()
    assert results[2].cancel()
    go.set()
    assert [results[s].result(10).shape for s in (1, 3)] == [(2, 1, 8, 8)] * 2
    assert batches[1:] == [[(1, range(2)), (3, range(2))]]


def test_an_exact_request_is_alone_and_has_the_same_bits(digits, batcher_of, monkeypatch):
    batcher, batches, go, _ = batcher_of(digits, monkeypatch)
    results = [batcher.submit(digits.plan(6, seed=s, steps=2), exact=s == 1) for s in range(3)]
    go.set()
    assert torch.equal(results[1].result(10), digits.sample(6, seed=1, steps=2))
    assert [result.result(10).shape for result in results] == [(6, 1, 8, 8)] * 3
    assert [(1, range(6))] in batches


def test_an_exact_request_of_many_parts_takes_turns(digits, batcher_of, monkeypatch):
    digits = replace(digits, room=fs.load("digits", device="cpu").room)
    digits.room.most = 4
    batcher, batches, go, _ = batcher_of(digits, monkeypatch)
    large = batcher.submit(digits.plan(10, seed=1), exact=True)
    small = batcher.submit(digits.plan(2, seed=2))
    go.set()
    assert torch.equal(large.result(10), digits.sample(10, seed=1))
    assert small.result(10).shape == (2, 1, 8, 8)
    assert [batch[0][0] for batch in batches[1:]] == [1, 2, 1, 1]


def test_one_that_fails_spoils_no_other(digits, batcher_of, monkeypatch, caplog):
    batcher, _, go, _ = batcher_of(digits, monkeypatch)
    spy = batching.make

    def fails(one, pieces):
        if any(plan.seed == 1 for plan, _ in pieces):
            raise ZeroDivisionError("planted")
        return spy(one, pieces)

    monkeypatch.setattr(batching, "make", fails)
    results = [batcher.submit(digits.plan(2, seed=s)) for s in range(3)]
    go.set()
    assert results[0].result(10).shape == results[2].result(10).shape == (2, 1, 8, 8)
    with pytest.raises(ZeroDivisionError):
        results[1].result(10)
    assert "a request failed" in caplog.text


def test_where_memory_ends_batches_are_halved(digits, batcher_of, monkeypatch, caplog):
    digits = replace(digits, room=replace(digits.room))
    batcher, _, go, _ = batcher_of(digits, monkeypatch)
    spy = batching.make

    def small(one, pieces):
        if sum(len(rows) for _, rows in pieces) > 4:
            raise MemoryError
        return spy(one, pieces)

    monkeypatch.setattr(batching, "make", small)
    results = [batcher.submit(digits.plan(3, seed=s)) for s in range(2)]
    go.set()
    for s, result in enumerate(results):
        torch.testing.assert_close(
            result.result(10), digits.sample(3, seed=s), rtol=1e-5, atol=1e-5
        )
    assert digits.room.most == 3
    assert "out of memory with 6 at once" in caplog.text


def test_samples_that_are_not_finite_are_an_error_of_their_own_request(
    digits, batcher_of, monkeypatch
):
    batcher, _, go, _ = batcher_of(digits, monkeypatch)
    spy = batching.make

    def breaks(one, pieces):
        x = spy(one, pieces)
        x[:1] = torch.nan
        return x

    monkeypatch.setattr(batching, "make", breaks)
    bad, good = (batcher.submit(digits.plan(2, seed=s)) for s in (1, 2))
    go.set()
    with pytest.raises(NonFiniteError, match="not finite"):
        bad.result(10)
    assert good.result(10).shape == (2, 1, 8, 8)


def test_closing_finishes_what_was_asked_for(digits, batcher_of, monkeypatch):
    batcher, _, go, blocker = batcher_of(digits, monkeypatch)
    results = [batcher.submit(digits.plan(9, seed=s)) for s in range(3)]
    threading.Timer(0.05, go.set).start()
    batcher.close()
    assert blocker.done()
    assert all(result.result(0).shape == (9, 1, 8, 8) for result in results)
    assert not batcher.is_alive


def test_two_workers_share_a_large_request(digits):
    batcher = Batcher(digits, batch=4, workers=2)
    batcher.start()
    plans = [digits.plan(50, seed=s) for s in range(3)]
    results = [batcher.submit(plan) for plan in plans]
    for s, result in enumerate(results):
        expected = digits.sample(50, seed=s)
        torch.testing.assert_close(result.result(10), expected, rtol=1e-5, atol=1e-5)
    batcher.close()
    assert batcher.rate > 0


def test_a_batch_is_what_is_quick_and_memory_takes(digits):
    digits = replace(digits, room=fs.load("digits", device="cpu").room)
    batcher = Batcher(digits)
    assert batcher._most(digits.plan(1)) == 4096
    digits.room.row, batcher.batch = 2.0**22, None
    assert batcher._most(digits.plan(1)) == 16
    digits.room.row, batcher.batch = 2.0**17, None
    assert batcher._most(digits.plan(1)) == 256


def test_compiled_passes_are_compiled_before_the_first_request(digits, monkeypatch):
    """No request waits for torch's compiler, whatever its number of samples."""
    graphs = graphs_of_passes(monkeypatch)
    batcher = Batcher(digits.compile(), batch=8, workers=2)
    batcher.start()
    count = len(graphs)
    assert count > 0
    for n, exact in [(1, False), (2, False), (5, False), (19, False), (6, True)]:
        plan = digits.plan(n, seed=3)
        x = batcher.submit(plan, exact=exact).result(60)
        torch.testing.assert_close(x, digits.sample(n, seed=3))
    batcher.close()
    assert len(graphs) == count
