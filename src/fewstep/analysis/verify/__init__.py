"""Every method's equations as a table of checks: `run(all_checks())`, `target.checks_of` for a
method of your own.

A check has a name (the equation), a source, a measured error and a tolerance. The papers' losses
are written out row by row in `paper_times` and `paper_losses`, from their formulas and with nothing
of the package.
"""

from fewstep.analysis.verify.check import Check, Outcome, run, selected


def all_checks() -> list[Check]:
    """All checks of the package, the quick ones first."""
    from fewstep.analysis.verify import (
        builtin,
        denoiser_checks,
        exact_checks,
        exact_maps,
        fixed_points,
        law_checks,
        noise_checks,
        option_checks,
        oracle_checks,
        papers,
        part_checks,
        process_checks,
        run_checks,
        solver_checks,
    )

    rooms = (
        papers,
        builtin,
        process_checks,
        part_checks,
        law_checks,
        solver_checks,
        noise_checks,
        denoiser_checks,
        option_checks,
    )
    laboratory = (exact_maps, fixed_points, exact_checks, oracle_checks, run_checks)
    found = [check for room in (*rooms, *laboratory) for check in room.checks()]
    return sorted(found, key=lambda check: not check.quick)


__all__ = ["Check", "Outcome", "all_checks", "run", "selected"]
