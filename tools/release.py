"""The files of a release, made and checked: `make release`. Nothing is uploaded.

A wheel, a source distribution and the list of pinned packages (SBOM) are made twice: from this
tree, and from a clone of its commit elsewhere. They must have the same bytes. The wheel is then
installed and tried in a fresh environment of each Python. What passes is copied into dist/.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
CACHES = {
    "__pycache__",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "node_modules",
}
TYPED = """\
import fewstep as fs
run: fs.Run = fs.recipes.toy(iterations=20)
name: str = run.method
"""


class Refused(Exception):
    """One line that says why there is no release."""


def say(*words: object) -> None:
    print(*words, flush=True)


def call(*command: str | Path, folder: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; where it fails, its output and a refusal."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=None if env is None else dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        say(result.stdout)
        raise Refused(f"exit code {result.returncode} of {' '.join(map(str, command))}")
    return result.stdout


def version_of(root: Path) -> str:
    text = (root / "src" / "fewstep" / "base" / "version.py").read_text()
    return str(re.search(r'__version__ = "(.+)"', text)[1])  # type: ignore[index]


def refuse_unready(root: Path) -> None:
    """A release has a clean tree, a section of the changelog with its day, and no tag yet."""
    version = version_of(root)
    if changes := call("git", "status", "--porcelain", folder=root):
        raise Refused(f"the tree is not clean: commit or remove {changes.split()[1]} first")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$"
    if not re.search(heading, (root / "CHANGELOG.md").read_text(), re.M):
        raise Refused(f"CHANGELOG.md has no section '## [{version}] - YEAR-MONTH-DAY'")
    if tags := call("git", "tag", "--list", f"v{version}", version, folder=root).split():
        raise Refused(f"the tag {tags[0]} exists: give version.py the next version")


def make(root: Path, out: Path, *kinds: str) -> None:
    """Wheel, source distribution and SBOM. Without kinds, the wheel is made from the source
    distribution; with `--sdist --wheel` from the tree.
    """
    day = call("git", "log", "-1", "--format=%ct", folder=root).strip()
    env = {**os.environ, "SOURCE_DATE_EPOCH": day}
    python = sys.executable
    call(python, "-m", "build", "--no-isolation", "--outdir", out, *kinds, root, env=env)
    version = version_of(root)
    sbom = out / f"fewstep-{version}.cdx.json"
    call(
        Path(python).with_name("cyclonedx-py"),
        *("requirements", "--output-reproducible", "--mc-type", "library"),
        *("--pyproject", "pyproject.toml", "--output-file", sbom, "constraints.txt"),
        folder=root,
        env=env,
    )
    bill = json.loads(sbom.read_text())
    bill["metadata"]["component"]["version"] = version  # pyproject.toml leaves it to version.py
    if shutil.which("npm"):  # without it the wheel has no page
        page = packages_of_the_page(root / "web")
        bill["components"] += page["components"]
        bill["dependencies"] += page["dependencies"][1:]  # the first is what the page needs
    sbom.write_text(json.dumps(bill, indent=2) + "\n")


def packages_of_the_page(web: Path) -> dict[str, Any]:
    """What the lock file names for use, as npm's own list has it."""
    words = ("npm", "sbom", "--sbom-format=cyclonedx", "--omit=dev", "--package-lock-only")
    bill: dict[str, Any] = json.loads(call(*words, folder=web))
    return bill


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(path: Path) -> dict[str, bytes]:
    """The files of a wheel or a source distribution, which has one folder around all of them."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(path) as sdist:
        members = [(member.name, sdist.extractfile(member)) for member in sdist.getmembers()]
        return {name.partition("/")[2]: file.read() for name, file in members if file is not None}


def faults(files: Mapping[str, bytes], names: set[str], places: list[str]) -> list[str]:
    """What is wrong with an archive: files that lack, tests, caches, paths of this machine."""
    wrong = [f"lacks {name}" for name in sorted(names - files.keys())]
    for name, content in files.items():
        parts = set(name.split("/"))
        if "tests" in parts or parts & CACHES or name.endswith(".pyc"):
            wrong.append(f"has {name}")
        wrong += [f"{place} stands in {name}" for place in places if place.encode() in content]
    return wrong


def missing_artifacts(root: Path, files: Mapping[str, bytes]) -> list[str]:
    """What a build makes beside the files of git, by pyproject.toml, and is not in the wheel."""
    hatch = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]
    folders = [path.removeprefix("src/") for path in hatch.get("build", {}).get("artifacts", [])]
    return [
        f"lacks {folder}, which a build makes"
        for folder in folders
        if not any(name.startswith(f"{folder}/") for name in files)
    ]


def addresses(metadata: bytes) -> list[str]:
    """Requirements by an address, which come from elsewhere than PyPI."""
    needs = message_from_bytes(metadata).get_all("Requires-Dist", [])
    return [f"needs {need}" for need in needs if "@" in need]


def check_files(out: Path, other: Path, version: str) -> None:
    for path in sorted(out.iterdir()):
        if digest(path) != digest(other / path.name):
            raise Refused(f"{path.name} has other bytes when it is made again from a clone")
    info = f"fewstep-{version}.dist-info"
    wheel = contents(out / f"fewstep-{version}-py3-none-any.whl")
    sdist = contents(out / f"fewstep-{version}.tar.gz")
    places = [str(ROOT), str(out.parent), *([f"{Path.home()}/"] if Path.home().name else [])]
    source = set(call("git", "ls-files", "src/fewstep").splitlines())  # py.typed and assets too
    in_wheel = {name.removeprefix("src/") for name in source} | {f"{info}/licenses/LICENSE"}
    in_sdist = source | {"LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt"}
    wrong = [
        *faults(wheel, in_wheel, places),
        *faults(sdist, in_sdist, places),
        *missing_artifacts(ROOT, wheel),
        *addresses(wheel[f"{info}/METADATA"]),
    ]
    if wrong:
        raise Refused(f"the archives are not right: {'; '.join(wrong)}")
    tools = Path(sys.executable).parent
    archives = [path for path in sorted(out.iterdir()) if path.suffix != ".json"]
    call(tools / "twine", "check", "--strict", *archives)
    schema = "vendor.citation-file-format"
    call(tools / "check-jsonschema", "--builtin-schema", schema, ROOT / "CITATION.cff")


def interpreter(version: str) -> str | None:
    """A Python of this version on PATH or in pyenv's folder that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    inside = sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    for path in (shutil.which(f"python{version}"), *map(str, inside)):
        # One of pyenv's own starters is there for each version, and fails for those not chosen.
        if path and not subprocess.run([path, "-c", "import venv"], capture_output=True).returncode:
            return path
    return None


