"""fewstep eval: distances with errors, beside the floor that real held-out data reaches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.metrics import Result

DESCRIPTION = (
    "Score a generator: disjoint draws of the held-out size against the training split, beside the held-out "
    "split itself (the floor).\n\nexample: fewstep eval runs/digits --steps 1,2"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name."""
    steps: str | None = None
    """Network evaluations to score, such as 1,2; left out, 1,2 for consistency models, else the sampler's default."""
    n: int = 10_000
    """Samples to generate, cut into draws of the held-out size."""
    seed: int = 0
    """Seed of the samples."""
    ema: str = "ema"
    """Which weights: ema or student."""
    split: Literal["test", "validation"] = "test"
    """test, or validation while you are still choosing something."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="eval", description=DESCRIPTION)
    from fewstep import data
    from fewstep.generator import load
    from fewstep.metrics import evaluate
    from fewstep.sampling import sampler

    generator = load(args.run, ema=args.ema, device=args.device)
    chosen = sampler(generator.method.sampler)
    steps = parse_steps(args.steps) if args.steps is not None else (1, 2) if chosen.default == 1 else (chosen.default,)
    dataset = data.load(generator.run.data, generator.run.data_size)
    results, speeds = evaluate(generator, dataset, steps=steps, n=args.n, seed=args.seed, split=args.split)
    if args.json:
        print(json.dumps({"results": [asdict(r) for r in results], "speed": speeds}))
    else:
        print(table(results, speeds))
    return 0


def parse_steps(text: str) -> tuple[int, ...]:
    from fewstep.errors import UserError

    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--steps {text}: expected numbers with commas between, such as 1,2,4") from None


def table(results: list[Result], speeds: list[dict[str, Any]]) -> str:
    """One line per metric and number of steps."""
    protocol = results[0].protocol
    lines = [f"{'metric':<16} {'steps':>5} {'value':>9} {'± draw':>8} {'floor':>9} {'ratio':>6}"]
    for r in results:
        error = "-" if r.error is None else f"{r.error:.4f}"
        ratio = "-" if r.metric == "energy" or r.floor <= 0 else f"{r.value / r.floor:.2f}"  # energy: about 0
        lines.append(f"{r.metric:<16} {r.steps:>5} {r.value:>9.4f} {error:>8} {r.floor:>9.4f} {ratio:>6}")
    lines += [f"{'samples/s':<16} {s['steps']:>5} {s['samples_per_second']:>9.0f}" for s in speeds]
    lines.append(
        f"each value: mean over {protocol['draws']} disjoint draws of {protocol['n']} samples against "
        f"{protocol['n_reference']} training samples; "
        f"floor: the {protocol['n']} of the {protocol['split']} split, likewise"
    )
    return "\n".join(lines)
