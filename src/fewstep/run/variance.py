"""The variance of x0 given x_t by noise level, measured on a run's data: what `addim` takes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from fewstep.base import disk
from fewstep.base.conditions import apply_mask, each
from fewstep.base.errors import NonFiniteError, StorageError, UserError, require
from fewstep.base.json_file import document
from fewstep.base.randomness import SAMPLING_BLOCK, normal, permutation
from fewstep.core.distances import mse
from fewstep.core.process import Process
from fewstep.core.sampling import solver_grid
from fewstep.core.solvers import TableVariance
from fewstep.data import Dataset
from fewstep.run.facts import Facts

if TYPE_CHECKING:
    from fewstep.run.generator import Generator

FORMAT = "fewstep-variance 1"
ROWS = 256  # that pass the network at once
SAME = 1e-6  # relative difference of the levels of one process
_NUMBERS = ("times", "levels", "values", "errors")


@dataclass(frozen=True)
class VarianceTable:
    """values = eta E ||x0 - D(x_t, t)||^2 / d at increasing times, and their standard errors.

    Source: MCM, arXiv 2403.06807, section 4.
    """

    times: tuple[float, ...]
    levels: tuple[float, ...]  # sigma / alpha there, by which the process is known again
    values: tuple[float, ...]
    errors: tuple[float, ...]
    eta: float
    rows: int
    split: str
    seed: int
    data: str  # fingerprint of the training split
    fingerprint: str  # of the weights

    @property
    def variance(self) -> TableVariance:
        """What `addim` takes."""
        return TableVariance(self.times, self.values)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: Path) -> None:
        """Writes a file that `read_variance` reads. Raises StorageError."""
        disk.make_folder(path.parent)
        disk.replace(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())


@torch.no_grad()
def measure_variance(
    generator: Generator,
    dataset: Dataset,
    *,
    points: int = 32,
    n: int = 4096,
    eta: float = 0.75,
    seed: int = 0,
    split: Literal["validation", "train"] = "validation",
    watch: Callable[[int], None] | None = None,
) -> VarianceTable:
    """The table of a diffusion model at `points` times of its process's grid, by n rows of a split.

    The guess is the unguided one, with the rows' own conditions; each row and time has noise of its
    own by the seed. eta: the share of the error that counts, in the paper 0.75. watch: called with
    the number of rows that passed. Raises UserError.
    """
    require(
        generator.method.denoises, "RUN", generator.run.method, "a diffusion model, that guesses"
    )
    require(points >= 2, "points", points, "at least 2")
    require(n >= 2, "n", n, "at least 2 rows")
    require(0 <= eta <= 1, "eta", eta, "a share in 0 .. 1, in the paper 0.75")
    process, device = generator.method.process, generator.device
    arrays = getattr(dataset, split)
    count = min(n, len(arrays))
    require(count >= 2, "split", split, "a split of at least 2 rows")
    rows = arrays.rows(permutation(seed, "variance", 0, len(arrays))[:count])
    times = sorted(solver_grid(process, points, ())[:points])
    values, errors = [], []
    for place, t in enumerate(times):
        losses = []
        for first in range(0, count, ROWS):
            part = rows.rows(torch.arange(first, min(first + ROWS, count)))
            x0, cond = part.x0.to(device), each(lambda x: x.to(device), part.cond)
            z = normal(seed, f"variance {place}", first, len(x0), x0.shape[1:], SAMPLING_BLOCK)
            x_t = apply_mask(process.mix(x0, z.to(device), t), cond)
            losses.append(mse(generator.denoiser(x_t, t, cond), x0).double().cpu())
            if watch is not None:
                watch(len(x0))
        loss = torch.cat(losses)
        values.append(eta * loss.mean().item())
        errors.append(eta * loss.std().item() / math.sqrt(count))
    if not all(map(math.isfinite, values)):
        raise NonFiniteError("the network's guesses are not finite: its weights have diverged")
    return VarianceTable(
        tuple(times),
        tuple(process.level(t).item() for t in times),
        tuple(values),
        tuple(errors),
        eta,
        count,
        split,
        seed,
        dataset.fingerprint(),
        generator.fingerprint,
    )


def read_variance(path: str | Path, process: Process, facts: Facts) -> TableVariance:
    """The variance of a file for a run of this process and data. Raises UserError, StorageError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    values = document(content, path)
    if not _is_table(values):
        raise UserError(f"variance = {str(path)!r}: expected a file by `fewstep variance`")
    fits = values["data"] == facts.data
    require(fits, "variance", str(path), "the table of a run on the same data")
    times = torch.tensor(values["times"], dtype=torch.float64)
    levels = torch.tensor(values["levels"], dtype=torch.float64)
    fits = bool((times <= process.t_max).all()) and torch.allclose(
        process.level(times), levels, rtol=SAME, atol=0
    )
    require(fits, "variance", str(path), "the table of a run of the same noising process")
    return TableVariance(tuple(values["times"]), tuple(values["values"]))


def _is_table(values: Any) -> bool:
    """Whether the values are what `to_json` gave, as far as they are used."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return False
    lists = [values.get(name) for name in _NUMBERS]
    if not all(isinstance(one, list) and len(one) == len(lists[0] or ()) for one in lists):
        return False
    numbers = [number for one in lists for number in one or ()]
    if not numbers or not all(type(number) in (int, float) and number >= 0 for number in numbers):
        return False
    return all(a < b for a, b in pairwise(lists[0] or []))
