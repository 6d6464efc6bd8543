"""Runs as pages: nothing is written, torn files are a line, and the doctor waits to be asked."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from subprocess import PIPE
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.cli import main
from fewstep.run.checkpoint import RunFolder, peek
from fewstep.run.prepare import prepare
from fewstep.training.schedule import schedule
from fewstep.watch import examination
from fewstep.watch.app import app
from fewstep.watch.reading import LogReader, Runs
from tests.support.toys import TINY

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
PAGES = ("/", "/compare", "/run/0", "/run/0/doctor")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    assert main(["train", "toy", *TINY, "--eval-every", "3", "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the run in a folder of runs."""
    return shutil.copytree(trained, tmp_path / "runs" / "toy")


@pytest.fixture
def client(folder):
    with TestClient(app(Runs([str(folder.parent)]))) as one:
        yield one


@pytest.fixture
def asked(monkeypatch):
    """The folders that the doctor was asked for; its answer takes no evaluation."""
    calls = []

    def examine(path, device):
        calls.append(path)
        raise UserError("the data are gone")

    monkeypatch.setattr(examination, "subject_of", examine)
    return calls


def text(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert "Traceback" not in answer.text
    return answer.text


def state(client):
    return re.search(r'class="verdict \w+">(\w+)<', text(client, "/run/0"))[1]


def contents(folder):
    """Every file and folder below it: when it was changed, and what it holds."""
    paths = sorted([folder, *folder.rglob("*")])
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in paths
    }


def until_done(client, path="/run/0/doctor"):
    for _ in range(600):
        page = text(client, path)
        if "examines this run now" not in page:
            return page
        time.sleep(0.1)
    raise AssertionError("the doctor does not end")


def test_no_page_and_no_examination_changes_the_folder(client, folder):
    before = contents(folder.parent)
    for path in PAGES:
        text(client, path)
    assert client.get("/run/0/doctor/start", follow_redirects=False).status_code == 303
    page = until_done(client)
    assert "verdict: " in page
    assert "training log" in page
    assert "verdict: " in text(client, "/run/0")
    assert contents(folder.parent) == before


def test_a_run_and_its_parts_are_on_its_page(client):
    page = text(client, "/run/0")
    assert "6 of 6" in page
    for title in ("Training", "Schedule", "Doctor", "Settings"):
        assert f"<h2>{title}</h2>" in page
    for alt in ("loss", "norm of the gradient", "energy", "planned learning rate", "noise levels"):
        assert f'alt="{alt} against steps"' in page
    assert "<h2>Incidents</h2>" not in page
    assert "settings are alike" in text(client, "/compare")
    assert state(client) == "done"


