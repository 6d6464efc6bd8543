"""What a method's parts give is looked at before the first step, and errors name the part."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.analysis.verify.builtin import METHODS, build
from fewstep.analysis.verify.fixtures import cast
from fewstep.analysis.verify.structure import Subject
from fewstep.base.errors import UserError
from fewstep.core import parts
from fewstep.training import preflight
from tests.support.own_parts import OwnLoss
from tests.support.toys import tiny_run

BASE = fs.methods.ect(c=0.0)
ROWS = "expected one number for each of 3 rows: "


class Moved:
    """The times of ect with another r, by t and progress."""

    def __init__(self, r):
        self.r = r

    def __call__(self, u, progress, ordinal=None):
        times = BASE.times(u, progress, ordinal)
        return times._replace(r=self.r(times.t, progress))

    def at(self, t, progress):
        return BASE.times.at(t, progress)


class WrongSum(OwnLoss):
    """A loss of its own, for all rows together."""

    def loss(self, *args, **options):
        return super().loss(*args, **options).sum()


def broken(x, y):
    raise KeyError("scale")


def square(x, y):
    return (x - y).square()


WRONG = {
    "elements": ({"distance": square}, "the distance of .* gave shape (3, 2), " + ROWS),
    "mean": ({"distance": lambda x, y: square(x, y).mean()}, "gave shape (), " + ROWS),
    "other axis": ({"distance": lambda x, y: square(x, y).mean(0)}, "gave shape (2,), " + ROWS),
    "one argument": ({"distance": lambda x: x}, "the distance of .* fails: TypeError: .*<lambda>"),
    "line": ({"distance": broken}, "fails: KeyError: 'scale' (test_own_parts.py, line "),
    "number": ({"weight": lambda p, t: 1.0}, "the weight of .* gave 1.0, " + ROWS),
    "no times": ({"weight": lambda p: 1}, "; expected weight(process, times) -> [B]"),
    "length": ({"weight": lambda p, t: torch.ones(7)}, "the weight of .* gave shape (7,), "),
    "balance": ({"balance": lambda x, t, m: x.mean()}, "the balance of .* gave shape (), "),
    "term": ({"terms": (lambda *_: torch.ones(1),)}, "the term of .* gave shape (1,), "),
    "space": ({"space": lambda p, x, x0, t: x0[:1]}, "shape (1, 2), expected 3 rows: space("),
    "coupling": ({"coupling": lambda m, p, x, *_: x}, "expected two of shape (3, 2): coupling("),
    "told": ({"tell": lambda times: times}, "the tell of .* fails: TypeError: "),
    "denoiser": (
        {"target": lambda models: lambda x, t, cond: x[:, :1]},
        "the target's denoiser of .* gave shape (3, 1), expected shape (3, 2): ",
    ),
    "target": ({"target": lambda models: 3}, "the target of .* gave 3, expected a denoiser: "),
    "no gradient": (
        {"distance": lambda x, y: square(x, y).mean(1).detach()},
        "no gradient reaches the student",
    ),
    "times": ({"times": lambda *_: 3}, "the times of .* gave 3, expected fewstep.Times: times("),
    "r above t": (
        {"times": Moved(lambda t, p: 2 * t)},
        "the times of .* at progress 0: r = .*expected a <= r <= t",
    ),
    "r above t later": (
        {"times": Moved(lambda t, p: t * (0.1 + 1.2 * p))},
        "the times of .* at progress 0.83: r = .*expected a <= r <= t",
    ),
    "r below a": ({"times": Moved(lambda t, p: -t)}, "a = 0 and r = -.*expected a <= r <= t"),
    "one r": ({"times": Moved(lambda t, p: t[:1])}, "r is shape (1,), expected one time for each"),
}


def pattern(text: str) -> str:
    """Of a text in which .* stands for anything."""
    return ".*".join(map(re.escape, text.split(".*")))


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_part_is_named_before_the_first_step(case, tmp_path):
    values, text = WRONG[case]
    with pytest.raises(UserError, match=pattern(text)) as caught:
        fs.train(
            tiny_run(),
            method=replace(BASE, **values),
            out=tmp_path / "run",
            progress=False,
            device="cpu",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_loss_of_its_own_is_one_number_for_each_row():
    method = WrongSum(times=BASE.times, target=BASE.target)
    with pytest.raises(UserError, match=pattern("the loss of your method is shape (), expected")):
        fs.train(tiny_run(), method=method, progress=False, device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dist": 3}, "unknown part of a method 'dist': did you mean 'distance'?"),
        ({"times": 3}, "times = 3: expected times(u, progress, ordinal) -> Times"),
        ({"coupling": "heun"}, "coupling = 'heun': expected coupling(models, process, "),
        ({"terms": square}, "expected a tuple of term("),
        ({"terms": (3,)}, "terms[0] = 3: expected term("),
    ],
)
def test_what_is_no_part_is_refused_where_the_method_is_made(values, message):
    with pytest.raises(UserError, match=re.escape(message)):
        fs.Method(**{"times": BASE.times, **values})


class Narrow(nn.Module):
    """A network of pictures with one channel, whatever the data are."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x, noise_label, cond=None):
        return self.layer(x)


