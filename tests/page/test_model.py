"""What the page is given makes the generator's samples, by a reader that knows its JSON alone."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import SAMPLING_BLOCK, normal
from fewstep.data import Units
from fewstep.data.columns import Column, Names
from fewstep.page import model
from fewstep.page.model import middle, model_of
from tests.export.generators import of_name, small
from tests.support.rows import long_if


def session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


class Reader:
    """Samples from the page's JSON and files, as the page makes them."""

    def __init__(self, made: model.Model, maker: dict[str, Any], n: int, seed: int) -> None:
        self.facts, self.maker = json.loads(json.dumps([made.facts, maker], allow_nan=False))
        self.files, self.n, self.seed = made.files, n, seed
        self.network = session(made.files[maker["file"]])
        self.cond = {}
        if self.facts["labels"] is not None:
            self.cond["label"] = np.arange(n) % self.facts["labels"]["count"]
        for one in self.facts["conditions"]:
            row = np.array(one["value"], dtype=one["dtype"]).reshape(one["shape"])
            self.cond[one["name"]] = np.broadcast_to(row, (n, *row.shape)).copy()

    def draw(self, stream: str) -> np.ndarray:
        shape = tuple(self.facts["shape"])
        return normal(self.seed, stream, 0, self.n, shape, SAMPLING_BLOCK).numpy()

    def guess(self, ask: dict[str, Any], vectors: dict[str, np.ndarray]) -> np.ndarray:
        point = combine(ask["point"], vectors)
        inputs = {"x": ask["in"] * point, "level": np.full(self.n, ask["level"])}
        if "end" in self.maker["inputs"]:
            inputs["end"] = np.tile(ask["end"], (self.n, 1))
        inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
        (raw,) = self.network.run(None, {**inputs, **self.cond})
        return ask["skip"] * point + ask["out"] * raw

    def samples(self, steps: int) -> np.ndarray:
        scheme = self.maker["schemes"][str(steps)]
        x = scheme["start"] * self.draw("prior").astype(np.float64)
        fresh = iter(scheme["noises"])
        past: list[tuple[np.ndarray, ...]] = []
        for step in scheme["steps"]:
            vectors = {"x": x}
            for age, (start, answer) in enumerate(reversed(past), start=1):
                vectors |= {f"past x {age}": start, f"past answer {age}": answer}
            if step["noisy"]:
                vectors["noise"] = self.draw(next(fresh))
            for place, ask in enumerate(step["asks"]):
                vectors[f"answer {place}"] = self.guess(ask, vectors)
            x = combine(step["result"], vectors)
            if step["memory"]:
                past.append(tuple(combine(part, vectors) for part in step["memory"]))
        units = session(self.files[self.maker["units"]])
        (result,) = units.run(None, {"x0": x.astype(np.float32)})
        return result


def combine(parts: list[tuple[str, float]], vectors: dict[str, np.ndarray]) -> np.ndarray:
    start = np.zeros_like(vectors["x"])
    return sum((factor * vectors[name] for name, factor in parts), start)


def sample(made: model.Model, maker: dict[str, Any], steps: int, n: int, seed: int) -> np.ndarray:
    return Reader(made, maker, n, seed).samples(steps)


def close(own: np.ndarray, truth: torch.Tensor, bound: float = 2e-5) -> None:
    scale = float(truth.double().std()) or 1.0
    assert np.abs(own - truth.numpy()).max() <= bound * max(scale, 1.0)


@cache
def page_of(name: str) -> tuple[fs.Generator, model.Model]:
    generator = of_name(name)
    return generator, model_of(generator)


NETWORKS = ("mlp", "dit", "unet", "set_transformer")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=long_if(name == "unet")) for name in NETWORKS]
)
def test_samples_are_the_generator_s(name):
    generator, made = page_of(name)
    (student,) = made.facts["makers"]
    assert student["why"] == ""
    assert student["sampler_steps"] == [1, 2, 4, 8]
    for steps in (1, 4):
        truth = generator.sample(5, steps=steps, seed=7, cond=middle(generator))
        close(sample(made, student, steps, 5, 7), truth)


@pytest.mark.parametrize(
    ("method", "sampler"),
    [("diffusion", "heun"), ("diffusion", "dpmpp_2m"), ("meanflow", None), ("mcm", None)],
)
def test_of_every_kind_of_step(method, sampler):
    """Several evaluations, a memory of earlier moves, ends, and one number of steps alone."""
    generator = small(method=method, classes=3).with_sampler(sampler)
    made = model_of(generator)
    (student,) = made.facts["makers"]
    for steps in student["sampler_steps"][-2:]:
        truth = generator.sample(3, steps=steps, seed=1)
        close(sample(made, student, steps, 3, 1), truth, 1e-4)


