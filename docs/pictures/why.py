"""Draws why.png from a folder of numbers: `python docs/pictures/why.py FOLDER [SEEDS]`.

The folder is that of `fewstep verify --claims --only why --out FOLDER`. Prints the findings.
"""

import sys
from pathlib import Path

from PIL import Image

from fewstep.analysis.claims import registry, why
from fewstep.analysis.claims.pool import Store
from fewstep.analysis.claims.runner import finding


def main(folder, seeds):
    one = finding(Store(Path(folder)), registry()["why"], seeds)
    file = Path(__file__).with_suffix(".png")
    why.draw(one.results).savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
    for each in one.statements:
        print(f"{each.text}: {each} ({each.verdict})")
    print(one.claim.lesson(one.results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
