"""The page's routes: its files by name and nothing else, whether it was built or not."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.cli import main, serve
from fewstep.page import files
from fewstep.page.model import Model
from fewstep.serve.app import app
from fewstep.serve.pages import pages

MADE = Model({"data": "rows"}, {"student.onnx": b"network", "student-units.onnx": b"units"})


@pytest.fixture(autouse=True)
def built(tmp_path, monkeypatch):
    """A page of short files, wherever npm is."""
    folder = tmp_path / "built"
    folder.mkdir()
    for name in files.MEDIA:
        (folder / name).write_text(f"own {name}")
    html = f"<head>{files._STYLE}</head><body>{files._SCRIPT}</body>"
    (folder / "index.html").write_text(html)
    (folder / "page.js").write_text("const end = '</script>';")
    monkeypatch.setattr(files, "BUILT", folder)
    return folder


def test_files_come_by_their_names_alone():
    with TestClient(app(fs.load("digits", device="cpu"), pages=pages(MADE))) as one:
        page = one.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "'self'" in page.headers["content-security-policy"]
        assert "unsafe-inline" not in page.headers["content-security-policy"]
        assert one.get("/page.css").text == "own page.css"
        assert one.get("/student.onnx").content == b"network"
        assert one.get("/model.json").json() == {"data": "rows"}
        for path in ("/teacher.onnx", "/index.html", "/..%2fapp.py", "/built/page.js", "/page.js/"):
            answer = one.get(path)
            assert answer.status_code == 404
            assert "Traceback" not in answer.text
        assert one.post("/").status_code == 405
        assert one.post("/v1/samples", json={"n": 1}).status_code == 200


def test_one_file_has_all_inside(tmp_path):
    model = Model({"makers": [{"file": "student.onnx"}]}, {"student.onnx": b"network"})
    size = files.write(model, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert size == len(text)
    assert "<style>own page.css</style>" in text
    assert 'id="file:student.onnx">bmV0d29yaw==</script>' in text
    assert "'<\\/script>'" in text  # which would end the page's own script
    assert "src=" not in text


def test_a_large_page_says_what_half_makes_it(tmp_path, capsys, monkeypatch):
    place = tmp_path / "page.html"
    monkeypatch.setattr(serve, "LARGE", 1e6)
    assert main(["serve", "digits", "--static", str(place)]) == 0
    line = capsys.readouterr().out
    said = re.fullmatch(rf"{place}: ([\d.]+) MB; with --half about (\d) MB\n", line)
    assert said
    assert main(["serve", "digits", "--static", f"{place}.html", "--half"]) == 0
    half = Path(f"{place}.html").stat().st_size / 1e6
    assert capsys.readouterr().out == f"{place}.html: {half:.1f} MB\n"
    assert abs(half - int(said[2])) < 0.7


def test_what_cannot_be_written_is_one_line(tmp_path, built, capsys):
    assert main(["serve", "digits", "--static", str(tmp_path)]) == 2
    assert f"--static {tmp_path} exists: expected a new name" in capsys.readouterr().err
    model = Model({"makers": [{"file": None, "why": "70 MB of weights"}]}, {})
    with pytest.raises(UserError, match="needs a server: 70 MB of weights"):
        files.write(model, tmp_path / "new")
    (built / "page.js").unlink()
    assert main(["serve", "digits", "--static", str(tmp_path / "new")]) == 2
    assert "npm was not when fewstep was installed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_onnx_the_page_says_how_to_install_it(tmp_path, built, monkeypatch, capsys):
    """As a folder and with a teacher it cannot be; else this server samples, and that is told."""

    def announce_alone(page, limits, announce):
        return SimpleNamespace(run=lambda sockets: announce())

    monkeypatch.setattr("fewstep.serve.server.server", announce_alone)
    words = ["serve", "digits", "--port", "0"]
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    needs = "needs onnx and others: pip install 'fewstep[page]'"
    assert main(words) == 0
    line = f"fewstep: the page asks this server for samples, since the browser {needs}"
    assert capsys.readouterr().err.splitlines() == [line]
    for more, start in (
        (["--static", str(tmp_path / "d.html")], "fewstep: "),
        (["--teacher", "digits"], "fewstep: --teacher digits: "),
    ):
        assert main([*words, *more]) == 2
        assert capsys.readouterr().err.splitlines() == [f"{start}the page {needs}"]
