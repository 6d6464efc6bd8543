"""A run is a value: a frozen dataclass that prints, compares, and survives JSON. Needs no torch."""

from __future__ import annotations

import ast
import json
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from fewstep.base.errors import StorageError, UserError, require, short_repr, unknown
from fewstep.base.options import Options, check_plain, convert, plain
from fewstep.run.profiles import profile

MOST_COUNT = 2**31  # iterations, samples of a batch and other counts are below
MOST_THREADS = 1024
MOST_BYTES = 2**20  # of run.json

AUTO = "auto"  # a recipe, network, units or option that data or a trial decide
OWN = "own"  # the name of a network, method or denoiser that was passed as an object
IMPORT = "import"  # the recipe of a run whose weights came from elsewhere
OPEN = ("network", "batch", "iterations", "lr")  # fields that the data decide of the recipe auto

DESCRIPTION = "data_description"  # beside a run's fields in run.json, for people

# Fields that files call otherwise, so that what older versions wrote and digests of settings hold.
FILE_NAMES = {"later_sigmas": "middle_times"}
# Fields that files leave out where they are at their defaults.
LATER = ("extend", "eval_every", "eval_metric", "compile", "layout")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides the weights a run ends with, on one kind of machine."""

    recipe: str
    """Name of the recipe."""
    method: str = "ect"
    """A name, or package.module:function of your own."""
    method_options: Options = field(default_factory=dict)
    """The method's options where they differ from its defaults."""
    network: str = "mlp"
    """A name, package.module:function of your own, or auto: by the data."""
    network_options: Options = field(default_factory=dict)
    """The network's options where they differ from its defaults."""
    data: str = "digits"
    """digits, ring8, ..., exact:NAME, hf:NAME, or a path of arrays, a table or pictures."""
    data_size: int | None = None
    """Side that the middle square of each picture of PATH is resized to; None: as they are."""
    bad_files: Literal["fail", "skip"] = "fail"
    """On unreadable pictures: fail names one; skip leaves out up to 0.1 % and lists them."""
    units: str = "auto"
    """The model's units: standard (each variable to mean 0 and deviation .5), robust (by median and
    quartiles), quantile (each value's normal number), whole (one shift and scale), as-is, LOW..HIGH
    (to [-1, 1]), edm2-latents, sd-latents; auto: standard, and [-1, 1] for pictures of bytes.
    """
    channel_axis: int | None = None
    """Axis of the data `[N, ...]` whose places are variables with units of their own; None: each
    number of `[N, D]`, each channel of `[N, C, ...]`, the last axis of sets with a mask.
    """
    columns: tuple[str, ...] = ()
    """Columns of a table that are samples; left out, all numbers beside labels and conditions."""
    label_column: str | None = None
    """Column of a table that holds the labels."""
    condition_columns: tuple[str, ...] = ()
    """Columns of a table that samples are conditioned on; text becomes one number a category."""
    cond: str | None = None
    """File with the condition of each sample: .npy, .npz, .safetensors, .csv or .parquet."""
    holdout: float = 0.1
    """What validation and test take each of the samples: a share (10,000 at most), or a number from
    1 on; 0 trains on all.
    """
    validation: str | None = None
    """Path of the validation split, in place of a part of the data."""
    test: str | None = None
    """Path of the test split, likewise."""
    cache: str | None = None
    """Folder where decoded pictures and rows stay; None: beside the data, where they are too many
    for memory.
    """
    latents: Literal["mean-std", "mean-logvar"] | None = None
    """Samples hold the moments of latents, means before deviations or log-variances, and each step
    draws a latent of its own.
    """
    flip: bool = False
    """Exchange left and right in half of the pictures that a step takes."""
    augment: float = 0.0
    """Chance of each change of EDM's augmentation, of which the network is told: 0.12 on CIFAR-10,
    with network.augment 9; 0: none.
    """
    labels: bool = True
    """Use the classes of the data; False trains on the samples alone."""
    label_drop: float = 0.0
    """Share of the samples trained on without their label, so that cond=-1 asks for any class."""
    sigma_data: float | None = None
    """Standard deviation of the data for the preconditioning; None measures the training split."""
    convention: Options = field(default_factory=dict)
    """What the network predicts, on which process and by which noise label, where it came from
    elsewhere; {}: as the method's own students.
    """
    seed: int = 0
    """Every random number of the run follows from it."""
    iterations: int = 4000
    """Optimizer steps of the schedules, which are functions of step / iterations."""
    batch: int = 256
    """Samples of a step."""
    accumulate: int = 1
    """Parts that a batch is cut in to save memory: the gradient is the whole batch's."""
    elastic_exact: int = 0
    """0, or a power of 2: parts of a batch whose gradients are added in a fixed order, so that any
    number of processes that divides it ends with the same bits; `accumulate` is then ignored.
    """
    block: int = 32
    """Samples whose randomness is drawn at once; divides batch."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of the networks' passes while training; all else, and fp32 itself, takes no TF32."""
    compile: Literal["off", "on", "graphs"] = "off"
    """Whether torch compiles the networks' passes while training, which takes minutes before the
    first step on a CPU; graphs captures them as CUDA graphs too.
    """
    layout: Literal["channels-first", "channels-last"] = "channels-first"
    """Of pictures in memory; channels-last makes convolutions quicker, with other last bits."""
    optimizer: Literal["adam", "adamw", "radam", "lion", "adamw8bit"] = "adam"
    """Name of the optimizer; lion wants a learning rate 3 to 10 times lower than the others;
    adamw8bit is bitsandbytes', with moments of a byte each.
    """
    lr: float = 2e-3
    """Learning rate at its peak."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the optimizer's moments."""
    weight_decay: float = 0.0
    """Pull of the weights to 0: in the gradient with adam and radam, apart with the others."""
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from 0."""
    constant: float = 0.3
    """Share of the run after which it falls."""
    decay: Literal["cosine", "linear", "inverse_sqrt"] = "cosine"
    """How it falls: as a cosine or a line to `final`, or as 1 / sqrt(progress / constant)."""
    final: float = 0.02
    """Learning rate at the end of the cosine or line, as a share of the peak."""
    clip: float = 10.0
    """Largest norm of the gradient; longer ones are scaled down."""
    ema: float = 0.999
    """Share of the weights' average that a step keeps."""
    averages: tuple[str, ...] = ()
    """More averages: decay:0.9993, halflife:500000 (samples), power:0.05 (std over time)."""
    snapshot_every: int = 0
    """Steps between snapshots of the power averages, which give other averages later; 0: none."""
    init: str | None = None
    """Initial weights: a run, checkpoint, shipped name or .safetensors file."""
    teacher: str | None = None
    """Teacher of a method that learns from one: like init, or exact:NAME."""
    stage: int | None = None
    """Stage that a method of several starts at; None: the one behind that of init, else 1."""
    split: float = 0.5
    """Share of the iterations that the first stage of two gets."""
    shares: tuple[float, ...] = ()
    """How the iterations are shared out among the stages, such as 1 1 2 for three; left out, two
    follow `split`, and more are equally long.
    """
    stage_init: Literal["average", "student", "initial"] = "average"
    """What a later stage's student starts from: the average of the stage before, its raw weights
    (also as its frozen network), or the weights that the run started from.
    """
    stage_lr: float = 1.0
    """Factor of the learning rate in the stages after the first."""
    lr_clock: Literal["run", "stage"] = "run"
    """What the learning rate's schedule goes over: the whole run, or each stage anew."""
    age: int | None = None
    """Steps that averages and learning rate count from; None: a first stage's in init, or 0."""
    extend: int = 0
    """Steps after `iterations`, with all schedules at their last values: they train a run longer,
    once it is done or before, and leave its bits until there as they were.
    """
    later_sigmas: tuple[float, ...] | None = None
    """Noise levels of the later steps, one fewer than all steps; None: the method's own."""
    choose_levels: bool = False
    """When training ends, choose the later levels of 2, 4 and 8 steps by a short search on the
    validation split; `fewstep frontier` searches longer.
    """
    threads: int = 1
    """CPU threads of an operation: another number gives other last bits."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    picture_every: int = 1000
    """Steps between picture grids; 0 draws only the last."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always makes one."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay in the run folder; 0: all, as `eval --all-checkpoints` takes
    them.
    """

    eval_every: int = 0
    """Steps between scores of the average on up to 1000 validation rows; the best checkpoint is
    kept, as RUN/best. 0: none.
    """
    eval_metric: Literal["auto", "energy", "feature_frechet"] = "auto"
    """By what: auto is feature_frechet of data with classes, else energy."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]
        for name in (f.name for f in fields(Run)):
            object.__setattr__(self, name, convert(name, getattr(self, name), hints[name]))
        for kind in ("method_options", "network_options", "convention"):
            options = getattr(self, kind)
            if isinstance(options, dict):  # those of the command line are dataclasses
                options = {name: plain(value) for name, value in options.items()}
                object.__setattr__(self, kind, options)
                check_plain(kind.removesuffix("_options"), options)
        for name, (fine, expected) in self._limits().items():
            require(fine or self.is_open(name), name, getattr(self, name), expected)

    @property
    def steps(self) -> int:
        """All optimizer steps."""
        return self.iterations + self.extend

    def schedule_step(self, step: int) -> int:
        """The step that schedules see: in an extension the last before it."""
        return min(step, self.iterations - 1)

    def is_open(self, name: str) -> bool:
        """Whether the data decide this field: of the recipe auto, where it is "auto" or 0."""
        return self.recipe == AUTO and name in OPEN and getattr(self, name) in (AUTO, 0)

    def _limits(self) -> dict[str, tuple[bool, str]]:
        """Of each field with limits, whether it is within them, and what they are."""
        infinity = float("inf")
        averages = [profile(text).name for text in self.averages]
        has_power = any(name.startswith("power") for name in averages)
        sigmas = (*(self.later_sigmas or ()), 0.0)
        count = "at least 1, below 2^31"
        return {
            "iterations": (0 < self.iterations < MOST_COUNT, count),
            **self._limits_of_batch(),
            "extend": (
                0 <= self.extend < MOST_COUNT - self.iterations,
                "0 or more, with iterations below 2^31",
            ),
            "seed": (0 <= self.seed < 2**63, "in 0 .. 2^63 - 1"),
            "lr": (0 < self.lr < infinity, "above 0"),
            "warmup": (0 <= self.warmup <= self.constant, f"in 0 .. constant={self.constant}"),
            "constant": (0 <= self.constant <= 1, "a share in 0 .. 1"),
            "final": (0 <= self.final <= 1, "a factor in 0 .. 1"),
            "clip": (0 < self.clip < infinity, "above 0"),
            "ema": (0 <= self.ema < 1, "in 0 .. 1, below 1"),
            "sigma_data": (self.sigma_data is None or 0 < self.sigma_data < infinity, "above 0"),
            "weight_decay": (0 <= self.weight_decay < infinity, "0 or more"),
            "decay": (
                self.decay != "inverse_sqrt" or self.constant > 0,
                "cosine or linear where constant = 0",
            ),
            "averages": (len(set(averages)) == len(averages), "each of them once"),
            "snapshot_every": (
                self.snapshot_every == 0 or (self.snapshot_every > 0 and has_power),
                "0, or more where averages has a power:STD to keep",
            ),
            "data_size": (self.data_size is None or 0 < self.data_size <= 2**15, "in 1 .. 32768"),
            "holdout": (
                0 <= self.holdout < 0.5 or (self.holdout % 1 == 0 and self.holdout < MOST_COUNT),
                "a share below 0.5, or a number of samples",
            ),
            "augment": (0 <= self.augment <= 1, "a chance in 0 .. 1"),
            "label_drop": (0 <= self.label_drop <= 1, "a share in 0 .. 1"),
            "betas": (all(0 <= b < 1 for b in self.betas), "in 0 .. 1, below 1"),
            "stage": (self.stage is None or self.stage >= 1, "at least 1"),
            "split": (0 <= self.split <= 1, "a share in 0 .. 1"),
            "shares": (all(0 < share < infinity for share in self.shares), "above 0, each of them"),
            "stage_lr": (0 < self.stage_lr < infinity, "above 0"),
            "age": (self.age is None or 0 <= self.age < MOST_COUNT, "0 or more, below 2^31"),
            "later_sigmas": (
                all(above > below for above, below in pairwise(sigmas)),
                "decreasing and above 0",
            ),
            "threads": (0 < self.threads <= MOST_THREADS, f"in 1 .. {MOST_THREADS}"),
            "log_every": (0 < self.log_every < MOST_COUNT, count),
            "picture_every": (0 <= self.picture_every < MOST_COUNT, "0 or more, below 2^31"),
            "checkpoint_every": (0 < self.checkpoint_every < MOST_COUNT, count),
            "eval_every": (0 <= self.eval_every < MOST_COUNT, "0 or more, below 2^31"),
            "keep_checkpoints": (
                self.keep_checkpoints == 0 or 2 <= self.keep_checkpoints < MOST_COUNT,
                "0 for all, or 2 or more: the newest may be damaged",
            ),
        }

    def _limits_of_batch(self) -> dict[str, tuple[bool, str]]:
        """The limits of the batch and of what it is cut in."""
        block, batch = self.block, self.batch
        cut = f"cuts batch={batch} in equal parts of whole blocks of {block}"
        powers = (0, *(2**k for k in range(max(batch or MOST_COUNT, 0).bit_length())))
        return {
            "block": (0 < block < MOST_COUNT, "at least 1, below 2^31"),
            "batch": (
                block > 0 and 0 < batch < MOST_COUNT and batch % block == 0,
                f"a multiple of block={block}, below 2^31",
            ),
            "accumulate": (
                self.accumulate > 0 and batch % max(1, block * self.accumulate) == 0,
                f"a number that {cut}",
            ),
            "elastic_exact": (
                self.elastic_exact in powers and batch % (block * self.elastic_exact or 1) == 0,
                f"0, or a power of 2 that {cut}",
            ),
        }

    def to_json(self) -> dict[str, Any]:
        """The run as JSON's own types, under the names that files have for its fields.

        Newer fields are left out where they are at their defaults, so that digests stay.
        """
        values = json.loads(json.dumps(asdict(self)))
        unset = {f.name for f in fields(Run) if f.name in LATER and values[f.name] == f.default}
        return {FILE_NAMES.get(k, k): value for k, value in values.items() if k not in unset}


