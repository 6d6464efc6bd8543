"""A trained generator: the averaged network with everything that sampling from it takes."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.adapters.adapt import convention_of, network_of
from fewstep.base.conditions import Cond
from fewstep.base.device import first_weight, pick_device
from fewstep.base.errors import UserError, require
from fewstep.base.memory import Room
from fewstep.base.options import plain
from fewstep.base.surroundings import surroundings
from fewstep.core import sampling, solvers, tell
from fewstep.core.compiling import Mode, with_passes
from fewstep.core.denoiser import Denoiser, Preconditioned, Truncated
from fewstep.core.guidance import SelfGuide, guide
from fewstep.core.method import Method
from fewstep.data import Units, change_cond, fit
from fewstep.data.description import outside
from fewstep.run import output
from fewstep.run.build import Network, OwnMethod, build_method, build_student, outline
from fewstep.run.checkpoint import (
    Checkpoint,
    write_single,
)
from fewstep.run.checkpoint import write as write_checkpoint
from fewstep.run.checkpoint.schema import Position, new_record
from fewstep.run.config import Run
from fewstep.run.facts import Facts
from fewstep.run.levels import LevelChoice, bounds_of
from fewstep.run.notes import notes_of
from fewstep.run.places import find
from fewstep.run.plan import Plan, make
from fewstep.run.variance import read_variance
from fewstep.run.weights import NOT_WEIGHTS, check_weights, load_weights, weights_by_name

log = logging.getLogger("fewstep")


@dataclass(frozen=True, repr=False)
class Generator:
    """What `fewstep.load` and `fewstep.train` return: call `.sample`."""

    run: Run
    facts: Facts
    method: Method
    denoiser: nn.Module  # (x_t, t, cond) -> x0_hat
    step: int
    fingerprint: str = field(default="")
    has_own_levels: bool = False  # by `with_later_sigmas`: they are used as they are, or refused
    # Levels of later steps that were chosen when training ended.
    level_choice: LevelChoice = field(default_factory=LevelChoice, compare=False)
    guidance: float = 0.0  # by `with_guidance`
    interval: tuple[float, float] | None = None  # the noise levels that are guided; None: all
    room: Room = field(default_factory=Room, compare=False)  # what memory its samples take

    def __repr__(self) -> str:
        run = self.run
        facts = self.facts
        weights = sum(p.numel() for p in self.denoiser.parameters())
        parts = [
            f"{run.method} on {run.data}",
            f"step {self.step} of {run.steps}",
            f"{run.network} of {weights:,} weights",
            f"shape {facts.shape}",
        ]
        if facts.classes:
            parts.append(f"{facts.classes} classes")
        if self.fingerprint:
            parts.append(f"fingerprint {self.fingerprint[:16]}")
        return f"Generator({', '.join(parts)})"

    @property
    def device(self) -> torch.device:
        """Where its weights are; a network without any computes on the host."""
        weight = first_weight(self.denoiser)
        return torch.device("cpu") if weight is None else weight.device

    @property
    def guess(self) -> Denoiser:
        """What samplers ask: its denoiser, under guidance where `with_guidance` asked for it."""
        if self.instruction is not None:
            return SelfGuide(self.denoiser, self.instruction)
        return guide(self.denoiser, self.guidance, interval=self.interval)

    @property
    def instruction(self) -> tuple[float, float, float] | None:
        """What a flow map with an input for it is told of its guidance, see `tell.numbers_of`."""
        if not self.guidance or self.method.ends < 2:
            return None
        return tell.numbers_of(self.method.process, self.guidance, self.interval)

    def to(self, device: str | torch.device) -> Generator:
        """The generator on a device, by a name as for `load`; samples stay on the CPU.

        As for a tensor: itself where it is there already, else a copy; this one is not moved.
        Raises UserError for a device that is not here.
        """
        place = pick_device(str(device))
        if place.type == self.device.type and place.index in (None, self.device.index):
            return self
        there = copy.deepcopy(self.denoiser).to(place)
        return replace(self, denoiser=there, room=Room())

    def compile(self, mode: Mode = "on") -> Generator:
        """Itself with passes that torch compiles when samples are first made of it.

        On a CPU that takes minutes, once for a number of samples and once for all others; graphs
        replays CUDA graphs too. Samples are the same but for rounding. On another device (`to`) it
        is to be compiled again. Raises UserError for graphs without CUDA; sampling does, where a
        pass cannot be compiled as a whole.
        """
        return replace(self, denoiser=with_passes(self.denoiser, mode))

    @surroundings()
    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        cond: Cond | int | str = None,
        sampler: str | None = None,
        grid: str | Sequence[float] | None = None,
        guidance: float = 0.0,
        batch: int | None = None,
    ) -> Tensor:
        """n samples `[n, *shape]` on the CPU, in the data's units.

        steps: evaluations of the network; None is the sampler's default (1 for consistency models),
        or one more than the levels of `with_later_sigmas`.
        cond: a label or the name of its class for all, or labels `[n]`; None goes through the
        labels in turn, and -1 asks for any where the run had label_drop. Other conditions as in
        training, in the data's units, with n rows or one row for all.
        grid, guidance: as for `with_sampler` and `with_guidance`, of diffusion models.
        batch: samples that pass through the network at once; None is what memory takes, 4096 at
        most. Where memory ends there are half as many, and a warning says so.
        The noise of a sample depends on seed and its place alone, not on n or batch.
        Raises UserError for conditions the generator does not know, OutOfMemory.
        """
        if grid is not None:
            return self.with_sampler(sampler, grid=grid).sample(
                n, steps=steps, seed=seed, cond=cond, guidance=guidance, batch=batch
            )
        if guidance:
            return self.with_guidance(guidance).sample(
                n, steps=steps, seed=seed, cond=cond, sampler=sampler, batch=batch
            )
        options = {"steps": steps, "seed": seed, "cond": cond, "sampler": sampler, "batch": batch}
        samples = torch.empty(0, *self.facts.shape)
        first = 0
        for part in self.sample_parts(n, **options):  # type: ignore[arg-type]
            if len(part) == n:
                return part
            if not first:
                samples = part.new_empty(n, *part.shape[1:])
            samples[first : first + len(part)] = part
            first += len(part)
        return samples

    def sample_parts(
        self,
        n: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        cond: Cond | int | str = None,
        sampler: str | None = None,
        batch: int | None = None,
    ) -> Iterator[Tensor]:
        """What `sample` gives, one part after the other, so that only one is in memory."""
        batch = plain(batch)
        fine = batch is None or (type(batch) is int and batch >= 1)
        require(fine, "batch", batch, "a whole number, 1 or more")
        plan = self.plan(n, steps=steps, seed=seed, cond=cond, sampler=sampler)
        for note in plan.notes:
            log.warning("fewstep: %s", note)
        for part in self.room.parts(
            plan.n, lambda rows: make(self, [(plan, rows)]), batch, self.device
        ):
            if not bool(part.isfinite().all()):
                log.warning("fewstep: samples are not finite: the weights have diverged")
            yield part

    def plan(
        self,
        n: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        cond: Cond | int | str = None,
        sampler: str | None = None,
    ) -> Plan:
        """How `sample` will make what it is asked for, checked; `plan.make` makes rows of it."""
        by, grid = self.schedule(steps, sampler)
        n, seed = map(plain, (n, seed))
        for name, value in {"n": n, "seed": seed}.items():
            _check_count(name, value)
        wish = self.fit_conditions(n, cond)
        notes = (*outside(self.facts.description, wish), *notes_of(self, by, grid))
        conds = change_cond(wish, self.facts.cond_units, Units.to_model)
        return Plan(n, seed, by, tuple(grid), conds, notes)

    def schedule(
        self, steps: int | None = None, sampler: str | None = None
    ) -> tuple[sampling.Sampler, list[float]]:
        """The sampler and its times, the highest first and 0 last, that `sample` takes.

        steps, sampler: as for `sample`. Raises UserError.
        """
        if sampler is not None:
            self._check_free(sampler)
        steps = plain(steps)
        by = sampling.sampler(self.method.sampler if sampler is None else sampler)
        count = self.default_steps(by) if steps is None else steps
        if self.has_own_levels:
            self._check_levels(by, count)
        _check_count("steps", count)
        grid = by.times(self.method.process, count, self.levels_of(count))
        self._check_range(count, grid)
        return by, grid

    def default_steps(self, by: sampling.Sampler | None = None) -> int:
        """Network evaluations of a sample, unless asked otherwise: by its own sampler or `by`."""
        if self.has_own_levels:
            return len(self.later_sigmas) + 1
        return (sampling.sampler(self.method.sampler) if by is None else by).default

    @property
    def later_sigmas(self) -> tuple[float, ...]:
        """Noise levels of the later steps: the run's, or its method's own."""
        sigmas = self.run.later_sigmas
        return self.method.later_sigmas if sigmas is None else sigmas

    def levels_of(self, steps: int) -> tuple[float, ...]:
        """The noise levels that `sample` takes for the later ones of so many steps.

        Those of `with_later_sigmas` or of the run's settings where they are as many; else those
        chosen on the validation split when training ended; else the method's.
        """
        own = self.later_sigmas
        is_set = own != self.method.later_sigmas and len(own) == steps - 1
        if self.has_own_levels or is_set or steps < 2 or type(steps) is not int:
            return own
        return self.level_choice.of(steps, bounds_of(self)) or own

    def with_later_sigmas(self, sigmas: tuple[float, ...] | None) -> Generator:
        """Itself with other noise levels of the later steps; None: the same. Raises UserError.

        `sample` takes one more step than there are levels, and refuses another number.
        """
        if sigmas is None:
            return self
        sampling.multistep_grid(self.method.process, len(sigmas) + 1, sigmas)
        run = replace(self.run, later_sigmas=sigmas)
        return replace(self, run=run, has_own_levels=True)

    def with_sampler(
        self,
        sampler: str | None = None,
        *,
        grid: str | Sequence[float] | None = None,
        eta: float | None = None,
        gamma: float | None = None,
        variance: solvers.Variance | str | Path | None = None,
        final_step: Literal["addim", "ddim"] = "addim",
    ) -> Generator:
        """Itself with another sampler as its own; None: the same. Raises UserError.

        grid: own, uniform (in time), karras or exponential (in log-SNR), or decreasing noise levels
        sigma / alpha, at each of which a move starts.
        eta: of ddim, the share of fresh noise: 0 .. 1, which is ancestral.
        gamma: of ctm and tcd, the share of fresh noise: 0, which is jumps, .. 1, re-noising.
        variance: of addim, the variance of x0 given x_t, or a file by `fewstep variance`.
        final_step: of addim, ddim for a last move without that variance.
        """
        if sampler is not None:
            self._check_free(sampler)
        by = sampling.sampler(self.method.sampler if sampler is None else sampler)
        if eta is not None:
            by = sampling.with_eta(by, eta)
        if gamma is not None:
            by = sampling.with_gamma(by, gamma)
        if variance is not None or final_step != "addim":
            if isinstance(variance, str | Path):
                variance = read_variance(variance, self.method.process, self.facts)
            by = sampling.with_variance(by, variance, final_step)
        if grid is not None:
            by = sampling.with_grid(by, grid)
        return replace(self, method=replace(self.method, sampler=by))

    def with_guidance(self, scale: float, interval: tuple[float, float] | None = None) -> Generator:
        """Itself under classifier-free guidance: D_c + scale (D_c - D_u). Raises UserError.

        scale: 0 is none; w of other papers is 1 + scale. interval: the noise levels sigma / alpha
        that are guided. A guided guess asks the network twice; a flow map that was trained with
        its guidance as an input is told it instead.
        """
        guide(self.denoiser, scale, interval=interval)  # raises
        require(math.isfinite(scale), "guidance", scale, "a finite number, 0 for none")
        require(bool(scale) or interval is None, "guidance", scale, "not 0, with an interval")
        if scale:
            self._check_guidance(scale)
        return replace(self, guidance=scale, interval=interval)

    def _check_guidance(self, scale: float) -> None:
        """Raises UserError where there are no two guesses to compare."""
        why = ""
        if self.method.ends > 1:
            tell.numbers_of(self.method.process, scale)  # raises
        elif not self.method.denoises:
            why = "a student jumps, and has no guess that guidance could change"
        elif not self.facts.classes:
            why = "this run has no classes"
        elif not self.run.label_drop:
            why = "this run was trained without label_drop, so it has no guess without the label"
        if why:
            raise UserError(f"guidance = {scale}: expected 0: {why}")

    def _check_free(self, sampler: str) -> None:
        """Raises UserError where it was trained for the steps of its own sampler."""
        own = sampling.sampler(self.method.sampler)
        if own.only and own.default > 1:
            raise UserError(
                f"sampler = {sampler!r}: a model of {own.default} segments is sampled by its own"
                " steps alone"
            )

    def _check_levels(self, by: sampling.Sampler, steps: int) -> None:
        """Raises UserError where the levels that were asked for would not be used."""
        sigmas = self.later_sigmas
        fine = by.grid is sampling.multistep_grid
        require(fine, "later_sigmas", sigmas, "none: the sampler multistep alone uses them")
        need = f"{steps - 1} levels for {steps} steps, one for each step after the first"
        require(type(steps) is not int or len(sigmas) == steps - 1, "later_sigmas", sigmas, need)

    @property
    def answers_from(self) -> float:
        """The lowest time that a network here was trained at: of a pair, its lower one's."""
        first = self.method.before if isinstance(self.denoiser, Truncated) else None
        return (first or self.method).trained_from

    def _check_range(self, steps: int, grid: list[float]) -> None:
        """Raises UserError for times that no network here was trained at."""
        low = self.answers_from
        below = [t for t in grid[:-1] if t < low]
        if below:
            raise UserError(
                f"steps = {steps}: it asks at t = {below[0]:.4g}, but this student was trained"
                f" from t = {low:g} on: name higher levels (--later-sigmas), or ask its stage"
                " before there (--composite, composite=True)"
            )

    def write(
        self,
        path: str | Path,
        samples: Tensor,
        *,
        cond: Cond | int | str = None,
        data: Tensor | Mapping[str, Any] | None = None,
    ) -> str:
        """Writes samples by how the name ends: .png, .csv, .parquet, .npy or .safetensors.

        cond: what they were drawn for, as given to `sample`. data: rows to stand beside them in a
        picture, as `train` takes them. Returns what a picture shows, in words.
        Raises UserError, and StorageError where the disk refuses.
        """
        beside = None if data is None else output.rows_beside(data, self)
        return output.write(Path(path), samples, self, cond, beside)

    def conditions(self, n: int, cond: Cond | int | str) -> Cond:
        """The n conditions, in the model's units, that `sample` uses for what it is given.

        None without conditions.
        """
        return change_cond(self.fit_conditions(n, cond), self.facts.cond_units, Units.to_model)

    def fit_conditions(self, n: int, cond: Cond | int | str) -> Cond:
        """The n conditions in the user's units, of what `sample` is given. Raises UserError."""
        any_class = self.run.label_drop > 0
        facts = self.facts
        cond = facts.names.label_number(cond) if isinstance(cond, str) else cond
        return fit(
            cond,
            facts.cond,
            n,
            facts.classes,
            occurring=facts.names.occurring,
            allow_no_label=any_class,
        )

    def user_conditions(self, n: int, cond: Cond | int | str) -> Cond:
        """The n conditions of `conditions`, in the user's units."""
        return change_cond(self.conditions(n, cond), self.facts.cond_units, Units.to_user)

    def save(self, path: str | Path) -> None:
        """Writes the generator alone (no optimizer) as a folder that `load` reads.

        One file where the path ends in .safetensors, which holds no frozen first stage.
        """
        net: Any = self.denoiser
        modules: dict[str, nn.Module] = {"ema": net}
        if isinstance(net, Truncated):
            pair: Any = net
            modules = {"ema": pair.high, "frozen": pair.low}
        groups = {name: module.state_dict() for name, module in modules.items()}
        position = Position(step=self.step, stage=len(self.method.chain))
        levels = self.level_choice.to_json() if self.level_choice.scores else None
        state = new_record(self.run, self.facts, position, levels=levels).to_json()
        if Path(path).suffix != ".safetensors":
            write_checkpoint(Path(path), groups, state)
            return
        fine = len(groups) == 1
        require(fine, "path", str(path), "a folder's name: this generator has two networks")
        write_single(Path(path), groups["ema"], state)