def try_wheel(python: str, wheel: Path, version: str, folder: Path) -> None:
    """Installs it in a new environment, and uses it as a user would, without the source."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    call(python, "-m", "venv", folder / "env", folder=folder, env=env)
    bin_ = folder / "env" / "bin"
    quiet = ("--quiet", "--disable-pip-version-check")
    pins = ROOT / "constraints.txt"
    call(bin_ / "pip", "install", *quiet, "-c", pins, wheel, "mypy", folder=folder, env=env)
    program = "import fewstep; print(fewstep.__version__, fewstep.__file__)"
    (folder / "typed.py").write_text(TYPED)
    words = call(bin_ / "python", "-c", program, folder=folder, env=env).split()
    if words[0] != version or not Path(words[1]).is_relative_to(folder / "env"):
        raise Refused(f"the installed package is {' '.join(words)}")
    for command in (
        "fewstep --help",
        "fewstep sample digits --out digits.png",
        "fewstep train toy --iterations 20 --out run",
        "fewstep sample run --out toy.npy",
        "mypy --strict typed.py",
        f"pip install {' '.join(quiet)} -c {pins} {wheel}[page]",
        "fewstep serve digits --static page.html",
    ):
        name, *words = command.split()
        call(bin_ / name, *words, folder=folder, env=env)
    for name in ("digits.png", "toy.npy", "page.html"):
        if not (folder / name).stat().st_size:
            raise Refused(f"{name} is empty")


def release(temporary: Path) -> None:
    refuse_unready(ROOT)
    version = version_of(ROOT)
    start = time.monotonic()
    first, second, clone = temporary / "first", temporary / "second", temporary / "clone"
    make(ROOT, first)
    call("git", "clone", "--quiet", ROOT, clone)
    make(clone, second, "--sdist", "--wheel")
    check_files(first, second, version)
    say(f"made twice with the same bytes, and checked: {time.monotonic() - start:.0f} s")
    for number in PYTHONS:
        python = interpreter(number)
        if python is None:
            say(f"not checked: Python {number} is not here")
            continue
        start = time.monotonic()
        folder = temporary / number
        folder.mkdir()
        try_wheel(python, first / f"fewstep-{version}-py3-none-any.whl", version, folder)
        shutil.rmtree(folder)
        say(f"installed and tried with Python {number}: {time.monotonic() - start:.0f} s")
    dist = ROOT / "dist"
    dist.mkdir(exist_ok=True)
    for path in sorted(first.iterdir()):
        shutil.copyfile(path, dist / path.name)
        say(f"{digest(path)}  {path.stat().st_size:>10,} bytes  dist/{path.name}")
    say("Nothing was uploaded. These files go to PyPI by:")
    say(f"twine upload dist/fewstep-{version}-py3-none-any.whl dist/fewstep-{version}.tar.gz")


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory(prefix="release-") as name:
            release(Path(name).resolve())
    except Refused as refusal:
        sys.exit(f"no release: {refusal}")
