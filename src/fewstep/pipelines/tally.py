"""Pictures of a student and its teacher, prompt by prompt, as numbers."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fewstep.analysis.metrics import Extractor
from fewstep.base.errors import UserError, require
from fewstep.pipelines.both import Both, Rows
from fewstep.pipelines.clip import Clip
from fewstep.statistics.distances import frechet
from fewstep.statistics.intervals import Estimate, estimate, jackknife
from fewstep.statistics.moments import Moments, Statistics

TEACHER = 0  # in place of a number of steps

Aesthetic = Callable[..., Tensor]


@dataclass(frozen=True)
class Score:
    """One number of the student in so many steps, or of the teacher."""

    model: str  # student or teacher
    steps: int
    metric: str
    value: float
    error: float | None = None  # standard error over prompts; None of a Fréchet distance
    interval: tuple[float, float] | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """What is measured beside the ODE error and the spread of pixels.

    reference: "teacher", the teacher's pictures of the same prompts and noise; a folder or zip of
    pictures, cropped to the student's size; or a file of `fewstep reference` for one extractor.
    aesthetic: pictures `[B, 3, H, W]` in bytes, and where it takes a second argument CLIP's
    embeddings of them `[B, D]` of length 1 -> numbers `[B]`.
    stack: a second LoRA, see `drift_of`.
    """

    extractors: Sequence[Extractor] = ()
    reference: str = "teacher"
    clip: Clip | None = None
    aesthetic: Aesthetic | None = None
    stack: str | Path | None = None
    stack_scale: float = 1.0

    def __post_init__(self) -> None:
        names = [name_of(one) for one in self.extractors]
        need = "extractors of different names: each has a column of its own"
        require(len(set(names)) == len(names), "extractors", names, need)
        needs_clip = self.aesthetic is not None and takes_two(self.aesthetic)
        if needs_clip and self.clip is None:
            raise UserError("aesthetic: its second argument is CLIP's embeddings: name a CLIP")
        if self.reference != "teacher" and not self.extractors:
            raise UserError(
                f"reference {self.reference}: it is for Fréchet distances: name an extractor"
            )


def takes_two(function: Aesthetic) -> bool:
    """Whether a function has two arguments without defaults."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of C
        return False
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in plain and one.default is one.empty for one in parameters) == 2


def name_of(extractor: Extractor) -> str:
    """FID, FD-DINOv2, or the extractor's own name for other weights than the published ones."""
    return extractor.published() or f"frechet_{extractor.name}"


def who(steps: int, teacher_steps: int) -> tuple[str, int]:
    """The model and its steps."""
    return ("teacher", teacher_steps) if steps == TEACHER else ("student", steps)


class Tally:
    """Numbers of each prompt, and moments of features, group by group."""

    def __init__(self, measures: Measures, seeds: int) -> None:
        self.measures, self.seeds = measures, seeds
        self.values: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
        self.moments: dict[tuple[int, str], Moments] = defaultdict(Moments)
        self.examples: dict[int, list[Tensor]] = defaultdict(list)

    def add(self, both: Both, rows: Rows, counts: Sequence[int], batch: int, examples: int) -> None:
        """Draws all prompts of a group, and measures them."""
        latents = {TEACHER: _draw(both.of_teacher, rows, batch)}
        for steps in counts:
            latents[steps] = _draw(partial(both.of_student, steps=steps), rows, batch)
        pictures = {
            key: torch.cat([both.pictures(part) for part in own.split(batch)])
            for key, own in latents.items()
        }
        for steps in counts:
            for name, of in (("ode_latents", latents), ("ode_pixels", pictures)):
                self._keep(steps, name, mean_square(of[steps], of[TEACHER]))
        texts = self.measures.clip.texts(rows.texts) if self.measures.clip else None
        for key, own in pictures.items():
            self._look(key, own, texts)
            left = examples - sum(map(len, self.examples[key]))
            self.examples[key].append(to_bytes(own[:: self.seeds][:left]))
        if both.scale is not None:
            ends = _draw(partial(both.of_teacher, style=True), rows, batch)
            for steps in counts:
                draw = partial(both.of_student, steps=steps, style=True)
                self._keep(steps, "drift", mean_square(_draw(draw, rows, batch), ends))
                self._keep(steps, "style", mean_square(ends, latents[TEACHER]))

    def _keep(self, key: int, metric: str, rows: Tensor) -> None:
        """A number of each row, as one of each prompt."""
        self.values[key, metric].append(rows.unflatten(0, (-1, self.seeds)).mean(1))

    def _look(self, key: int, pictures: Tensor, texts: Tensor | None) -> None:
        """All that is measured of one model's pictures alone."""
        for extractor in self.measures.extractors:
            self.moments[key, name_of(extractor)].add(extractor.features(pictures))
        if self.seeds > 1:
            groups = pictures.double().unflatten(0, (-1, self.seeds))
            self.values[key, "diversity_pixels"].append(pairwise(groups, root_mean_square))
        embeddings = None
        if self.measures.clip is not None and texts is not None:
            embeddings = self.measures.clip.pictures(to_bytes(pictures))
            self._keep(key, "clip", (embeddings * texts).double().sum(1))
            if self.seeds > 1:
                groups = embeddings.double().unflatten(0, (-1, self.seeds))
                self.values[key, "diversity_clip"].append(pairwise(groups, angle))
        if self.measures.aesthetic is not None:
            self._keep(key, "aesthetic", aesthetics(self.measures.aesthetic, pictures, embeddings))

    def means(self, teacher_steps: int) -> Iterator[Score]:
        """The scores that are means over prompts."""
        rows = {key: torch.cat(parts) for key, parts in self.values.items()}
        for (key, metric), own in rows.items():
            if metric == "style":
                continue
            parts: dict[str, float] = {}
            result = estimate(own)
            if metric == "drift":
                result, parts = drift_of(own, rows[key, "ode_latents"], rows[key, "style"])
            value, error, ends = result
            yield Score(*who(key, teacher_steps), metric, value, error, ends, parts)

    def distances(
        self, references: Mapping[str, Statistics], teacher_steps: int
    ) -> Iterator[Score]:
        """The Fréchet distances; of the teacher to others' pictures alone."""
        for (key, name), moments in self.moments.items():
            if key == TEACHER and name not in references:
                continue
            reference = references.get(name) or self.moments[TEACHER, name].statistics()
            value = frechet(moments.statistics(), reference)
            yield Score(*who(key, teacher_steps), name, value)