def test_the_check_is_the_default_s_samples():
    generator, made = page_of("dit")
    check = made.facts["check"]
    values = np.frombuffer(base64.b64decode(check["samples"]), "<f8")
    truth = generator.sample(check["n"], steps=check["steps"], seed=0, cond=middle(generator))
    assert np.array_equal(values, truth.numpy().ravel())


def test_the_condition_is_from_the_middle_of_the_data():
    found = {one["name"]: one for one in model.conditions(of_name("dit"))}
    assert found["features"]["value"] == [3.0, -1.0]
    assert found["features"]["has_controls"]
    assert all(found["mask"]["value"])
    assert not found["mask"]["has_controls"]


def test_columns_of_a_table_keep_their_types_and_categories():
    """Else a category's numbers would be taken for columns."""
    columns = (Column("age", "int"), Column("work", "category", ("own", "other")))
    assert model.view(small(names=Names(columns=columns)))["columns"] == [
        {"name": "age", "type": "int", "categories": []},
        {"name": "work", "type": "category", "categories": ["own", "other"]},
    ]


@pytest.mark.parametrize(
    ("shape", "axis", "expected"), [((4, 40), 0, 0), ((40, 4), 1, 1), ((9, 9), None, None)]
)
def test_the_page_knows_where_channels_are(shape, axis, expected):
    units = Units() if axis is None else Units((0.0,) * 4, (1.0,) * 4, axis=axis)
    assert model.view(small(shape=shape, units=units))["axis"] == expected


@pytest.mark.parametrize(
    ("run", "expected"),
    [({}, False), ({"latents": "mean-std"}, True), ({"units": "sd-latents"}, True)],
)
def test_latents_are_called_so(run, expected):
    generator = small()
    latent = replace(generator, run=replace(generator.run, **run))
    assert model.view(latent)["latents"] is expected


def test_a_teacher_stands_beside():
    student, teacher = small(classes=3), small(method="diffusion", classes=3)
    made = model_of(student, teacher.with_sampler("dpmpp_2m"))
    maker = made.facts["makers"][1]
    assert (maker["name"], maker["sampler_steps"]) == ("teacher", [20])
    close(sample(made, maker, 20, 3, 0), teacher.sample(3, sampler="dpmpp_2m", steps=20), 1e-4)
    with pytest.raises(UserError, match=r"teacher = \(4,\): expected one of the shape"):
        model_of(student, small(shape=(4,), classes=3))
    with pytest.raises(UserError, match=r"teacher = 'diffusion': expected another: .* not linear"):
        model_of(student, teacher.with_sampler("addim"))


def test_each_generator_has_its_own_units():
    """The page draws both in the data's units, whatever each was trained in."""
    student = small(classes=3, units=Units(5.0, 2.0))
    teacher = small(method="diffusion", classes=3, units=Units(-3.0, 0.1))
    made = model_of(student, teacher)
    for maker, generator in zip(made.facts["makers"], (student, teacher), strict=True):
        steps = maker["default"]
        close(sample(made, maker, steps, 3, 0), generator.sample(3, steps=steps), 1e-4)


def test_digits_beyond_float32_stay():
    generator = small(units=Units(1e9, 1.0))
    made = model_of(generator)
    (student,) = made.facts["makers"]
    own = sample(made, student, 1, 3, 0)
    truth = generator.sample(3)
    assert truth.dtype == torch.float64
    assert np.abs(own - truth.numpy()).max() < 1e-5


UNFIT = {
    "a first stage answers": lambda: small(method="tcm", composite=True),
    "guidance asks the network twice": lambda: replace(
        small(method="diffusion", classes=3), guidance=1.0
    ),
    "is not linear": lambda: small(method="diffusion").with_sampler("addim"),
    "0 MB of weights": lambda: small(),
}


@pytest.mark.parametrize("why", UNFIT)
def test_what_a_tab_cannot_do_is_left_to_the_server_and_said(monkeypatch, why):
    if "MB" in why:
        monkeypatch.setattr(model, "MOST", 1000)
    made = model_of(UNFIT[why]())
    (maker,) = made.facts["makers"]
    assert maker["file"] is None
    assert why in maker["why"]
    assert not made.files
    assert made.facts["check"] is None


def test_half_the_bytes_are_near():
    generator = small("mlp", (64,), {"width": 128, "depth": 1})
    whole, half = model_of(generator), model_of(generator, half=True)
    sizes = [len(made.files["student.onnx"]) for made in (whole, half)]
    assert sizes[1] < 0.65 * sizes[0]
    close(sample(half, half.facts["makers"][0], 1, 4, 0), generator.sample(4), 2e-2)


def test_a_run_tells_nothing_of_this_machine():
    made = model_of(small(units=Units(2.0, 3.0)))
    assert b"secret" not in b"".join(made.all_files().values())