def _field_texts() -> str:
    """The texts below the fields of `Run`, for `help`; "" where the source is not at hand."""
    try:
        body = ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    except (OSError, SyntaxError):
        return ""
    own = next(one for one in body if isinstance(one, ast.ClassDef) and one.name == "Run")
    lines = []
    for one, text in pairwise(own.body):
        if not isinstance(one, ast.AnnAssign) or not isinstance(text, ast.Expr):
            continue
        words = " ".join(str(ast.literal_eval(text.value)).split())
        lines.append(f"{ast.unparse(one.target)}: {ast.unparse(one.annotation)}\n    {words}\n")
    return "\n".join(lines)


if Run.__doc__:  # python -OO leaves none
    Run.__doc__ += f"\n\n{_field_texts()}"


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of the fields of a run, or of a command line's."""
    return typing.get_type_hints(kind)


def run_from_json(values: Any) -> Run:
    """The run that `Run.to_json` gave. Raises UserError that names unknown keys and wrong types."""
    if not isinstance(values, dict) or "recipe" not in values:
        raise UserError(
            f"a run is stored as a JSON object with its recipe: got {short_repr(values)}"
        )
    # A run of an older version had one shift and scale for all of its data.
    return Run(**_fields({"units": "whole", **values}))


def read_run(path: Path) -> Run:
    """The run in a run.json.

    Raises StorageError where it cannot be read, UserError where it holds no run.
    """
    from fewstep.base.json_file import document  # here, so that the command line starts at once

    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    values = document(content, path, MOST_BYTES)
    if isinstance(values, dict):
        values.pop(DESCRIPTION, None)
    return run_from_json(values)


def with_values(run: Run, values: dict[str, Any]) -> Run:
    """The run with other fields. Raises UserError for an unknown name, with the nearest one."""
    return replace(run, **_fields(values))


def field_name(name: str) -> str:
    """The field behind a name in a file: its own name, or an older one."""
    return next((own for own, in_file in FILE_NAMES.items() if in_file == name), name)


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """The values by the names of fields. Raises UserError for an unknown or a doubled name."""
    names = {f.name for f in fields(Run)}
    result: dict[str, Any] = {}
    for name, value in values.items():
        field_now = field_name(name)
        if field_now not in names:
            raise unknown("field of a run", name, names)
        if field_now in result:
            raise UserError(f"{field_now} is given twice, also as {name}: leave one of them out")
        result[field_now] = value
    return result
