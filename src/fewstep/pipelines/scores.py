"""The papers' numbers of a distilled pipeline: what its pictures lose beside the teacher's.

| | of each prompt, then mean and 95 % interval over prompts |
|---|---|
| `ode_latents`, `ode_pixels` | mean squared difference of the student and the teacher's own solution from the same noise: Direct CM's ODE error, arXiv 2411.08954 |
| `clip` | cosine of picture and prompt in CLIP's space |
| `aesthetic` | by a function of the user's |
| `diversity_pixels`, `diversity_clip` | diversity: mean distance of two pictures of one prompt, over seeds |
| `drift` | of a second LoRA, see `drift_of` |

Fréchet distances are of all pictures, against the teacher's or those of a folder. Latents are in
the network's units, pixels in [-1, 1].
"""  # noqa: E501

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.base.errors import require
from fewstep.base.progress import Progress
from fewstep.data import Reading
from fewstep.data.archives import open_files, readable
from fewstep.data.images import names_of
from fewstep.pipelines.both import Rows, open_both
from fewstep.pipelines.captions import captions_of
from fewstep.pipelines.prompts import read_prompts
from fewstep.pipelines.sampling import Student
from fewstep.pipelines.tally import Measures, Score, Tally, name_of, who
from fewstep.pipelines.task import Task
from fewstep.run.datasets import dataset_of
from fewstep.statistics.moments import Moments, Statistics, read_statistics

AT_ONCE = 2**24  # numbers of a reference that are in memory


@dataclass(frozen=True, eq=False)
class Scores:
    """All of them, how they were measured, and the first pictures of each model."""

    scores: Sequence[Score]
    protocol: Mapping[str, Any]
    pictures: Mapping[tuple[str, int], Tensor]  # bytes [N, 3, H, W] by model and steps

    def of(self, metric: str, steps: int) -> Score:
        """The student's score."""
        return next(
            one
            for one in self.scores
            if (one.model, one.metric, one.steps) == ("student", metric, steps)
        )


def score(
    student: Student,
    prompts: Sequence[str],
    measures: Measures | None = None,
    *,
    steps: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    teacher_steps: int = 100,
    batch: int = 4,
    examples: int = 0,
    progress: bool = False,
) -> Scores:
    """All scores of these prompts, each with all seeds.

    steps: of the student; none: what it is made for. teacher_steps: of the teacher's DDIM, whose
    guidance is the run's. batch: pictures at once, in memory too. examples: prompts whose first
    pictures are kept. Raises UserError.
    """
    measures = measures or Measures()
    counts = [student.steps(one) for one in dict.fromkeys(steps or (student.steps(),))]
    require(len(prompts) > 0, "prompts", list(prompts), "at least one")
    require(batch >= 1, "batch", batch, "at least 1")
    require(len(seeds) > 0, "seeds", tuple(seeds), "at least one")
    different = len(set(seeds)) == len(seeds)
    require(different, "seeds", tuple(seeds), "different ones: equal seeds give equal pictures")
    few = bool(measures.extractors) and len(prompts) * len(seeds) < 2
    require(not few, "pictures", 1, "at least 2 for a Fréchet distance: more prompts or seeds")
    with open_both(
        student, teacher_steps=teacher_steps, stack=measures.stack, scale=measures.stack_scale
    ) as both:
        references = references_of(measures, both.size)
        tally = Tally(measures, len(seeds))
        with Progress(len(prompts), "prompt", show=progress) as bar:
            for rows in groups_of(prompts, seeds, batch):
                tally.add(both, rows, counts, batch, examples)
                bar.update(len(rows.texts) // len(seeds))
    scores = [*tally.means(teacher_steps), *tally.distances(references, teacher_steps)]
    task = student.task
    protocol = {
        "prompts": len(prompts),
        "seeds": list(seeds),
        "teacher": {"solver": "ddim", "steps": teacher_steps, "guidance": task.guidance},
        "size": both.size,
        "weights": str(student.pipeline.dtype).removeprefix("torch."),
        "reference": measures.reference,
        "extractors": {name_of(one): one.facts() for one in measures.extractors},
        "stack": None if measures.stack is None else [str(measures.stack), measures.stack_scale],
    }
    pictures = {who(key, teacher_steps): torch.cat(own) for key, own in tally.examples.items()}
    return Scores(scores, protocol, pictures)


def groups_of(prompts: Sequence[str], seeds: Sequence[int], batch: int) -> Iterator[Rows]:
    """Whole prompts, as many as a batch has, or one: the pictures that are in memory."""
    count = max(1, batch // len(seeds))
    for first in range(0, len(prompts), count):
        numbers = range(first, min(first + count, len(prompts)))
        pairs = list(product(numbers, seeds))
        texts = [prompts[number] for number, _ in pairs]
        yield Rows(texts, [number for number, _ in pairs], [seed for _, seed in pairs])


def references_of(measures: Measures, size: int) -> dict[str, Statistics]:
    """The moments of other pictures by the names of distances; none beside the teacher's own."""
    path = measures.reference
    if path == "teacher":
        return {}
    if path.endswith(".npz"):
        need = "one extractor, whose features the file is of"
        require(len(measures.extractors) == 1, "reference", path, need)
        (extractor,) = measures.extractors
        statistics = read_statistics(path)
        of = statistics.extractor
        fine = of is None or extractor.sha256 is None or of == extractor.sha256
        require(fine, "reference", path, f"statistics of the extractor {extractor.name}")
        return {name_of(extractor): statistics}
    need = "teacher, a folder of pictures, or STATS.npz of `fewstep reference`"
    require(Path(path).exists(), "reference", path, need)
    pictures = dataset_of(path, Reading(size=size, holdout=0.0)).train
    need = f"pictures of 3 channels, not samples of shape {pictures.shape}"
    require(len(pictures.shape) == 3, "reference", path, need)
    moments: dict[str, Moments] = defaultdict(Moments)
    for block in pictures.blocks(AT_ONCE):
        for extractor in measures.extractors:
            moments[name_of(extractor)].add(extractor.features(block))
    return {name: own.statistics() for name, own in moments.items()}


def prompts_of(task: Task, path: str | Path | None = None, n: int = 1000) -> list[str]:
    """n prompts, evenly spaced, of a file, or of what the run was distilled on; all of fewer.

    Raises UserError.
    """
    require(n >= 1, "n", n, "at least 1 prompt")
    if path is None and task.images is not None:
        images = Path(task.images)
        with open_files(images) as files, readable(task.images):
            captions = captions_of(images, files, names_of(images, files))
        texts = list(dict.fromkeys(captions))
    else:
        texts = read_prompts(path or task.prompts or "")
    count = min(n, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]
