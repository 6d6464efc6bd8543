"""A student's teacher as a generator: its own ODE, solved from the noise that the student gets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fewstep import methods
from fewstep.base.conditions import Cond
from fewstep.base.errors import UserError, require, unknown
from fewstep.base.memory import Room
from fewstep.core import couplings, solvers
from fewstep.core.denoiser import Denoiser
from fewstep.core.guidance import guided
from fewstep.core.process import Time
from fewstep.core.sampling import SAMPLERS
from fewstep.run.build import Network
from fewstep.run.config import OWN
from fewstep.run.generator import Generator
from fewstep.run.levels import LevelChoice
from fewstep.run.prepare import Prepared
from fewstep.run.sources import Source
from fewstep.run.teachers import guidance_of, teacher_of

SOLVER, MOVES = "heun", 64


class Closed(nn.Module):
    """A denoiser as a module, whose only weights are the digest of its name: its identity."""

    mark: Tensor

    def __init__(self, truth: Denoiser, name: str) -> None:
        super().__init__()
        self.truth = truth
        digest = hashlib.sha256(name.encode()).digest()
        mark = torch.tensor(list(digest), dtype=torch.float32)
        self.mark = nn.Parameter(mark, requires_grad=False)

    def forward(self, x_t: Tensor, t: Time, cond: Cond = None) -> Tensor:
        return self.truth(x_t, t, cond)


@dataclass(frozen=True)
class Teacher:
    """A teacher's ODE on the process of its student, which n moves of a solver lead to the data."""

    name: str
    generator: Generator  # samples are ends of the ODE, of the noise that a student's start from
    solver: str
    moves: int
    guidance: float
    fingerprint: str

    def steps(self, moves: int | None = None) -> int:
        """Evaluations of the denoiser that so many moves take; None: all of them."""
        return 1 + SAMPLERS[self.solver].evaluations * ((moves or self.moves) - 1)

    def facts(self) -> dict[str, Any]:
        """What its samples depend on: a part of the protocol of scores."""
        names = ("name", "fingerprint", "solver", "moves", "guidance")
        return {f"teacher_{name}".replace("_name", ""): getattr(self, name) for name in names}


def open_teacher(
    source: Source,
    student: Generator,
    *,
    solver: str = SOLVER,
    moves: int = MOVES,
    network: Network | None = None,
) -> Teacher:
    """The teacher of a student: a diffusion run, a file, exact:NAME or a denoiser; "own": its own.

    It answers on the student's process, under the guidance that the student was trained with. A
    student and a teacher on another process get the same unit noise z, x_T = sigma(t_max) z.
    solver: of the samplers without noise; moves: of the grid from t_max to 0, 2 or more.
    network: the user's own, of a file. Raises UserError and StorageError.
    """
    names = [name for name, one in SAMPLERS.items() if not one.noisy]
    if solver not in names:
        raise unknown("solver", solver, names)
    require(type(moves) is int and moves >= 2, "moves", moves, "a whole number, 2 or more")
    run, facts, method = student.run, student.facts, student.method
    is_own = isinstance(source, str) and source == OWN
    if is_own:
        source = _own(student)
    guidance = guidance_of(method)
    # A method that asks for denoisers, whatever the student's own asks for.
    distillation = replace(
        methods.cd(sigma_data=facts.sigma_data),
        process=method.process,
        coupling=couplings.Teacher(solvers.heun, guidance=guidance),
        sampler=solver,
    )
    prepared = Prepared(run, facts, distillation, network=network, device=student.device)
    model = teacher_of(source, prepared)
    assert model is not None
    if is_own and model.fingerprint != facts.teacher:
        raise UserError(
            f"teacher {model.name} is not the one that this run learned from"
            f" ({model.fingerprint[:16]}, not {facts.teacher[:16]}): name the place where that is"
        )
    denoiser = Closed(guided(model.denoiser, guidance), model.name)
    generator = Generator(
        replace(run, later_sigmas=None),
        facts,
        distillation,
        denoiser.requires_grad_(False).eval().to(student.device),
        0,
        model.fingerprint,
        level_choice=LevelChoice(),
        room=Room(),
    )
    return Teacher(model.name, generator, solver, moves, guidance, model.fingerprint)


def _own(student: Generator) -> str:
    """The name of the teacher that the run learned from. Raises UserError where it has none."""
    name = student.run.teacher
    if name is None or name == OWN:
        why = "learned from no teacher" if name is None else "got its teacher as an object"
        raise UserError(f"teacher = own: this run {why}: name one, RUN, FILE or exact:NAME")
    if ":" in name and not name.startswith("exact:"):
        raise UserError(f"teacher = own: it is code of yours: type its name, --teacher {name}")
    return name
