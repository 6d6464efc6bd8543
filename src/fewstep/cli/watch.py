"""fewstep watch: runs as pages, while they train and after."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from fewstep.cli.parse import parse

DESCRIPTION = (
    "Show runs as pages in the browser while they train: state and speed, curves, pictures,"
    " schedule, incidents, settings, runs side by side; the doctor's verdict when asked for. Reads"
    " the run folders and writes nothing there. Ctrl-C ends it.\n\n"
    "example: fewstep watch runs"
)


@dataclass(frozen=True)
class Args:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folders, folders of sweeps, or folders that hold runs, where new ones are found too."""
    host: str = "127.0.0.1"
    """Address to listen at. There is no password: another than this machine's own is open to all
    who reach it."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    connections: int = 64
    """Most connections at once."""
    device: str = "cpu"
    """Of the doctor: cpu, cuda, mps or auto, the first there is. A run may need the card."""
    quiet: bool = False
    """Print nothing but warnings and errors."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="watch", description=DESCRIPTION)
    from fewstep.base.errors import UserError

    if not args.runs:
        raise UserError("name a RUN: a run folder, a sweep, or a folder that holds runs")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError("watch needs starlette and uvicorn: pip install 'fewstep[serve]'") from None
    try:
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        line = "watch needs jinja2 and matplotlib: pip install 'fewstep[report]'"
        raise UserError(line) from None
    from fewstep.base.device import pick_device
    from fewstep.serve.hosts import LOOPBACK
    from fewstep.serve.limits import Limits
    from fewstep.serve.server import address, bind, is_loopback, server
    from fewstep.watch.app import app
    from fewstep.watch.examination import Doctor
    from fewstep.watch.reading import Runs

    pick_device(args.device)
    runs, doctor = Runs(args.runs), Doctor(args.device)
    runs.refresh()
    with bind(args.host, args.port) as one:
        is_private = is_loopback(one)
        if not is_private:
            line = "is open to all who reach this machine: there is no password"
            print(f"fewstep: {address(one)} {line}", file=sys.stderr)
        hosts = (*LOOPBACK, args.host) if is_private else ()
        page = app(runs, doctor, hosts=hosts)

        def announce() -> None:
            if not args.quiet:
                count = len(runs.folders)
                print(f"{count} run{'s' * (count != 1)} at {address(one)}", flush=True)
                if not count:
                    places = ", ".join(args.runs)
                    print(f"no run in {places} yet: one that begins there appears", flush=True)

        server(page, Limits(connections=args.connections, seconds=10), announce).run([one])
    if doctor.patient is not None:
        # It writes nothing, and torch aborts where its threads outlive the interpreter.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
