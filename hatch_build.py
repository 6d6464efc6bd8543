"""Builds the page of `fewstep serve` into the package, where npm is there."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageBuild(BuildHookInterface):
    """web/ -> src/fewstep/page/built; without npm, or the network, the package has no page."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        web = Path(self.root, "web")
        built = Path(self.root, "src/fewstep/page/built")
        sources = _digest(web)
        note = built / "sources.sha256"
        if note.is_file() and note.read_text().strip() == sources:
            return
        npm = shutil.which("npm")
        if npm is None and (built / "index.html").is_file():
            return  # made elsewhere, as in the Dockerfile
        if npm is None:
            self.app.display_warning("npm is not here: fewstep gets no page (fewstep serve)")
            return
        for command in (["ci", "--ignore-scripts", "--no-fund", "--no-audit"], ["run", "build"]):
            done = subprocess.run([npm, *command], cwd=web, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:]
                self.app.display_warning(f"npm {command[0]} failed: {last}: fewstep gets no page")
                shutil.rmtree(built, ignore_errors=True)
                return
        note.write_text(sources + "\n")


def _digest(web: Path) -> str:
    """Of all that the page is made of."""
    digest = hashlib.sha256()
    names = ("package-lock.json", "build.mjs", "LICENCES.txt")
    for path in sorted([*(web / name for name in names), *(web / "src").glob("*")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