def _draw(draw: Callable[[Rows], Tensor], rows: Rows, batch: int) -> Tensor:
    """What is drawn of all rows, so many at once."""
    parts = []
    for first in range(0, len(rows.texts), batch):
        some = slice(first, first + batch)
        parts.append(draw(Rows(rows.texts[some], rows.numbers[some], rows.seeds[some])))
    return torch.cat(parts)


def mean_square(x: Tensor, y: Tensor) -> Tensor:
    """||x - y||^2 / d of each row, in float64."""
    return (x.double() - y.double()).square().flatten(1).mean(1)


def root_mean_square(x: Tensor, y: Tensor) -> Tensor:
    return mean_square(x, y).sqrt()


def angle(x: Tensor, y: Tensor) -> Tensor:
    """1 - cosine of unit vectors `[B, D]`."""
    return 1 - (x * y).sum(1)


def pairwise(groups: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mean distance of two different ones of `[B, N, ...]`, of each of the B."""
    count = groups.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i)]
    return torch.stack([distance(groups[:, i], groups[:, j]) for i, j in pairs]).mean(0)


def drift_of(after: Tensor, before: Tensor, style: Tensor) -> tuple[Estimate, dict[str, float]]:
    """How much farther the student is from its teacher when both have a second LoRA.

    drift = mean ||S' - T'||^2 / mean ||S - T||^2 - 1 over prompts, in latents from the same noise:
    S and T are student and teacher, S' and T' with that LoRA too. 0: the student is as near as
    before; 1: twice the squared distance; NaN where there was none. Its error is the jackknife's
    over prompts. The parts are the means, all per number: `after` of ||S' - T'||^2, `before` of
    ||S - T||^2, and `style` of ||T' - T||^2, by which to see how much the LoRA does.
    """
    above, below = after.sum(), before.sum()
    value = (above / below - 1).item() if below > 0 else float("nan")
    own = {"after": after, "before": before, "style": style}
    parts = {name: part.mean().item() for name, part in own.items()}
    if len(before) < 2 or not below > 0:
        return Estimate(value, None, None), parts
    without = (above - after) / (below - before) - 1
    return jackknife(value, without.tolist()), parts


def to_bytes(pictures: Tensor) -> Tensor:
    """[-1, 1] -> 0 .. 255, as in a file."""
    return pictures.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def aesthetics(function: Aesthetic, pictures: Tensor, embeddings: Tensor | None) -> Tensor:
    """A number of each picture by the user's function. Raises UserError for anything else."""
    inputs = [to_bytes(pictures), *([embeddings] if takes_two(function) else [])]
    with torch.no_grad():
        result = torch.as_tensor(function(*inputs)).detach().double().cpu()
    need = f"{len(pictures)} finite numbers, one for each picture"
    fine = result.shape == (len(pictures),) and bool(result.isfinite().all())
    require(fine, "aesthetic", result.tolist(), need)
    return result
