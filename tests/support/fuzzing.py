"""Mutations of runs by seed, for the tests and for long soaks.

`python -m tests.support.fuzzing SEED N FOLDER` tries N runs and N checkpoints. The contract of
every mutant: it is accepted, or refused by the package's own typed error in one line, within two
seconds of the processor and 512 MiB.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fewstep as fs
from fewstep import methods, networks
from fewstep.base.errors import LONGEST, FewstepError, StorageError, UserError
from fewstep.base.options import checked_options, choose
from fewstep.data import Units
from fewstep.run.build import build_method, outline
from fewstep.run.config import Run, read_run, run_from_json
from fewstep.run.facts import Facts
from tests.support.resources import MIB, Watch

SECONDS = 2.0  # of the processor, for one call
MEMORY = 512 * MIB  # above the start

EXTREMES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**6, 10**9, 2**31, 2**53, 2**63, -(2**63), 10**30, 10**400,
    0.0, -0.0, 0.5, 1e-300, 5e-324, 1e300, -1e300, float("nan"), float("inf"), float("-inf"),
    "", "x", "0", "1e400", "nan", "\n", "\x00", "a\x1b[2J", "\ud800", "ü" * 3,
    "../../etc/passwd", "/dev/zero", "os:system", "builtins:eval", "own", "x" * 10_000,
    "ect", "mlp", "decay:0.5", "halflife:1e999", "power:1e-200", "power:0.05",
    [], [[]], [0], [1, 2, 3], ["a"], [None] * 3, [0] * 5000,
    {}, {"a": 1}, {"": {}}, {"method": "gc"}, {"method": 3}, {"__class__": "os.system"},
    {"method": "gc", "base": {"method": "gc", "base": {"method": "tcm"}}},
]  # fmt: skip


def extreme(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(EXTREMES))


def deep(levels: int, chance: random.Random) -> Any:
    """A value nested that deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if chance.random() < 0.5 else {"base": value}
    return value


def valid_runs() -> list[dict[str, Any]]:
    """The recipes that need no data, options written out, and every method on the toy set."""
    runs = [recipe() for name, recipe in fs.recipes.RECIPES.items() if name != "auto"]
    runs += [fs.recipes.toy(method=name) for name in methods.__all__]
    return [written_out(run).to_json() for run in runs]


def written_out(run: Run) -> Run:
    """The run with all options of its method and network, defaults included."""
    options = {}
    for kind, module in {"method": methods, "network": networks}.items():
        part = choose(kind, module, getattr(run, kind))
        options[f"{kind}_options"] = checked_options(kind, part, getattr(run, f"{kind}_options"))
    return replace(run, **options)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    result = []
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            keys = list(one)
        elif isinstance(one, list):
            keys = list(range(len(one)))
        else:
            keys = []
        result += [(one, key) for key in keys]
        rest += [one[key] for key in keys]
    return result


