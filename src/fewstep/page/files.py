"""The page's own files, and the page with a model as a folder or as one file."""

from __future__ import annotations

import base64
from pathlib import Path

from fewstep.base import disk
from fewstep.base.errors import UserError
from fewstep.export.onnx_file import check_libraries
from fewstep.page.model import Model

BUILT = Path(__file__).parent / "built"
MEDIA = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "ort.wasm.gz": "application/octet-stream",
    "LICENCES.txt": "text/plain; charset=utf-8",
}
NOT_BUILT = (
    "the page is not here, since npm was not when fewstep was installed: install Node.js, then"
    " fewstep again"
)
LIBRARIES = "onnx and others: pip install 'fewstep[page]'"
INDEX = "index.html"
_STYLE = '<link rel="stylesheet" href="page.css">'
_SCRIPT = '<script type="module" src="page.js"></script>'


def media_of(name: str) -> str:
    """The media type of a file of the page or of a model."""
    other = "application/json" if name.endswith(".json") else "application/octet-stream"
    return MEDIA.get(name, other)


def is_built() -> bool:
    """Whether the package was installed with the page: npm has to be there at that time."""
    return all((BUILT / name).is_file() for name in MEDIA)


def own_files() -> dict[str, bytes]:
    """The files of the page without a model. Raises UserError where it was not built."""
    if not is_built():
        raise UserError(NOT_BUILT)
    return {name: (BUILT / name).read_bytes() for name in MEDIA}


def has_libraries() -> bool:
    """Whether all is installed that writes a network for the browser."""
    try:
        check_libraries()
    except UserError:
        return False
    return True


def check_place(out: Path) -> None:
    """Raises UserError where something stands there, the page was not built, or onnx is missing."""
    own_files()
    if not has_libraries():
        raise UserError(f"the page needs {LIBRARIES}")
    if out.exists() or out.is_symlink():
        raise UserError(f"--static {out} exists: expected a new name")


def write(model: Model, out: Path) -> int:
    """The page with a model, for any web host or, where out ends in .html, to open from disk.

    The bytes written. Raises UserError for a place that is taken, and where the page needs a
    server.
    """
    check_place(out)
    student = model.facts["makers"][0]
    if student["file"] is None:
        raise UserError(f"the page of this run needs a server: {student['why']}")
    content = {**own_files(), **model.all_files()}
    if out.suffix == ".html":
        page = one_file(content)
        disk.write(out, page)
        return len(page)
    disk.make_folder(out)
    for name, value in content.items():
        disk.write(out / name, value)
    return sum(map(len, content.values()))


def saved_by_half(model: Model, out: Path) -> float:
    """About how many bytes fewer the page there has with weights as float16."""
    networks = sum(len(model.files[one["file"]]) for one in model.facts["makers"] if one["file"])
    return networks / 2 * (4 / 3 if out.suffix == ".html" else 1)  # base64


def one_file(content: dict[str, bytes]) -> bytes:
    """The page with all its files inside."""
    html, style, script = (content[name].decode() for name in (INDEX, "page.css", "page.js"))
    inside = [
        f'<script type="text/plain" id="file:{name}">{base64.b64encode(value).decode()}</script>'
        for name, value in content.items()
        if name not in (INDEX, "page.css", "page.js")
    ]
    # Of a script its own end alone ends it.
    script = script.replace("</script", "<\\/script")
    parts = [*inside, f'<script type="module">{script}</script>']
    page = html.replace(_STYLE, f"<style>{style}</style>").replace(_SCRIPT, "\n".join(parts))
    return page.encode()
