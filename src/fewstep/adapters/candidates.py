"""The ways to read a network's output that are tried, and the guess of the data by each.

A reading is a prediction, a process with its noise label, a range of the data, and a sign. Tried
are those that networks of the field have:

- EDM's output at ln(level) / 4, and at the consistency models' 250 ln(level); sigma_data is the
  declared one, the data's own, 0.5, 1, and some factors between, around which a search goes on;
- variance exploding (edm): noise, the score, or x0, at the level, ln(level) / 4 or ln(level / 2);
- Stable Diffusion's and DDPM's tables (discrete, ddpm): noise, v or x0, at the index t - 1 (t
  itself can hardly be distinguished from it, and is tried where it is declared);
- the cosine schedule: noise, v or x0, at t, 1000 t, or the log-SNR;
- rectified flow (linear): velocity, x0 or noise, at t or 1000 t; the velocity also in the other
  direction, from noise to data at 1 - t;
- TrigFlow (trig): v at t;
- the declared process and label with every prediction that the process has.

Each of them in data of [-1, 1], [0, 1] and standardised; in [0, 255] only EDM's output and the
declared one, since the other processes are not used with such data. The sign is a convention of
noise, v and velocities, and a common mistake with EDM's output: -1 is tried in the declared range.
On the ring of eight Gaussians a network of each reading is named by that reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fewstep.adapters.rows import Rows
from fewstep.base.conditions import Cond, each
from fewstep.core.conventions import Convention, convention
from fewstep.core.process import expand
from fewstep.core.vocabulary import PREDICTIONS, Range

Raw = Callable[[Tensor, Tensor, Cond], Tensor]  # (x, noise label [B], cond) -> output

# process -> predictions, and their labels; None is the time itself
CONVENTIONS: dict[str, tuple[tuple[str, ...], tuple[str | None, ...]]] = {
    "edm": (("eps", "x0", "score"), (None, "ln(level) / 4", "ln(level / 2)")),
    "cosine": (("eps", "v", "x0"), (None, "1000 t", "log-SNR")),
    "discrete": (("eps", "v", "x0"), ("t - 1",)),
    "ddpm": (("eps", "v", "x0"), ("t - 1",)),
    "linear": (("flow", "eps", "x0"), (None, "1000 t")),
    "trig": (("v",), (None,)),
}


PLAIN = ("eps", "v", "x0", "flow", "score")


def ranges(x0: Tensor) -> dict[str, Range]:
    """The ranges by name; standardised has mean 0 and deviation 1."""
    mean, std = float(x0.double().mean()), float(x0.double().std())
    every = (
        Range("[-1, 1]"),
        Range("[0, 1]", 0.5, 0.5),
        Range("[0, 255]", 127.5, 127.5),
        Range("standardised", 1 / std, -mean / std),
    )
    return {one.name: one for one in every}


@dataclass
class Guesser:
    """Guesses of a network by reading; equal inputs are evaluated once."""

    network: Raw
    outputs: dict[tuple[float, ...], Tensor] = field(default_factory=dict)

    def guess(self, reading: Convention, rows: Rows, levels: tuple[float, ...]) -> Tensor | None:
        """x0_hat `[L, n, ...]` of the rows at these levels of the data.

        None if the reading has no times for them.
        """
        inputs = reading.inputs(levels)
        if inputs is None:
            return None
        count, size = len(levels), len(rows)

        def tile(part: Tensor) -> Tensor:
            return part.repeat(count, *[1] * (part.ndim - 1))

        def by_level(numbers: Tensor) -> Tensor:
            return expand(numbers.repeat_interleave(size), rows.x0)

        scale, shift = reading.range.scale, reading.range.shift
        s = torch.tensor(levels, dtype=torch.float64)
        u_t = scale * (tile(rows.x0) + by_level(s) * tile(rows.z)) + shift
        numbers = torch.cat([inputs.factor, inputs.label, s]).tolist()
        key = (scale, shift, *(float(f"{number:.10g}") for number in numbers))
        if key not in self.outputs:
            label = inputs.label.repeat_interleave(size).float().to(u_t.device)
            x = by_level(inputs.factor) * u_t
            with torch.no_grad():
                self.outputs[key] = self.network(x, label, each(tile, rows.cond)).to(u_t.dtype)
        guess = reading.guess(u_t, self.outputs[key], by_level(inputs.skip), by_level(inputs.out))
        return guess.reshape(count, *rows.x0.shape)


def candidates(own: Convention, x0: Tensor) -> Iterator[Convention]:
    """All readings that are tried: the declared one first, plainer ones before others."""
    std = float(x0.double().std())
    others = [one for one in ranges(x0).values() if one != own.range]
    yield own
    for range_ in (own.range, *others):
        yield replace(own, range=range_)
        yield from _edm_readings(own, range_, std)
        for prediction in CONVENTIONS.get(own.process_name, (PLAIN, ()))[0]:
            yield replace(own, scaling=PREDICTIONS[prediction](), range=range_)
        if range_.name != "[0, 255]" or range_ == own.range:
            yield from _conventional_readings(range_)
    yield own.negate()
    yield _edm(own.range, own.sigma_data or std * own.range.scale).negate()
    for reading in _conventional_readings(own.range):
        usual_label = CONVENTIONS[reading.process_name][1][0]
        if reading.label == usual_label and reading.prediction in ("eps", "v", "flow"):
            yield reading.negate()
    for factor in (0.25, 0.4, 0.6, 0.75, 0.9, 1.1, 1.3, 1.6, 2.5, 4.0):
        yield _edm(own.range, std * own.range.scale * factor)


def _edm(range_: Range, sigma_data: float) -> Convention:
    return convention("edm", range=range_, sigma_data=sigma_data)


def _edm_readings(own: Convention, range_: Range, std: float) -> Iterator[Convention]:
    """EDM's output in a range, at its labels; in the declared range by more sigma_data."""
    values = [std * range_.scale, 0.5]
    if range_ == own.range:
        values = [own.sigma_data or std, *values, 1.0]
    for sigma_data in dict.fromkeys(values):
        reading = _edm(range_, sigma_data)
        yield reading
        if range_.name != "[0, 255]":
            yield replace(reading, label="250 ln(level)")


def _conventional_readings(range_: Range) -> Iterator[Convention]:
    """The table of conventions in a range."""
    for process, (predictions, labels) in CONVENTIONS.items():
        for prediction in predictions:
            for label in labels:
                yield replace(convention(prediction, process, range=range_), label=label)
    yield convention("flow", "linear", range=range_, sign=-1, label="1 - t")
