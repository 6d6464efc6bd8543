"""Real connections: slow and greedy clients, ports, signals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import fewstep as fs
from fewstep.cli import main
from fewstep.cli.parse import parse
from fewstep.cli.serve import Args
from fewstep.serve import batching
from fewstep.serve import server as module
from fewstep.serve.app import app
from fewstep.serve.limits import Limits
from fewstep.serve.server import address, bind, is_loopback, server
from tests.serve.test_app import Waiting

ROOT = Path(__file__).parents[2]
QUICK = Limits(read_seconds=0.3, idle_seconds=0.3, stall_seconds=0.3, connections=4)


@pytest.fixture(scope="module")
def digits():
    return fs.load("digits", device="cpu")


@contextmanager
def running(g, limits=QUICK):
    """A server in a thread; yields its port."""
    one, ready = bind("127.0.0.1", 0), threading.Event()
    running_server = server(app(g, limits, workers=1), limits, ready.set)
    thread = threading.Thread(target=running_server.run, args=([one],))
    thread.start()
    try:
        assert ready.wait(10)
        yield one.getsockname()[1]
    finally:
        running_server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(digits):
    with running(digits) as number:
        yield number


def connect(port):
    one = socket.create_connection(("127.0.0.1", port), timeout=10)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def request(body, *lines):
    head = ["POST /v1/samples HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*head, *lines, "", ""]).encode() + body


def whole(wish, *lines):
    body = json.dumps(wish).encode()
    return request(body, f"Content-Length: {len(body)}", *lines)


def read_all(one):
    """Everything until the other side closes: status and content of the first answer."""
    content = b""
    while piece := one.recv(65536):
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def answers(port):
    """Whether the server still gives samples."""
    with connect(port) as one:
        one.sendall(whole({"n": 2, "seed": 1}, "Connection: close"))
        status, body = read_all(one)
    return status == 200 and json.loads(body)["shape"] == [2, 1, 8, 8]


def test_a_connection_serves_many_requests_and_ends_when_idle(port):
    with connect(port) as one, one.makefile("rb") as file:
        for _ in range(3):
            one.sendall(whole({"n": 1, "seed": 1}))
            assert file.readline().startswith(b"HTTP/1.1 200")
            sizes = [line for line in iter(file.readline, b"\r\n") if b"content-length" in line]
            assert json.loads(file.read(int(sizes[0].split()[1])))["seed"] == 1
        start = time.monotonic()
        assert file.read() == b""
        assert 0.1 < time.monotonic() - start < 5


def slow_answer(port, first, more):
    """The answer to a request that never ends, slow, but never idle.

    A piece that is on its way when the server closes resets the connection, which is no fault.
    """
    for _ in range(4):
        with suppress(ConnectionResetError), connect(port) as one:
            one.sendall(first)
            start = time.monotonic()
            while not select.select([one], [], [], 0.05)[0]:
                assert time.monotonic() - start < 5
                one.sendall(more)
            return read_all(one)
    raise AssertionError("reset each time")


def test_slow_heads_and_bodies_are_turned_away(port):
    for first, more in (
        (b"POST /v1/samples HTTP/1.1\r\n", b"X: y\r\n"),
        (request(b"{", "Content-Length: 4000"), b" "),
        (request(b"", "Transfer-Encoding: chunked"), b"1\r\n \r\n"),
    ):
        status, body = slow_answer(port, first, more)
        assert status == 408
        assert "quicker" in json.loads(body)["error"]
    assert answers(port)


def test_a_connection_without_a_word_ends(port):
    with connect(port) as one:
        assert read_all(one)[0] == 408


def test_large_bodies_are_refused_with_and_without_their_length(port):
    blank = b" " * 30000
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(blank), blank) for _ in range(30)) + b"0\r\n\r\n"
    for content in (
        request(blank * 30, f"Content-Length: {30 * len(blank)}"),
        request(chunks, "Transfer-Encoding: chunked"),
        request(b"", "Content-Length: 99999999", "Expect: 100-continue"),
    ):
        with connect(port) as one:
            one.sendall(content)
            status, body = read_all(one)
            assert status == 413
            assert "65536 bytes" in json.loads(body)["error"]
    assert answers(port)


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 400000 + b"\r\n\r\n",
        request(b"zz\r\n", "Transfer-Encoding: chunked"),
        request(b"{}", "Content-Length: -2"),
        request(b"{}", "Content-Length: 2", "Content-Length: 3"),
    ],
)
def test_what_is_no_http_is_one_line(port, content):
    with connect(port) as one:
        one.sendall(content)
        status, body = read_all(one)
        assert status == 400
        assert json.loads(body).keys() == {"error"}
    assert answers(port)


def test_too_many_connections_are_turned_away(port):
    idle = [connect(port) for _ in range(4)]
    time.sleep(0.05)
    with connect(port) as one:
        status, body = read_all(one)
    assert status == 503
    assert "too many connections" in json.loads(body)["error"]
    for one in idle:
        one.close()
    time.sleep(0.05)
    assert answers(port)


def test_who_goes_away_is_not_worked_for(digits, monkeypatch):
    with running(digits) as number:
        waiting = Waiting(monkeypatch)
        seeds = []

        def spy(g, pieces):
            seeds.extend(plan.seed for plan, _ in pieces)
            return waiting(g, pieces)

        monkeypatch.setattr(batching, "make", spy)
        with connect(number) as first:
            first.sendall(whole({"seed": 1}, "Connection: close"))
            assert waiting.busy.wait(10)
            with connect(number) as second:
                second.sendall(whole({"seed": 2}))
                time.sleep(0.1)
            time.sleep(0.1)
            waiting.go.set()
            assert read_all(first)[0] == 200
        assert answers(number)
        assert 2 not in seeds


def test_who_never_reads_is_cut_off_and_its_place_is_free_again(digits):
    limits = Limits(stall_seconds=0.2, n=40_000, queue=40_000)  # an answer of 10 MB
    with running(digits, limits) as number, connect(number) as greedy:
        greedy.sendall(whole({"n": 40_000, "format": "npy"}))
        deadline = time.monotonic() + 10
        statuses = []
        while (503 not in statuses or statuses[-1] != 200) and time.monotonic() < deadline:
            with connect(number) as one:
                one.sendall(whole({"n": 1}, "Connection: close"))
                statuses.append(read_all(one)[0])
            time.sleep(0.05)
        assert 503 in statuses
        assert statuses[-1] == 200


def test_the_verb_answers_and_ends_by_a_signal_with_nothing_lost(tmp_path, capsys):
    command = [sys.executable, "-m", "fewstep", "serve", "digits", "--port", "0", "--no-page"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        line = process.stdout.readline()
        number = re.fullmatch(r"ect on digits at http://127\.0\.0\.1:(\d+): up to 1024 .*\n", line)
        number = int(number[1])
        with connect(number) as one:
            one.sendall(whole({"n": 1024, "steps": 40, "format": "npy"}))
            time.sleep(0.2)
            os.kill(process.pid, signal.SIGTERM)
            status, body = read_all(one)
        assert status == 200
        assert len(body) == 128 + 4 * 1024 * 64
        assert process.wait(20) == 0
        assert process.stdout.read() == process.stderr.read() == ""
    with bind("127.0.0.1", 0) as other:
        other.listen()
        taken = str(other.getsockname()[1])
        assert main(["serve", "digits", "--port", taken]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--port {taken}: Address already in use" in error


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nowhere"], 2, "no run folder nowhere"),
        (["digits", "--port", "99999"], 2, "--port = 99999"),
        (["digits", "--host", "nowhere.invalid"], 2, "--host nowhere.invalid"),
        (["digits", "--max-n", "0"], 2, "n = 0"),
        (["digits", "--batch", "0"], 2, "--batch = 0"),
    ],
)
def test_a_server_that_cannot_be_is_one_line(capsys, words, code, line):
    assert main(["serve", *words, *(["--port", "0"] if "--port" not in words else [])]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_address_that_others_reach_is_one_warning(capsys, monkeypatch, host):
    class Ends:
        def run(self, sockets):
            self.when_ready()

    def ends(page, limits, when_ready):
        one = Ends()
        one.when_ready = when_ready
        pages.append(page)
        return one

    pages = []
    monkeypatch.setattr(module, "server", ends)
    assert main(["serve", "digits", "--host", host, "--port", "0", "--quiet", "--no-page"]) == 0
    text = capsys.readouterr()
    is_open = host == "0.0.0.0"
    assert text.out == ""
    assert text.err.count("\n") == is_open
    assert ("there is no password" in text.err) == is_open
    assert bool(pages[0].user_middleware) != is_open


def test_a_missing_library_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "digits"]) == 2
    assert "pip install 'fewstep[serve]'" in capsys.readouterr().err


def test_addresses_are_urls_and_loopback_is_told_apart():
    with bind("127.0.0.1", 0) as one, bind("0.0.0.0", 0) as all_of_them:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address(one))
        assert is_loopback(one)
        assert not is_loopback(all_of_them)


def test_the_pages_example_gets_its_samples(port, digits):
    page = (ROOT / "docs" / "serve.md").read_text()
    code, scope = re.search(r"```py\n(.*?)```", page, re.S)[1], {}
    exec(code.replace(":8000/", f":{port}/"), scope)
    assert (scope["samples"] == digits.sample(16, cond=7, seed=0).numpy()).all()
    assert scope["seed"] == 0


def test_the_image_has_the_files_and_words_it_names():
    text = (ROOT / "Dockerfile").read_text()
    copies = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    names = [name for words in copies for name in words if not name.startswith(("-", "/"))]
    rules = (ROOT / ".dockerignore").read_text().split()
    assert {"src", "constraints.txt"} <= set(names)
    assert all((ROOT / name).exists() and f"!{name}" in rules for name in names)
    words = [
        *json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1]),
        *json.loads(re.search(r"^CMD (.*)$", text, re.M)[1]),
    ]
    assert words[:2] == ["fewstep", "serve"]
    args = parse(Args, words[2:], verb="serve", description="")
    assert (args.run, args.host, args.port) == ("digits", "0.0.0.0", 8000)