def mutate(value: Any, chance: random.Random) -> Any:
    """The JSON value with one to three changes of its structure, at any depth."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        targets = places(value)
        if not targets:
            return extreme(chance)
        inside, key = chance.choice(targets)
        other, place = chance.choice(targets)
        match chance.choice((0, 1, 2, 3, 4, 5, 6, 6, 6, 7)):
            case 0:
                del inside[key]
            case 1:
                inside[key] = copy.deepcopy(other[place])  # not a ring
            case 2 if isinstance(inside, dict):
                name = chance.choice(
                    (
                        f"{key}s",
                        str(key)[::-1],
                        str(key).upper(),
                        f" {key}",
                        "\n",
                        "__class__",
                        "x" * 5000,
                    )
                )
                inside[name] = inside.pop(key)
            case 3 if isinstance(inside, dict):
                inside[chance.choice(("lrr", "base", "method", "options", "seed ", "\x00", ""))] = (
                    extreme(chance)
                )
            case 4 if isinstance(inside, list):
                inside[key:key] = [chance.choice(EXTREMES[:40])] * chance.choice((1, 3, 2000))
            case 5:
                inside[key] = deep(chance.choice((3, 9, 60, 200)), chance)
            case 6 if type(inside[key]) in (int, float):
                n = inside[key]
                near = n if abs(n) < 2**53 else 1  # what a float can be made of
                inside[key] = chance.choice(
                    (-n, n * 10, n + 1, n // 2, near / 2, near + 0.5, str(n)[:999], [n])
                )
            case _:
                inside[key] = extreme(chance)
    return value


def scramble(text: bytes, chance: random.Random) -> bytes:
    """The bytes of a JSON document with one change: a cut, a copy, a splice or another number."""
    at, end = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
    pieces = (
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"9" * 5000,
        b'"recipe": "toy", ',
        b"\x00",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{",
    )
    match chance.randrange(7):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + text[end:]
        case 2:
            return text[:end] + text[at:end] + text[end:]
        case 3:
            return text[:at] + chance.choice(pieces) + text[at:]
        case 4:
            digits = [i for i, c in enumerate(text) if 48 <= c <= 57] or [0]
            place = chance.choice(digits)
            return text[:place] + chance.choice(pieces[:4]) + text[place + 1 :]
        case 5:
            lines = text.splitlines(keepends=True)
            line = chance.randrange(len(lines))
            return b"".join([*lines[: line + 1], lines[line], *lines[line + 1 :]])
        case _:
            return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]


class Contract:
    """Counts what is accepted and refused; AssertionError for all but a typed one-line error."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.watch = Watch()

    def holds(self, what: str, call: Callable[[], Any]) -> Any:
        """The call's result; None where it was refused as it should be."""
        result = None
        start = time.process_time()  # this process's own: others may keep the machine busy
        try:
            result = call()
            self.counts["accepted"] += 1
        except (UserError, StorageError) as error:
            self.check_refusal(what, error)
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error
        seconds = time.process_time() - start
        self.slowest = max(self.slowest, seconds)
        assert seconds <= SECONDS, f"{what}: took {seconds:.1f} s"
        growth = self.watch.growth()
        assert growth <= MEMORY, f"{what}: {growth // MIB} MiB above the start"
        return result

    def check_refusal(self, what: str, error: FewstepError) -> None:
        text = str(error)
        self.counts["refused"] += 1
        assert text.isprintable(), f"{what}: several lines or control characters: {text!r}"
        assert 10 <= len(text) <= LONGEST + 20, f"{what}: {len(text)} characters: {text}"

    def report(self) -> dict[str, Any]:
        return {
            **self.counts,
            "slowest": round(self.slowest, 2),
            "grown_mib": self.watch.growth() // MIB,
        }


def build_parts(run: Run) -> str:
    """Builds the method and outlines the network of a run on tiny pictures or points."""
    shape = (2,) if run.network == "mlp" else (3, 16, 16)
    facts = Facts(shape, 3, 0.5, Units(), "", "labels")
    method = build_method(run, facts)
    if hasattr(method.times, "at"):
        method.times.at(0.5, 0.5)
    outline(run, facts, method, 2000)
    return method.sampler


def fuzz_config(seed: int, n: int, folder: Path | None = None, every: int = 4) -> dict[str, Any]:
    """Counts of n mutants of the recipes' runs: half of their structure, half of run.json's bytes.

    every: how many accepted ones there are to one whose method and network are built.
    """
    chance = random.Random(seed)
    runs = valid_runs()
    contract = Contract()
    of_parts = Contract()
    of_parts.watch = contract.watch
    file = (folder or Path(tempfile.mkdtemp())) / "run.json"
    contract.watch.start()
    for i in range(n):
        values = chance.choice(runs)
        what = f"config seed {seed} case {i}"
        if chance.random() < 0.5:
            value = mutate(values, chance)
            run = contract.holds(what, partial(run_from_json, value))
        else:
            file.write_bytes(scramble(json.dumps(values, indent=1).encode(), chance))
            run = contract.holds(what, partial(read_run, file))
        if run is None:
            continue
        again = json.loads(json.dumps(run.to_json(), allow_nan=False))
        assert run_from_json(again) == run, f"{what}: the run does not survive JSON"
        if contract.counts["accepted"] % every == 0:
            of_parts.holds(f"{what}, built", partial(build_parts, run))
    contract.watch.stop()
    return {
        **contract.report(),
        "built": of_parts.counts["accepted"],
        "unbuildable": of_parts.counts["refused"],
        "slowest_build": round(of_parts.slowest, 2),
    }


if __name__ == "__main__":
    from tests.support.fuzzed_files import fuzz_checkpoint

    start = int(sys.argv[1])
    count = int(sys.argv[2])
    place = Path(sys.argv[3])
    print("config", fuzz_config(start, count))
    print("checkpoint", fuzz_checkpoint(start, count, place))
