"""tools/release.py refuses what is no release; citation and metadata fit the package."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import fewstep

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder, *words):
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def ready(tmp_path):
    """A repository of which a release can be made."""
    code = tmp_path / "src" / "fewstep" / "base"
    code.mkdir(parents=True)
    (code / "version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-01-31\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    return tmp_path


def test_a_clean_tree_with_its_section_is_ready(tool, ready):
    assert tool.refuse_unready(ready) is None


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new.txt"])
def test_a_tree_that_is_not_clean_is_refused_by_its_file(tool, ready, name):
    (ready / name).write_text("other")
    with pytest.raises(tool.Refused, match=f"not clean.* {name} first"):
        tool.refuse_unready(ready)


@pytest.mark.parametrize("heading", ["[1.2.3]", "[1.2.3] - unreleased", "[1.203] - 2026-01-31"])
def test_a_version_without_a_section_and_its_day_is_refused(tool, ready, heading):
    (ready / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
    git(ready, "commit", "-am", "two")
    with pytest.raises(tool.Refused, match=r"CHANGELOG.md has no section '## \[1.2.3\] - "):
        tool.refuse_unready(ready)


@pytest.mark.parametrize("tag", ["v1.2.3", "1.2.3"])
def test_a_version_with_a_tag_is_refused(tool, ready, tag):
    git(ready, "tag", tag)
    with pytest.raises(tool.Refused, match=f"the tag {tag} exists"):
        tool.refuse_unready(ready)


def test_a_command_that_fails_is_refused_with_its_output(tool, capsys):
    with pytest.raises(tool.Refused, match="exit code 3 of "):
        tool.call(sys.executable, "-c", "print('so'); raise SystemExit(3)")
    assert capsys.readouterr().out == "so\n\n"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("fewstep/a.py", b"", None),
        ("tests/test_a.py", b"", "has tests/test_a.py"),
        ("fewstep/__pycache__/a.py", b"", "has fewstep/__pycache__/a.py"),
        ("fewstep/a.pyc", b"", "has fewstep/a.pyc"),
        ("fewstep/a.py", b"x = '/somewhere/else'", "/somewhere stands in fewstep/a.py"),
    ],
)
def test_files_that_do_not_belong_are_found(tool, name, content, fault):
    files = {"fewstep/py.typed": b"", name: content}
    found = tool.faults(files, {"fewstep/py.typed"}, ["/somewhere"])
    assert found == ([] if fault is None else [fault])


def test_files_that_lack_are_found(tool):
    assert tool.faults({"a": b""}, {"a", "LICENSE"}, []) == ["lacks LICENSE"]


def test_a_folder_that_a_build_makes_has_to_be_there(tool, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.hatch.build]\nartifacts = ["src/f/page"]\n')
    assert tool.missing_artifacts(tmp_path, {"f/page/a.js": b""}) == []
    found = tool.missing_artifacts(tmp_path, {"f/pages.py": b""})
    assert found == ["lacks f/page, which a build makes"]
    (tmp_path / "pyproject.toml").write_text("[tool.hatch.version]\n")
    assert tool.missing_artifacts(tmp_path, {}) == []


def test_archives_are_read_with_the_names_of_the_tree(tool, tmp_path):
    wheel, sdist = tmp_path / "f-1.whl", tmp_path / "f-1.tar.gz"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("f/a.py", "a = 1")
    with tarfile.open(sdist, "w:gz") as file:
        member = tarfile.TarInfo("f-1/src/f/a.py")
        member.size = 5
        file.addfile(member, io.BytesIO(b"a = 1"))
    assert tool.contents(wheel) == {"f/a.py": b"a = 1"}
    assert tool.contents(sdist) == {"src/f/a.py": b"a = 1"}


def test_archives_of_other_bytes_are_refused(tool, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, text in ((one, "a"), (two, "b")):
        folder.mkdir()
        (folder / "f.whl").write_text(text)
    with pytest.raises(tool.Refused, match=r"f\.whl has other bytes"):
        tool.check_files(one, two, "1")


def test_requirements_by_an_address_are_found(tool):
    metadata = b"Requires-Dist: numpy>=1\nRequires-Dist: torch @ https://a.b/torch.whl\n\n"
    assert tool.addresses(metadata) == ["needs torch @ https://a.b/torch.whl"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not here")
def test_the_packages_of_the_page_are_those_of_its_settings(tool):
    bill = tool.packages_of_the_page(ROOT / "web")
    packages = {part["name"]: part["version"] for part in bill["components"]}
    settings = json.loads((ROOT / "web/package.json").read_text())
    assert settings["dependencies"].items() <= packages.items()
    assert not settings["devDependencies"].keys() & packages.keys()
    refs = {part["bom-ref"] for part in bill["components"]}
    assert {one["ref"] for one in bill["dependencies"][1:]} == refs


def test_an_interpreter_is_one_that_starts(tool, tmp_path, monkeypatch):
    path, pyenv = tmp_path / "path", tmp_path / "pyenv" / "versions" / "9.9.1" / "bin"
    for folder, code in ((path, 1), (pyenv, 0)):
        folder.mkdir(parents=True)
        (folder / "python9.9").write_text(f"#!/bin/sh\nexit {code}\n")
        (folder / "python9.9").chmod(0o755)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert tool.interpreter("9.9") == str(pyenv / "python9.9")
    assert tool.interpreter("9.8") is None


def test_the_pythons_that_are_tried_are_those_of_the_metadata(tool):
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named == list(tool.PYTHONS)
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_citation_is_of_this_version_and_project():
    assert CITATION["version"] == fewstep.__version__
    assert CITATION["title"] == PROJECT["name"]
    assert CITATION["license"] == PROJECT["license"]
    assert [author["name"] for author in CITATION["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


def test_the_citation_names_the_papers_of_the_table():
    """The four that docs/papers.md goes through, each once and with authors."""
    numbers = [one["identifiers"][0]["value"] for one in CITATION["references"]]
    page = (ROOT / "docs" / "papers.md").read_text()
    headings = re.findall(r"^## .*arXiv (\d{4}\.\d{5})\)", page, re.M)
    assert sorted(numbers) == sorted(f"arXiv:{number}" for number in headings)
    assert all(one["authors"] and one["title"] for one in CITATION["references"])


def test_nothing_is_required_by_an_address():
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(line for lines in extras for line in lines)]:
        assert Requirement(text).url is None


def test_every_requirement_is_pinned_within_its_limits():
    """But for those that no environment of make has."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    free = set()
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(line for lines in extras for line in lines)]:
        need = Requirement(text)
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if name in pins:
            assert need.specifier.contains(pins[name]), text
        elif name != "fewstep":
            free.add(name)
    assert free == {"bitsandbytes", "datasets", "lpips", "trackio"}
