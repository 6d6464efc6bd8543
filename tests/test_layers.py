"""Imports go one way: a lower layer never imports a higher one, and each layer says where a line belongs."""

from __future__ import annotations

import ast
from pathlib import Path

import fewstep

SOURCE = Path(fewstep.__file__).parent

LAYERS = [
    {"errors"},
    {
        "untrusted",
        "lock",
        "world",
        "randomness",
        "schedules",
        "curricula",
        "device",
        "pictures",
        "report",
        "noise",
        "stops",
    },
    {"config"},
    {"process"},
    {"scalings", "times", "ema", "optimizers", "precision"},
    {"denoiser"},
    {"solvers", "couplings", "targets", "spaces", "distances", "weights", "balances", "networks", "checkpoint", "data"},
    {"derivatives"},
    {"tangents"},
    {"losses", "sampling", "exact"},
    {"methods"},
    {"building", "batches", "recipes", "posthoc", "distributed"},
    {"generator", "loading"},
    {"state", "metrics", "origins"},
    {"incidents", "diagnosis", "cache", "probes", "stages"},
    {"resuming", "step", "engines"},
    {"recorder"},
    {"loop"},
    {"training"},
    {"replay", "claims", "doctor", "frontier", "verify"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts[0]


def imported(path: Path) -> set[str]:
    """The rooms of fewstep that a file uses, `import fewstep as fs; fs.room` included; types alone do not count."""
    found = set()
    tree = ast.parse(path.read_text())
    tree.body = [part for part in tree.body if not (isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part))]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fewstep":
            below = (node.module or "").split(".")[1:2]
            found |= set(below) if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fs":
            found.add({"Method": "losses", "Models": "denoiser", "Times": "times"}.get(node.attr, node.attr))
    return found - {"__version__"}


def test_every_file_has_a_layer():
    assert {room for _, room in modules()} == LEVEL.keys()


def test_no_file_imports_a_higher_room():
    for path, room in modules():
        for other in imported(path) - {room}:
            assert other in LEVEL, f"{path.name} imports fewstep.{other}, which has no layer"
            assert LEVEL[other] <= LEVEL[room], f"{room} (layer {LEVEL[room]}) imports {other} (layer {LEVEL[other]})"


def test_neighbours_of_a_layer_form_no_circle():
    edges = {room: set() for room in LEVEL}
    for path, room in modules():
        edges[room] |= {o for o in imported(path) - {room} if LEVEL[o] == LEVEL[room]}
    while edges:
        free = {room for room, others in edges.items() if not others & edges.keys()}
        assert free, f"these import each other: {sorted(edges)}"
        edges = {room: others for room, others in edges.items() if room not in free}