class Plain(Narrow):
    """One that fits the data."""

    def forward(self, x, noise_label, cond=None):
        return self.layer.weight[0, 0] * x


class Picky(Plain):
    """One that raises for every input."""

    def forward(self, x, noise_label, cond=None):
        raise RuntimeError("no such size")


class Keyed(Plain):
    """One that looks for what is not there."""

    def forward(self, x, noise_label, cond=None):
        return {}["scale"]


class Pair(Plain):
    """One that fits the data alone."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.layer = nn.Linear(2, 2)

    def forward(self, x, noise_label, cond=None):
        return self.layer(x)


def ask_for_one_number(process, models, x_t, x_r, times, cond, run):
    return run(models.student, x_t[:, :1], times.t, cond)


class Shy:
    """A target that asks the student for less than a row."""

    needs = frozenset({"student"})
    goal = staticmethod(ask_for_one_number)

    def __call__(self, models):
        return models.student


class Forgetful(OwnLoss):
    """A loss of its own that fails outside the network."""

    def loss(self, *args, **options):
        return super().loss(*args, **options) * {}["scale"]


SHY = "the target's goal of your method fails: RuntimeError: "
KEYED = "fails on data of shape (2,): KeyError: 'scale' (test_own_parts.py, line "


@pytest.mark.parametrize(
    ("values", "network", "message"),
    [
        ({"distance": broken}, Plain, "the distance of your method fails: KeyError: "),
        ({}, Narrow, "the network '.*Narrow' fails on data of shape (2,): "),
        ({"target": Shy()}, None, SHY),
        ({"target": Shy()}, Pair, SHY),
        (
            {"target": fs.targets.Ema()},
            Picky,
            "the network '.*Picky' fails on data of shape (2,): ",
        ),
        ({}, Keyed, KEYED),
    ],
)
def test_who_is_to_blame_where_a_network_fails_inside_a_part(values, network, message):
    options = {} if network is None else {"network_options": {}}
    method = replace(BASE, **values)
    with pytest.raises(UserError, match=pattern(message)):
        fs.train(tiny_run(**options), None, network, method=method, progress=False, device="cpu")


@pytest.mark.parametrize("method", ["gc", "ect", "cd", "tcm", "sct"])
@pytest.mark.parametrize(("network", "message"), [(Picky, ": no such size; "), (Keyed, KEYED)])
def test_a_method_of_ours_is_not_to_blame_for_a_network(method, network, message):
    options = {"teacher": "exact:ring8"} if method == "cd" else {}
    run = tiny_run(method=method, method_options={}, network_options={}, **options)
    with pytest.raises(UserError, match=f"^the network '.*{network.__name__}' fails") as caught:
        fs.train(run, None, network, progress=False, device="cpu")
    assert message in str(caught.value)


@pytest.mark.parametrize("network", [None, Pair])
def test_a_loss_of_its_own_is_to_blame_for_what_it_does_outside_the_network(network):
    options = {} if network is None else {"network_options": {}}
    method = Forgetful(times=BASE.times, target=BASE.target)
    message = "the loss of your method fails: KeyError: 'scale' (test_own_parts.py, line "
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        fs.train(tiny_run(**options), None, network, method=method, progress=False, device="cpu")


def times_of(t, r):
    return fs.Times(t=t, r=r, a=torch.zeros_like(t), w=torch.ones_like(t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_may_be_out_of_order_by_what_their_dtype_rounds_off(dtype):
    t = torch.tensor([0.07609, 1.7, 80.0], dtype=torch.float64)
    above = t * (1 + 2 * torch.finfo(dtype).eps)
    parts.check_times(times_of(t.to(dtype), above.to(dtype)), 3, "x")
    parts.check_times(times_of(t, t.to(dtype)), 3, "x")  # each in a dtype of its own
    for r in (2 * t, t * (1 + 1e-5), torch.full_like(t, torch.inf), t * torch.nan):
        with pytest.raises(UserError, match="expected a <= r <= t"):
            parts.check_times(times_of(t.to(dtype), r.to(dtype)), 3, "x")


def test_times_in_float32_train():
    def in_float32(t, progress):
        return torch.where(t > 0, t.float() * (1 + 1e-7), t.float())

    method = replace(BASE, times=Moved(in_float32))
    fs.train(tiny_run(), method=method, progress=False, device="cpu")


def test_a_watched_part_can_be_copied():
    part = parts.watch(BASE, "x").target
    for one in (copy.copy(part), copy.deepcopy(part)):
        assert one.needs == BASE.target.needs


def test_a_folder_beside_the_package_is_the_users(tmp_path):
    def line(folder):
        code = compile("raise KeyError", str(folder / "own.py"), "exec")
        with pytest.raises(KeyError) as caught:
            exec(code, {})
        return parts.place_of(caught.value)

    assert line(parts.PACKAGE.with_name("fewstep_mine")) == " (own.py, line 1)"
    assert "own.py" not in line(parts.PACKAGE)


@pytest.mark.parametrize("title", METHODS)
def test_no_method_of_the_package_is_refused_and_no_loss_changes(title):
    method = build(*METHODS[title])
    subject = Subject(lambda: method)
    for inputs in subject.batches(method):
        parts.check_times(inputs[2], len(inputs[0]), title)
        loss, seen = (
            one.loss(cast().models(), *inputs) for one in (method, parts.watch(method, title))
        )
        assert torch.equal(loss, seen)
        parts.check_loss(seen, len(inputs[0]), title)


@pytest.mark.parametrize(
    ("group", "shape", "rows"), [(1, (2,), 3), (1, (3, 4, 5), 2), (4, (4,), 8), (4, (8, 4), 12)]
)
def test_the_rows_of_a_trial_are_no_size_of_the_data(group, shape, rows):
    distance = fs.distances.Mmd(joins=group)
    batch = preflight.Batch(None, torch.zeros(16, *shape), None, None, None, [])
    assert preflight.rows_of(replace(BASE, distance=distance), batch) == rows


def test_one_number_may_weigh_all_rows():
    """It is no mistake: it multiplies every row alike."""
    runs = [
        fs.train(tiny_run(), method=replace(BASE, weight=weight), progress=False, device="cpu")
        for weight in (lambda p, t: torch.tensor(2.0), lambda p, t: 2 * torch.ones_like(t.t))
    ]
    assert runs[0].fingerprint == runs[1].fingerprint
