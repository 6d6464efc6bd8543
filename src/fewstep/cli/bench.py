"""fewstep bench: what a training step and a sample take beside the bare network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fewstep.base.errors import UserError, require
from fewstep.base.table import text_table
from fewstep.cli import VERBS, train
from fewstep.cli.arguments import is_option
from fewstep.cli.choices import choices, occurrences
from fewstep.cli.parse import parse_own
from fewstep.cli.plan import prepare_run
from fewstep.cli.sweep import name_of

if TYPE_CHECKING:
    from fewstep.bench.sampling import SamplingTime
    from fewstep.bench.steps import StepTime
    from fewstep.run.prepare import Prepared

# Those from data alone: the others take a --teacher.
METHODS = (
    *("ect", "ict", "ct", "diffusion", "sct", "tcm", "gc", "mcm"),
    *("meanflow", "imf", "soflow", "alphaflow", "shortcut", "psd", "lsd", "esd", "tvm"),
    *("imm", "vct"),
)
PICTURES = ("--shape", "3,32,32", "--batch", "16", "--block", "16", "--network.width", "64")
# What is measured where no recipe is named.
TABLE: tuple[tuple[str, ...], ...] = (
    ("digits", "--method", ",".join(METHODS)),
    ("digits-unet", *PICTURES, "--method", "ect,tcm,gc,meanflow"),
    ("digits-unet", *PICTURES, "--method", "ect", "--network.dropout", "0"),
    ("digits-dit", "--method", "ect,tcm,gc,meanflow"),
)
DESCRIPTION = (
    "Time training steps and samples of a recipe, each in turn with what no trainer can avoid: the"
    " method's own passes of the bare network, forward and back, and the fused optimizer. Several"
    " values of an option, as for sweep, are several rows. Without RECIPE, a table of methods and"
    " networks.\n\n"
    "example: fewstep bench digits-unet --method ect,tcm,meanflow"
)


@dataclass(frozen=True, kw_only=True)
class Args:
    repeats: int = 20
    """Timed calls of each kind."""
    shape: str | None = None
    """C,H,W of a sample: noise in place of the data."""
    classes: int = 0
    """Number of its labels, likewise."""
    sizes: tuple[int, ...] = (1, 64)
    """Samples of a call that is timed."""
    steps: int = 1
    """Network evaluations of such a call."""
    startup: bool = False
    """Time `import fewstep` and each verb's --help too."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    own, rest = parse_own(Args, argv, verb="bench", description=DESCRIPTION)
    require(own.repeats >= 6, "repeats", own.repeats, "6 or more: fewer have no interval")
    require(min(own.sizes, default=0) >= 1, "sizes", own.sizes, "numbers from 1 on")

    rest = train.with_recipe_first(rest)
    is_named = bool(rest) and not is_option(rest[0])
    others = sorted(occurrences(rest).keys() - {"device", "quiet", "threads"})
    if others and not is_named:
        raise UserError(f"--{others[0]}: expected a RECIPE before it: the table has its own")
    tables = [argv] if is_named else [[*words, *argv] for words in TABLE]
    facts: dict[str, Any] = {"steps": [], "sampling": []}
    for words in tables:
        table = measure(*parse_own(Args, words, verb="bench", description=DESCRIPTION))
        if not own.json:
            print(text_of(table), end="\n\n", flush=True)
        facts["machine"] = table.machine
        facts["steps"] += map(asdict, table.steps)
        facts["sampling"] += map(asdict, table.sampling)
    if own.startup:
        from fewstep.bench import startup

        facts["startup"] = startup.measure(VERBS, max(own.repeats // 5, 3))
        if not own.json:
            print(*(f"{value:.3f} s  {name}" for name, value in facts["startup"].items()), sep="\n")
    if own.json:
        print(json.dumps(facts))
    return 0


class Table(NamedTuple):
    """What was measured of one recipe; note: why no samples were timed."""

    machine: dict[str, Any]
    steps: list[StepTime]
    sampling: list[SamplingTime]
    note: str


def measure(own: Args, rest: list[str]) -> Table:
    """The runs of a recipe, prepared and timed. Raises UserError for what is not measured."""
    from fewstep.base.surroundings import threads
    from fewstep.base.timing import machine
    from fewstep.bench import sampling, steps

    if own.shape is not None and "--data" not in rest:
        rest = [*rest, "--data", "digits"]  # noise takes their place
    runs: dict[str, Prepared] = {}
    quiet, counts = False, set()
    for way in choices(rest):
        args, run, code, _ = train.read(way.words, "bench")
        for name in ("shard", "recompute", "resume"):
            require(not getattr(args, name), name, True, "left out: it is not measured")
        require(run.accumulate == 1, "accumulate", run.accumulate, "1: the floor is one pass")
        settings = way.settings(run)
        name = name_of(settings) if settings else run.method
        require(name not in runs, "row", name, "another name: two rows have this one")
        runs[name] = prepare_run(run, code, args.device, own.shape, own.classes)
        quiet = args.quiet
        counts.add(run.threads)
    require(len(counts) == 1, "threads", sorted(counts), "one number for all rows")
    with threads(counts.pop()):
        trainers = [steps.Trainer(name, prepared) for name, prepared in runs.items()]
        calls, note = {}, ""
        try:
            calls = sampling.calls_of(trainers[0], own.sizes, own.steps)
        except UserError as error:
            note = f"samples: not timed: {error}"
        times = steps.measure(trainers, own.repeats, progress=not quiet)
        samples = sampling.measure(trainers[0], calls, own.steps, own.repeats, progress=not quiet)
        return Table(machine(trainers[0].prepared.device), times, samples, note)


def text_of(table: Table) -> str:
    """The times in a table for a terminal, and the parts of the first run's step."""
    head = ["step", "ms", "floor", "ratio", "95 %", "of first", "samples/s", "MB", "of floor's"]
    rows = [
        [
            one.name,
            f"{one.step:.2f}",
            f"{one.floor:.2f}",
            f"{one.ratio:.3f}",
            between(one.interval),
            f"{one.of_first:.3f}",
            f"{one.samples_per_second:.0f}",
            f"{one.memory / 1e6:.0f}",
            f"{one.memory / one.floor_memory:.2f}",
        ]
        for one in table.steps
    ]
    calls = [
        [
            f"{one.name}, {one.batch} in {one.steps}",
            f"{one.call:.2f}",
            f"{one.bare:.2f}",
            f"{one.ratio:.3f}",
            between(one.interval),
            f"{one.beyond:+.2f}",
            f"{one.samples_per_second:.0f}",
        ]
        for one in table.sampling
    ]
    first = table.steps[0]
    name = f"{first.network}, {first.weights:,} weights, batch {first.batch}, {first.device}"
    parts = ", ".join(f"{part} {ms:.2f}" for part, ms in first.parts.items())
    sample_head = ["samples", "ms", "bare loop", "ratio", "95 %", "beyond", "samples/s"]
    lines = [
        name,
        text_table(rows, head),
        f"parts of {first.name}, ms: {parts}",
        table.note or text_table(calls, sample_head),
    ]
    if first.mfu is not None:
        lines.append(", ".join(f"{one.name} {one.mfu:.1%} of the peak" for one in table.steps))
    return "\n".join(lines)


def between(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3f} .. {ends[1]:.3f}"
