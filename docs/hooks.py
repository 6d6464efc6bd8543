"""Hooks of mkdocs: files outside docs/ that a page links to become pages, links follow them.

The pages link to files of the repository as on a code host: ../src/fewstep/core/method.py. A site
that is read without one shows these files itself, below files/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".sh": "bash", ".json": "json", ".toml": "toml"}


def on_files(files: Files, *, config: Any) -> Files:
    """Adds a page for each file that pages name and the site would not have."""
    todo = [path for path in map(source, files.documentation_pages()) if path]
    seen = {*todo, ROOT / "README.md"}  # its place is the start page's
    while todo:
        page = todo.pop()
        for path in linked(page, page.read_text()):
            if path in seen or not is_shown(path):
                continue
            seen.add(path)
            files.append(File.generated(config, uri(path), content=as_page(path)))
            if path.suffix == ".md":
                todo.append(path)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turns links to such files, and all links of such pages, to where they lie on the site."""
    here = source(page.file)
    if here is None:
        return markdown
    folder = os.path.dirname(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        path = target(here, match[2])
        if path is None or not (is_shown(path) or is_shown(here)):
            return match[0]
        return f"{match[1]}{os.path.relpath(uri(path), folder or '.')}{match[3]}"

    return LINK.sub(turned, markdown)


def source(file: File) -> Path | None:
    """The file of the repository that a page is made of; None for one that shows code."""
    if file.abs_src_path:
        return Path(file.abs_src_path).resolve()
    path = ROOT / file.src_uri.removeprefix("files/")
    return path if path.is_file() else None


def linked(page: Path, text: str) -> list[Path]:
    paths = (target(page, match[2]) for match in LINK.finditer(text))
    return [path for path in paths if path]


def target(page: Path, link: str) -> Path | None:
    """What a relative link of a page leads to; of a package its docstring's file."""
    path = (page.parent / link).resolve()
    if path.is_dir():
        path = next(
            (path / name for name in ("README.md", "__init__.py") if (path / name).exists()), path
        )
    return path if path.is_file() else None


def is_shown(path: Path) -> bool:
    """Whether a page of its own is made for a file."""
    return path.suffix == ".py" or not path.is_relative_to(DOCS)


def uri(path: Path) -> str:
    """Where a file lies on the site, from its root, as the name of a source."""
    if path == ROOT / "README.md":
        return "index.md"
    if not is_shown(path):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return f"files/{name}" if path.suffix == ".md" else f"files/{name}.md"


def as_page(path: Path) -> str:
    """A page of prose as it is; of any other file its text, and out of the search."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    name, language = path.relative_to(ROOT).as_posix(), LANGUAGES.get(path.suffix, "text")
    head = f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# `{name}`\n\n"
    return f"{head}`````{language}\n{text}`````\n"
