"""Draws the picture of editing.md: `python docs/pictures/editing.py`, a minute on one core."""

from pathlib import Path

import torch

import fewstep as fs
from fewstep.data.pictures import sketch
from fewstep.run.edit_files import input_pictures

HERE = Path(__file__).parent.resolve()
ROWS = (1, 2, 3, 5)  # of the test digits


def main() -> None:
    digits = fs.load("digits")
    missing = torch.zeros(8, 8, dtype=torch.bool)
    missing[:, 4:] = True
    rows = []
    for measurement in (fs.measurements.inpaint(missing), fs.measurements.superres(2)):
        for row in ROWS:
            truth = fs.data.digits().test.x0[row : row + 1]
            y = truth if measurement.entries is not None else measurement.forward(truth)
            inputs = input_pictures(measurement, y, digits)
            rows += [truth, inputs, fs.edit(digits, y, measurement, 8, seed=row)]
    sketch.save(HERE / "editing.png", torch.cat(rows), 10)


if __name__ == "__main__":
    main()
