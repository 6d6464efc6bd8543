"""fewstep serve: a generator that answers over HTTP."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fewstep.cli.parse import parse
from fewstep.cli.sampling import compile_passes
from fewstep.cli.user_code import own_parts

if TYPE_CHECKING:
    from socket import socket as Socket

    from fewstep.serve.limits import Limits

DESCRIPTION = (
    "Answer requests for samples over HTTP, with JSON, .npy or PNG. Requests that come together"
    " share the network's passes. SIGTERM or Ctrl-C finishes what was asked for, then ends.\n\n"
    "example: fewstep serve digits --port 8000"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name, such as digits."""
    host: str = "127.0.0.1"
    """Address to listen at. There is no password: another than this machine's own is open to all
    who reach it."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    max_n: int = 1024
    """Most samples of one request."""
    max_steps: int = 128
    """Most evaluations of the network for a sample."""
    max_body: int = 65536
    """Most bytes of a request's body."""
    queue: int | None = None
    """Samples that may wait or be on their way; more are refused for the moment (503). Left out,
    8 times --max-n."""
    connections: int = 512
    """Most connections at once."""
    timeout: float = 120.0
    """Seconds until a request's samples must be there."""
    batch: int | None = None
    """Samples that pass through the network at once; left out, what is quick and memory takes."""
    workers: int | None = None
    """Batches at once; left out, one for each core of a processor, 4 at most, and 1 elsewhere."""
    threads: int | None = None
    """Threads of each; left out, they share the cores."""
    ema: str = "ema"
    """Which weights: ema, student, another average such as power:0.05, or any power:STD of a run
    with snapshots."""
    later_sigmas: tuple[float, ...] | None = None
    """Noise levels of the later steps, one fewer than the steps; left out, the run's."""
    composite: bool = False
    """Ask the frozen first stage at noise that a second stage was not trained for."""
    network: str | None = None
    """package.module:factory of the run's network, where it is your own."""
    method: str | None = None
    """package.module:function of the run's method, where it is your own."""
    compile: Literal["off", "on"] = "off"
    """Whether torch compiles the network's pass before the first request: minutes on a CPU."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    quiet: bool = False
    """Print nothing but warnings and errors."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="serve", description=DESCRIPTION)
    from fewstep.base.errors import UserError, require

    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError("serve needs starlette and uvicorn: pip install 'fewstep[serve]'") from None
    from fewstep.serve.limits import Limits
    from fewstep.serve.server import bind

    for word in ("batch", "workers", "threads"):
        value = getattr(args, word)
        require(value is None or value >= 1, f"--{word}", value, "at least 1")
    limits = Limits(
        n=args.max_n,
        steps=args.max_steps,
        body=args.max_body,
        queue=8 * args.max_n if args.queue is None else args.queue,
        connections=args.connections,
        seconds=args.timeout,
    )
    with bind(args.host, args.port) as one:
        listen(one, args, limits)
    return 0


def listen(one: Socket, args: Args, limits: Limits) -> None:
    """Loads the generator, and answers requests until a signal."""
    from fewstep.run.generator import load
    from fewstep.serve.app import app
    from fewstep.serve.facts import name
    from fewstep.serve.hosts import LOOPBACK
    from fewstep.serve.server import address, is_loopback, server

    generator = load(
        args.run, ema=args.ema, device=args.device, composite=args.composite, **own_parts(args)
    ).with_later_sigmas(args.later_sigmas)
    generator = compile_passes(generator, args.compile, args.quiet)
    is_private = is_loopback(one)
    if not is_private:
        line = "is open to all who reach this machine: there is no password"
        print(f"fewstep: {address(one)} {line}", file=sys.stderr)
    page = app(
        generator,
        limits,
        batch=args.batch,
        workers=args.workers,
        thread_count=args.threads,
        hosts=(*LOOPBACK, args.host) if is_private else (),
    )

    def announce() -> None:
        if not args.quiet:
            print(
                f"{name(generator)} at {address(one)}: up to {limits.n} samples and {limits.steps}"
                f" steps a request, {limits.body} bytes of JSON, {limits.queue} samples waiting",
                flush=True,
            )

    server(page, limits, announce).run([one])
