"""fewstep eval: distances with errors, beside the floor that real held-out data reaches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.sampling import SamplingArgs, sampled_by

if TYPE_CHECKING:
    from fewstep.analysis.metrics import Extractor, Result
    from fewstep.data import Dataset

DESCRIPTION = (
    "Score a generator: disjoint draws of the held-out size against the training split, beside the"
    " held-out split itself (the floor). Every number has its standard error, 95 % interval and"
    " protocol (--json shows all). A sentence says whether samples of so many steps differ from"
    " held-out data beyond chance.\n\nexample: fewstep eval runs/digits --steps 1,2"
)


@dataclass(frozen=True, kw_only=True)
class OwnArgs:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name."""
    steps: tuple[int, ...] | None = None
    """Network evaluations; left out, 1,2 for consistency models, else the sampler's own."""
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
    composite: bool = False
    """Ask the frozen first stage at noise that a second stage was not trained for."""
    network: str | None = None
    """module:factory of a network of your own."""
    method: str | None = None
    """module:function of a method of your own."""
    split: Literal["test", "validation"] = "test"
    """test, or validation while you are still choosing something."""
    candidates: int = 1
    """How many models (checkpoints, EMAs, settings) were scored on this split before this one."""
    metrics: tuple[str, ...] | None = None
    """Metrics such as feature_frechet,feature_kid; help lists all."""
    extractor: str | None = None
    """FILE.onnx, with its input and output declared in FILE.json; or Inception's .pt."""
    weights: str | None = None
    """The file that the .onnx was exported from: its SHA-256 is recorded; known ones give FID."""
    reference: str | None = None
    """STATS.npz with mu and sigma of features, such as EDM's, in place of the training split."""
    batch: int | None = None
    """Samples that pass through the network at once; left out, what memory takes, 4096 at most."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Print no notes on how it was measured; results, warnings and errors still."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Args(SamplingArgs, OwnArgs):
    """All options, those of sampling last."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="eval", description=DESCRIPTION)
    from fewstep.analysis.metrics import (
        evaluate,
        gains,
        open_extractor,
        read_statistics,
        verdicts,
    )
    from fewstep.analysis.metrics.drawing import default_steps
    from fewstep.cli.user_code import own_parts
    from fewstep.run.datasets import data_of
    from fewstep.run.generator import load

    check_weights(args.weights, args.extractor)
    generator = load(
        args.run, ema=args.ema, device=args.device, composite=args.composite, **own_parts(args)
    )
    generator = sampled_by(generator, args)
    steps = default_steps(generator) if args.steps is None else args.steps
    check_levels(args.later_sigmas, steps)
    dataset = data_of(generator.run, generator.facts, args.data)
    extractor = None
    if args.extractor is not None:
        extractor = open_extractor(args.extractor, weights=args.weights)
    if args.metrics == ("help",):
        print(metrics_help(dataset, extractor))
        return 0
    metrics = None if args.metrics is None else list(args.metrics)
    results, speeds = evaluate(
        generator,
        dataset,
        steps=steps,
        n=args.n,
        seed=args.seed,
        split=args.split,
        metrics=metrics,
        extractor=extractor,
        reference=None if args.reference is None else read_statistics(args.reference),
        candidates=args.candidates,
        draw=args.draw,
        batch=args.batch,
    )
    judgements, changes = verdicts(results), gains(results)
    if args.json:
        rows: dict[str, list[Any]]
        rows = {"results": results, "verdicts": judgements, "gains": changes}
        report = {key: [asdict(row) for row in values] for key, values in rows.items()}
        print(json.dumps({**report, "speed": speeds}))
    else:
        sentences = [verdict.sentence() for verdict in judgements]
        sentences += [gain.sentence() for gain in changes if not gain.pays]
        notes = [] if args.quiet else _notes(results)
        print("\n".join([table(results, speeds), *sentences, *notes]))
    return 0


def check_weights(weights: str | None, extractor: str | None) -> None:
    """Raises UserError for --weights without --extractor."""
    from fewstep.base.errors import UserError

    if weights is not None and extractor is None:
        raise UserError(
            f"--weights {weights}: it says what --extractor FILE.onnx was exported from; give"
            " that too"
        )


