"""Steps and samples of three published networks on one GPU, in under ten minutes.

python benchmarks/gpu.py --out gpu.json

DDPM++ (55.7 M weights), EDM2-S and DiT-B/2 by ECT, TCM and MeanFlow, in fp32 and bf16: a step over
its floor, images a second, memory, the share of the card's peak, and samples of one step. Then the
same compiled. It is `fewstep bench` row by row, on noise: nothing is downloaded. Rows come in the
order of what they tell. One that fails or takes too long is named with its error, and the others
go on. The file is written after each of them. `--device cpu --tiny` tries the script on small
networks.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fewstep.base.table import text_table
from fewstep.cli.bench import Args, Table, between, measure

LEAST = 15.0  # seconds that a row is begun with
GRACE = 60.0  # seconds beyond the whole time, after which a call that never returns is ended
SIZES = (1, 64)
TINY_SIZES = (1, 4)
COMPILE = {"compile": "on", "graphs": "graphs"}  # the last word of a row's name, and the option


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what it is measured with.

    goal: its share of the card's peak. tiny: the words that make it small.
    """

    title: str
    shape: str
    classes: int
    batch: int
    goal: float
    tiny: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A run that is timed; pace: images a second of another code that it stands beside."""

    name: str
    network: str
    recipe: str
    words: tuple[str, ...]
    pace: float | None = None


SMALL_UNET = ("--network.width", "16", "--network.blocks", "1")
NETWORKS = {
    "ddpmpp": Network(
        title="DDPM++", shape="3,32,32", classes=0, batch=128, goal=0.35, tiny=SMALL_UNET
    ),
    "dit": Network(
        title="DiT-B/2",
        shape="4,32,32",
        classes=1000,
        batch=128,
        goal=0.45,
        tiny=("--network.width", "32", "--network.depth", "2", "--network.heads", "2"),
    ),
    "edm2": Network(
        title="EDM2-S", shape="3,64,64", classes=1000, batch=64, goal=0.35, tiny=SMALL_UNET
    ),
}
# Of each network and method the recipe, and the method where the recipe has another.
RECIPES: dict[tuple[str, str], tuple[str, ...]] = {
    ("ddpmpp", "ect"): ("cifar10-ect",),
    ("ddpmpp", "tcm"): ("cifar10-tcm",),
    ("ddpmpp", "meanflow"): ("cifar10-meanflow",),
    ("dit", "ect"): ("imagenet256-meanflow-b2", "--method", "ect"),
    ("dit", "tcm"): ("imagenet256-meanflow-b2", "--method", "tcm"),
    ("dit", "meanflow"): ("imagenet256-meanflow-b2",),
    ("edm2", "ect"): ("imagenet64-ect-s",),
    ("edm2", "tcm"): ("imagenet64-tcm-s",),
    ("edm2", "meanflow"): ("imagenet64-ect-s", "--method", "meanflow"),
}
MEANFLOW_PACE = 610.0  # of a MeanFlow trainer on this network at batch 128
ORDER = (
    *("ddpmpp ect bf16", "ddpmpp ect fp32", "ddpmpp meanflow bf16", "ddpmpp meanflow fp32"),
    *("dit meanflow bf16", "dit meanflow fp32", "edm2 ect bf16", "edm2 ect fp32"),
    *("ddpmpp tcm bf16", "ddpmpp tcm fp32", "dit ect bf16", "edm2 tcm bf16"),
    *("edm2 meanflow bf16", "dit tcm bf16", "dit ect fp32", "dit tcm fp32"),
    *("edm2 tcm fp32", "edm2 meanflow fp32", "ddpmpp ect tf32", "dit meanflow tf32"),
    *("ddpmpp ect bf16 compile", "dit meanflow bf16 compile", "ddpmpp meanflow bf16 compile"),
    *("edm2 ect bf16 compile", "ddpmpp ect bf16 graphs", "ddpmpp ect fp32 compile"),
)


def row_of(name: str) -> Row:
    """The row of such words: network, method, precision, and how its passes are compiled."""
    network, method, precision, *more = name.split()
    recipe, *words = RECIPES[network, method]
    words += ["--precision", precision]
    words += [word for one in more for word in ("--compile", COMPILE[one])]
    pace = MEANFLOW_PACE if (network, method) == ("ddpmpp", "meanflow") else None
    return Row(name, network, recipe, tuple(words), pace)


class Overtime(BaseException):
    """A row took too long. No Exception, of which a compiler's own handlers take hold."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises Overtime inside, after so many seconds; again and again where that is caught."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overtime(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def table_of(row: Row, device: str, repeats: int, *, tiny: bool) -> Table:
    """What `fewstep bench` measures of a row."""
    network = NETWORKS[row.network]
    batch = 8 if tiny else network.batch
    words = [row.recipe, *row.words, "--device", device, "--quiet", "--batch", str(batch)]
    words += ["--block", "8", *network.tiny] if tiny else []
    classes = min(network.classes, 10) if tiny else network.classes
    sizes = TINY_SIZES if tiny else SIZES
    return measure(Args(repeats=repeats, shape=network.shape, classes=classes, sizes=sizes), words)


