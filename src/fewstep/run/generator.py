"""A trained generator: the averaged network with everything that sampling from it takes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.base.conditions import Cond, masked
from fewstep.base.device import pick_device
from fewstep.base.errors import StorageError, UserError, require
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.core import sampling
from fewstep.core.denoiser import Truncated
from fewstep.core.method import Method
from fewstep.data import each, fit
from fewstep.run.build import Network, OwnMethod, build_method, build_student, outline
from fewstep.run.checkpoint import Checkpoint, RunFolder, read
from fewstep.run.checkpoint import write as write_checkpoint
from fewstep.run.checkpoint.schema import check_state, checkpoint_state
from fewstep.run.config import Run, run_from_json
from fewstep.run.facts import Facts
from fewstep.run.weights import NOT_WEIGHTS, check_weights, chosen_weights, load_weights


@dataclass(frozen=True)
class Generator:
    """What `fewstep.load` and `fewstep.train` return: call `.sample`."""

    run: Run
    facts: Facts
    method: Method
    denoiser: nn.Module  # (x_t, t, cond) -> x0_hat
    step: int
    fingerprint: str = field(default="")

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        cond: Cond | int = None,
        sampler: str | None = None,
        batch: int = 4096,
    ) -> Tensor:
        """n samples `[n, *shape]` on the CPU, in the data's units.

        steps: evaluations of the network; None is the sampler's own default (1 for a consistency
        model).
        cond: a label for all, or labels `[n]`; None goes through the labels in turn, and -1 asks
        for any where the run had label_drop. Other conditions as in training, with n rows or one
        row for all.
        The noise of a sample depends on seed and its place alone, not on n or batch.
        Raises UserError for conditions the generator does not know.
        """
        own = sampling.sampler(self.method.sampler)
        if sampler is not None and own.only and own.default > 1:
            raise UserError(
                f"sampler = {sampler!r}: a model of {own.default} segments is sampled by its own"
                " steps alone"
            )
        chosen = own if sampler is None else sampling.sampler(sampler)
        count = chosen.default if steps is None else steps
        for name, value, least in (
            ("n", n, 0),
            ("seed", seed, 0),
            ("batch", batch, 1),
            ("steps", count, 0),
        ):
            require(
                type(value) is int and value >= least,
                name,
                value,
                f"a whole number, {least} or more",
            )
        middle = (
            self.method.later_sigmas if self.run.middle_times is None else self.run.middle_times
        )
        grid = chosen.times(self.method.process, count, middle)
        self._check_range(count, grid)
        conds = self.conditions(n, cond)
        parts = [range(n)[first : first + batch] for first in range(0, n, batch)]
        drawn = [self._draw(chosen, grid, seed, part, conds) for part in parts]
        return torch.cat(drawn) if drawn else torch.empty(0, *self.facts.shape)

    def with_middle(self, times: tuple[float, ...] | None) -> Generator:
        """The same with other noise levels of the later steps; itself for None. Raises UserError."""
        if times is None:
            return self
        sampling.through_middle(self.method.process, len(times) + 1, times)
        return replace(self, run=replace(self.run, middle_times=times))

    def _check_range(self, steps: int, grid: list[float]) -> None:
        """Refuses times that the student was not trained for, unless the network that was answers
        there.
        """
        low = self.method.trained_from
        unknown = [t for t in grid[:-1] if t < low]
        if unknown and not isinstance(self.denoiser, Truncated):
            raise UserError(
                f"steps = {steps}: it asks at t = {unknown[0]:.4g}, but this student was trained"
                f" from t = {low:g} on: name higher levels (--middle-times), or ask its first stage"
                " there (--composite, composite=True)"
            )

    def _draw(
        self, chosen: sampling.Sampler, grid: list[float], seed: int, part: range, conds: Cond
    ) -> Tensor:
        """The samples whose numbers are in `part`, in one batch."""
        process, device = self.method.process, next(self.denoiser.parameters()).device
        here = each(lambda rows: rows[part.start : part.stop], conds)
        cond = each(lambda rows: rows.to(device), here)

        def unit(stream: str) -> Tensor:
            z = normal(seed, stream, part.start, len(part), self.facts.shape, SAMPLING_BLOCK)
            return masked(z, here).to(device)

        noise = (lambda i: unit(f"renoise {i}")) if chosen.noisy else None
        x0 = sampling.walk(
            process, self.denoiser, process.prior(unit("prior")), grid, chosen.step, cond, noise
        )
        return masked(self.facts.units.to_user(x0), here)

    def conditions(self, n: int, cond: Cond | int) -> Cond:
        """The condition with n rows that `sample` uses for what it was given; None for an
        unconditional generator.
        """
        known = self.run.label_drop > 0
        return fit(cond, self.facts.cond, n, self.facts.classes, unlabelled=known)

    def save(self, path: str | Path) -> None:
        """Writes the generator alone (no optimizer) as a folder that `load` reads."""
        net: Any = self.denoiser
        pair: dict[str, Any] = (
            {"ema": net.high, "frozen": net.low} if isinstance(net, Truncated) else {"ema": net}
        )
        groups = {name: module.state_dict() for name, module in pair.items()}
        stage = 2 if self.method.before is not None else 1
        write_checkpoint(
            Path(path),
            groups,
            {**checkpoint_state(self.run, self.facts, self.step), "stage": stage},
        )


def find(path: str | Path) -> Checkpoint:
    """The checkpoint behind a run folder (its newest valid one), a checkpoint folder or a shipped
    name.

    Raises UserError where there is nothing of the kind, StorageError where nothing valid is left.
    """
    checkpoint = _behind(path)
    check_state(checkpoint)
    return checkpoint


def _behind(path: str | Path) -> Checkpoint:
    folder = Path(path)
    if folder.is_file():
        raise UserError(
            f"{path} is a file: expected a run folder, a checkpoint folder or a shipped name"
        )
    if not folder.exists():
        shipped = Path(str(files("fewstep"))) / "assets" / str(path)
        if (shipped / "manifest.json").is_file():
            return read(shipped)
        known = sorted(
            p.parent.name for p in Path(str(files("fewstep"))).glob("assets/*/manifest.json")
        )
        raise UserError(
            f"no run folder {path}, and no shipped generator of that name (there is:"
            f" {', '.join(known) or 'none'})"
        )
    if (folder / "manifest.json").is_file():
        return read(folder)
    checkpoint = RunFolder(folder).newest() if folder.is_dir() else None
    if checkpoint is None:
        raise StorageError(
            f"{str(path)!r} holds no checkpoint: expected a run folder that 'fewstep train' wrote"
        )
    return checkpoint


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
    has, such as "power:0.05"; of a run with snapshots any "power:STD"; "frozen" is the first of two
    stages. composite: it also answers at the times that the second was not trained for. network,
    method: like those the run was trained with, where they were your own; a network is copied.
    Raises UserError or StorageError in one line.
    """
    checkpoint = find(path)
    run = run_from_json(checkpoint.state["run"])
    facts = Facts.from_json(checkpoint.state["facts"])
    made, layout, where = (
        build_method(run, facts, method),
        checkpoint.layout(),
        str(checkpoint.path),
    )
    if network is None and ema in layout.keys() - NOT_WEIGHTS:
        # before any of it is read or built: the file may describe another network than it holds,
        # and a huge one
        check_weights(outline(run, facts, made, 2 * len(layout[ema]) + 100), layout[ema], where)
    student = build_student(run, facts, made, copy.deepcopy(network))
    weights, step, digest = chosen_weights(checkpoint, run, ema)
    load_weights(student, weights, where)
    denoiser: nn.Module = student
    if made.before is not None and (ema == "frozen" or checkpoint.state.get("stage") == 1):
        made = made.before
        run = replace(run, middle_times=made.later_sigmas)  # stored are those of the second stage
    if composite:
        if "frozen" not in checkpoint.groups or ema == "frozen":
            raise UserError(
                f"{path}: expected a second stage and its frozen first for a composite, such as"
                " tcm's"
            )
        low = build_student(run, facts, made, copy.deepcopy(network))
        load_weights(low, checkpoint.groups["frozen"], where)
        denoiser = Truncated(low, denoiser, made.trained_from)
    denoiser.requires_grad_(False).eval().to(pick_device(device))
    return Generator(run, facts, made, denoiser, step, digest)