def _check_count(name: str, value: Any) -> None:
    """Raises UserError for what is no number of things."""
    fine = type(value) is int and value >= 0
    require(fine, name, value, "a whole number, 0 or more")


@dataclass(frozen=True)
class Blueprint:
    """A checkpoint with what its networks are built from."""

    checkpoint: Checkpoint
    run: Run
    facts: Facts
    method: Method
    network: Network | None  # the user's own

    def network_with(self, tensors: dict[str, Tensor]) -> Preconditioned:
        """The run's network with these weights, frozen. Raises StorageError if they do not fit."""
        own = copy.deepcopy(self.network)
        own = own if convention_of(own) is None else network_of(own)
        student = build_student(self.run, self.facts, self.method, own)
        load_weights(student, tensors, str(self.checkpoint.path))
        return student.requires_grad_(False).eval()


def open_checkpoint(
    path: str | Path, network: Network | None = None, method: OwnMethod | None = None
) -> Blueprint:
    """The checkpoint that `find` finds, with its run, facts and method."""
    checkpoint = find(path)
    run, facts = checkpoint.record.run, checkpoint.record.facts
    return Blueprint(checkpoint, run, facts, build_method(run, facts, method), network)


@surroundings(grad=True)
def load(
    path: str | Path,
    *,
    ema: str = "ema",
    network: Network | None = None,
    method: OwnMethod | None = None,
    composite: bool = False,
    device: str = "auto",
) -> Generator:
    """The generator of a run folder, a checkpoint folder or a shipped name such as "digits".

    ema: "ema" for the averaged weights, "student" for the raw ones, or another average that the run
    has, such as "power:0.05"; of a run with snapshots any "power:STD"; "frozen" is the stage before
    the last. composite: where the last was not trained, that one answers. network,
    method: like those the run was trained with, where they were your own; a network is copied.
    Raises UserError or StorageError in one line.
    """
    blueprint = open_checkpoint(path, network, method)
    checkpoint = blueprint.checkpoint
    run = blueprint.run
    parts = blueprint.method
    layout = checkpoint.layout()
    if network is None and ema in layout.keys() - NOT_WEIGHTS:
        # Before any of it is read or built: the file may describe a network that it does not hold,
        # and a huge one.
        plan = outline(run, blueprint.facts, parts, 2 * len(layout[ema]) + 100)
        check_weights(plan, layout[ema], str(checkpoint.path))
    weights, step, digest = weights_by_name(checkpoint, run, ema)
    denoiser: nn.Module = blueprint.network_with(weights)
    trained = checkpoint.record.trained(parts)
    trained = (trained.before or trained) if ema == "frozen" else trained
    choice = checkpoint.record.level_choice
    if composite or trained is not parts:
        choice = LevelChoice()  # they are of the last stage, and of its networks alone
    if trained is not parts:
        parts = trained
        run = replace(run, later_sigmas=parts.later_sigmas)  # the record has those of the last
    if composite:
        has_pair = "frozen" in checkpoint.groups and ema != "frozen"
        if not has_pair or not parts.trained_from:
            raise UserError(
                f"{path}: expected a second stage and its frozen first for a composite, such as"
                " tcm's"
            )
        low = blueprint.network_with(checkpoint.groups["frozen"])
        denoiser = Truncated(low, denoiser, parts.trained_from)
        denoiser.requires_grad_(False).eval()
    denoiser = denoiser.to(pick_device(device))
    return Generator(run, blueprint.facts, parts, denoiser, step, digest, level_choice=choice)
