"""Samples as `Generator.sample` gives them, and one line of JSON for all that is wrong."""

from __future__ import annotations

import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.data.columns import Names
from fewstep.serve import batching
from fewstep.serve.app import app
from fewstep.serve.asking import read
from fewstep.serve.hosts import without_port
from fewstep.serve.limits import Limits
from tests.support.toys import tiny_run

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def digits():
    g = fs.load("digits", device="cpu")
    names = Names(classes=("zero", "one", "two", *"3456", "seven", "eight", "nine"))
    return replace(g, facts=replace(g.facts, names=names))


@pytest.fixture(scope="module")
def client(digits):
    with TestClient(app(digits, Limits(steps=8))) as one:
        yield one


@pytest.fixture(scope="module")
def featured():
    data = {
        "x0": torch.randn(40, 2, generator=generator(0, "x")),
        "cond": torch.randn(40, 2, generator=generator(0, "y")),
    }
    return fs.train(tiny_run(iterations=1), data, progress=False, device="cpu")


def array(response):
    assert response.status_code == 200, response.text
    return np.load(io.BytesIO(response.content), allow_pickle=False)


def reason(response, status):
    """The one line of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.content.count(b"\n") == 1
    assert response.json().keys() == {"error"}
    assert "Traceback" not in response.text
    return response.json()["error"]


@pytest.mark.parametrize("label", [None, 7, "seven", [3, "two", 5, 6]])
def test_samples_are_those_of_the_generator(client, digits, label):
    wish = {"n": 4, "seed": 3, "steps": 2, "label": label}
    cond = torch.tensor([3, 2, 5, 6]) if isinstance(label, list) else label
    expected = digits.sample(4, seed=3, steps=2, cond=cond)
    answer = client.post("/v1/samples", json={**wish, "format": "npy"})
    assert np.array_equal(array(answer), expected.numpy())
    assert answer.headers["x-seed"] == "3"
    assert answer.headers["content-type"] == "application/x-npy"
    told = client.post("/v1/samples", json=wish).json()
    assert np.array_equal(np.array(told["samples"], told["dtype"]), expected.numpy())
    assert told["shape"] == [4, 1, 8, 8]
    assert told["label"] == digits.conditions(4, cond).tolist()
    assert (told["seed"], told["fingerprint"]) == (3, digits.fingerprint)


def test_a_picture_is_the_one_that_sample_writes(client, digits, tmp_path):
    digits.write(tmp_path / "x.png", digits.sample(9, seed=1))
    answer = client.post(
        "/v1/samples", json={"n": 9, "seed": 1}, headers={"Accept": "text/html, image/png"}
    )
    assert answer.content == (tmp_path / "x.png").read_bytes()


def test_without_a_seed_the_server_draws_one_and_says_it(client):
    first, second = (client.post("/v1/samples", json={"n": 2}).json() for _ in range(2))
    assert first["seed"] != second["seed"]
    again = client.post("/v1/samples", json={"n": 2, "seed": first["seed"]}).json()
    assert again["samples"] == first["samples"]


def test_many_at_once_get_each_their_own(client, digits):
    def ask(seed):
        wish = {"n": 1 + seed % 5, "seed": seed, "format": "npy", "exact": seed % 2 == 0}
        return array(client.post("/v1/samples", json=wish))

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(24)))
    for seed, samples in enumerate(answers):
        expected = digits.sample(1 + seed % 5, seed=seed).numpy()
        np.testing.assert_allclose(samples, expected, rtol=1e-5, atol=1e-5)
        assert seed % 2 or np.array_equal(samples, expected)


def test_features_are_nested_lists(featured):
    with TestClient(app(featured)) as client:
        wish = {"n": 2, "seed": 1, "cond": [[0.5, -1], [0, 2.25]], "format": "npy"}
        expected = featured.sample(2, seed=1, cond=torch.tensor(wish["cond"]))
        assert np.array_equal(array(client.post("/v1/samples", json=wish)), expected.numpy())
        far = client.post("/v1/samples", json={"cond": [0, 900]}).json()
        assert re.search(r"= 900: the run knows .* can only guess", far["notes"][0])
        for bad in ([1, 2, 3], "x", [[1, 2]] * 3, {"a": 1}, [[1], [1, 2]], [None, 1], 10**30):
            reason(client.post("/v1/samples", json={"n": 2, "cond": bad}), 400)
        reason(client.post("/v1/samples", json={"n": 2}), 400)
        assert client.get("/v1/model").json()["conditions"] == {
            "cond": {"dtype": "float32", "shape": [2]}
        }


def test_the_model_and_its_health_are_told(client, digits):
    about = client.get("/v1/model").json()
    assert about["shape"] == [1, 8, 8]
    assert about["class_names"][7] == "seven"
    assert about["conditions"] == {"label": {"dtype": "int64", "shape": []}}
    assert about["steps"] == 1
    assert about["limits"]["n"] == 1024
    before = client.get("/health").json()
    client.post("/v1/samples", json={"n": 5})
    after = client.get("/health").json()
    assert after["ready"] is True
    assert after["samples"] == before["samples"] + 5
    assert after["queue"] == 0
    assert after["fingerprint"] == digits.fingerprint


DEEP = b'{"cond": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[1]", "expected an object"),
        (b"null", "expected an object"),
        (b'{"n": 1, "n": 2}', "the key 'n' stands twice"),
        (b'{"n": NaN}', "NaN is no JSON"),
        (b'{"cond": [1e999]}', "beyond what a float can hold"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "cannot be read"),
        (DEEP, "nested too deeply"),
        (b'{"cond": ' + b"[" * 300 + b"]" * 300 + b"}", "expected"),
        (b'{"step": 1}', "unknown key 'step': did you mean 'steps'"),
        (b'{"n": 0}', "n = 0: expected a whole number in 1 .. 1024"),
        (b'{"n": 1025}', "n = 1025"),
        (b'{"n": true}', "n = True"),
        (b'{"n": 1.0}', "n = 1.0"),
        (b'{"n": "4"}', "n = '4'"),
        (b'{"steps": 9}', "steps = 9: expected a whole number in 1 .. 8"),
        (b'{"seed": -1}', "seed = -1"),
        (b'{"seed": 1e3}', "seed = 1000.0"),
        (b'{"label": "sevn"}', "did you mean 'seven'"),
        (b'{"label": 10}', r"expected one of 0\.\.9"),
        (b'{"label": -1}', r"expected one of 0\.\.9"),
        (b'{"label": 1.5}', "label = 1.5"),
        (b'{"label": true}', "label = True"),
        (b'{"label": [1, [2]]}', "expected"),
        (b'{"n": 2, "label": [1, 2, 3]}', "or 2 of them"),
        (b'{"label": 1, "cond": 1}', "one or the other"),
        (b'{"cond": {"label": {}}}', "label"),
        (b'{"sampler": "heum"}', "did you mean 'heun'"),
        (b'{"sampler": 1}', "sampler = 1"),
        (b'{"sampler": "heun", "steps": 2}', "try 1 or 3"),
        (b'{"format": "gif"}', "unknown format 'gif'"),
        (b'{"format": []}', "format"),
        (b'{"exact": 1}', "exact = 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(client, body, words):
    assert re.search(words, reason(client.post("/v1/samples", content=body, headers=JSON), 400))
    assert client.get("/health").json()["queue"] == 0


def test_pages_methods_types_and_sizes_that_are_not_there(client):
    post = client.post
    assert "/v1/samples" in reason(client.get("/v1/nothing"), 404)
    assert "/v1/samples" in reason(post("/v1/samples/", json={}), 404)
    wrong = client.get("/v1/samples")
    assert "expected POST" in reason(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    reason(client.delete("/health"), 405)
    reason(post("/v1/model", json={}), 405)
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        line = reason(post("/v1/samples", content=b"{}", headers={"Content-Type": kind}), 415)
        assert "expected application/json" in line
    zipped = {**JSON, "Content-Encoding": "gzip"}
    assert "gzip" in reason(post("/v1/samples", content=b"{}", headers=zipped), 415)
    assert "?n=2" in reason(post("/v1/samples?n=2", json={}), 400)
    assert "65536 bytes" in reason(post("/v1/samples", content=b" " * 65537, headers=JSON), 413)
    pieces = (b" " * 9000 for _ in range(9))
    assert "65536 bytes" in reason(post("/v1/samples", content=pieces, headers=JSON), 413)
    assert post("/v1/samples", content=b" " * 65534 + b"{}", headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("image/*", "png"),
        ("application/x-npy", "npy"),
        ("application/*;q=0.5, image/png;q=0.4", "json"),
        ("application/json;q=0.1, */*;q=0.5", "npy"),
        ("IMAGE/PNG; q=1", "png"),
        ("text/html", None),
        ("application/json;q=0", None),
        ("image/png;q=x", None),
    ],
)
def test_the_accept_header_chooses_the_format(client, accept, format):
    answer = client.post("/v1/samples", json={}, headers={"Accept": accept})
    if format is None:
        assert "expected one of application/json" in reason(answer, 406)
    else:
        kind = {"json": "application/json", "npy": "application/x-npy", "png": "image/png"}[format]
        assert answer.headers["content-type"] == kind


def test_the_format_in_the_body_comes_first():
    assert read(b'{"format": "npy"}', "text/html", Limits(), Names()).format == "npy"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8000", 421),
        ("", 421),
    ],
)
def test_on_this_machine_other_names_are_refused(digits, host, status):
    with TestClient(app(digits, hosts=("localhost", "127.0.0.1", "[::1]"))) as client:
        answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or "expected one of" in reason(answer, 421)


def test_ports_are_no_part_of_a_name():
    hosts = ("a:80", "[::1]", "[::1]:80", "A", ":80", "a:b")
    assert [*map(without_port, hosts)] == ["a", "[::1]", "[::1]", "a", "", "a:b"]


class Waiting:
    """Holds every batch up until `go`."""

    def __init__(self, monkeypatch):
        self.go, self.busy, self.make = threading.Event(), threading.Event(), batching.make
        monkeypatch.setattr(batching, "make", self)

    def __call__(self, g, pieces):
        self.busy.set()
        assert self.go.wait(10)
        return self.make(g, pieces)


def test_a_full_queue_says_when_to_try_again(digits, monkeypatch):
    limits = Limits(n=8, queue=10)
    with TestClient(app(digits, limits, workers=1)) as client, ThreadPoolExecutor(1) as pool:
        waiting = Waiting(monkeypatch)
        first = pool.submit(client.post, "/v1/samples", json={"n": 8, "format": "npy"})
        assert waiting.busy.wait(10)
        busy = client.post("/v1/samples", json={"n": 3})
        assert "at most 10" in reason(busy, 503)
        assert 1 <= int(busy.headers["retry-after"]) <= 60
        assert client.get("/health").json()["queue"] == 8
        waiting.go.set()
        assert array(first.result(10)).shape == (8, 1, 8, 8)
        assert client.post("/v1/samples", json={"n": 3}).status_code == 200


def test_what_takes_too_long_is_given_up(digits, monkeypatch):
    with TestClient(app(digits, Limits(seconds=0.1), workers=1)) as client:
        waiting = Waiting(monkeypatch)
        late = client.post("/v1/samples", json={"n": 3})
        assert "no samples within 0.1 seconds" in reason(late, 503)
        assert "retry-after" in late.headers
        waiting.go.set()
        assert client.get("/health").json()["queue"] == 0


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 503, "out of memory"),
        (RuntimeError("secret at /home/x"), 500, "the server failed at this request"),
        (None, 500, "not finite"),
    ],
)
def test_errors_of_the_network_are_one_line_and_the_server_lives(
    digits, monkeypatch, caplog, error, status, words
):
    real = batching.make

    def fails(g, pieces):
        if error is not None:
            raise error
        return torch.full((sum(len(rows) for _, rows in pieces), 1, 8, 8), torch.nan)

    with TestClient(app(replace(digits, room=replace(digits.room)), workers=1)) as client:
        monkeypatch.setattr(batching, "make", fails)
        line = reason(client.post("/v1/samples", json={"n": 3}), status)
        assert words in line
        assert "secret" not in line
        monkeypatch.setattr(batching, "make", real)
        assert client.post("/v1/samples", json={"n": 1}).status_code == 200


def test_limits_are_checked():
    for bad in ({"n": 0}, {"seconds": 0.0}, {"seconds": float("inf")}, {"queue": 5}, {"body": 0}):
        with pytest.raises(UserError, match=f"{next(iter(bad))} = "):
            Limits(**bad)


def test_a_line_of_json_is_one_value(client):
    answer = client.post("/v1/samples", json={"n": 3})
    assert json.loads(answer.text) == answer.json()
    assert answer.text.endswith("}\n")
