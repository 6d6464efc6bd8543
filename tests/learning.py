"""Flow maps from random weights to the exact map, and with a wrong sign planted: two minutes each.

python -m tests.learning                        every method on the Gaussian and the ring
python -m tests.learning lsd psd --law ring8    these on the ring

A row trains twice, rightly and with one sign turned. `error` is the root mean square of
D(x_t, t, to=a) - exact over fresh rows at the method's own times, in deviations of the data; of
methods that learn a law and no map the energy distance of samples of one step. A row holds where
the right error is below its bar and the wrong one is not. The exit status is 1 where one does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import fewstep as fs
from fewstep.base.errors import FewstepError
from fewstep.core import derivatives, tangents
from fewstep.core.denoiser import ask
from fewstep.core.method import Method
from fewstep.exact.named import named
from fewstep.statistics.distances import energy
from tests.planted.flow_maps import end_backwards, falling

ROWS = 2000
SECONDS = 120.0
ITERATIONS = {"gaussian": 400, "ring8": 1500}  # by law
SIGMA_DATA = 0.5
OF_LAW = {"imm", "vct"}  # what they learn is the law at the end
MAPS = (
    *("meanflow", "imf", "soflow", "alphaflow", "shortcut", "psd", "lsd", "esd", "tvm"),
    *("lmd", "emd", "ayf", "ctm", "pcm", "cmt", "tbcm"),
)
# The highest right error, by law; wrong ones are above it.
MAP_BARS, LAW_BARS = {"gaussian": 0.1, "ring8": 0.14}, {"gaussian": 0.01, "ring8": 0.02}
# Their jumps all end at the data, where borders between modes stay blurred longest.
TO_DATA = {"gaussian": 0.1, "ring8": 0.4}
BARS = {
    **dict.fromkeys(MAPS, MAP_BARS),
    **dict.fromkeys(sorted(OF_LAW), LAW_BARS),
    "cmt": TO_DATA,
    "tbcm": TO_DATA,
}


@dataclass(frozen=True)
class Row:
    """What a method reached, rightly and with a wrong sign; a run that stopped has no number."""

    method: str
    law: str
    error: float | None
    wrong: float | None
    bar: float
    seconds: float

    @property
    def holds(self) -> bool:
        is_right = self.error is not None and self.error < self.bar and self.seconds < SECONDS
        return is_right and not (self.wrong is not None and self.wrong < self.bar)


def other_way(call: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The coupling with its neighbour as far from x_t on the other side."""

    def pair(*args: Any) -> tuple[Tensor, Tensor]:
        x_t, x_r = call(*args)
        return x_t, 2 * x_t - x_r

    return pair


def has_tangent(target: Any) -> bool:
    """Whether a target, or one inside it, is derived."""
    inside = (vars(target)[name] for name in ("inner", "limit") if hasattr(target, name))
    return isinstance(target, tangents.Tangent) or any(map(has_tangent, inside))


@contextmanager
def wrong_sign(method: Method) -> Iterator[None]:
    """The method's derivative turned, or where it has none the way to its neighbours."""
    holders: list[tuple[Any, str, Callable[[Any], Any]]]
    if isinstance(method.target, tangents.EndTangent):
        holders = [(tangents.EndTangent, "guess", end_backwards)]
    elif has_tangent(method.target):
        holders = [(derivatives, name, falling) for name in ("jvp", "difference")]
    else:
        parts = {type(each.coupling) for each in method.chain}
        holders = [(part, "__call__", other_way) for part in parts]
    patches = [patch.object(part, name, make(getattr(part, name))) for part, name, make in holders]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def error_of(generator: fs.Generator, method: Method, law: str, of_law: bool) -> float:
    source = torch.Generator().manual_seed(1)
    exact = named(law, method.process)
    x0 = exact.sample(ROWS, seed=1)
    if of_law:
        return energy(generator.sample(ROWS, steps=1, seed=1), x0)
    u = torch.rand(ROWS, method.uniforms, generator=source, dtype=torch.float64)
    times = method.times(u, 1.0, torch.arange(ROWS))
    x_t = method.process.mix(x0, torch.randn(x0.shape, generator=source), times.t)
    end = times.a if times.to is None else times.to
    with torch.no_grad():
        own = ask(generator.denoiser, x_t, times.t, None, times.to)
        right = ask(exact, x_t, times.t, None, end)
    return float((own - right).square().mean().sqrt() / x0.std())


def learn(name: str, law: str, seed: int, is_wrong: bool) -> tuple[float | None, float]:
    """The error after training, and the seconds that it took."""
    truth = f"exact:{law}"
    run = fs.recipes.toy(
        method=name, data=truth, sigma_data=SIGMA_DATA, seed=seed, iterations=ITERATIONS[law]
    )
    run = replace(run, teacher=run.teacher and truth)
    method = getattr(fs.methods, name)(**run.method_options, sigma_data=SIGMA_DATA)
    start = time.monotonic()
    try:
        with wrong_sign(method) if is_wrong else nullcontext():
            generator = fs.train(run)
    except FewstepError as error:
        if not is_wrong:
            raise
        print(f"{name} on {law} with a wrong sign stopped: {error}", file=sys.stderr)
        return None, time.monotonic() - start
    return error_of(generator, method, law, name in OF_LAW), time.monotonic() - start


def show(row: Row) -> str:
    error, wrong = ("stopped" if e is None else f"{e:.4f}" for e in (row.error, row.wrong))
    cells = (f"`{row.method}`", row.law, error, wrong, f"{row.bar}", f"{row.seconds:.0f}")
    return f"| {' | '.join(cells)} | {'' if row.holds else '**missed**'} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(BARS), metavar="METHOD")
    parser.add_argument("--law", choices=ITERATIONS, nargs="*", default=list(ITERATIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.methods:
        for law in args.law:
            error, seconds = learn(name, law, args.seed, is_wrong=False)
            wrong, _ = learn(name, law, args.seed, is_wrong=True)
            row = Row(name, law, error, wrong, BARS[name][law], seconds)
            rows.append(row)
            print(json.dumps(asdict(row)) if args.json else show(row), flush=True)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
