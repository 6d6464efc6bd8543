"""A run is a value: one frozen dataclass that prints, compares, and survives JSON. Needs no torch."""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from fewstep.base.errors import StorageError, UserError, require, short_repr, unknown
from fewstep.base.options import Options, check_plain, convert
from fewstep.run.profiles import profile

MOST_COUNT = 2**31  # iterations, samples of a batch and other counts are below
MOST_THREADS = 1024
MOST_BYTES = 2**20  # of run.json


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides the weights a run ends with, on one kind of machine."""

    recipe: str
    """Name of the recipe."""
    method: str = "ect"
    """Name of the method."""
    method_options: Options = field(default_factory=dict)
    """The method's options where they differ from its defaults."""
    network: str = "mlp"
    """Name of the network."""
    network_options: Options = field(default_factory=dict)
    """The network's options where they differ from its defaults."""
    data: str = "digits"
    """digits, ring8, grid25, spiral, glyphs, glyphs64, or PATH: .npy, .npz, .safetensors, .parquet,
    a folder or zip of pictures, hf:NAME or exact:NAME."""
    data_size: int | None = None
    """Crop the pictures of PATH to their middle square and resize it to this side; None takes them
    as they are.
    """
    bad_files: Literal["fail", "skip"] = "fail"
    """Of pictures that cannot be read: fail names the first; skip leaves out up to 0.1 %, counted
    and listed.
    """
    labels: bool = True
    """Use the classes of the data; False trains on the samples alone."""
    label_drop: float = 0.0
    """Share of the samples that are trained on without their label, so that cond=-1 asks for any
    class.
    """
    sigma_data: float | None = None
    """Standard deviation of the data for the preconditioning; None measures the training split."""
    seed: int = 0
    """Every random number of the run follows from it."""
    iterations: int = 4000
    """Optimizer steps in all; schedules are functions of step / iterations."""
    batch: int = 256
    """Samples of a step."""
    accumulate: int = 1
    """Parts that a batch is cut in to save memory: the gradient is the whole batch's."""
    elastic_exact: int = 0
    """0, or a power of 2: parts of a batch whose gradients are added in a fixed order, so that any
    number of processes that divides it ends with the same bits; `accumulate` then counts for
    nothing."""
    block: int = 32
    """Samples whose randomness is drawn at once; divides batch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the networks' passes while training; weights, losses and sampling stay in fp32."""
    optimizer: Literal["adam", "adamw", "radam", "lion"] = "adam"
    """Name of the optimizer; lion wants a learning rate 3 to 10 times lower than the others."""
    lr: float = 2e-3
    """Learning rate at its peak."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the optimizer's moments."""
    weight_decay: float = 0.0
    """Pull of the weights to 0: part of the gradient in adam and radam, apart from it in adamw and
    lion.
    """
    warmup: float = 0.02
    """Share of the run over which the learning rate rises from 0."""
    constant: float = 0.3
    """Share of the run after which it falls."""
    decay: Literal["cosine", "inverse_sqrt"] = "cosine"
    """How it falls: as a cosine to `final`, or as 1 / sqrt(progress / constant)."""
    final: float = 0.02
    """Learning rate at the end of the cosine, as a share of the peak."""
    clip: float = 10.0
    """Largest norm of the gradient; longer ones are scaled down."""
    ema: float = 0.999
    """Share of the weights' average that a step keeps."""
    averages: tuple[str, ...] = ()
    """More averages: decay:0.9993, halflife:500000 (samples), power:0.05 (standard deviation over
    time).
    """
    snapshot_every: int = 0
    """Steps between snapshots of the power averages, from which others are reconstructed; 0 keeps
    none.
    """
    init: str | None = None
    """Initial weights: a run folder, checkpoint folder, shipped name or .safetensors file."""
    teacher: str | None = None
    """Teacher of a method that learns from one: like init, or exact:NAME."""
    stage: Literal[1, 2] | None = None
    """Where a method of two stages starts; None: at 2 where init is a consistency model, else at 1.
    """
    split: float = 0.5
    """Share of the iterations that the first stage of two gets."""
    stage_lr: float = 1.0
    """Factor of the learning rate in the second stage."""
    lr_clock: Literal["run", "stage"] = "run"
    """What the learning rate's schedule goes over: the whole run, or each of two stages anew."""
    age: int | None = None
    """Steps that averages and learning rate count from; None: those of a first stage given as init,
    else 0.
    """
    middle_times: tuple[float, ...] | None = None
    """Noise levels of the later steps when sampling in as many steps and one more; None: the
    method's own.
    """
    threads: int = 1
    """CPU threads of an operation: another number gives other last bits."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    picture_every: int = 1000
    """Steps between picture grids; 0 draws only the last."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always makes one."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for name in (f.name for f in fields(Run)):
            object.__setattr__(self, name, convert(name, getattr(self, name), hints[name]))
        for kind in ("method", "network"):
            if isinstance(
                options := getattr(self, f"{kind}_options"), dict
            ):  # the command line's are dataclasses
                check_plain(kind, options)
        names = [profile(text).name for text in self.averages]
        checks = {
            "iterations": (0 < self.iterations < MOST_COUNT, "at least 1, below 2^31"),
            "block": (0 < self.block < MOST_COUNT, "at least 1, below 2^31"),
            "batch": (
                self.block > 0 and 0 < self.batch < MOST_COUNT and self.batch % self.block == 0,
                f"a multiple of block={self.block}, below 2^31",
            ),
            "accumulate": (
                self.accumulate > 0 and self.batch % max(1, self.block * self.accumulate) == 0,
                (
                    f"a number that cuts batch={self.batch} in equal parts of whole blocks of"
                    f" {self.block}"
                ),
            ),
            "elastic_exact": (
                self.elastic_exact in (0, *_powers(self.batch))
                and self.batch % (self.block * self.elastic_exact or 1) == 0,
                (
                    f"0, or a power of 2 that cuts batch={self.batch} in equal parts of whole"
                    f" blocks of {self.block}"
                ),
            ),
            "seed": (0 <= self.seed < 2**63, "in 0 .. 2^63 - 1"),
            "lr": (0 < self.lr < float("inf"), "above 0"),
            "warmup": (0 <= self.warmup <= self.constant, f"in 0 .. constant={self.constant}"),
            "constant": (0 <= self.constant <= 1, "a share in 0 .. 1"),
            "final": (0 <= self.final <= 1, "a factor in 0 .. 1"),
            "clip": (0 < self.clip < float("inf"), "above 0"),
            "ema": (0 <= self.ema < 1, "in 0 .. 1, below 1"),
            "sigma_data": (
                self.sigma_data is None or 0 < self.sigma_data < float("inf"),
                "above 0",
            ),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "0 or more"),
            "decay": (self.decay == "cosine" or self.constant > 0, "cosine where constant = 0"),
            "averages": (len(set(names)) == len(names), "each of them once"),
            "snapshot_every": (
                self.snapshot_every == 0
                or (self.snapshot_every > 0 and any(n.startswith("power") for n in names)),
                "0, or more where averages has a power:STD to keep",
            ),
            "data_size": (self.data_size is None or 0 < self.data_size <= 2**15, "in 1 .. 32768"),
            "label_drop": (0 <= self.label_drop <= 1, "a share in 0 .. 1"),
            "betas": (all(0 <= b < 1 for b in self.betas), "in 0 .. 1, below 1"),
            "split": (0 <= self.split <= 1, "a share in 0 .. 1"),
            "stage_lr": (0 < self.stage_lr < float("inf"), "above 0"),
            "age": (self.age is None or 0 <= self.age < MOST_COUNT, "0 or more, below 2^31"),
            "middle_times": (
                all(a > b for a, b in pairwise((*(self.middle_times or ()), 0.0))),
                "decreasing and above 0",
            ),
            "threads": (0 < self.threads <= MOST_THREADS, f"in 1 .. {MOST_THREADS}"),
            "log_every": (0 < self.log_every < MOST_COUNT, "at least 1, below 2^31"),
            "picture_every": (0 <= self.picture_every < MOST_COUNT, "0 or more, below 2^31"),
            "checkpoint_every": (0 < self.checkpoint_every < MOST_COUNT, "at least 1, below 2^31"),
        }
        for name, (fine, expected) in checks.items():
            require(fine, name, getattr(self, name), expected)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON's own types."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def run_from_json(values: Any) -> Run:
    """The run that `Run.to_json` gave; unknown keys and wrong types are a UserError that names
    them.
    """
    if not isinstance(values, dict) or "recipe" not in values:
        raise UserError(
            f"a run is stored as a JSON object with its recipe: got {short_repr(values)}"
        )
    return Run(**_known(values))


def read_run(path: Path) -> Run:
    """The run in a run.json. Raises StorageError where it cannot be read, UserError where it holds
    no run.
    """
    from fewstep.base.json_file import document  # which needs torch

    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    return run_from_json(document(content, path, MOST_BYTES))


def changed(run: Run, values: dict[str, Any]) -> Run:
    """The run with other fields; a name it does not have is a UserError with the nearest one."""
    return replace(run, **_known(values))


def _powers(most: int) -> list[int]:
    """The powers of 2 up to a number."""
    return [2**k for k in range(max(most, 0).bit_length())]


def _known(values: dict[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(Run)}
    for name in values:
        if name not in known:
            raise unknown("field of a run", name, known)
    return values
