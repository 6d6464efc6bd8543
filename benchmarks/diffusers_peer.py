"""One-step samples and training steps beside diffusers, on one network with the same weights.

python benchmarks/diffusers_peer.py

One process, a UNet2DModel of 1.62 M weights on 3x32x32, all in turn. Samples are those of the
ConsistencyModelPipeline, as tensors and without its progress bar, beside `sample` of the generator
that `fs.as_generator` makes of the same network; both beside the noise and the network's pass. The
training step is that of diffusers' unconditional example: add_noise, mse, backward, the gradient's
norm, AdamW, the schedule of its rate, EMAModel and the loss as a number, without accelerate and
the data loader; ours is a step of the method `diffusion`, and draws its batch too.
Needs the extra diffusers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMScheduler,
    UNet2DModel,
)
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

import fewstep as fs
from fewstep.base.randomness import generator
from fewstep.base.surroundings import threads
from fewstep.base.table import text_table
from fewstep.base.timing import in_turn
from fewstep.bench.steps import TURN, Trainer, ratio
from fewstep.cli.plan import noise_of
from fewstep.run.config import Run
from fewstep.run.prepare import prepare
from fewstep.statistics.intervals import median_interval

SHAPE = (3, 32, 32)
SIZES = (1, 64)
NETWORK: dict[str, Any] = {
    "sample_size": SHAPE[1],
    "in_channels": SHAPE[0],
    "out_channels": SHAPE[0],
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
STEPS = 1000  # of both schedules
# Of the example, where its script has a default.
LR, BETAS, DECAY, CLIP, EMA = 1e-4, (0.95, 0.999), 1e-6, 1.0, 0.9999

Calls = dict[str, Callable[[], object]]


class Theirs:
    """The step of diffusers' examples/unconditional_image_generation."""

    def __init__(self, network: UNet2DModel, batch: int) -> None:
        self.network = network.train().requires_grad_(True)
        self.noise = DDPMScheduler(num_train_timesteps=1000)
        weights = list(network.parameters())
        self.average = EMAModel(weights, decay=EMA, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.optimizer = torch.optim.AdamW(weights, lr=LR, betas=BETAS, weight_decay=DECAY)
        self.rate = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=500, num_training_steps=STEPS
        )
        self.source = generator(0, "diffusers peer")
        self.images = torch.rand(batch, *SHAPE, generator=self.source) * 2 - 1

    def step(self) -> None:
        x0, rows = self.images, len(self.images)
        z = torch.randn(x0.shape, generator=self.source)
        times = torch.randint(0, 1000, (rows,), generator=self.source)
        guess = self.network(self.noise.add_noise(x0, z, times), times).sample
        loss = nn.functional.mse_loss(guess.float(), z.float())
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        self.average.step(self.network.parameters())
        loss.detach().item()  # each step's row of the log has it


def ours(network: UNet2DModel, batch: int) -> Trainer:
    """A step of the method diffusion on a copy of the network."""
    run = Run(
        recipe="diffusers",
        method="diffusion",
        network="diffusers",
        network_options={"config": json.dumps(json.loads(network.to_json_string()))},
        data="digits",  # noise takes its place
        holdout=0.0,
        batch=batch,
        block=batch,
        iterations=STEPS,
        optimizer="adamw",
        lr=LR,
        betas=BETAS,
        weight_decay=DECAY,
        clip=CLIP,
        ema=EMA,
    )
    trainer = Trainer("ours", prepare(run, noise_of(",".join(map(str, SHAPE)), 0)))
    inner: Any = trainer.state.student.network
    inner.model.load_state_dict(network.state_dict())
    return trainer


