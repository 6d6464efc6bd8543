"""Scores a generator: disjoint draws against a reference, beside held-out data itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from fewstep.analysis.metrics.calibration import calibrate, choose
from fewstep.analysis.metrics.denoised import check_denoised, denoised_results
from fewstep.analysis.metrics.drawing import Clock, Source
from fewstep.analysis.metrics.extractors import Extractor
from fewstep.analysis.metrics.prepared import Meters, Prepared, meters_of, spaces_of
from fewstep.analysis.metrics.protocol import Result
from fewstep.analysis.metrics.scoring import score
from fewstep.analysis.metrics.teachers import in_place_of_data, ode_errors
from fewstep.analysis.metrics.verdict import groups_of
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.options import plain
from fewstep.base.randomness import block_seed
from fewstep.base.surroundings import surroundings
from fewstep.data import Arrays, Dataset, from_tensors
from fewstep.run import datasets
from fewstep.run.checkpoint import fingerprint
from fewstep.run.generator import Generator
from fewstep.run.teacher_ode import Teacher
from fewstep.statistics.layout import has_features
from fewstep.statistics.moments import Statistics

_WARM_UP = 4096  # most samples of the pass that is not timed
_MOST_DRAWS = 100  # more draws hardly narrow an interval
_ERRORS = {
    "error": "standard error of the mean over draws, given the reference",
    "interval": "nominal 95 %, Student's t widened by Hall's",
}


def split_of(dataset: Dataset, name: str) -> Arrays:
    """The validation or the test split. Raises UserError for another name."""
    splits = {"validation": dataset.validation, "test": dataset.test}
    if name not in splits:
        raise unknown("split", name, splits)
    return splits[name]


def _held_out(
    generator: Generator,
    dataset: Dataset,
    split: str,
    n: int,
    draw: int | None,
    has_reference: bool,
) -> tuple[Arrays, int]:
    """The split that gives the floor, and how many samples a draw has. Raises UserError.

    has_reference: nothing needs to be held out.
    """
    facts = generator.facts
    is_own = dataset.fingerprint() == facts.data
    if not is_own and dataset.held_out_of != facts.data:
        raise UserError(
            f"data {dataset.name!r} is not what this generator was trained on: scores would mean"
            " nothing; pass rows that it did not learn as an array"
        )
    held_out = split_of(dataset, split)
    if has_reference and not len(held_out):
        draw = draw or n
    if is_own and not len(held_out) and draw is None:
        raise UserError(
            f"the run learned all {len(dataset.train)} rows of data {dataset.name!r}, and none"
            " are left to compare with: give rows that it did not learn (--data with another file)"
        )
    size = min(len(held_out), n) if draw is None else draw
    if size < 2:
        raise UserError(
            f"n = {n} samples against {len(held_out)} held-out ones: expected at least 2 of each"
        )
    require(size <= n, "draw", size, f"at most n = {n}")
    return held_out, size


@surroundings(grad=True)
def evaluate(
    generator: Generator,
    dataset: Dataset | Any,
    *,
    steps: tuple[int, ...] = (1, 2),
    n: int = 10_000,
    seed: int = 0,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    extractor: Extractor | None = None,
    reference: Statistics | Literal["teacher"] | None = None,
    teacher: Teacher | None = None,
    denoised: Sequence[float] = (),
    candidates: int = 1,
    draw: int | None = None,
    prepared: Prepared | None = None,
    batch: int | None = None,
    meters: Callable[..., Meters] = meters_of,
) -> tuple[list[Result], list[dict[str, float]]]:
    """Scores at each number of network evaluations, and samples per second.

    n samples are cut into disjoint draws of `draw` samples: as many as the held-out split has (n,
    if that is less), so that model and floor have equally many. Labels follow the training split's
    frequencies. The speed leaves out a first pass. Where the condition holds more than labels and
    mask, more draws have the conditions of the held-out rows, for the metrics that see these. Draws
    that no metric looks at are not made.

    dataset: the one that the run learned; or an array, or {"x0", "cond"}, with rows that it did not
    learn: half of them are the reference then, and half the floor.
    metrics: names as the results have them.
    extractor: in place of the data set's classifier.
    reference: in place of the training split; "teacher": n samples of the teacher at most, and
    others of it in place of the held-out split. All metrics are against these then.
    teacher: whose ODE the samples are compared with too: the metric ode_error (see `ode_errors`).
    denoised: noise levels at which held-out rows are denoised by one evaluation, and compared by
    the Fréchet distances among the metrics.
    candidates: how many models were scored on this split before one was chosen.
    prepared: metrics, extractor and reference made ready for this data, in place of these three;
    then the detector's p-value is the only one.
    batch: samples at once, as for `Generator.sample`; one draw at a time is in memory.
    meters: makes the metrics ready; whoever scores many runs on the same data remembers them.

    Raises UserError where the data set is not the one of the run, or fewer than 2 samples are left
    to compare.
    """
    n, seed, candidates, draw = map(plain, (n, seed, candidates, draw))
    steps = tuple(map(plain, steps))
    dataset = _as_dataset(generator, dataset).in_memory()
    check_denoised(generator.method.process, denoised)
    data, facts = dataset, {}
    if isinstance(reference, str):
        require(reference == "teacher", "reference", reference, "statistics, or teacher")
        if teacher is None:
            raise UserError("reference = teacher: name the teacher too")
        # Features are of the data: those of a classifier of samples would change with the teacher.
        extractor = extractor or spaces_of(dataset, None).extractor
        dataset, facts = in_place_of_data(teacher, dataset, split, n, seed, batch), teacher.facts()
        reference = None
    has_reference = reference is not None
    held_out, size = _held_out(generator, dataset, split, n, draw, has_reference)
    require(candidates >= 1, "candidates", candidates, "1 or more")
    n = min(n, _MOST_DRAWS * size)
    # The test split has other noise than the validation split: what was chosen is scored anew.
    sample_seed = seed if split == "test" else block_seed(seed, "eval validation", 0)
    source = Source(generator, dataset, sample_seed, batch)
    cond = source.training_conditions(n)
    for count in steps:
        # Not timed; it also raises for impossible steps before anything takes long.
        source.warm_up(cond, min(size, _WARM_UP), count)
    groups = None
    calibration: list[str] = []
    if prepared is None:
        metrics, calibration = choose(metrics, dataset, held_out)
        if metrics != [] or not calibration:
            options = {"metrics": metrics, "extractor": extractor, "reference": reference}
            prepared = Prepared(*meters(dataset, held_out, size, **options), split, size)
            groups = groups_of(prepared, held_out)
    if prepared is not None:
        prepared.check(split, size)
    protocol: dict[str, Any] = {"split": split, "n": size, "draws": n // size, "seed": seed}
    digest = fingerprint({"denoiser": generator.denoiser.state_dict()})
    protocol |= {"candidates": candidates, "generator": digest, **_ERRORS}
    protocol |= facts
    results = []
    speeds = []
    for count in steps:
        clock = Clock()
        if prepared is not None:
            draws, paired = source.draws(cond, n, size, count, clock), None
            if prepared.asks_for_conditions and has_features(held_out.cond):
                paired = source.paired(held_out, size, n // size, count, clock)
            results += score(prepared, draws, count, protocol, paired=paired, groups=groups)
        about = source, held_out, calibration
        results += calibrate(*about, steps=count, n=n, clock=clock, protocol=protocol)
        speeds.append({"steps": count, "samples_per_second": clock.samples / clock.seconds})
    results += denoised_results(source, prepared, split_of(data, split), denoised, protocol)
    results += ode_errors(source, teacher, cond, steps, protocol)
    return results, speeds


def _as_dataset(generator: Generator, dataset: Dataset | Any) -> Dataset:
    """The data set itself, or rows of a user's as one that was held out."""
    if isinstance(dataset, Dataset):
        return dataset
    facts = generator.facts
    own = from_tensors(dataset, datasets.reading_of(generator.run, facts))
    return datasets.held_out(own if generator.run.labels else own.without_labels(), facts)
