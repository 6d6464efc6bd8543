"""Posterior samples per second of an MLP in one step, 3 numbers given 5, and where the time goes.

Each part is the least of several passes over the same samples: noise, the network's own passes, and
`Generator.sample`, whose rest is units, conditions and checks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import fewstep as fs
from fewstep.base.randomness import SAMPLING_BLOCK, normal

BATCH = 4096
NUMBERS, FEATURES = 3, 5


def model(width: int, depth: int) -> fs.Generator:
    """A generator of that size; its few steps of training change no time."""
    cond = normal(0, "cond", 0, BATCH, (FEATURES,), SAMPLING_BLOCK)
    x0 = cond[:, :NUMBERS] + normal(0, "x0", 0, BATCH, (NUMBERS,), SAMPLING_BLOCK)
    run = fs.recipes.toy(
        iterations=2, batch=16, block=4, network_options={"width": width, "depth": depth}
    )
    return fs.train(run, {"x0": x0, "cond": cond}, progress=False, device="cpu")


def least(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest of several passes, the first left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=25 * BATCH)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--width", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cond = normal(1, "cond", 0, args.n, (FEATURES,), SAMPLING_BLOCK)
    for depth in (1, 2, 3, 4):
        generator = model(args.width, depth)
        x = normal(0, "x", 0, BATCH, (NUMBERS,), SAMPLING_BLOCK)
        t = torch.full((BATCH,), generator.method.process.t_max, dtype=torch.float64)

        def noise() -> None:
            for first in range(0, args.n, BATCH):
                normal(0, "prior", first, BATCH, (NUMBERS,), SAMPLING_BLOCK)

        @torch.no_grad()
        def network(generator: fs.Generator = generator, x=x, t=t) -> None:
            for first in range(0, args.n, BATCH):
                generator.denoiser(x, t, cond[first : first + BATCH])

        def whole(generator: fs.Generator = generator) -> None:
            generator.sample(args.n, cond=cond, batch=BATCH)

        seconds, of_noise, of_network = (
            least(work, args.repeats) for work in (whole, noise, network)
        )
        print(
            f"width {args.width} depth {depth}, {args.threads} threads: {args.n / seconds:,.0f}"
            f" samples/s; network {of_network / seconds:.0%}, noise {of_noise / seconds:.0%}"
        )


if __name__ == "__main__":
    main()
