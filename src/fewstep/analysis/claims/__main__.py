"""python -m fewstep.analysis.claims OUT [ONLY] [SEEDS] [JOBS]: what `fewstep verify --claims` does."""

import sys

from fewstep.analysis.claims.main import claims_main

if __name__ == "__main__":
    out, only, seeds, jobs = [*sys.argv[1:], *["", "", ""]][:4]
    sys.exit(
        claims_main(
            out=out,
            only=only or None,
            seeds=int(seeds or 5),
            jobs=int(jobs) if jobs else None,
            as_json=False,
        )
    )
