"""Every method's equations as checks: `run(all_checks())`, `target.checks_of` for a user's method.

A check has a name (the equation), a source, an error that it measures and a tolerance. The papers'
losses are written out in `paper_times`, `paper_losses`, `paper_tangents` and `paper_flow_maps`,
row by row or for rows that belong together, from their formulas and with nothing of the package.
"""

from fewstep.analysis.verify.check import Check, Outcome, run, select


def all_checks() -> list[Check]:
    """All checks of the package, the quick ones first."""
    from fewstep.analysis.verify import (
        builtin,
        denoiser_checks,
        exact_checks,
        exact_maps,
        fixed_points,
        flow_points,
        papers,
        part_checks,
        process_checks,
        run_checks,
        sampler_checks,
        solver_checks,
        time_checks,
    )

    checks = [
        *papers.checks(),
        *builtin.checks(),
        *process_checks.CHECKS,
        *part_checks.CHECKS,
        *time_checks.CHECKS,
        *solver_checks.CHECKS,
        *sampler_checks.CHECKS,
        *denoiser_checks.CHECKS,
        *exact_maps.CHECKS,
        *fixed_points.CHECKS,
        *flow_points.CHECKS,
        *exact_checks.CHECKS,
        *run_checks.CHECKS,
    ]
    return sorted(checks, key=lambda check: not check.quick)


__all__ = ["Check", "Outcome", "all_checks", "run", "select"]
