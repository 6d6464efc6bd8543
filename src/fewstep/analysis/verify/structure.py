"""What every method must be, a user's own too: the names are properties, not formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from fewstep.analysis.verify.check import (
    Check,
    NotCheckable,
    Properties,
    apart,
    by_row,
    mixed_up,
    over,
    row_by_row,
    row_norms,
    worst,
)
from fewstep.analysis.verify.fixtures import (
    SHAPE,
    Cast,
    FixedTarget,
    MaskRecorder,
    cast,
    data,
    disorder,
    everyone,
    gradient_of,
    small_network,
)
from fewstep.core import abilities, balances, couplings, spaces
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.core.times import Times

ITEMS = "a batch is its items"
ROUNDING = 1e-8  # by which they may differ
Inputs = tuple[Tensor, Tensor, Times]  # x0, z and the times of a batch


@dataclass(frozen=True)
class Subject:
    """How a method is made, and the shape of the samples that it is tried on."""

    make: Callable[[], Method]
    shape: tuple[int, ...] = SHAPE

    def batch(self, method: Method, rows: int = 6, progress: float = 0.6) -> Inputs:
        """Of whole groups where rows belong together."""
        rows = -(-rows // method.group) * method.group
        x0, z, u = data(rows, self.shape, uniforms=method.uniforms)
        times: Times = method.times(u, progress, torch.arange(rows))
        return x0, z, times._replace(u=u, progress=progress)

    def batches(self, method: Method) -> list[Inputs]:
        """Of 16 rows, at the start of a run, within it and at its end."""
        return [self.batch(method, 16, progress) for progress in (0.0, 0.5, 1.0)]

    def scene(self) -> tuple[Method, Cast, Inputs]:
        """The method, a network in each place, and a batch."""
        method = self.make()
        return method, cast(), self.batch(method)

    def network(self, classes: int = 0, dropout: float = 0.0) -> Preconditioned:
        return small_network(classes, dropout, shape=self.shape, ends=self.make().ends)


PROPERTIES: Properties[Subject] = Properties()


def depends_on_batch(method: Method) -> bool:
    """Whether rows depend on their batch by design: groups, minibatch OT."""
    if method.group > 1:
        return True
    parts: list[Any] = [method.coupling, abilities.inner(method.coupling)]
    shares = couplings.MinibatchOT | couplings.Cached
    return any(isinstance(part, shares) for part in parts)


@PROPERTIES.holds(
    "loss is finite, one number for each sample", 0.0, "a mean over the batch, or a division by 0?"
)
def per_sample(subject: Subject) -> float:
    method = subject.make()
    for inputs in subject.batches(method):
        loss = method.loss(cast().models(), *inputs)
        rows = len(inputs[0])
        if loss.shape != (rows,):
            raise ValueError(
                f"loss of shape {tuple(loss.shape)}, expected one number for each of {rows} rows"
            )
        if not bool(torch.isfinite(loss).all()):
            return math.inf
    return 0.0


@PROPERTIES.holds(
    "the seed decides the dropout, nothing else is random",
    1e-12,
    "a global generator is read, or no seed",
)
def one_seed_one_loss(subject: Subject) -> float:
    """Another seed gives another loss; torch's own generator does not move, by times neither."""
    method = subject.make()
    student = subject.network(dropout=0.5)
    models = everyone(student, method)
    before = torch.get_rng_state()
    _, _, times = inputs = subject.batch(method)
    _, _, again = subject.batch(method)

    def loss(seed: int | None) -> Tensor:
        return method.loss(models, *inputs, seed=seed).detach()

    first = loss(1)
    difference = apart(again.t, times.t) + apart(again.r, times.r)
    difference += apart(loss(1), first) + apart(loss(None), loss(None))
    ignores_seed = torch.equal(first, loss(2))
    moves_generator = not torch.equal(before, torch.get_rng_state())
    return difference + float(ignores_seed) + float(moves_generator)


@PROPERTIES.holds(
    "times a <= r <= t <= t_max, t > a", 1e-9, "the neighbour r lies between t and its anchor a"
)
def order_of_times(subject: Subject) -> float:
    """t = a is no mistake where the goal is the method's own: there the student is a denoiser."""
    method = subject.make()
    may_rest = method.has_own_loss or abilities.goal(method.target) is not None
    batches = [times for _, _, times in subject.batches(method)]
    return worst(*(disorder(method, times, may_rest) for times in batches))


@PROPERTIES.holds(
    "gradient reaches the student, nobody else",
    0.0,
    "a network that is not trained is asked with gradient",
)
def student_alone(subject: Subject) -> float:
    """The gradient on ema, teacher and frozen, which must be none."""
    method, nets, inputs = subject.scene()
    method.loss(nets.models(), *inputs).sum().backward()
    if nets.student.numbers.grad is None or not bool(nets.student.numbers.grad.any()):
        raise ValueError("no gradient reaches the student")
    others = [net.numbers.grad for net in (nets.ema, nets.teacher, nets.frozen)]
    return worst(0.0, *(grad.abs().max().item() for grad in others if grad is not None))