def facts_of(row: Row, table: Table) -> dict[str, Any]:
    """A row's measurements as JSON's own types, beside what is asked of them."""
    (step,) = table.steps
    pace = None if row.pace is None else step.samples_per_second / row.pace
    return {
        "machine": table.machine,
        "step": asdict(step),
        "sampling": [asdict(one) for one in table.sampling],
        "note": table.note,
        "goal": NETWORKS[row.network].goal,
        "of_pace": pace,
    }


def fact_of(row: Row, device: str, repeats: int, seconds: float, *, tiny: bool) -> dict[str, Any]:
    """A row's measurements, or the last line of its error."""
    start = time.monotonic()
    result: dict[str, Any] = {**asdict(row), "words": list(row.words)}
    try:
        with limit(seconds):
            result |= facts_of(row, table_of(row, device, repeats, tiny=tiny))
    except (Exception, SystemExit, Overtime) as error:
        text = str(error).strip().splitlines()
        result["error"] = f"{type(error).__name__}: {text[-1] if text else ''}"
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {**result, "seconds": time.monotonic() - start}


def text_of(facts: list[dict[str, Any]]) -> str:
    """Two tables, and the rows that failed."""
    good = [one for one in facts if "step" in one]
    by_name = {one["name"]: one["step"]["step"] for one in good}
    steps, samples = [], []
    for one in good:
        step = one["step"]
        eager = by_name.get(" ".join(one["name"].split()[:3]))
        mfu, pace = step["mfu"], one["of_pace"]
        steps.append(
            [
                one["name"],
                f"{step['weights'] / 1e6:.1f}",
                str(step["batch"]),
                f"{step['step']:.2f}",
                f"{step['floor']:.2f}",
                f"{step['ratio']:.3f}",
                between(step["interval"]),
                f"{step['samples_per_second']:.0f}" + (f" ({pace:.2f})" if pace else ""),
                f"{step['memory'] / 1e9:.2f}",
                f"{step['memory'] / step['floor_memory']:.2f}",
                "" if mfu is None else f"{mfu:.1%} of {one['goal']:.0%}",
                f"{step['step'] / eager:.3f}" if eager and "--compile" in one["words"] else "",
            ]
        )
        samples += [
            [
                f"{one['name']}, {call['batch']} in {call['steps']}",
                f"{call['call']:.2f}",
                f"{call['bare']:.2f}",
                f"{call['ratio']:.3f}",
                f"{call['beyond']:+.2f}",
                f"{call['samples_per_second']:.0f}",
            ]
            for call in one["sampling"]
        ]
    head = ["step", "M", "batch", "ms", "floor", "ratio", "95 %", "images/s (of other)"]
    head += ["GB", "of floor's", "of peak", "of eager"]
    sample_head = ["samples", "ms", "bare loop", "ratio", "beyond", "samples/s"]
    errors = [f"{one['name']}: {one['error']}" for one in facts if "error" in one]
    return "\n".join([text_table(steps, head), "", text_table(samples, sample_head), *errors])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of all rows together")
    parser.add_argument(
        "--row-seconds", type=float, default=90.0, help="most of one; twice that compiled"
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and batches")
    parser.add_argument("--rows", default="", help="those alone whose names have this text")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    faulthandler.dump_traceback_later(60 * args.minutes + GRACE, exit=True)
    facts: list[dict[str, Any]] = []
    for row in map(row_of, ORDER):
        if args.rows not in row.name:
            continue
        left = end - time.monotonic()
        if left < LEAST:
            facts.append({"name": row.name, "error": "no time left"})
        else:
            is_eager = "--compile" not in row.words
            seconds = min(args.row_seconds * (1 if is_eager else 2), left)
            facts.append(fact_of(row, args.device, args.repeats, seconds, tiny=args.tiny))
        args.out.write_text(json.dumps({"rows": facts}, indent=1) + "\n", encoding="utf-8")
        print(f"{row.name}: {facts[-1].get('error', 'done')}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(text_of(facts))


if __name__ == "__main__":
    main()