def test_a_run_in_training_shows_its_newest_step(client, folder):
    log = folder / "metrics.jsonl"
    rows = [row for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
    shutil.rmtree(folder / "checkpoints")
    log.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert state(client) == "stopped"
    about = {"pid": os.getpid(), "host": platform.node(), "since": "now"}
    (folder / "lock").write_text(json.dumps(about))
    assert state(client) == "training"
    assert "2 of 6" in text(client, "/run/0")
    with log.open("a") as file:
        file.write(json.dumps({**rows[2], "loss": 0.1234}) + "\n")
    for path in ("/", "/run/0"):
        page = text(client, path)
        assert "3 of 6" in page
        assert "0.1234" in page
    assert " left" in text(client, "/run/0")
    (folder / "lock").write_text(json.dumps({**about, "pid": 2**22 + 1}))  # above any process's
    assert state(client) == "stopped"


def test_a_torn_log_is_a_line(client, folder):
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text(
        "\n".join([lines[0], "[1]", '{"step": "x"}', '{"loss":', lines[1], lines[2][:9]])
    )
    for path in ("/", "/run/0"):
        page = text(client, path)
        assert "its last line is not whole yet" in page
        assert "3 lines are no rows of a log" in page
    text(client, "/compare")


def test_the_log_is_read_on_where_it_ended(tmp_path):
    path, problems = tmp_path / "log", []
    reader = LogReader(path)
    assert reader.read(problems) == []
    path.write_bytes(b'{"step": 1, "loss": NaN}\n{"step"')
    first = reader.read(problems)
    assert first == [{"step": 1, "loss": None}]
    with path.open("ab") as file:
        file.write(b": 2}\n")
    assert reader.read(problems) == [*first, {"step": 2}]
    assert len(first) == 1
    new = tmp_path / "new"  # as a run that goes on writes it
    new.write_bytes(b'{"step": 1}\n')
    new.replace(path)
    assert reader.read(problems) == [{"step": 1}]


def test_a_run_without_a_checkpoint_is_shown(client, folder):
    shutil.rmtree(folder / "checkpoints")
    assert "there is no checkpoint yet" in text(client, "/run/0")
    assert "No run has a checkpoint yet" in text(client, "/compare")
    assert client.get("/run/0/doctor/start").status_code == 409
    (folder / "run.json").unlink()
    assert "run.json is not there yet" in text(client, "/")
    assert "run.json is not there yet" in text(client, "/run/0")


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"{}", b"\xff\x00" * 40, b"[" * 90_000, None])
def test_whatever_a_file_holds_is_a_line(client, folder, junk):
    """None: the file is a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    for path in [*files, folder / "lock", samples / "step-6.png", samples / "step-x.png"]:
        path.unlink(missing_ok=True)
        path.mkdir() if junk is None else path.write_bytes(junk)
        for page in PAGES:
            text(client, page)
    shutil.rmtree(folder)
    for page in PAGES:
        text(client, page)
    assert "is not there" in text(client, "/run/0")


def test_an_incident_is_shown_with_its_reason(client, folder):
    path = shutil.copytree(folder / "checkpoints" / "step-6", folder / "incidents" / "step-6")
    facts = json.loads((path / "state.json").read_text())
    facts["incident"] = {"error": "step 6: the loss <b>of 3 rows</b> is not finite", "progress": 1}
    (path / "state.json").write_text(json.dumps(facts))
    page = text(client, "/run/0")
    assert "the loss &lt;b&gt;of 3 rows&lt;/b&gt; is not finite" in page
    assert f"fewstep replay {path}" in page
    settings = json.loads((folder / "run.json").read_text()) | {"iterations": 60}
    (folder / "run.json").write_text(json.dumps(settings))
    assert state(client) == "incident"
    about = {"pid": os.getpid(), "host": platform.node()}
    (folder / "lock").write_text(json.dumps(about))
    assert state(client) == "training"  # it goes on


@pytest.mark.parametrize(
    "path",
    [
        *("/run/1", "/run/-1", "/run/00000000000", "/run/0x0", "/run/", "/run/%C2%B2", "/run"),
        *("/run/..%2f..%2fetc%2fpasswd", "/..%2frun.json", "/run/0/run.json", "/run/0/", "//run/0"),
        f"/run/{'9' * 5000}",
        "/run/0%00",
        "/run/toy",
    ],
)
def test_a_path_that_names_no_page_is_a_line(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.content.count(b"\n") == 1
    assert answer.json().keys() == {"error"}
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_pages_are_only_read(client, asked, method):
    for path in (*PAGES, "/run/0/doctor/start", "/refresh.js"):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert answer.content.count(b"\n") == 1
    assert asked == []


def test_pages_load_nothing_from_elsewhere(client):
    for path in PAGES:
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'sha256-")
        style = re.search("<style>(.*?)</style>", answer.text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
        assert "style=" not in answer.text
        assert all(
            name.startswith("data:image/") for name in re.findall('img src="([^"]*)', answer.text)
        )
    assert re.findall('src="(/[^"]*)', text(client, "/run/0")) == ["/refresh.js"]
    assert "javascript" in client.get("/refresh.js").headers["content-type"]


def test_other_names_are_refused(folder):
    with TestClient(app(Runs([str(folder)]), hosts=["localhost"])) as one:
        assert one.get("/", headers={"Host": "localhost:8000"}).status_code == 200
        for path in (*PAGES, "/nowhere"):
            assert one.get(path, headers={"Host": "evil.example"}).status_code == 421


def test_the_doctor_runs_when_it_is_asked_alone(client, asked):
    for path in PAGES * 2:
        text(client, path)
    for head in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Purpose": "prefetch;prerender"}):
        assert client.get("/run/0/doctor/start", headers=head).status_code == 403
    time.sleep(0.2)
    assert asked == []
    client.get("/run/0/doctor/start", headers={"Sec-Fetch-Site": "same-origin"})
    assert "the data are gone" in until_done(client)
    assert [path.name for path in asked] == ["step-6"]
    text(client, "/run/0/doctor")
    assert len(asked) == 1


def test_the_doctor_has_one_run_at_a_time_and_remembers(folder, monkeypatch):
    shutil.copytree(folder, folder.with_name("twin"))
    other = folder.with_name("other")
    words = ["train", "toy", *TINY, "--seed", "5", "--out", str(other), "--quiet"]
    assert main(words) == 0
    may_end, calls = threading.Event(), []

    def examine(subject):
        calls.append(subject)
        assert may_end.wait(20)
        return examination.Examination("toy", "about", ())

    monkeypatch.setattr(examination, "subject_of", lambda path, device: path)
    monkeypatch.setattr(examination, "run_examination", examine)
    with TestClient(app(Runs([str(folder), str(other), str(folder.with_name("twin"))]))) as one:
        start = "/run/{}/doctor/start"
        assert one.get(start.format(0), follow_redirects=False).status_code == 303
        assert one.get(start.format(0), follow_redirects=False).status_code == 303
        assert one.get(start.format(1), follow_redirects=False).status_code == 503
        assert "examines this run now" in text(one, "/run/0/doctor")
        may_end.set()
        until_done(one)
        for number in (0, 2):  # of the same fingerprint
            assert one.get(start.format(number), follow_redirects=False).status_code == 303
            assert "nothing could be measured" in until_done(one, f"/run/{number}/doctor")
        assert len(calls) == 1


def test_new_runs_stand_behind_the_others(client, folder):
    before = text(client, "/")
    assert "1 run," in before
    name = "a<script>alert(1)</script>".replace("/", "\u2215")
    shutil.copytree(folder, folder.with_name(name))
    page = text(client, "/")
    assert "2 runs" in page
    assert "<script>alert" not in page
    assert page.index("/run/0") < page.index("/run/1")
    assert "Run toy" in text(client, "/run/0")
    assert "<script>alert" not in text(client, "/run/1")
    assert "What differs" in text(client, "/compare")


def test_a_sweep_stands_for_its_runs(tmp_path):
    sweep = tmp_path / "sweep"
    words = ["--seed", "0,1", "--no-eval", "--out", str(sweep), "--jobs", "1", "--quiet"]
    assert main(["sweep", "toy", *TINY, *words]) == 0
    shutil.rmtree(sweep / "seed-1")
    with TestClient(app(Runs([str(sweep)]))) as one:
        page = text(one, "/")
        assert "seed-0" in page
        assert "seed-1 is not there" in page


def test_peek_says_what_the_whole_check_says(folder):
    checkpoint = RunFolder(folder).newest()
    quick = peek(checkpoint.path)
    assert (quick.state, quick.hashes, quick.sizes) == (
        checkpoint.state,
        checkpoint.hashes,
        checkpoint.sizes,
    )


def test_the_schedule_is_that_of_the_log(trained, monkeypatch):
    """The planned rates are those that training logged."""
    from fewstep.run.stages import stage_at, stages
    from fewstep.training.schedule import _rate

    run = RunFolder(trained).newest().record.run
    plan = stages(run, prepare(run, device="cpu").method)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    assert rates == {n: _rate(stage_at(plan, n - 1), n - 1) for n in range(1, 7)}
    for name in ("ect", "tcm", "sct", "meanflow", "diffusion", "direct_cm"):
        one = fs.recipes.toy(iterations=40, method=name)
        drawings = schedule(one, getattr(fs.methods, name)(), 10)
        assert all(image.startswith(b"\x89PNG") for image in drawings.values())


def test_a_signal_ends_the_command_whatever_the_doctor_does(folder):
    command = [sys.executable, "-m", "fewstep", "watch", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        place = re.search(r"1 run at http://(127\.0\.0\.1):(\d+)", process.stdout.readline())
        connection = http.client.HTTPConnection(place[1], int(place[2]), timeout=20)
        with closing(connection):
            connection.request("GET", "/run/0/doctor/start", headers={"Connection": "close"})
            assert connection.getresponse().status == 303
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_folder_without_a_run_is_told(tmp_path, monkeypatch, capsys):
    def announce_alone(page, limits, announce):
        return SimpleNamespace(run=lambda sockets: announce())

    monkeypatch.setattr("fewstep.serve.server.server", announce_alone)
    assert main(["watch", str(tmp_path), "--port", "0"]) == 0
    assert f"no run in {tmp_path} yet: one that begins there appears" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    assert main(["watch"]) == 2
    assert "name a RUN" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "none")]) == 2
    line = f"{tmp_path / 'none'} does not exist: expected the folder of a run"
    assert line in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--port", "70000"]) == 2
    assert "--port = 70000: expected 0 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["watch", str(tmp_path)]) == 2
    assert "pip install 'fewstep[serve]'" in capsys.readouterr().err
