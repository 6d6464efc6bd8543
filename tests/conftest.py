"""One thread per test process, so that tests run side by side; the same examples in each run of CI."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
# Some virtual machines name AMX among their instructions and then refuse it, which kills bfloat16
# products.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import pytest
from hypothesis import settings

settings.register_profile("fewstep", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fewstep")


@pytest.fixture(scope="module")
def server():
    """The process that forks the children of the tests of crashes."""
    from tests.support import crash

    with crash.server() as one:
        yield one
