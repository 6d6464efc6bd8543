"""ECT, TCM, GC, MCM-4 and Direct CM on Chinese characters at equal time: for a GPU.

`python benchmarks/hanzi.py --seconds 90 --cache shared.drawings --out runs/hanzi` takes ten
minutes: each method gets 90 seconds of training by the pace of its first steps, from the same data.
Direct CM's teacher is a diffusion model that has half of them.
It writes `results.json` and `samples.png`: a row of validation pictures, then one for each method
with the labels and the noise of all others. A machine without fonts takes the pictures from
--cache, 20 MB, which a machine with fonts wrote.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from glyphs import ARMS, Arm, Plan, score_arms, train_arms
from PIL import Image
from torch import Tensor

import fewstep as fs
from fewstep.data.ideographs import load_drawings, write_drawings
from fewstep.run.datasets import dataset_of

DIRECT = Arm("direct_cm", {"n": 8, "solver": "heun"}, first="diffusion", teaches=True)
OURS = {**ARMS, "direct-cm": DIRECT}
METRICS = ("feature_frechet", "pixel_frechet", "classifier_score")
COLUMNS = 24


def use_cache(file: Path) -> None:
    """The data set is read from that file, which is drawn first where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_drawings(load_drawings(), file)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    os.environ["FEWSTEP_HANZI"] = str(file)


def draw_rows(generators: dict[str, fs.Generator], data: str, file: Path) -> None:
    """The first validation rows above each arm's samples with their labels."""
    dataset = dataset_of(data)
    rows = dataset.validation.rows(torch.arange(COLUMNS))
    pictures: list[Tensor] = [dataset.units.to_user(rows.x0)]
    for name, generator in generators.items():
        steps = OURS[name].steps[-1]
        pictures.append(generator.sample(COLUMNS, steps=steps, seed=0, cond=rows.cond).cpu())
    grey = np.concatenate([np.concatenate(list(row[:, 0].numpy()), 1) for row in pictures])
    picture = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0, help="of training, for each method")
    parser.add_argument("--recipe", default="hanzi", help="hanzi or hanzi16")
    parser.add_argument("--batch", type=int, help="in place of the recipe's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/hanzi"))
    parser.add_argument("--cache", type=Path, help="FILE.drawings, written where there is none")
    parser.add_argument("--probe", type=int, default=20, help="steps that the pace is measured on")
    parser.add_argument("--n", type=int, default=2000, help="samples that are scored")
    args = parser.parse_args()
    if args.cache:
        use_cache(args.cache)
    fields = {"batch": args.batch} if args.batch else {}
    about = (args.recipe, args.seconds, args.device, args.out, args.probe, args.n)
    plan = Plan(*about, METRICS, fields)
    generators = train_arms(OURS, plan)
    draw_rows(generators, args.recipe, args.out / "samples.png")
    score_arms(OURS, generators, plan)
    print(f"{args.out}/samples.png, {args.out}/results.json")


if __name__ == "__main__":
    main()
