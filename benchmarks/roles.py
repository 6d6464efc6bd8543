"""What a step costs that trains changes of low rank, beside the bare network's pass: memory, time.

A random UNet of diffusers (72 M weights, latents 4x32x32, a prompt of 77 tokens), rank 64 on the
layers of Direct CM, AdamW, guidance, float32, on the CPU. Memory is the bytes of all tensors at
most; the bare network's are its weights, and a forward and backward pass of the same rows in which
all weights learn and their gradients are gone at once. Needs the extra t2i.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from fewstep.adapters.ready import scheduler_convention
from fewstep.base.randomness import fork_rng, generator
from fewstep.base.surroundings import surroundings
from fewstep.core.conventions import as_denoiser
from fewstep.core.guidance import guide
from fewstep.networks.blocks import blocks_of, recompute
from fewstep.networks.roles import Alone, LowRank
from fewstep.pipelines.families import FAMILIES
from fewstep.pipelines.network import PipelineNetwork
from fewstep.pipelines.passes import Alive, without_gradients
from fewstep.pipelines.prompts import Prompts
from fewstep.pipelines.recipes import RECIPES
from fewstep.run.averages import average_of
from fewstep.run.prepare import prepare
from fewstep.training.batches import draw_batch
from fewstep.training.state import RowCounter, new_state
from fewstep.training.step import train_step

METHODS = {
    "direct_cm": {"n": 4, "process": "discrete"},
    "cd": {"solver": "ddim"},
    "mcm": None,
    "tcm": None,
    "scd": None,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
}
SIDE, TOKENS, WIDTH = 32, 77, 512


def network() -> PipelineNetwork:
    from diffusers import UNet2DConditionModel

    with fork_rng(0, "weights"):
        own = UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(128, 256, 512),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
        ).eval()
    tokens = torch.randn(2, TOKENS, WIDTH, generator=generator(0, "tokens"))
    prompts = Prompts({"tokens": tokens}, {"tokens": tokens[0]}, ["a", "b"])
    return PipelineNetwork(FAMILIES["sd"], own, prompts)


def size(*parts: torch.Tensor) -> int:
    """Bytes of tensors."""
    return sum(part.numel() * part.element_size() for part in parts)


def best(call: Callable[[], object], times: int) -> float:
    """Processor's seconds of the quickest of several calls."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def bare(rows: int, times: int) -> tuple[int, float]:
    """Bytes and seconds of the network's own pass, forward and backward."""
    own = network()
    x = torch.randn(rows, 4, SIDE, SIDE, generator=generator(0, "rows"))
    cond = {"label": torch.arange(rows) % 2}

    def both() -> None:
        own(x, torch.full((rows,), 500.0), cond).sum().backward()

    with without_gradients(own):
        both()
        with Alive(own.parameters()) as alive:
            both()
        return size(*own.parameters()) + alive.most, best(both, times)


def step(method: str, rows: int, times: int, again: bool) -> tuple[int, float, float]:
    """Bytes and seconds of a step, and how many rows its teacher evaluates for one."""
    own = scheduler_convention(SCHEDULER)
    run = RECIPES["lora"]("discrete", method).run
    options = METHODS[method] or run.method_options
    run = replace(run, method_options=options, batch=rows, iterations=2, precision="fp32")
    run = replace(run, units="as-is", holdout=0.0)
    x0 = torch.randn(64, 4, SIDE, SIDE, generator=generator(0, "rows"))
    role = LowRank(network(), 64, FAMILIES["sd"].targets)
    data = {"x0": x0, "cond": {"label": torch.arange(64) % 2}}
    prepared = prepare(run, data, network=as_denoiser(role, own), teacher=lambda x, t, cond: x)
    state = new_state(prepared)
    stage = prepared.stages[-1]
    if len(prepared.stages) > 1:
        state.frozen = average_of(state.student)
    state.teacher = RowCounter(as_denoiser(Alone(role), own))
    state.guide = guide(state.teacher, 7.0)
    base = [*role.base.parameters()]
    beside = [*state.student.parameters(), *state.averages["ema"].parameters()]

    def one() -> None:
        train_step(stage, state, draw_batch(stage, prepared.arrays, 0))

    with recompute(blocks_of(role).values() if again else ()):
        with Alive([*base, *beside]) as alive:
            one()  # which makes the optimizer's moments
            one()
        count = state.teacher.rows
        seconds = best(one, times)
    more = [p for m in (state.frozen,) if m is not None for p in m.parameters()]
    total = size(*base, *beside, *more) + alive.most
    return total, seconds, count / 2 / rows


@surroundings(grad=True)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # threads that wait for others count as the processor's time
    own = network()
    print(f"{sum(p.numel() for p in own.parameters()):,} weights, {args.rows} rows", flush=True)
    memory, seconds = bare(args.rows, args.times)
    print(f"bare: {memory / 2**20:.0f} MiB, {seconds:.2f} s", flush=True)
    print(f"{'method':10}{'memory':>8}{'again':>8}{'time':>8}{'again':>8}{'teacher':>9}")
    for method in METHODS:
        plain, again = (step(method, args.rows, args.times, way) for way in (False, True))
        ratios = [one[0] / memory for one in (plain, again)]
        ratios += [one[1] / seconds for one in (plain, again)]
        print(
            f"{method:10}" + "".join(f"{x:8.2f}" for x in ratios) + f"{plain[2]:9.1f}", flush=True
        )


if __name__ == "__main__":
    main()
