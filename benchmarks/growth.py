"""How the cost of a training step grows: with its method, with sizes, with a second process.

python benchmarks/growth.py exponents --method meanflow

memory: what a method keeps, in tensors of the size of its student's weights: a wide mlp on samples
of Gaussians, whose exact denoiser teaches where a method wants a teacher. A teacher that is a
network adds its own. The peak is that of a step, less what grows by the row.

exponents: b of cost ~ size^b, by least squares of logarithms. All sizes of a table are timed in
turn. Each round has an exponent of its own; the interval is that of their median, of the clock's
noise alone. `last` is the exponent between the two largest sizes: where it is above the other, a
part that does not grow is still seen. Of rows and of sampling steps also the line a + b size.

processes: two on the CPU, joined by gloo as `fewstep train` joins them, each with half of a batch.
DDP and FSDP2 live in one process group. They take turns with steps of as many rows that exchange
nothing, of one process while the other waits, and of both at once. The processes meet before each
step, whose time is that of the slower one.

Exponents and processes are of noise, in one thread of each process.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import log
from statistics import linear_regression, median
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.utils.flop_counter import FlopCounterMode

from fewstep.base.errors import FewstepError
from fewstep.base.pool import Pool
from fewstep.base.progress import Progress
from fewstep.base.surroundings import threads
from fewstep.base.table import text_table
from fewstep.base.timing import in_turn, machine
from fewstep.base.world import World
from fewstep.bench.sampling import calls_of
from fewstep.bench.steps import TURN, Trainer, memory_of, ratio, tensors_of
from fewstep.cli.bench import METHODS, between
from fewstep.cli.plan import prepare_run
from fewstep.networks.blocks import blocks_of, watch_calls
from fewstep.run.prepare import Prepared, prepare
from fewstep.run.recipes import RECIPES
from fewstep.run.recipes.digits import WITH_TEACHER
from fewstep.statistics.intervals import Median, median_interval, number
from fewstep.training import parallel, ranks
from fewstep.training.batches import Batch, draw_batch
from fewstep.training.preflight import try_out

CPU, HOST = torch.device("cpu"), "127.0.0.1"
KINDS = ("student", "optimizer", "averages", "frozen", "beside")
BLOCK = 16
FEW = (BLOCK, 2 * BLOCK)  # rows of two steps, whose peaks tell what grows by the row
BATCHES = (16, 32, 64, 128, 256)
STEPS, SAMPLES = (1, 2, 4, 8), 64
WORLD, SHARE = 2, 64  # processes, and the rows of each
# By recipe: rows where another size grows, widths around the recipe's own, sides of pictures.
NETWORKS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "digits-unet": (16, (32, 64, 128), (8, 16, 32)),
    "digits-dit": (32, (48, 96, 192), ()),
    "digits": (256, (128, 256, 512), ()),
}

Call = Callable[[], object]
Series = dict[int, list[float]]  # of each size the values of all rounds


@dataclass(frozen=True)
class Memory:
    """What a method keeps between steps, and its peak, in the size of its student's weights."""

    method: str
    kinds: dict[str, float]
    total: float
    peak: float

    def cells(self) -> dict[str, str]:
        kinds = {kind: f"{value:.2f}" for kind, value in self.kinds.items()}
        total = {"in all": f"{self.total:.2f}", "bytes a weight": f"{4 * self.total:.1f}"}
        return {"method": self.method, **kinds, **total, "at the peak": f"{self.peak:.2f}"}


@dataclass(frozen=True)
class Growth:
    """A cost at several sizes, by its medians; its exponent over all, and over the last two.

    start, each: of the line start + each * size.
    """

    table: str
    cost: str
    values: dict[int, float]
    exponent: Median
    last: Median
    start: Median
    each: Median

    def cells(self) -> dict[str, str]:
        values = {str(size): number(value) for size, value in self.values.items()}
        ends = {"exponent": text(self.exponent), "last": f"{self.last.value:.3f}"}
        if tuple(self.values) in (BATCHES, STEPS):
            ends |= {"a": text(self.start), "b": text(self.each)}
        return {self.table: self.cost, **values, **ends}


@dataclass(frozen=True)
class Way:
    """Steps of a process's share of a batch, over those of both at once apart, and over DDP's.

    state: what it keeps between steps, in the size of the whole weights, less DDP's own buckets.
    """

    network: str
    way: str
    ms: float
    of_apart: Median
    of_ddp: Median
    state: float

    def cells(self) -> dict[str, str]:
        ratios = {"of apart": text(self.of_apart), "of DDP": text(self.of_ddp)}
        start = {"network": self.network, "way": self.way, "ms": f"{self.ms:.2f}"}
        return {**start, **ratios, "weights-sized tensors": f"{self.state:.2f}"}


