"""What scripts of pictures share: sizes for narrow screens, tables of pages, what commands say."""

import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from PIL import Image

from fewstep.cli import main as fewstep

matplotlib.use("agg")
HERE = Path(__file__).parent.resolve()
DOCS = HERE.parent
BLUE, AMBER, RED, GREY, GREEN = "#2471a3", "#b9770e", "#c0392b", "0.55", "#1e8449"
WIDE = 6.4  # inches; 960 pixels, of which a narrow screen shows 400
SIZES = {"font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "legend.fontsize": 9.5}
pyplot.rcParams.update({**SIZES, "axes.spines.top": False, "axes.spines.right": False})


def panels(rows=1, columns=1, height=3.0, **options):
    return pyplot.subplots(rows, columns, figsize=(WIDE, height), layout="constrained", **options)


def save(figure, name, colours=64):
    file = HERE / name
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=150, facecolor="white")
    pyplot.close(figure)
    Image.open(file).convert("RGB").quantize(colours).save(file, optimize=True)


def said(*words):
    """What a command prints as JSON."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        fewstep([*words, "--json"])
    return json.loads(output.getvalue())


def section(page, heading=""):
    """The text of a page below the heading that begins so, down to the next one."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^#+ {re.escape(heading)}.*\n", text, re.M) if heading else None
    assert found or not heading, heading
    text = text[found.end() :] if found else text
    return re.split(r"^#+ ", text, flags=re.M)[0] if heading else text


def tables(text):
    """Each table of a text as lists of cells, the head first; empty first cells as above."""
    result = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        for above, row in zip([head, *rows], rows, strict=False):
            row[0] = row[0] or above[0]
        result.append([head, *rows])
    return result


def run(drawings, names):
    for name in names or drawings:
        drawings[name]()
