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

    from fewstep.run.generator import Generator
    from fewstep.serve.limits import Limits

LARGE = 13e6  # bytes of a page

DESCRIPTION = (
    "Show a generator as a page that samples in the browser, and answer requests for samples over"
    " HTTP, with JSON, .npy or PNG. Requests that come together share the network's passes. SIGTERM"
    " or Ctrl-C finishes what was asked for, then ends.\n\n"
    "example: fewstep serve digits --port 8000\n"
    "example: fewstep serve digits --static page.html"
)


@dataclass(frozen=True)
class Args:
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder or shipped name, such as digits."""
    teacher: str | None = None
    """Run or shipped name of a generator that the page shows beside it, such as its teacher."""
    static: str | None = None
    """Write the page instead, and serve nothing: a new folder for any web host, or one file that
    ends in .html and opens from disk."""
    page: bool = True
    """Show the page; --no-page answers requests alone, and starts sooner."""
    half: bool = False
    """Give the browser weights in half precision, as half the bytes; they are computed with in
    float32."""
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

    if args.static is not None:
        write_page(args, args.static)
        return 0
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


def generators(args: Args) -> tuple[Generator, Generator | None]:
    """The run's generator, and the one beside it."""
    from fewstep.run.generator import load

    options = {"device": args.device, **own_parts(args)}
    own = load(args.run, ema=args.ema, composite=args.composite, **options)
    teacher = None if args.teacher is None else load(args.teacher, device=args.device)
    return own.with_later_sigmas(args.later_sigmas), teacher


def write_page(args: Args, place: str) -> None:
    """The page as a folder or a file."""
    from pathlib import Path

    from fewstep.page import files
    from fewstep.page.model import model_of

    files.check_place(Path(place))
    model = model_of(*generators(args), half=args.half)
    size = files.write(model, Path(place))
    if not args.quiet:
        smaller = (size - files.saved_by_half(model, Path(place))) / 1e6
        hint = "" if args.half or size <= LARGE else f"; with --half about {smaller:.0f} MB"
        print(f"{place}: {size / 1e6:.1f} MB{hint}")


def listen(one: Socket, args: Args, limits: Limits) -> None:
    """Loads the generator, and answers requests until a signal."""
    from fewstep.base.errors import UserError
    from fewstep.page import files
    from fewstep.page.model import model_of
    from fewstep.serve.app import app
    from fewstep.serve.facts import name
    from fewstep.serve.hosts import LOOPBACK
    from fewstep.serve.pages import pages
    from fewstep.serve.server import address, is_loopback, server

    bare, teacher = generators(args)
    generator = compile_passes(bare, args.compile, args.quiet)
    is_built, is_private = files.is_built(), is_loopback(one)
    model, why = None, ""
    if args.page and is_built:
        has_libraries = files.has_libraries()
        if teacher is not None and not has_libraries:
            raise UserError(f"--teacher {args.teacher}: the page needs {files.LIBRARIES}")
        model = model_of(bare, teacher, args.half)
        why = model.facts["makers"][0]["why"]
        if why and not has_libraries:
            why = f"the browser needs {files.LIBRARIES}"
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
        pages=() if model is None else pages(model),
    )

    def announce() -> None:
        if not args.quiet:
            if args.page and not is_built:
                print(f"fewstep: {files.NOT_BUILT}", file=sys.stderr)
            print(
                f"{name(generator)} at {address(one)}: up to {limits.n} samples and {limits.steps}"
                f" steps a request, {limits.body} bytes of JSON, {limits.queue} samples waiting",
                flush=True,
            )
            if why:
                line = f"fewstep: the page asks this server for samples, since {why}"
                print(line, file=sys.stderr)

    server(page, limits, announce).run([one])
