"""The table of metrics: one row says everything the package knows of a metric.

A new metric is a new row of `METRICS`. `eval`, `frontier` and `--metrics help` read the row.
"""

from __future__ import annotations

from functools import partial

from fewstep.analysis.metrics import measures
from fewstep.analysis.metrics.measures import BALLS, NEIGHBOURS, PROJECTIONS
from fewstep.analysis.metrics.metric import CLASSES, CLUES, VALUES, Measure, Metric
from fewstep.statistics import classes, manifolds, marginals, structure, transport
from fewstep.statistics.layout import CATEGORIES, COLUMNS, ORDERED, SET, TABLE

# A statistic of values as users have them.
_of_kind = partial(Metric, default="all", space=VALUES, shows_ratio=True)

_ROWS = (
    Metric(
        name="frechet",
        meaning="squared Fréchet distance of the Gaussians with both sets' moments; falls with n",
        prepare=measures.frechet,
        from_moments=measures.frechet_from,
        default="all",
        shows_ratio=True,
    ),
    Metric(
        name="energy",
        meaning="energy distance, unbiased at every n",
        prepare=measures.energy,
        default="joint",
        has_short_name=True,
    ),
    Metric(
        name="nearest_ratio",
        meaning="distance to the nearest training sample, over that of held-out data; below 1 is"
        " memorisation",
        prepare=measures.nearest_ratio,
        better="one",
        default="pixel",
        has_short_name=True,
        shows_ratio=True,
    ),
    Metric(
        name="kid",
        meaning="kernel distance with the cubic kernel of KID, unbiased at every n",
        prepare=measures.kid,
    ),
    Metric(
        name="mmd",
        meaning="kernel distance with a Gaussian kernel of the median width, unbiased at every n",
        prepare=measures.mmd,
    ),
    Metric(
        name="precision",
        meaning=f"share of samples near the training data (k = {NEIGHBOURS}); depends on n",
        prepare=measures.by_balls(manifolds.precision, NEIGHBOURS),
        better="higher",
    ),
    Metric(
        name="recall",
        meaning=f"share of training data near the samples (k = {NEIGHBOURS}); depends on n",
        prepare=measures.recall,
        better="higher",
    ),
    Metric(
        name="density",
        meaning=f"how densely training data surrounds the samples (k = {BALLS}); depends on n",
        prepare=measures.by_balls(partial(manifolds.density, k=BALLS), BALLS),
        better="higher",
    ),
    Metric(
        name="coverage",
        meaning=f"share of training data with a sample nearby (k = {BALLS}); depends on n",
        prepare=measures.by_balls(manifolds.coverage, BALLS),
        better="higher",
    ),
    Metric(
        name="sliced_w2",
        meaning=f"Wasserstein-2 distance over {PROJECTIONS} directions, as a length; falls with n",
        prepare=measures.sliced_w2,
        shows_ratio=True,
    ),
    Metric(
        name="w2",
        meaning="exact Wasserstein-2 distance of up to 5000 samples, as a length; falls with n;"
        " needs scipy",
        prepare=measures.at_one_size(transport.w2),
        shows_ratio=True,
    ),
    Metric(
        name="c2st",
        meaning="accuracy of a small network that tells samples from data; 1/2 is the best",
        prepare=measures.at_one_size(measures.accuracy, measures.c2st_p_value, test_seed=0),
    ),
    Metric(
        name="detection",
        meaning="share of pairs, a sample and a row of held-out data, in which a trained detector"
        " picks the sample; it looks at values, structure and condition; 1/2 is the best",
        prepare=measures.detection,
        default="all",
        space=CLUES,
    ),
    Metric(
        name="classifier_score",
        meaning="exp of the mean divergence of a sample's class probabilities from their mean: 1 to"
        " the number of classes; depends on n",
        prepare=lambda _: Measure(classes.classifier_score),
        better="higher",
        space=CLASSES,
    ),
    _of_kind(
        name="roughness",
        meaning="mean squared difference of neighbours, over that of the training data",
        prepare=measures.of_kind(structure.roughness, by_variable=True),
        better="one",
        kinds=ORDERED,
    ),
    _of_kind(
        name="spectrum",
        meaning="relative difference of the mean power in the worst band of frequencies; falls"
        " with n",
        prepare=measures.of_kind(structure.spectrum, by_variable=True),
        kinds=ORDERED,
    ),
    _of_kind(
        name="autocorrelation",
        meaning="largest difference of the correlations with the value 1, 2, 4, ... places on;"
        " falls with n",
        prepare=measures.of_kind(structure.autocorrelation, by_variable=True),
        kinds=ORDERED,
    ),
    _of_kind(
        name="pair_distance",
        meaning="Kolmogorov distance of the laws of the distance of two elements of a set",
        prepare=measures.of_kind(marginals.of_pairs),
        kinds=(SET,),
    ),
    _of_kind(
        name="neighbour_distance",
        meaning="Kolmogorov distance of the laws of the distance to the nearest element of a set",
        prepare=measures.of_kind(marginals.of_neighbours),
        kinds=(SET,),
    ),
    _of_kind(
        name="marginal",
        meaning="Kolmogorov distance of the laws of a column, of the worst one; falls with n",
        prepare=measures.of_kind(marginals.kolmogorov),
        kinds=(TABLE,),
    ),
    _of_kind(
        name="correlation",
        meaning="largest difference of the correlations of two columns; falls with n",
        prepare=measures.of_kind(marginals.correlation),
        kinds=(COLUMNS,),
    ),
    _of_kind(
        name="categories",
        meaning="total variation of the frequencies of a category, of the worst one; falls with n",
        prepare=measures.categories,
        kinds=(CATEGORIES,),
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
