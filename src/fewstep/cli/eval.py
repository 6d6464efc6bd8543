"""fewstep eval: distances with errors, beside the floor that real held-out data reaches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fewstep.cli import eval_pipeline
from fewstep.cli.parse import parse
from fewstep.cli.sampling import SamplingArgs, sampled_by, share

if TYPE_CHECKING:
    from fewstep.analysis.metrics import Extractor, Teacher
    from fewstep.base.world import World
    from fewstep.data import Dataset
    from fewstep.run.generator import Generator

DESCRIPTION = (
    "Score a generator: disjoint draws of the held-out size against the training split, beside the"
    " held-out split itself (the floor). Every number has its standard error, 95 % interval and"
    " protocol (--json shows all). A sentence says whether samples of so many steps differ from"
    " held-out data beyond chance. A run of `fewstep distill` has scores of its own: fewstep eval"
    " RUN --help.\n\nexample: fewstep eval runs/digits --steps 1,2"
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
    """STATS.npz with mu and sigma of features, such as EDM's, in place of the training split; or
    teacher: samples of --teacher in place of all data, the floor too.
    """
    teacher: str | None = None
    """Scores the error to its ODE too: RUN, FILE.safetensors, exact:NAME, package.module:function,
    or own, the run's.
    """
    teacher_solver: str = "heun"
    """What solves its ODE: ddim, euler, heun or another sampler without noise."""
    teacher_moves: int = 64
    """Moves of that solver from pure noise to the data."""
    denoised: tuple[float, ...] = ()
    """Noise levels at which held-out data are denoised by one evaluation, and scored beside data by
    the Fréchet distances.
    """
    all_checkpoints: bool = False
    """Score each checkpoint in RUN's folder (train --keep-checkpoints 0 keeps all), by the Fréchet
    distances unless metrics are named.
    """
    picture: Path | None = None
    """FILE.png, with --all-checkpoints: generation and denoising along the training."""
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
    if eval_pipeline.is_pipeline(argv):
        return eval_pipeline.main(argv)
    args = parse(Args, argv, verb="eval", description=DESCRIPTION)
    from fewstep.training import ranks

    check_weights(args.weights, args.extractor)
    check_together(args)
    with ranks.connect(args.device, then="start again") as (world, device):
        return score(replace(args, device=str(device)), world)


def score(args: Args, world: World) -> int:
    """Scores by all processes together, of which the first prints; returns the exit code."""
    from fewstep.analysis.metrics import evaluate, gains, open_extractor, verdicts
    from fewstep.analysis.metrics.drawing import default_steps
    from fewstep.cli import checkpoint_scores, score_text
    from fewstep.run.datasets import data_of

    generator = open_generator(args, args.run, world)
    steps = default_steps(generator) if args.steps is None else args.steps
    check_levels(args.later_sigmas, steps)
    dataset = data_of(generator.run, generator.facts, args.data)
    extractor = None
    if args.extractor is not None:
        extractor = open_extractor(args.extractor, weights=args.weights)
        extractor = replace(extractor, room=replace(extractor.room, world=world))
    if args.metrics == ("help",):
        if world.main:
            print(metrics_help(dataset, extractor))
        return 0
    options = {**evaluation_options(args), "extractor": extractor}
    if args.teacher is not None:
        options["teacher"] = open_teacher(args, args.teacher, generator)
    if args.all_checkpoints:
        options |= {"steps": args.steps or (1,)}
        rows = checkpoint_scores.score(args, generator, dataset, options)
        if world.main:
            checkpoint_scores.show(rows, as_json=args.json, picture=args.picture, quiet=args.quiet)
        return 0
    results, speeds = evaluate(generator, dataset, steps=steps, **options)
    if not world.main:
        return 0
    judgements, changes = verdicts(results), gains(results)
    if args.json:
        rows_by_kind: dict[str, list[Any]]
        rows_by_kind = {"results": results, "verdicts": judgements, "gains": changes}
        report = {key: [asdict(row) for row in values] for key, values in rows_by_kind.items()}
        print(json.dumps({**report, "speed": speeds}))
    else:
        sentences = [verdict.sentence() for verdict in judgements]
        sentences += [gain.sentence() for gain in changes if not gain.pays]
        notes = [] if args.quiet else score_text.notes(results)
        print("\n".join([score_text.table(results, speeds), *sentences, *notes]))
    return 0


def open_generator(
    args: Args, path: str | Path, world: World, *, composite: bool | None = None
) -> Generator:
    """The generator of a run or of one of its checkpoints, as it was asked for."""
    from fewstep.cli.user_code import own_parts
    from fewstep.run.generator import load

    composite = args.composite if composite is None else composite
    own = own_parts(args)
    generator = load(path, ema=args.ema, device=args.device, composite=composite, **own)
    return sampled_by(share(generator, world), args)


def open_teacher(args: Args, name: str, student: Generator) -> Teacher:
    """The teacher that --teacher names; a function of the user's is imported."""
    from fewstep.analysis import metrics
    from fewstep.cli.train import is_own
    from fewstep.cli.user_code import own_network, own_parts

    source = own_network("teacher", name, {}) if is_own(name) else name
    teacher = metrics.open_teacher(
        source,
        student,
        solver=args.teacher_solver,
        moves=args.teacher_moves,
        network=own_parts(args).get("network"),
    )
    return replace(teacher, generator=share(teacher.generator, student.room.world))


def evaluation_options(args: Args) -> dict[str, Any]:
    """The options of `evaluate` that are words of the command line."""
    from fewstep.analysis.metrics import read_statistics

    names = ("n", "seed", "split", "candidates", "draw", "batch", "denoised")
    options = {name: getattr(args, name) for name in names}
    options["metrics"] = None if args.metrics is None else list(args.metrics)
    reference = args.reference
    if reference is not None:
        options["reference"] = reference if reference == "teacher" else read_statistics(reference)
    return options


def check_together(args: Args) -> None:
    """Raises UserError for an option that needs another one."""
    from fewstep.base.errors import UserError

    default = Args(run="")
    for name in ("teacher_solver", "teacher_moves"):
        if args.teacher is None and getattr(args, name) != getattr(default, name):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(args, name)}: it is of a teacher: name --teacher")
    if args.reference == "teacher" and args.teacher is None:
        raise UserError("--reference teacher: name the teacher, --teacher RUN, FILE or exact:NAME")
    if args.picture is not None and not args.all_checkpoints:
        raise UserError(f"--picture {args.picture}: it is drawn with --all-checkpoints")


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