Result = Memory | Growth | Way


def text(own: Median) -> str:
    return f"{own.value:.3f}" + (f" ({between(own[1:])})" if own.low < own.high else "")


def text_of(results: Sequence[Result]) -> str:
    """A table for each kind of row."""
    tables: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for one in results:
        tables[tuple(one.cells())].append([*one.cells().values()])
    return "\n\n".join(text_table(rows, head) for head, rows in tables.items())


def memory(method: str) -> Memory:
    peaks = []
    for rows in FEW:
        fields = {"batch": rows, "block": BLOCK, "network_options": {"width": 512}}
        trainer = Trainer(method, prepare(RECIPES["digits-mixture"](method=method, **fields)))
        trainer.step()  # which makes the moments
        peaks.append(memory_of(trainer.step, trainer.state, CPU))
    state = trainer.state
    size = sum(p.nbytes for p in state.student.parameters())
    kinds = dict.fromkeys(KINDS, 0.0)
    for name, group in state.groups().items():
        kind = "averages" if name in state.averages else name
        kinds[kind if kind in KINDS else "beside"] += sum(x.nbytes for x in group.values()) / size
    total = memory_of(lambda: None, state, CPU)
    return Memory(method, kinds, total / size, linear_regression(FEW, peaks).intercept / size)


def memories(args: argparse.Namespace) -> list[Memory]:
    methods, results = dict.fromkeys((*METHODS, *WITH_TEACHER)), []
    with Progress(len(methods), "method") as bar:
        for method in methods:
            results.append(memory(method))
            bar.update(1)
    return results


def noise(recipe: str, method: str, batch: int, shape: str = "1,8,8", **network: Any) -> Prepared:
    """The recipe on noise with ten labels."""
    run = RECIPES[recipe](method=method, batch=batch, block=BLOCK)
    run = replace(run, network_options={**run.network_options, **network})
    return prepare_run(run, {}, "cpu", shape, 10)


def times(calls: dict[tuple[str, int], Call], repeats: int) -> dict[str, Series]:
    """Milliseconds of all calls in turn, by their kind."""
    with Progress(repeats * len(calls), "call") as bar:
        seconds = in_turn(calls, repeats, tick=partial(bar.update, 1), least=TURN)
    series: dict[str, Series] = defaultdict(dict)
    for (kind, size), own in seconds.items():
        series[f"{kind}, ms"][size] = [1e3 * one for one in own]
    return series


def of_steps(runs: dict[int, Prepared], repeats: int) -> dict[str, Series]:
    """Of a step and its floor time and memory, and the floor's operations."""
    trainers = {size: Trainer("", run) for size, run in runs.items()}
    calls: dict[tuple[str, int], Call] = {}
    for size, one in trainers.items():
        calls |= {("step", size): one.step, ("floor", size): one.floor}
    series = times(calls, repeats)
    for size, one in trainers.items():
        series["step, MB"][size] = [memory_of(one.step, one.state, CPU) / 1e6]
        series["floor, MB"][size] = [memory_of(one.floor, one.floor.state, CPU) / 1e6]
        with FlopCounterMode(display=False) as counter:
            one.floor()
        series["floor, GFLOP"][size] = [counter.get_total_flops() / 1e9]
    return series


def of_samples(run: Prepared, repeats: int) -> dict[str, Series]:
    """Of a call of `sample` and of its bare loop, by the number of steps."""
    trainer = Trainer("", run)
    pairs = {steps: calls_of(trainer, [SAMPLES], steps) for steps in STEPS}
    return times({(kind, n): pairs[n][kind, m] for n in STEPS for kind, m in pairs[n]}, repeats)


