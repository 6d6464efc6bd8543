"""No source of the package runs what a file holds, draws from a global generator, listens, or
validates by assert.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import fewstep
from tests.support.lint import findings, participles, shadows

SOURCE = Path(fewstep.__file__).parent
ROOT = Path(__file__).parents[2]
PLACES = {
    "fewstep": SOURCE,
    **{name: ROOT / name for name in ("benchmarks", "examples", "tools")},
}

# Every exception, with why it is one. An entry that nothing needs any more fails the tests.
AUDITED = {
    (
        "fewstep/base/randomness.py",
        "global generator",
    ): "the one place where the global generators are borrowed and put back",
    ("fewstep/__init__.py", "import by name"): "the package's own names, from a table in that file",
    (
        "fewstep/core/__init__.py",
        "import by name",
    ): "the package's own names, from a table in that file",
    (
        "examples/distill_teacher.py",
        "global generator",
    ): "a user's own script, in plain diffusers, whose weights are drawn from it",
    (
        "fewstep/export/diffusers_folder.py",
        "import by name",
    ): "the package's own file, of which an export holds a copy",
    ("fewstep/cli/__init__.py", "import by name"): "a verb of the closed table VERBS",
    (
        "fewstep/cli/user_code.py",
        "import by name",
    ): "module:function that the user typed; no file can name it",
    **{
        (f"fewstep/training/{name}.py", "network"): "processes of one run, that a launcher's"
        " environment names to each other"
        for name in ("ranks", "watch")
    },
    **{
        (
            f"fewstep/serve/{name}.py",
            "network",
        ): "the one package that opens a port, because asked to"
        for name in ("answers", "app", "body", "connection", "hosts", "pages", "server")
    },
    ("fewstep/watch/app.py", "network"): "pages of runs, which the package serve listens for",
    ("fewstep/cli/watch.py", "network"): "says which packages are missing, and listens by them",
    ("fewstep/cli/serve.py", "network"): "says which packages are missing, and listens by them",
    (
        "fewstep/foreign/reading.py",
        "process",
    ): "the reader of foreign files, apart from this process: a fixed list of arguments",
    (
        "fewstep/analysis/metrics/extractors.py",
        "code that a file holds",
    ): "one TorchScript file, known by its SHA-256 alone",
    (
        "fewstep/analysis/verify/builtin.py",
        "attribute of a module by name",
    ): "methods by the names in that file",
    (
        "fewstep/export/python_file.py",
        "process",
    ): "tries code that it has just written, a fixed list of arguments without a shell",
    (
        "fewstep/bench/startup.py",
        "process",
    ): "times fresh interpreters, a fixed list of arguments without a shell",
    (
        "benchmarks/peers.py",
        "global generator",
    ): "steps of other codes, which draw from it",
    (
        "benchmarks/memory.py",
        "process",
    ): "measures the command line from outside, a fixed list of arguments without a shell",
    (
        "benchmarks/reliability.py",
        "process",
    ): "times the command line, a fixed list of arguments without a shell",
    (
        "benchmarks/rows.py",
        "process",
    ): "measures the command line from outside, a fixed list of arguments without a shell",
    (
        "benchmarks/rows.py",
        "global generator",
    ): "made-up pictures and picks, seeded at their start, apart from the package",
    (
        "benchmarks/serve.py",
        "process",
    ): "starts the server and the bare loop, fixed lists of arguments without a shell",
    ("benchmarks/serve.py", "network"): "the clients of that server",
    (
        "benchmarks/science.py",
        "code that a file holds",
    ): "the simulators of the examples in this repository, by fixed names",
    (
        "tools/release.py",
        "process",
    ): "starts the tools of a release, fixed lists of arguments without a shell",
    (
        "benchmarks/feedback.py",
        "global generator",
    ): "a simulation seeded at its start, apart from the package",
}

BAD = {
    "import pickle": "code that a file holds",
    "def f():\n    import dill as d": "code that a file holds",
    "from joblib import load": "code that a file holds",
    "import shelve, marshal": "code that a file holds",
    "from yaml import safe_load": "code that a file holds",
    "import torch\ntorch.load(p, weights_only=True)": "code that a file holds",
    "from torch import load as read\nread(p)": "code that a file holds",
    "import torch as t\nf = t.load": "code that a file holds",
    "import torch\ngetattr(torch, 'load')(p)": "code that a file holds",
    "import torch\ntorch.save(x, p)": "code that a file holds",
    "import torch\ntorch.hub.load('a', 'b')": "code that a file holds",
    "import numpy as np\nnp.load(p)": "code that a file holds",
    "import numpy as np\nnp.load(p, allow_pickle=True)": "code that a file holds",
    "import numpy as np\nnp.load(p, allow_pickle=trusted)": "code that a file holds",
    "from numpy import load\nload(p)": "code that a file holds",
    "eval(text)": "code that a file holds",
    "list(map(exec, lines))": "code that a file holds",
    "import builtins\nbuiltins.eval(text)": "code that a file holds",
    "compile(text, '', 'exec')": "code that a file holds",
    "__import__(name)": "code that a file holds",
    "import torch\ntorch.load = read": "code that a file holds",
    "from importlib import import_module\nimport_module(run['network'])": "import by name",
    "import importlib\nimportlib.import_module(name)": "import by name",
    "import importlib as i\ngetattr(i.import_module(name), f)": "import by name",
    "import torch\ngetattr(torch, kind[0])": "attribute of a module by name",
    "from fewstep import methods\ngetattr(methods, name)": "attribute of a module by name",
    "import zipfile\nzipfile.ZipFile(p).extractall(out)": "unpacks an archive",
    "import shutil\nshutil.unpack_archive(p)": "unpacks an archive",
    "archive.extract(member)": "unpacks an archive",
    "run(command, shell=True)": "process",
    "import os\nos.system(command)": "process",
    "from os import popen": "process",
    "import subprocess": "process",
    "import ctypes": "process",
    "import socket": "network",
    "from urllib.request import urlopen": "network",
    "import http.client": "network",
    "def f():\n    import requests": "network",
    "import uvicorn": "network",
    "from starlette.applications import Starlette": "network",
    "import asyncio": "network",
    "assert n > 0": "assert",
    "assert n > 0 and x is not None": "assert",
    "assert x is None": "assert",
    "assert known(x), 'unknown'": "assert",
    "import torch\ntorch.manual_seed(0)": "global generator",
    "import torch\ntorch.randn(3)": "global generator",
    "from torch import randperm\nrandperm(3)": "global generator",
    "import torch\nx = torch.rand(3, dtype=torch.float64)": "global generator",
    "x.normal_()": "global generator",
    "import torch\ntorch.empty(3).uniform_(0, 1)": "global generator",
    "self.weights[0].bernoulli_(p)": "global generator",
    "import numpy as np\nnp.random.default_rng(0)": "global generator",
    "from numpy.random import default_rng": "global generator",
    "import random": "global generator",
    "from torch import cuda\ncuda.manual_seed_all(0)": "global generator",
}

GOOD = [
    "class Run:\n    compile: str = 'off'",
    "import numpy as np\nnp.load(p, allow_pickle=False)",
    "from safetensors.torch import load\nload(content)",
    "import re\nre.compile(text)",
    "network.eval()",
    "import json\njson.loads(text)",
    "import torch\ntorch.randn(3, generator=source)",
    "import torch\ntorch.Generator().manual_seed(3)",
    "x.bernoulli_(p, generator=source)",
    "from torch import nn\nnn.init.normal_(w)",
    "import torch\ntorch.nn.init.uniform_(w)",
    "assert x is not None",
    "assert isinstance(x, Cached) and x.grid is not None",
    "getattr(self, name)",
    "getattr(method.coupling, 'reuse', 1)",
    "import signal\ngetattr(signal, 'SIGHUP', 1)",
    "from fewstep.errors import unknown\nraise unknown('a', 'b', [])",
    "text = 'import pickle; eval(x)'",
    "run(command, shell=False)",
    "from fewstep import data\ndata.load(name)",
    "law.extrapolate(x)",
]


# Names that are participles and stay, with the reason.
AUDITED_NAMES = {
    "annealed": "an option of mcm",
    "denoised": "an option of eval: data after one evaluation",
    "distilled": "public: fs.exact.oracle",
    "_denoised": "what eval prints of that option",
    "expected": "what a message expects, as of errors.require",
    "generated": "an argument of fs.exact.transport",
    "given": "a layer's name in checkpoints",
    "guided": "public: fs.denoiser",
    "named": "public: fs.exact",
    "paired": "a key of the protocol of scores",
    "passed": "a key of `verify --json`",
    "phased": "a method's name",
    "prepared": "a Prepared, and an argument of fs.metrics.evaluate",
    "published": "public: of extractors",
    "realised": "an option of tcm",
    "skipped": "public: of data sets; a key of state.json",
    "tested": "a key of the two-sample test",
    "trained": "public: fs.exact.oracle",
    "truncated": "public: fs.couplings",
    "unbalanced": "public: fs.balances",
}


def sources():
    """(name, text) of every file that is read."""
    for place, folder in PLACES.items():
        for path in sorted(folder.rglob("*.py")):
            yield f"{place}/{path.relative_to(folder).as_posix()}", path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def broken():
    """(file, rule) -> (line, text) of all that is found in the sources."""
    return {
        (name, rule): (line, text)
        for name, source in sources()
        for rule, line, text in findings(source)
    }


def test_no_source_breaks_a_rule_but_for_the_audited(broken):
    assert {key: place for key, place in broken.items() if key not in AUDITED} == {}


def test_no_exception_is_left_over(broken):
    assert AUDITED.keys() - broken.keys() == set()


def test_no_name_is_a_participle():
    """A noun says what a thing is, a verb what a function does."""
    names = {(name, line, word) for name, text in sources() for _, line, word in participles(text)}
    assert {place for place in names if place[2] not in AUDITED_NAMES} == set()
    assert AUDITED_NAMES.keys() - {word for _, _, word in names} == set()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("found = 1", ["found"]),
        ("for told in x: pass", ["told"]),
        ("def f(given, *, seen=1): return given", ["given", "seen"]),
        ("def _settled(): pass", ["_settled"]),
        ("self.skipped = 1", ["skipped"]),
        ("if (kept := f()): pass", ["kept"]),
        ("with f() as held: pass", ["held"]),
        ("(made, x) = y", ["made"]),
        ("seed = speed = need = x_noised = trained_from = result = 1", []),
        ("print(found)", []),
    ],
)
def test_participles_are_recognised(text, names):
    assert sorted(word for _, _, word in participles(text)) == sorted(names)


def test_no_variable_of_a_comprehension_is_named_as_something_of_its_file():
    assert [(name, *one) for name, text in sources() for one in shadows(text)] == []
    text = "from a import b\ndef c(): return [b(x) for x in y], [c for b in y]"
    assert [name for _, _, name in shadows(text)] == ["b"]


def test_every_file_is_read():
    names = [name for name, _ in sources()]
    assert len(names) > 150
    assert {
        "fewstep/run/checkpoint/format.py",
        "fewstep/cli/user_code.py",
        "examples/phased.py",
    } <= set(names)


@pytest.mark.parametrize(("text", "rule"), BAD.items(), ids=range(len(BAD)))
def test_a_planted_line_is_caught(text, rule):
    assert rule in {rule for rule, _, _ in findings(text)}


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_a_good_line_is_left_alone(text):
    assert findings(text) == []


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_planted_line_is_caught_in_the_midst_of_a_file(text):
    """The findings of a real file and the planted line together: nothing before it blinds the
    reader.
    """
    real, count = file_and_count()
    assert len(findings(f"{real}\n{text}")) > count


@cache
def file_and_count() -> tuple[str, int]:
    """A file of the package, and how many findings there are in it."""
    real = (SOURCE / "run" / "averages.py").read_text(encoding="utf-8")
    return real, len(findings(real))
