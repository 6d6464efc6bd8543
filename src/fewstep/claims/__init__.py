"""Claims about the methods, measured where the truth is known: python benchmarks/methods.py CLAIM [--seeds 3]

Prints a table of means and standard errors over seeds 1, 2, ..., with the command behind every row, and writes the
numbers of every seed to benchmarks/results/CLAIM.json. A run that was interrupted goes on from that file.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch
from lab.claims import CLAIMS, Claim

FOLDER = Path(__file__).parent / "results"


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean and its standard error; of a single value the error is not known."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    square = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(square / len(values))


def cell(mean: float, error: float) -> str:
    """Mean ± standard error, with as many digits as the error allows."""
    if error == 0 or math.isnan(error):
        return f"{mean:.4g}" + (" (one seed)" if error else "")
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def summary(seeds: dict[str, dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Each measure's mean and standard error over the seeds."""
    names = next(iter(seeds.values()))
    return {name: mean_and_error([one[name] for one in seeds.values()]) for name in names}


def table(claim: Claim, rows: dict[str, Any]) -> str:
    """The rows as a table in Markdown, and the command of each."""
    shown = claim.shown or tuple(summary(next(iter(rows.values()))["seeds"]))
    lines = [f"| {claim.title} | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, row in rows.items():
        found = summary(row["seeds"])
        cells = [cell(*found[key]) if key in found else "" for key in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{name}: {row['command']}" for name, row in rows.items())])


def stored(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["rows"] if file.exists() else {}


def write(file: Path, claim: Claim, rows: dict[str, Any]) -> dict[str, Any]:
    """Stores the rows in the table's order, and returns them."""
    rows = {name: rows[name] for name in claim.rows if name in rows}
    facts = {"torch": torch.__version__, "machine": platform.machine(), "claim": claim.about}
    file.write_text(json.dumps({**facts, "verdicts": claim.verdicts(rows), "rows": rows}, indent=1) + "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="rows to measure, by name")
    parser.add_argument("--anew", action="store_true", help="measure what the file has already")
    args = parser.parse_args()
    torch.set_num_threads(1)
    claim, file = CLAIMS[args.claim], FOLDER / f"{args.claim}.json"
    rows = {} if args.anew else stored(file)
    rows = {name: row for name, row in rows.items() if name in claim.rows}
    for seed in range(1, args.seeds + 1):
        for name in args.only or claim.rows:
            row = claim.rows[name]
            kept = rows.get(name, {})
            if kept.get("command") != row.command:
                kept = rows[name] = {"command": row.command, "seeds": {}}
            if str(seed) in kept["seeds"]:
                continue
            kept["seeds"][str(seed)] = row.measure(seed)
            print(name, seed, {k: float(f"{v:.4g}") for k, v in kept["seeds"][str(seed)].items()}, flush=True)
            write(file, claim, rows)
    rows = write(file, claim, rows)
    print(table(claim, rows))
    print(json.dumps(claim.verdicts(rows), indent=1))


if __name__ == "__main__":
    main()
