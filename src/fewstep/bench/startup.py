"""How long the command line takes to answer, and what the package adds to importing torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

from fewstep.base.timing import in_turn

PYTHON = (sys.executable, "-c")
IMPORTS = {"python": "pass", "torch": "import torch", "fewstep": "import torch, fewstep"}


def measure(verbs: Iterable[str], repeats: int) -> dict[str, float]:
    """Seconds of `import torch`, what `import fewstep` adds to them, and each verb's --help."""
    calls: dict[str, Callable[[], object]] = {
        name: partial(_run, *PYTHON, code) for name, code in IMPORTS.items()
    }
    for verb in verbs:
        calls[f"{verb} --help"] = partial(_run, sys.executable, "-m", "fewstep", verb, "--help")
    seconds = {name: median(own) for name, own in in_turn(calls, repeats).items()}
    python, torch, both = (seconds.pop(name) for name in IMPORTS)
    return {"import torch": torch - python, "fewstep beside torch": both - torch, **seconds}


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
