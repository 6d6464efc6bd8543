"""fewstep eval: distances with errors, beside the floor that real held-out data reaches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.analysis.metrics import Result

DESCRIPTION = (
    "Score a generator: disjoint draws of the held-out size against the training split, beside the"
    " held-out split itself (the floor). Every number has its standard error, 95 % interval and"
    " protocol (--json shows all).\n\nexample: fewstep eval runs/digits --steps 1,2"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name."""
    steps: str | None = None
    """Network evaluations to score, such as 1,2; left out, 1,2 for consistency models, else the
    sampler's default.
    """
    n: int = 10_000
    """Samples to generate, cut into draws."""
    draw: int | None = None
    """Samples of one draw; left out, as many as the held-out split has."""
    seed: int = 0
    """Seed of the samples."""
    ema: str = "ema"
    """Which weights: ema, student, or another average such as power:0.05."""
    data: str | None = None
    """Where the run's data is now, if its path has changed."""
    middle_times: tuple[float, ...] | None = None
    """Noise levels of the later steps; left out, the run's."""
    composite: bool = False
    """Ask the frozen first stage at noise that a second stage was not trained for."""
    network: str | None = None
    """module:factory of a network of your own."""
    method: str | None = None
    """module:function of a method of your own."""
    split: Literal["test", "validation"] = "test"
    """test, or validation while you are still choosing something."""
    candidates: int = 1
    """How many models (checkpoints, EMAs, settings) were scored on this split before this one was
    chosen.
    """
    metrics: str | None = None
    """Metrics with commas between, such as feature_frechet,feature_kid; a wrong name lists what
    there is.
    """
    extractor: str | None = None
    """FILE.onnx, with FILE.json that declares its input (range, size, resize, ...) and output; or
    Inception's .pt.
    """
    weights: str | None = None
    """The file that the .onnx was exported from: its SHA-256 is recorded, and known ones name the
    metric.
    """
    reference: str | None = None
    """STATS.npz with mu and sigma of features, such as EDM's, in place of the training split."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="eval", description=DESCRIPTION)
    from fewstep.analysis.metrics import evaluate, open_extractor, read_statistics
    from fewstep.base.errors import UserError
    from fewstep.cli.user_code import own_parts
    from fewstep.core.sampling import sampler
    from fewstep.run.generator import load
    from fewstep.run.sources import dataset_of

    if args.weights is not None and args.extractor is None:
        raise UserError(
            f"--weights {args.weights}: it says what --extractor FILE.onnx was exported from; give"
            " that too"
        )
    generator = load(
        args.run, ema=args.ema, device=args.device, composite=args.composite, **own_parts(args)
    )
    generator = generator.with_middle(args.middle_times)
    chosen = sampler(generator.method.sampler)
    usual = (1, 2) if chosen.default == 1 and not chosen.only else (chosen.default,)
    steps = usual if args.steps is None else parse_steps(args.steps)
    dataset = dataset_of(
        args.data or generator.run.data, generator.run.data_size, generator.run.bad_files
    )
    results, speeds = evaluate(
        generator,
        dataset if generator.run.labels else dataset.without_labels(),
        steps=steps,
        n=args.n,
        seed=args.seed,
        split=args.split,
        metrics=(
            None if args.metrics is None else [name.strip() for name in args.metrics.split(",")]
        ),
        extractor=(
            None if args.extractor is None else open_extractor(args.extractor, weights=args.weights)
        ),
        reference=None if args.reference is None else read_statistics(args.reference),
        candidates=args.candidates,
        draw=args.draw,
    )
    if args.json:
        print(json.dumps({"results": [asdict(r) for r in results], "speed": speeds}))
    else:
        print(table(results, speeds))
    return 0


def parse_steps(text: str) -> tuple[int, ...]:
    from fewstep.base.errors import UserError

    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(
            f"--steps {text}: expected numbers with commas between, such as 1,2,4"
        ) from None


def table(results: list[Result], speeds: list[dict[str, Any]]) -> str:
    """One line per metric and number of steps."""
    width = max(16, *(len(r.metric) for r in results))
    head = f"{'metric':<{width}} {'steps':>5}"
    lines = [
        f"{head} {'value':>8} {'95 % interval':>18} {'floor':>8} {'95 % interval':>18} {'ratio':>6}"
    ]
    for r in results:
        told = (
            f"{_number(r.value):>8} {_pair(r.interval):>18} {_number(r.floor):>8}"
            f" {_pair(r.floor_interval):>18}"
        )
        lines.append(f"{r.metric:<{width}} {r.steps:>5} {told} {_ratio(r):>6}")
    lines += [
        f"{'samples/s':<{width}} {s['steps']:>5} {s['samples_per_second']:>8.0f}" for s in speeds
    ]
    return "\n".join([*lines, *_protocol(results[0].protocol)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _pair(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"


def _ratio(r: Result) -> str:
    """Value over floor, for distances whose floor is above 0 by more than chance."""
    apart = r.protocol["statistic"] in ("frechet", "sliced_w2", "w2", "nearest_ratio")
    return f"{r.value / r.floor:.2f}" if apart and r.floor and r.floor_interval else "-"


def _protocol(protocol: dict[str, Any]) -> list[str]:
    """How the numbers were measured, in a few lines."""
    n, split = protocol["n"], protocol["split"]
    against = (
        f"{protocol['n_reference'] or 'unknown many'} reference samples"
        f" ({protocol['reference'][:8]})"
    )
    lines = [
        (
            f"each value: mean over {protocol['draws']} disjoint draws of {n} samples against"
            f" {against}"
        ),
        (
            f"95 % interval: of that mean, given the reference; floor: draws of {n} of the {split}"
            " split, likewise"
        ),
    ]
    if protocol.get("extractor"):
        lines.append(f"extractor: {protocol['space']} ({protocol['extractor'][:8]})")
    if protocol["candidates"] > 1:
        lines.append(f"the best of {protocol['candidates']} scored on this split: it flatters")
    return lines
