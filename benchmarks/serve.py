"""Many clients at once beside the bare loop: samples per second, latencies, and what clients cost.

`fewstep serve` runs in a process of its own on an untrained U-Net for 32x32 pictures; clients of
this process ask for a few samples again and again, each on one connection. Before and after, the
same number of samples is made by `Generator.sample` alone, in a process of its own likewise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import fewstep as fs

NETWORK = {"width": 32, "mult": (1, 2, 2), "blocks": 1, "attention": ()}  # 1.2 M weights
LOOP = """
import sys, time, torch, fewstep as fs
path, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if sys.argv[4] != "0":
    torch.set_num_threads(int(sys.argv[4]))
generator = fs.load(path, device="cpu")
generator.sample(batch, batch=batch)
start, cpu, count = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - start < seconds:
    generator.sample(batch, seed=count, batch=batch)
    count += batch
wall = time.perf_counter() - start
print(count / wall, (time.process_time() - cpu) / count)
"""


@dataclass
class Tally:
    """What the clients saw."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    samples: int = 0


def make_generator(folder: Path) -> Path:
    """An untrained generator with labels, as a folder."""
    x0 = torch.linspace(-1, 1, 64 * 3 * 32 * 32).reshape(64, 3, 32, 32)
    run = fs.recipes.auto(
        network="song_unet", network_options=NETWORK, iterations=1, batch=4, block=4
    )
    data = {"x0": x0, "cond": torch.arange(64) % 10}
    fs.train(run, data, progress=False, device="cpu").save(folder / "generator")
    return folder / "generator"


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far (Linux)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def bare(path: Path, batch: int, seconds: float, threads: int) -> tuple[float, float]:
    """Samples per second, and processor seconds of a sample, of the bare loop."""
    words = [sys.executable, "-c", LOOP, str(path), str(batch), str(seconds), str(threads)]
    result = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    speed, cost = result.stdout.split()
    return float(speed), float(cost)


async def client(port: int, n: int, number: int, end: float, tally: Tally) -> None:
    """Asks on one connection until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.perf_counter() < end:
        body = json.dumps({"n": n, "seed": 10_000 * number + count, "format": "npy"}).encode()
        head = (
            "POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        start = time.perf_counter()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", answer)
        content = await reader.readexactly(int(size[1])) if size else b""
        tally.latencies.append(time.perf_counter() - start)
        if not answer.startswith(b"HTTP/1.1 200") or not content.startswith(b"\x93NUMPY"):
            tally.failures.append(f"{answer[:40]!r} {content[:200]!r}")
        else:
            tally.samples += n
        count += 1
    writer.close()


async def crowd(port: int, clients: int, n: int, seconds: float) -> Tally:
    tally = Tally()
    end = time.perf_counter() + seconds
    results = await asyncio.gather(
        *(client(port, n, number, end, tally) for number in range(clients)),
        return_exceptions=True,
    )
    tally.failures += [repr(result) for result in results if result is not None]
    return tally


def trial(path: Path, args: argparse.Namespace) -> None:
    """One run of the server, between two of the bare loop."""
    batch = args.batch
    before = bare(path, batch, args.seconds / 2, args.threads)
    words = [
        "serve",
        str(path),
        "--no-page",
        "--port",
        "0",
        "--device",
        "cpu",
        "--batch",
        str(batch),
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "fewstep", *words], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    port = re.search(r"http://[^ ]*:(\d+)", server.stdout.readline())
    assert port is not None
    asyncio.run(crowd(int(port[1]), args.clients, args.n, 1.0))  # warms up
    own, others = time.process_time(), cpu_seconds(server.pid)
    start = time.perf_counter()
    tally = asyncio.run(crowd(int(port[1]), args.clients, args.n, args.seconds))
    wall = time.perf_counter() - start
    own, others = time.process_time() - own, cpu_seconds(server.pid) - others
    server.terminate()
    code = server.wait()
    after = bare(path, batch, args.seconds / 2, args.threads)
    speed = tally.samples / wall
    loop = (before[0] + after[0]) / 2
    cost = (before[1] + after[1]) / 2
    times = sorted(tally.latencies)
    print(
        f"{len(times)} requests, {len(tally.failures)} failed, exit code {code}; p50"
        f" {statistics.median(times):.2f} s, p99 {times[int(0.99 * (len(times) - 1))]:.2f} s\n"
        f"  {speed:.1f} samples/s beside {before[0]:.1f} before and {after[0]:.1f} after by the"
        f" bare loop: ratio {speed / loop:.2f}\n"
        f"  processor: server {1000 * others / tally.samples:.2f} ms a sample, bare loop"
        f" {1000 * cost:.2f} ms: ratio {cost * tally.samples / others:.2f}; clients"
        f" {own:.1f} s of {wall:.0f} s",
        flush=True,
    )
    for line in tally.failures[:3]:
        print(f"  {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--n", type=int, default=4, help="samples of a request")
    parser.add_argument("--batch", type=int, default=32, help="of the server and of the loop")
    parser.add_argument("--threads", type=int, default=0, help="of the loop; 0: torch's own choice")
    parser.add_argument("--generator", type=Path, default=None, help="a saved one, in its place")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = args.generator or make_generator(Path(name))
        for _ in range(args.trials):
            trial(path, args)


if __name__ == "__main__":
    main()
