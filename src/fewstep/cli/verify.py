"""fewstep verify: every method's equations as a table of checks."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.base.errors import UserError
from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.analysis.verify import Check, Outcome

DESCRIPTION = (
    "Check every method's equations against their papers written out, closed forms and definitions:"
    " what, method, error, tolerance, verdict. Exit code 0 where all hold, 1 where one fails: it is"
    " said what is wrong and where to look. With --claims the papers' claims instead, measured over"
    " seeds where the truth is known, with a report; 0 whatever the verdicts.\n\nexample: fewstep"
    " verify --quick\n         fewstep verify --target mine:method\n         fewstep verify"
    " --claims --out runs/claims"
)


@dataclass(frozen=True)
class Args:
    method: str | None = None
    """Only the checks that concern this method."""
    quick: bool = False
    """Leave out what trains or takes longer: seconds instead of minutes."""
    target: str | None = None
    """module:factory of a method, network or teacher of your own, which is checked instead."""
    shape: tuple[int, ...] | None = None
    """Of a sample, such as 1 8 8, where your target takes no other and does not say it."""
    claims: bool = False
    """Measure what the papers claim: about half an hour of two cores; the same command goes on
    after a stop.
    """
    seeds: int = 5
    """With --claims: trainings of each arm, seeds 1, 2, ..."""
    only: str | None = None
    """With --claims: some of them, with commas between, such as mcm,gc; a wrong name lists what
    there is.
    """
    out: str = "runs/claims"
    """With --claims: folder of report.html and claims.json."""
    jobs: int | None = None
    """With --claims: processes at once; left out, as many as there are cores."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="verify", description=DESCRIPTION)
    if args.claims:
        return claims(args)
    if args.only is not None:
        raise UserError(
            f"--only {args.only}: expected --claims beside it; --method chooses among the equations"
        )
    if args.shape is not None and args.target is None:
        raise UserError(f"--shape {' '.join(map(str, args.shape))}: expected --target beside it")
    from tqdm import tqdm

    from fewstep.analysis.verify import run

    checks, outcomes = chosen(args), []
    width = max(len(check.name) for check in checks)
    if not args.json:
        print(header(width))
    quiet = None if not args.json else False  # without a terminal the lines show how far it is
    with tqdm(
        total=len(checks),
        unit="check",
        file=sys.stderr,
        leave=False,
        mininterval=0.5,
        disable=quiet,
    ) as bar:
        for found in run(checks):
            outcomes.append(found)
            bar.update()
            if not args.json:
                tqdm.write(line(found, width), file=sys.stdout)
                sys.stdout.flush()
    failed = [found for found in outcomes if not found.passed]
    if args.json:
        print(json.dumps({"checks": [found.to_json() for found in outcomes]}))
    else:
        print(told(outcomes, failed))
        if args.target and not args.shape and len(failed) == len(outcomes):
            print(
                "nothing holds: if your target is for samples of another shape, name it: --shape 3"
                " 32 32"
            )
    return 1 if failed else 0


def claims(args: Args) -> int:
    """The papers' claims in place of the equations. Raises UserError for what they do not take."""
    from fewstep.analysis.claims.runner import claims_main

    others = {
        "--method": args.method,
        "--target": args.target,
        "--quick": args.quick,
        "--shape": args.shape,
    }
    for flag, value in others.items():
        if value:
            given = flag if value is True else f"{flag} {value}"
            raise UserError(
                f"{given}: expected none beside --claims (--only, --seeds, --out, --jobs)"
            )
    return claims_main(
        out=args.out, seeds=args.seeds, only=args.only, as_json=args.json, jobs=args.jobs
    )


def chosen(args: Args) -> list[Check]:
    """The checks that were asked for. Raises UserError."""
    from fewstep import methods
    from fewstep.analysis.verify import all_checks, selected
    from fewstep.base.errors import unknown

    if args.target is not None:
        from fewstep.analysis.verify.target import checks_of
        from fewstep.cli.user_code import imported

        if args.method is not None:
            raise UserError(
                f"--method {args.method}: expected no method beside --target, whose own checks"
                " are run"
            )
        return checks_of(imported("target", args.target), args.target, args.shape)
    if args.method is not None and args.method not in methods.__all__:
        raise unknown("method", args.method, methods.__all__)
    return selected(all_checks(), args.method, args.quick)


def header(width: int) -> str:
    return f"{'what':<{width}} {'source':<24} {'method':<10} {'error':>8} {'tolerance':>9} verdict"


def line(found: Outcome, width: int) -> str:
    """One check in fixed columns; below a failed one what is wrong."""
    verdict = "ok" if found.passed else "FAILED"
    method = "yours" if ":" in found.method else found.method  # module:factory
    row = (
        f"{found.name:<{width}} {found.source:<24} {method:<10} {found.error:>8.1e}"
        f" {found.tolerance:>9.1e} {verdict}"
    )
    return row if found.passed else f"{row}\n  {found.problem}"


def told(outcomes: list[Outcome], failed: list[Outcome]) -> str:
    """What came out in a line, and the failures once more by name."""
    seconds = sum(found.seconds for found in outcomes)
    summary = f"{len(outcomes) - len(failed)} of {len(outcomes)} checks hold, in {seconds:.0f} s"
    return "\n".join([summary, *(f"failed: {found.name}: {found.problem}" for found in failed)])
