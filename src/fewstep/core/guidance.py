"""Classifier-free guidance: of a denoiser by its own guess without the label, or told in a pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewstep.base.conditions import NO_LABEL, Cond, drop_labels, each
from fewstep.base.errors import UserError, require
from fewstep.core import abilities
from fewstep.core.denoiser import Awake, Denoiser, ask, chain, on_rows
from fewstep.core.process import Process, Time, edm, per_row
from fewstep.core.tell import with_guidance


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance: D_c + scale (D_c - D_u), D_u without the label; 0 is D_c alone.

    Source: MCM, arXiv 2403.06807, appendix A; 1 + scale is the w of imagen (arXiv 2205.11487) and
    Direct CM. Rows whose noise level is outside of `interval` (arXiv 2404.07724) are not guided,
    and their D_u is not evaluated. `rescale` brings the guess back to the deviation of D_c, by that
    share (arXiv 2305.08891, eq. 15-16, there of the network's output).
    """

    denoiser: Denoiser
    scale: float
    interval: tuple[float, float] | None = None  # noise levels sigma / alpha
    rescale: float = 0.0

    @property
    def process(self) -> Process | None:
        """Whose times it is asked in; None where its denoiser does not say."""
        return abilities.process(self.denoiser)

    @property
    def ends(self) -> int:
        """As its denoiser's."""
        return abilities.ends(self.denoiser)

    def both(
        self, x_t: Tensor, t: Time, cond: Cond, to: Time | None = None
    ) -> tuple[Tensor, Tensor]:
        """The guided guess and the unguided conditional one."""
        end = None if to is None else per_row(to, x_t)
        if self.interval is None and asks_at_once(self.denoiser):
            plain, free = self._at_once(x_t, per_row(t, x_t), cond, end)
        else:
            plain = ask(self.denoiser, x_t, t, cond, to)
            free = self._free(x_t, t, cond, plain, end)
        guess = plain + self.scale * (plain - free)
        if self.rescale:
            axes = list(range(1, x_t.ndim))
            deviations = (one.std(axes, correction=0, keepdim=True) for one in (plain, guess))
            ratio = torch.divide(*deviations).nan_to_num(1.0)  # of one number there is none
            guess = guess * (1 + self.rescale * (ratio - 1))
        return guess, plain

    def _at_once(
        self, x_t: Tensor, t: Tensor, cond: Cond, to: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D_c and D_u by one pass of twice the rows."""
        without_label(cond)  # raises where there is none
        twice = each(lambda part: torch.cat([part, part]), cond)
        is_free = torch.arange(2 * len(x_t), device=x_t.device) >= len(x_t)
        end = None if to is None else torch.cat([to, to])
        guesses = ask(
            self.denoiser,
            torch.cat([x_t, x_t]),
            torch.cat([t, t]),
            drop_labels(twice, is_free),
            end,
        )
        plain, free = guesses.chunk(2)
        return plain, free

    def _free(self, x_t: Tensor, t: Time, cond: Cond, plain: Tensor, to: Tensor | None) -> Tensor:
        """D_u, and D_c where no guidance is asked for."""
        cond = without_label(cond)
        if self.interval is None:
            return ask(self.denoiser, x_t, t, cond, to)
        times = per_row(t, x_t)
        process = abilities.process(self.denoiser) or edm()
        level = process.level(times)
        low, high = self.interval
        rows = (level >= low) & (level <= high)
        return on_rows(self.denoiser, x_t, times, cond, rows, plain, to=to)

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        return self.both(x_t, t, cond, to)[0]


def guided(denoiser: Denoiser, scale: float) -> Denoiser:
    """The denoiser under guidance; itself at scale 0."""
    return Guided(denoiser, scale) if scale else denoiser


def guide(
    denoiser: Denoiser,
    scale: float | None = None,
    *,
    w: float | None = None,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """A denoiser under guidance: by scale, where 0 is none, or by w = 1 + scale, where 1 is none.

    interval: the noise levels sigma / alpha that are guided; rescale: a share in 0 .. 1.
    Raises UserError.
    """
    fine = (scale is None) != (w is None)
    require(fine, "scale", scale, "either scale or w, which is 1 + scale")
    require(0 <= rescale <= 1, "rescale", rescale, "a share in 0 .. 1")
    fine = interval is None or 0 <= interval[0] < interval[1]
    require(fine, "interval", interval, "two noise levels, the lower one first")
    by = scale if scale is not None else (w or 0.0) - 1
    return Guided(denoiser, by, interval, rescale) if by else denoiser


@dataclass(frozen=True)
class SelfGuide:
    """A flow map that is told ln w and the interval in each pass, see `tell.numbers_of`."""

    denoiser: Denoiser
    guidance: tuple[float, float, float]

    @property
    def ends(self) -> int:
        """As the denoiser's."""
        return abilities.ends(self.denoiser)

    @property
    def process(self) -> Process | None:
        """Whose times it is asked in."""
        return abilities.process(self.denoiser)

    def __call__(self, x_t: Tensor, t: Time, cond: Cond = None, to: Time | None = None) -> Tensor:
        guidance = torch.tensor(self.guidance).expand(len(x_t), -1)
        return ask(self.denoiser, x_t, t, with_guidance(cond, guidance), to)


def without_label(cond: Cond) -> Cond:
    """The condition with -1, no label, for every label. Raises UserError where there is none."""
    if isinstance(cond, Mapping):
        return {**cond, "label": without_label(cond.get("label"))}
    if not isinstance(cond, Tensor):
        raise UserError("guidance compares with and without a label: expected data with labels")
    return torch.full_like(cond, NO_LABEL)


def asks_at_once(denoiser: Denoiser) -> bool:
    """Whether the network behind a denoiser wants a guided guess as one pass of twice the rows."""
    return any(abilities.at_once(part) for part in chain(denoiser))


def awake(denoiser: Denoiser, rows: Tensor) -> Denoiser:
    """The denoiser in those rows, `[B]` on the host; itself where they are all."""
    if bool(rows.all()):
        return denoiser
    if isinstance(denoiser, Guided):
        return replace(denoiser, denoiser=awake(denoiser.denoiser, rows))
    return Awake(denoiser, rows)
