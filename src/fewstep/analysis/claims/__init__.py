"""What the papers say of their methods, measured where the truth is known: five seeds, one page.

`run` measures what its folder lacks and writes `claims.json` and `report.html` there.
"""

from fewstep.analysis.claims.runner import registry, run

__all__ = ["registry", "run"]