def row_gradients(method: Method, nets: Cast, inputs: Inputs) -> Tensor:
    """The gradient of each row's loss by the student's numbers, `[B, 4]`."""
    loss = method.loss(nets.models(), *inputs).reshape(-1)
    rows = [torch.autograd.grad(one, nets.student.numbers, retain_graph=True)[0] for one in loss]
    return torch.stack(rows)


def with_goals_still(method: Method) -> tuple[Method, list[Tensor]]:
    """The method with its goals detached where they are compared, and a list of these goals."""
    goals = []

    def distance(x: Tensor, y: Tensor) -> Tensor:
        goals.append(y)
        return method.distance(x, y.detach())

    return replace(method, distance=distance), goals


@PROPERTIES.holds(
    "target is detached: gradient with targets held still",
    1e-9,
    "the goal carries gradient: detach it",
)
def target_detached(subject: Subject) -> float:
    """The gradient against that with detached goals; a weight may be without gradient or not."""
    method, nets, inputs = subject.scene()
    still, goals = with_goals_still(method)
    truth = row_gradients(still, nets, inputs)
    if not goals:
        raise NotCheckable(
            "your loss does not call its distance: whether its targets carry gradient is not seen"
        )
    return by_row(row_gradients(method, nets, inputs), truth)


@PROPERTIES.holds(
    "a row's gradient is the slope of its loss",
    1e-4,
    "part of the student's answer is detached, or weights of single elements are",
)
def slope_of_loss(subject: Subject) -> float:
    """The gradient against differences of the loss in which the targets do not move.

    A factor of a row without gradient, such as an adaptive weight, leaves the direction alone.
    """
    method, nets, inputs = subject.scene()
    if isinstance(method.balance, balances.Adaptive):
        method = replace(method, balance=balances.unbalanced, terms=())
    method, _ = with_goals_still(method)
    gradients = row_gradients(method, nets, inputs)
    student = FixedTarget(nets.student, inputs[2].t if method.has_own_loss else None)
    models = replace(nets.models(), student=student)

    def losses(shift: Tensor) -> Tensor:
        student.shift = shift
        return method.loss(models, *inputs).detach().reshape(-1)

    directions = 1e-5 * torch.eye(4, dtype=torch.float64)
    slopes = torch.stack([(losses(d) - losses(-d)) / 2e-5 for d in directions], 1)
    error = by_row(gradients, slopes)
    if error <= 1e-4:
        return error
    ratios = row_norms(gradients) / row_norms(slopes)
    if by_row(over(1 / ratios, gradients) * gradients, slopes) < 1e-2:
        raise NotCheckable(
            f"a row's gradient is {ratios.min():.2g} to {ratios.max():.2g} times the slope of its"
            " loss, along it: a factor without gradient, of which only the direction is checked"
        )
    if method.has_own_loss:
        raise NotCheckable("your own loss has gradient from more than the student's answer at t")
    return error


def rows_apart(subject: Subject, dropout: float = 0.0) -> float:
    """Losses and gradients row by row, each with its seed, against those of the batch."""
    method = subject.make()
    student = subject.network(dropout=dropout)
    models = everyone(student, method)
    x0, z, times = subject.batch(method)

    def learn(x0: Tensor, z: Tensor, index: Tensor) -> Tensor:
        loss = method.loss(models, x0, z, times.at(index), seed=index.tolist())
        loss.sum().backward()
        return loss.detach()

    rows = x0, z, torch.arange(len(x0))
    together = learn(*rows)
    gradient = gradient_of(student)
    student.zero_grad()
    alone = row_by_row(learn, *rows)
    return worst(by_row(alone, together), apart(gradient_of(student), gradient))


PROPERTIES.holds(
    ITEMS,
    ROUNDING,
    "a row's loss depends on the others: a mean over the batch inside?",
)(rows_apart)


def where_rows_are_apart(measure: Callable[[Subject], float]) -> Callable[[Subject], float]:
    """The measure, which sees nothing of its own where rows depend on their batch anyway."""

    @wraps(measure)
    def look(subject: Subject) -> float:
        error: float | Exception
        try:
            error = measure(subject)
        except Exception as exception:  # of any kind: it is the user's
            error = exception
        is_fine = isinstance(error, float) and error <= ROUNDING
        if not is_fine and not _are_apart(subject):
            raise NotCheckable(f'"{ITEMS}" does not hold: mend that first')
        if isinstance(error, Exception):
            raise error
        return error

    return look


def _are_apart(subject: Subject) -> bool:
    """Whether a batch is its items."""
    try:
        return rows_apart(subject) <= ROUNDING
    except ValueError:  # losses of other shapes
        return False


PROPERTIES.holds(f"{ITEMS}, under dropout", ROUNDING, "the masks of a row depend on its batch")(
    where_rows_are_apart(partial(rows_apart, dropout=0.4))
)


