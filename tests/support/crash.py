"""A server that imports torch once and forks a process for every trial, to be killed or to fail.

`python -m tests.support.crash` speaks JSON lines over its pipes. What a child is doing is read from
a file that it maps into its memory and that outlives it: so a kill inside a write is proved.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HANGS = 150.0  # seconds after which a child that still runs tells where it is
ROOT = Path(__file__).parents[2]


def _child(request: dict[str, Any]) -> None:
    """Makes the call, what it prints in a file, and ends the process with its exit code."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # As by default, whatever the tests themselves were started under, such as nohup.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.dump_traceback_later(HANGS, file=output)  # one that hangs shall say where
    code = 1
    try:
        module, _, name = request["call"].partition(":")
        result = getattr(importlib.import_module(module), name)(**request["arguments"])
        code = result if isinstance(result, int) else 0
        Path(request["output"] + ".json").write_text(json.dumps(result))
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        print(f"fewstep: {error}" if code > 1 else traceback.format_exc(), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child, minus the signal that killed it; None where it still runs."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.001)


def serve() -> None:
    """Imports what trials need, then forks one child for each request until its pipe is closed."""
    import torch

    import fewstep as fs
    from tests.support.toys import tiny_run

    torch.set_num_threads(1)
    for method in ("ect", "sct"):  # imports what is otherwise imported at first use
        fs.train(tiny_run(iterations=1, method=method), progress=False, device="cpu")
    gc.collect()
    gc.freeze()  # so that a child does not copy the pages that it only reads
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(json.dumps({"code": _wait(request["wait"], request["seconds"])}), flush=True)
            continue
        pid = os.fork()
        if not pid:
            os.close(0)
            _child(request)
        print(json.dumps({"pid": pid}), flush=True)


# What a test does


@dataclass(frozen=True)
class Child:
    """A process that the server forked."""

    server: Server
    pid: int
    output: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 180.0) -> int | None:
        """Its exit code, minus the signal that killed it; None if it still runs after `seconds`."""
        return self.server.ask(wait=self.pid, seconds=seconds)["code"]

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def result(self) -> Any:
        return json.loads(Path(f"{self.output}.json").read_text())


@dataclass(frozen=True)
class Server:
    """The process that forks."""

    process: subprocess.Popen[str]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def fork(self, call: str, output: Path, **arguments: Any) -> Child:
        """A child that calls module:function; what it prints goes into the file `output`."""
        answer = self.ask(call=call, output=str(output), arguments=arguments)
        return Child(self, answer["pid"], output)


@contextmanager
def server() -> Iterator[Server]:
    """A server with one thread, that sees no GPU: torch cannot be forked once one is in use."""
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [sys.executable, "-m", "tests.support.crash"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        assert process.stdout
        assert "ready" in json.loads(process.stdout.readline())
        yield Server(process)
        assert process.stdin
        process.stdin.close()


if __name__ == "__main__":
    serve()