def tables(recipe: str, method: str, repeats: int) -> Iterator[tuple[str, dict[str, Series]]]:
    """What grows, and its costs."""
    rows, widths, sides = NETWORKS[recipe]
    at = partial(noise, recipe, method)
    yield f"{recipe}, batch", of_steps({n: at(n) for n in BATCHES}, repeats)
    yield f"{recipe}, width, {rows} rows", of_steps({n: at(rows, width=n) for n in widths}, repeats)
    if sides:  # the same layers at each
        runs = {n: at(rows, shape=f"3,{n},{n}", attention=(n // 2,)) for n in sides}
        yield f"{recipe}, side, {rows} rows", of_steps(runs, repeats)
    yield f"{recipe}, steps of {SAMPLES} samples", of_samples(at(SAMPLES), repeats)


def growth(table: str, cost: str, series: Series) -> Growth:
    sizes, rounds = [*series], [*zip(*series.values(), strict=True)]
    lines = [linear_regression(sizes, values) for values in rounds]
    return Growth(
        table,
        cost,
        values={size: median(values) for size, values in series.items()},
        exponent=middle([exponent(sizes, values) for values in rounds]),
        last=middle([exponent(sizes[-2:], values[-2:]) for values in rounds]),
        start=middle([line.intercept for line in lines]),
        each=middle([line.slope for line in lines]),
    )


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    return linear_regression([log(n) for n in sizes], [log(x) for x in values]).slope


def middle(values: list[float]) -> Median:
    """The median and its interval. A single value is a count, which has no noise."""
    return median_interval(values) if len(values) > 1 else Median(*values * 3)


def growths(args: argparse.Namespace) -> list[Growth]:
    return [
        growth(table, cost, series)
        for recipe in NETWORKS
        for table, costs in tables(recipe, args.method, args.repeats)
        for cost, series in costs.items()
    ]


class Member(Trainer):
    """A run on one of several processes, joined with the others as `fewstep train` joins them."""

    def __init__(self, run: Prepared, world: World, shard: bool) -> None:
        self.world = world
        super().__init__("", run)
        state, run = self.state, self.prepared
        state.world = world
        blocks = blocks_of(state.student.network)
        with watch_calls(blocks) as names:
            has_unused = try_out(run, self.stage.method, state)
        if shard:
            parallel.check_method(run.method)
        own = [name for name in blocks if name in names]
        parallel.join(run.run, run.method, state, shard, blocks=own, has_unused=has_unused)

    def batch(self) -> Batch:
        return draw_batch(self.stage, self.prepared.arrays, self.at, self.world)


def size_of(trainer: Trainer) -> int:
    """Bytes that this process keeps between steps."""
    return sum(getattr(x, "to_local", lambda x=x: x)().nbytes for x in tensors_of(trainer.state))


def member(port: int, method: str, repeats: int, rank: int, _: object) -> dict[str, Any]:
    """What a rank measures of each network: seconds of all ways, and bytes that they keep."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    # As below torchrun, whose agent holds the store.
    os.environ.update(MASTER_ADDR=HOST, TORCHELASTIC_USE_AGENT_STORE="True")
    results = {}
    with ranks.connect("cpu") as (world, _):

        def meet() -> None:
            world.meet()
            bar.update(1)

        for recipe in NETWORKS:
            half = Trainer("", noise(recipe, method, SHARE))
            whole = noise(recipe, method, SHARE * WORLD)
            ddp, fsdp = (Member(whole, world, shard) for shard in (False, True))
            own = {"apart": half, "DDP": ddp, "FSDP2": fsdp}
            calls: dict[str, Call] = {"alone": half.step if world.main else lambda: None}
            calls |= {way: one.step for way, one in own.items()}
            with Progress(repeats * len(calls), "call", show=world.main) as bar:
                seconds = in_turn(calls, repeats, tick=meet)
            size = sum(p.nbytes for p in half.state.student.parameters())
            sizes = {way: size_of(own.get(way, half)) / size for way in calls}
            results[recipe] = seconds, sizes
    return results


def ways(args: argparse.Namespace) -> list[Way]:
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    with Pool(partial(member, store.port, args.method, args.repeats), WORLD) as pool:
        outcomes = [outcome for _, outcome in pool.outcomes(range(WORLD))]
    for outcome in outcomes:
        if isinstance(outcome, FewstepError):
            raise outcome
    results = []
    for recipe, (_, sizes) in outcomes[0].items():
        own = [outcome[recipe][0] for outcome in outcomes]
        slower = {
            way: [max(pair) for pair in zip(*(x[way] for x in own), strict=True)] for way in sizes
        }
        for way, seconds in slower.items():
            apart, ddp = (ratio(seconds, slower[other]) for other in ("apart", "DDP"))
            results.append(Way(recipe, way, 1e3 * median(seconds), apart, ddp, sizes[way]))
    return results


PARTS: dict[str, Callable[[argparse.Namespace], Sequence[Result]]] = {
    "memory": memories,
    "exponents": growths,
    "processes": ways,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--method", default="ect", help="of exponents and processes")
    parser.add_argument("--repeats", type=int, default=20, help="rounds; 6 or more")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.repeats < 6:
        parser.error("--repeats: expected 6 or more: fewer have no interval")
    with threads(1):
        facts: dict[str, Any] = {"machine": machine(CPU)}
        for name in PARTS if args.part == "all" else [args.part]:
            results = PARTS[name](args)
            facts[name] = [asdict(one) for one in results]
            if not args.json:
                print(text_of(results), end="\n\n", flush=True)
    if args.json:
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