@PROPERTIES.holds(
    "float32 agrees with float64", 1e-3, "digits are lost: a small difference of large numbers?"
)
def single_precision(subject: Subject) -> float:
    """Within a run and at its end, where gaps are smallest."""
    method = subject.make()
    errors = []
    for progress in (0.6, 1.0):
        x0, z, times = subject.batch(method, progress=progress)
        student = subject.network()
        exact = method.loss(everyone(student, method), x0, z, times)
        single = method.loss(everyone(student.float(), method), x0.float(), z.float(), times)
        errors.append(by_row(single.double(), exact))
    return worst(*errors)


@PROPERTIES.holds(
    "r = a asks no network at r",
    1e-12,
    "the boundary is asked of the network instead of being known",
)
def boundary_without_network(subject: Subject) -> float:
    """At r = a a network that is NaN below t changes nothing.

    A space that asks it where the jump ends is another matter.
    """
    method, nets, (x0, z, times) = subject.scene()
    times = times._replace(r=times.a)
    if abilities.needs(method.space):
        method = replace(method, space=spaces.x0)

    def blind(x_t: Tensor, t: Tensor, *more: Any, **options: Any) -> Tensor:
        below = torch.isin(t, times.a) & ~torch.isin(t, times.t)
        return torch.where(over(below, x_t), torch.nan, nets.student(x_t, t, *more, **options))

    loss = method.loss(everyone(as_map(blind), method), x0, z, times)
    truth = method.loss(everyone(nets.student, method), x0, z, times)
    finite = torch.isfinite(truth)  # a weight may be infinite where the method has no rows
    if method.has_own_loss and not bool(torch.isfinite(loss[finite]).all()):
        raise NotCheckable("your own loss asks a network at r, also where r = a")
    return apart(loss[finite], truth[finite])


@PROPERTIES.holds(
    "dropout masks are shared by both passes",
    0.0,
    "student and target must run under one draw of masks: fewstep.core.method.dropout",
)
def shared_masks(subject: Subject) -> float:
    """0 if the student's pass and a pass at r have the masks of the only draw."""
    method, nets, (x0, z, times) = subject.scene()
    student = MaskRecorder(nets.student)
    method.loss(everyone(student, method), x0, z, times, seed=3)
    every = {*times.t.tolist()}
    own = [number for t, number in student.calls if {*t.tolist()} == every]
    below = [number for t, number in student.calls if not bool(torch.isin(t, times.t).all())]
    has_pass = bool(below) and method.target is not None  # a teacher that it was drops nothing
    differs = student.draws not in own or (has_pass and student.draws not in below)
    return float(student.draws != 1) + float(differs)


@PROPERTIES.holds(
    "a known data point has loss 0", 1e-9, "the goal is not the data where everybody knows it"
)
def constant_data(subject: Subject) -> float:
    """If the data is one point and everybody says so; the gradient there is finite."""
    method, _, (_, z, times) = subject.scene()
    point = torch.full_like(z, 0.7)
    guess = torch.full((), 0.7, dtype=torch.float64, requires_grad=True)

    @as_map
    def network(x_t: Tensor, *more: Any, **options: Any) -> Tensor:
        return guess.to(x_t.dtype).expand(x_t.shape)

    one: Any = network
    models = replace(everyone(one, method), teacher=one)
    loss = method.loss(models, point, z, times)
    (slope,) = torch.autograd.grad(loss.sum(), guess)
    for what, value in (("loss", loss.abs().max()), ("gradient", slope)):
        if not math.isfinite(value.item()):
            raise ValueError(f"the {what} is {value.item()} where the student is the goal")
    error = loss.abs().max().item()
    if method.has_own_loss and error > 1e-9:
        raise NotCheckable(f"your own loss is {error:.2g} there: what it is at best is not known")
    return error


@PROPERTIES.holds(
    "labels reach the rows they belong to", 1e-12, "the condition is not passed on row by row"
)
@where_rows_are_apart
def labels_by_row(subject: Subject) -> float:
    """Another label in the last row changes the last row's loss, and no other's."""
    method = subject.make()
    models = everyone(subject.network(classes=3), method)
    inputs = subject.batch(method)
    return mixed_up(lambda labels: method.loss(models, *inputs, labels).detach(), 6, 1)


def as_map(network: Callable[..., Tensor]) -> Any:
    """A function as a flow map."""
    network.ends = 1  # type: ignore[attr-defined]
    return network


AT_A = "r = a asks no network at r"
PER_ROW = {
    ITEMS,
    f"{ITEMS}, under dropout",
    "labels reach the rows they belong to",
}


def checks_of(
    subject: Subject,
    name: str,
    method: str | None = None,
    quick: bool = True,
    without: Set[str] = frozenset(),
) -> list[Check]:
    """The properties of a method; those of single rows unless its rows depend on their batch."""
    one = subject.make()
    if depends_on_batch(one):
        without = without | PER_ROW
    if abilities.guess(one.target):  # which asks for the velocity there
        without = without | {AT_A}
    return PROPERTIES.checks(subject, name, method=method, quick=quick, without=without)
