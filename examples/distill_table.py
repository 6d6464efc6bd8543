"""The teacher in 50 steps and its students in a few: quality and milliseconds, side by side."""

import argparse
import time

import numpy as np
import torch

import fewstep as fs

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("n", type=int, nargs="?", default=1000)
N = parser.parse_args().n
digits = torch.tensor(np.load("digits.npy", allow_pickle=False))
# name, folder, evaluations, sampler
ROWS = [
    ("teacher, DDIM", "teacher", 50, "ddim"),
    ("teacher, Heun", "teacher", 35, None),
    ("one-step student", "one", 1, None),
    ("the same in two steps", "one", 2, None),
    ("four-step student", "four", 4, None),
]


def in_range(samples, units):
    """Samples in [-1, 1]; a teacher's are pictures of 0 .. 255."""
    return samples / 127.5 - 1 if units.scale == 127.5 else samples


def energy(a, b):
    """Energy distance 2 E|a - b| - E|a - a'| - E|b - b'|."""
    a, b = a.flatten(1), b.flatten(1)
    within = sum(torch.pdist(c).mean() for c in (a, b))
    return float(2 * torch.cdist(a, b).mean() - within)


print(f"{'':24}{'evaluations':>12}{'energy':>10}{'ms a sample':>13}")
for name, folder, steps, sampler in ROWS:
    model = fs.load(folder, device="cpu")
    model.sample(4, steps=steps, sampler=sampler)
    start = time.perf_counter()
    samples = model.sample(N, steps=steps, sampler=sampler)
    milliseconds = 1000 * (time.perf_counter() - start) / N
    distance = energy(in_range(samples.float(), model.facts.units), digits)
    print(f"{name:24}{steps:>12}{distance:>10.4f}{milliseconds:>13.2f}")
half = len(digits) // 2
print(f"{'digits against digits':24}{'':>12}{energy(digits[:half], digits[half:]):>10.4f}")
