"""What all tests share: one thread, folders in memory, no pictures, forks, an order."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
# Some virtual machines name AMX among their instructions and then refuse it, which kills bfloat16
# products.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import pytest
from hypothesis import settings

from tests.support import crash

settings.register_profile("fewstep", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fewstep")

MEMORY = Path("/dev/shm")  # a file system in memory, where there is one
ROOM = 2 * 2**30  # bytes that must be free there

# The slowest files, which start first: with --dist worksteal all workers then end together. Those
# that share a fixture stand together.
SLOW = (
    "training/test_distributed.py",
    "training/test_crash.py",
    "training/test_faults.py",
    "run/test_damage.py",
    "analysis/test_doctor.py",
    "cli/test_cli.py",
    "studies/test_sweep.py",
    "exact/test_exact_laws.py",
    "exact/test_exact.py",
    "exact/test_exact_oracle.py",
    "methods/test_methods.py",
    "training/test_environment.py",
    "project/test_readme.py",
    "run/test_recipes_papers.py",
    "analysis/test_doctor_teacher.py",
    "core/test_solvers.py",
    "analysis/test_verify.py",
    "core/test_sampling.py",
    "run/test_hostile.py",
    "cli/test_fuzz.py",
)

DRAW: dict[str, Callable[..., None]] = {}  # what draws the pictures of a step


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on-disk", action="store_true", help="put all temporary folders on the disk")


def pytest_configure(config: pytest.Config) -> None:
    """Puts temporary folders in memory, where that has room; `disk_path` is on the disk anyway.

    Bytecode is cached, so that the processes that tests start do not compile the package again.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    on_disk = config.getoption("--on-disk")
    if not on_disk and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the slow files to the front; within a file the order stays."""
    root = Path(__file__).parent
    order = {root / name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Takes all that was imported out of the garbage collector's way, and of the forks'."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Only tests marked `pictures` draw those of runs: they take most of the time of tiny ones."""
    from fewstep.training import recorder

    is_marked = item.get_closest_marker("pictures") is not None
    for name in ("draw", "draw_curves"):
        DRAW.setdefault(name, getattr(recorder.Recorder, name))
        setattr(recorder.Recorder, name, DRAW[name] if is_marked else lambda self: None)


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """An empty folder on the disk, for tests of what a killed process leaves there."""
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def server() -> Iterator[crash.Server]:
    """The process that forks the children of the tests of crashes."""
    with crash.server() as one:
        yield one
