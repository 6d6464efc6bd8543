"""fewstep verify: every method's equations as a table of checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.base.errors import UserError
from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.analysis.verify import Check, Outcome

DESCRIPTION = (
    "Check every method's equations against the papers' formulas, closed forms and definitions:"
    " what, method, error, tolerance, verdict. Exit code 0 if all hold, 1 if one fails, with what"
    " is wrong and where to look. With --claims, measure the papers' claims instead, over seeds,"
    " where the truth is known, and write a report; exit code 0 whatever the verdicts."
    "\n\nexample: fewstep verify --quick"
    "\n         fewstep verify --target mine:method"
    "\n         fewstep verify --claims --out runs/claims"
)


@dataclass(frozen=True)
class Args:
    method: str | None = None
    """Only the checks that concern this method."""
    quick: bool = False
    """Leave out what trains or takes longer: seconds instead of minutes."""
    target: str | None = None
    """module:factory of your own method, network or teacher, to check instead."""
    shape: tuple[int, ...] | None = None
    """Shape of a sample, such as 1,8,8, if your target takes no other and has no `shape`."""
    claims: bool = False
    """Measure the papers' claims: about an hour and a half on two cores; run again to go on after
    a stop.
    """
    long: bool = False
    """With --claims: also those that train U-Nets on pictures, which take hours."""
    seeds: int = 5
    """With --claims: trainings of each arm, seeds 1, 2, ..."""
    only: tuple[str, ...] | None = None
    """With --claims: some of them, such as mcm,gc; a wrong name lists all."""
    out: str = "runs/claims"
    """With --claims: folder of report.html and claims.json."""
    jobs: int | None = None
    """With --claims: processes at once; by default as many as there are cores."""
    quiet: bool = False
    """Show no progress; results, warnings and errors still."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="verify", description=DESCRIPTION)
    if args.claims:
        return claims(args)
    if args.long:
        raise UserError("--long: expected --claims beside it")
    if args.only is not None:
        raise UserError(
            f"--only {','.join(args.only)}: expected --claims beside it; --method chooses among the"
            " equations"
        )
    if args.shape is not None and args.target is None:
        raise UserError(f"--shape {','.join(map(str, args.shape))}: expected --target beside it")
    outcomes = run_all(choose(args), args.json, args.quiet)
    failures = [outcome for outcome in outcomes if outcome.passed is False]
    if args.json:
        print(json.dumps({"checks": [outcome.to_json() for outcome in outcomes]}))
        return 1 if failures else 0
    print(summary(outcomes, failures))
    if args.target and not args.shape and len(failures) == len(outcomes):
        print(
            "nothing holds: if your target takes samples of another shape, name it: --shape 3,32,32"
        )
    return 1 if failures else 0


def run_all(checks: list[Check], as_json: bool, quiet: bool) -> list[Outcome]:
    """Runs the checks, printing each as a line."""
    from fewstep.analysis.verify import run
    from fewstep.base.progress import Progress

    width = max(len(check.name) for check in checks)
    if not as_json:
        print(header(width))
    outcomes = []
    with Progress(len(checks), "check", show=not quiet) as progress:
        for outcome in run(checks):
            outcomes.append(outcome)
            progress.update()
            if not as_json:
                progress.result(line(outcome, width))
    return outcomes


def claims(args: Args) -> int:
    """The papers' claims in place of the equations: a line for each, or one JSON object.

    Returns 0 whatever the verdicts: one that contradicts a paper is a result and no failure.
    Raises UserError for what claims do not take.
    """
    from fewstep.analysis.claims import run

    others = {
        "--method": args.method,
        "--target": args.target,
        "--quick": args.quick,
        "--shape": args.shape,
    }
    for flag, value in others.items():
        if value:
            text = flag if value is True else f"{flag} {value}"
            raise UserError(
                f"{text}: expected none beside --claims (--only, --long, --seeds, --out, --jobs)"
            )
    facts = run(
        args.out,
        seeds=args.seeds,
        only=args.only,
        long=args.long,
        jobs=args.jobs,
        progress=not args.quiet,
    )
    width = max(len(name) for name in facts["claims"])
    verdicts = [f"{name:<{width}}  {claim['verdict']}" for name, claim in facts["claims"].items()]
    lines = [*verdicts, f"report: {facts['report']}", f"numbers: {facts['data']}"]
    print(json.dumps(facts) if args.json else "\n".join(lines))
    return 0


def choose(args: Args) -> list[Check]:
    """The checks of the command line. Raises UserError."""
    from fewstep import methods
    from fewstep.analysis.verify import all_checks, builtin, select
    from fewstep.base.errors import unknown

    if args.target is not None:
        from fewstep.analysis.verify.target import checks_of
        from fewstep.cli.user_code import import_function

        if args.method is not None:
            raise UserError(
                f"--method {args.method}: expected no method beside --target, which has its own"
                " checks"
            )
        return checks_of(import_function("target", args.target), args.target, args.shape)
    if args.method is not None:
        if args.method not in methods.__all__:
            raise unknown("method", args.method, methods.__all__)
        if args.method not in {name for name, _ in builtin.METHODS.values()}:
            raise UserError(
                f"--method {args.method}: no check is about it: expected a row of METHODS in"
                " fewstep.analysis.verify.builtin"
            )
    return select(all_checks(), args.method, args.quick)


def header(width: int) -> str:
    return f"{'what':<{width}} {'source':<24} {'method':<10} {'error':>8} {'tolerance':>9} verdict"


def line(outcome: Outcome, width: int) -> str:
    """One check in fixed columns; below one that does not hold what is wrong."""
    verdict = {True: "ok", False: "FAILED", None: "not checkable"}[outcome.passed]
    method = "yours" if ":" in outcome.method else outcome.method  # module:factory
    row = (
        f"{outcome.name:<{width}} {outcome.source:<24} {method:<10}"
        f" {'-' if outcome.passed is None else f'{outcome.error:.1e}':>8}"
        f" {outcome.tolerance:>9.1e} {verdict}"
    )
    return row if outcome.passed else f"{row}\n  {outcome.problem}"


def summary(outcomes: list[Outcome], failures: list[Outcome]) -> str:
    """How many hold, in one line, and the failures once more by name."""
    seconds = sum(outcome.seconds for outcome in outcomes)
    holding = sum(outcome.passed is True for outcome in outcomes)
    unknown = len(outcomes) - holding - len(failures)
    rest = f", {unknown} cannot be checked" if unknown else ""
    lines = [f"{holding} of {len(outcomes)} checks hold{rest}, in {seconds:.0f} s"]
    lines += [f"failed: {outcome.name}: {outcome.problem}" for outcome in failures]
    return "\n".join(lines)