def samplers(network: UNet2DModel, size: int) -> Calls:
    """One-step samples by diffusers and by us, and the noise and the network's pass alone."""
    scheduler = CMStochasticIterativeScheduler()
    pipeline = ConsistencyModelPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    own = fs.as_generator(fs.adapters.diffusers(network, scheduler), SHAPE)
    source, label = generator(0, "diffusers peer"), torch.full((1,), 1000.0)

    @torch.inference_mode()
    def bare() -> Tensor:
        x = torch.randn(size, *SHAPE, generator=source)
        result: Tensor = network(x, label, return_dict=False)[0]
        return result

    return {
        "fewstep": lambda: own.sample(size, steps=1, batch=size),
        "diffusers": lambda: pipeline(size, generator=source, output_type="pt"),
        "bare loop": bare,
    }


@torch.no_grad()
def distance(network: UNet2DModel, own: nn.Module) -> float:
    """How far our network's outputs are from the other's, of their largest."""
    x, label = torch.randn(4, *SHAPE, generator=generator(1, "diffusers peer")), torch.arange(4)
    before, after = network.eval()(x, label).sample, own.eval()(x, label)
    network.train()
    own.train()
    return float((before - after).abs().max() / before.abs().max())


def sample_rows(network: UNet2DModel, size: int, repeats: int) -> list[dict[str, Any]]:
    """What calls of so many samples take, in milliseconds, and what they take beyond the bare."""
    seconds = in_turn(samplers(network.eval(), size), repeats, least=TURN)
    bare = seconds["bare loop"]
    rows = []
    for name, times in seconds.items():
        over = ratio(times, bare)
        beyond = median_interval([1e3 * (a - b) for a, b in zip(times, bare, strict=True)])
        rows.append(
            {
                "what": f"{name}, {size} in 1",
                "ms": 1e3 * median(times),
                "ratio": over.value,
                "interval": over[1:],
                "beyond": beyond.value,
                "beyond_interval": beyond[1:],
            }
        )
    return rows


def step_rows(network: UNet2DModel, batch: int, repeats: int) -> list[dict[str, Any]]:
    """What our training step takes, in milliseconds, over theirs and over our floor."""
    own = ours(network, batch)
    apart = distance(network, own.state.student.network)
    theirs = Theirs(network, batch)
    seconds = in_turn({"fewstep": own.step, "diffusers": theirs.step, "floor": own.floor}, repeats)
    rows = []
    for name in ("diffusers", "floor"):
        over = ratio(seconds["fewstep"], seconds[name])
        rows.append(
            {
                "what": f"step of {batch} over {name}",
                "ms": 1e3 * median(seconds["fewstep"]),
                "other": 1e3 * median(seconds[name]),
                "ratio": over.value,
                "interval": over[1:],
                "outputs_apart": apart,
            }
        )
    return rows


def text_of(samples: list[dict[str, Any]], steps: list[dict[str, Any]]) -> str:
    """Both tables, for a terminal."""
    calls = [
        [
            row["what"],
            f"{row['ms']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['beyond']:+.2f}",
            between(row["beyond_interval"], 2),
        ]
        for row in samples
    ]
    times = [
        [
            row["what"],
            f"{row['ms']:.1f}",
            f"{row['other']:.1f}",
            f"{row['ratio']:.3f}",
            between(row["interval"], 3),
        ]
        for row in steps
    ]
    return "\n".join(
        [
            text_table(calls, ["samples", "ms", "of bare loop", "beyond, ms", "95 %"]),
            text_table(times, ["training", "fewstep, ms", "other, ms", "ratio", "95 %"]),
            f"outputs {steps[0]['outputs_apart']:.1e} apart",
        ]
    )


def between(ends: tuple[float, float], digits: int) -> str:
    return f"{ends[0]:.{digits}f} .. {ends[1]:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16, help="of a training step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with threads(args.threads):
        network = UNet2DModel(**NETWORK)
        samples = [row for size in SIZES for row in sample_rows(network, size, args.repeats)]
        steps = step_rows(network, args.batch, args.repeats)
    if args.json:
        print(json.dumps({"samples": samples, "steps": steps}))
    else:
        weights = sum(p.numel() for p in network.parameters())
        print(f"UNet2DModel, {weights:,} weights, {args.threads} thread")
        print(text_of(samples, steps))


if __name__ == "__main__":
    main()