def check_levels(sigmas: tuple[float, ...] | None, steps: tuple[int, ...]) -> None:
    """Raises UserError for --later-sigmas that no number of steps would use."""
    from fewstep.base.errors import require

    count = len(sigmas or ()) + 1
    need = f"{count} among --steps, which is {', '.join(map(str, steps))}"
    require(sigmas is None or count in steps, "later_sigmas", sigmas, need)


def metrics_help(dataset: Dataset, extractor: Extractor | None) -> str:
    """The metrics there are for this data, one a line, with their meaning."""
    from fewstep.analysis.metrics import CALIBRATION, spaces_of
    from fewstep.base.table import text_table

    metrics = spaces_of(dataset, extractor).metrics()
    rows = [[name, row.better, row.meaning] for name, (_, row) in metrics.items()]
    rows += [[name, row.better, row.meaning] for name, row in CALIBRATION.items()]
    return text_table(rows, ["metric", "better", "meaning"])


def table(results: list[Result], speeds: list[dict[str, Any]]) -> str:
    """A line for each metric and number of steps."""
    from fewstep.base.table import text_table

    head = ["metric", "steps", "value", "95 % interval", "floor", "95 % interval", "ratio"]
    rows = []
    for r in results:
        score = [_number(r.value), _pair(r.interval)]
        floor = [_number(r.floor), _pair(r.floor_interval)]
        rows.append([r.metric, str(r.steps), *score, *floor, _ratio(r)])
    for s in speeds:
        rows.append(["samples/s", str(s["steps"]), f"{s['samples_per_second']:.0f}"])
    return text_table(rows, head)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _pair(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"


def _ratio(r: Result) -> str:
    """Value over floor, where the metric has a ratio and the floor an interval."""
    from fewstep.analysis.metrics import METRICS

    row = METRICS.get(r.protocol["statistic"])
    has_ratio = row is not None and row.shows_ratio
    return f"{r.value / r.floor:.2f}" if has_ratio and r.floor and r.floor_interval else "-"


def _notes(results: list[Result]) -> list[str]:
    """How the distances and the calibration were measured, where there are any."""
    from fewstep.analysis.metrics import CALIBRATION

    ours = [r for r in results if r.protocol["statistic"] in CALIBRATION]
    others = [r for r in results if r not in ours]
    lines = _protocol(others[0].protocol) if others else []
    return lines + _calibration(ours) if ours else lines


def _calibration(results: list[Result]) -> list[str]:
    """How the calibration was measured, and the worst variables."""
    protocol = results[0].protocol
    names = ", ".join(dict.fromkeys(r.metric for r in results))
    lines = [
        f"{names}: {protocol['n']} samples for each of {protocol['draws']} conditions of the"
        f" {protocol['split']} split, beside its x0; the floor is what is right"
    ]
    for steps in dict.fromkeys(r.steps for r in results):
        details = [(r.metric, r.protocol.get("detail", {})) for r in results if r.steps == steps]
        worst = [
            f"{metric} {detail['worst'][0]} ({_number(detail['worst'][1])})"
            for metric, detail in details
            if "worst" in detail and len(detail.get("variables", "many")) > 1
        ]
        if worst:
            count = f"{steps} step" + "s" * (steps > 1)
            lines.append(f"worst variables at {count}: {', '.join(worst)}")
    return lines


def _protocol(protocol: dict[str, Any]) -> list[str]:
    """How the numbers were measured, in a few lines."""
    n = protocol["n"]
    count = protocol["n_reference"] or "unknown many"
    lines = [
        f"each value: mean over {protocol['draws']} disjoint draws of {n} samples against {count}"
        f" reference samples ({protocol['reference'][:8]})",
        f"95 % interval: of that mean, given the reference; floor: draws of {n} of the"
        f" {protocol['split']} split, likewise",
    ]
    if protocol.get("extractor"):
        lines.append(f"extractor: {protocol['space']} ({protocol['extractor'][:8]})")
    if protocol["candidates"] > 1:
        lines.append(f"the best of {protocol['candidates']} scored on this split: it flatters")
    return lines
