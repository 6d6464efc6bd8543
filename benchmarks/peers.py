"""A training step beside a public trainer's own code, from a checkout that you name.

python benchmarks/peers.py --ect PATH --gc PATH

One process, one network (DDPM++ of 1.75 M weights on 3x32x32) with the same weights, whose outputs
are compared first, the same kind of optimizer, an average of the weights, steps in turn. The other
code's step is that of its training loop: its loss object, and the lines between it and the next
batch, without its DDP and its data loader.
"""

from __future__ import annotations

import argparse
import copy
import sys
import types
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from fewstep.base.randomness import generator
from fewstep.base.surroundings import threads
from fewstep.base.timing import in_turn
from fewstep.bench.steps import Trainer, ratio
from fewstep.cli.plan import noise_of
from fewstep.run.prepare import prepare
from fewstep.run.recipes import RECIPES

SHAPE = (3, 32, 32)
OWN = {"width": 32, "mult": (1, 2, 2), "blocks": 2, "attention": (16,)}
THEIRS = {
    "model_channels": 32,
    "channel_mult": [1, 2, 2],
    "num_blocks": 2,
    "attn_resolutions": [16],
}
OPTIMIZERS = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}
STAGE = 5  # of ECT's schedule: neighbours whose targets are not the data


def ours(recipe: str, dropout: float, batch: int, optimizer: str) -> Trainer:
    """The recipe's step on noise."""
    run = RECIPES[recipe](
        data="digits",  # noise takes its place
        init=None,
        batch=batch,
        block=batch,
        iterations=1000,
        optimizer=optimizer,
        network_options={**OWN, "dropout": dropout},
    )
    return Trainer("ours", prepare(replace(run, holdout=0.0), noise_of("3,32,32", 0)))


class Ect:
    """The step of ECT's training/ct_training_loop.py, with its loss and network."""

    def __init__(self, checkout: Path, dropout: float, batch: int, optimizer: str) -> None:
        sys.path.insert(0, str(checkout))
        from training.loss import ECMLoss  # type: ignore[import-not-found]
        from training.networks import ECMPrecond  # type: ignore[import-not-found]

        # Its loss keeps the generator of the GPU, for the dropout of both passes.
        torch.cuda.get_rng_state = torch.get_rng_state  # type: ignore[assignment]
        torch.cuda.set_rng_state = torch.set_rng_state  # type: ignore[assignment]
        sizes: dict[str, Any] = {"img_resolution": SHAPE[1], "img_channels": SHAPE[0]}
        self.net = ECMPrecond(**sizes, model_type="SongUNet", dropout=dropout, **THEIRS)
        self.net.train().requires_grad_(True)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.loss = ECMLoss()
        self.loss.update_schedule(STAGE)
        self.optimizer = OPTIMIZERS[optimizer](self.net.parameters(), lr=1e-4)
        self.images = torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        images = self.images.to(torch.float32) / 127.5 - 1
        loss = self.loss(net=self.net, images=images, labels=None, augment_pipe=None)
        loss.mean().backward()
        for param in self.net.parameters():
            if param.grad is not None:
                torch.nan_to_num(param.grad, nan=0, posinf=1e5, neginf=-1e5, out=param.grad)
        self.optimizer.step()
        for p_average, p in zip(self.average.parameters(), self.net.parameters(), strict=True):
            p_average.copy_(p.detach().lerp(p_average, 0.9993))


class Gc:
    """The step of consistency_GC's train_consistency.py at share 1/2, its average the predictor."""

    def __init__(self, checkout: Path, dropout: float, batch: int, optimizer: str) -> None:
        sys.path.insert(0, str(checkout))
        # What its files import and this step has no use for.
        stand_in("torchvision")
        stand_in("omegaconf", OmegaConf=None)
        stand_in("ortools.graph.python", linear_sum_assignment=None)
        import edm_networks  # type: ignore[import-not-found]
        import utils  # type: ignore[import-not-found]

        self.utils, self.batch, self.number = utils, batch, 0
        sizes: dict[str, Any] = {"img_resolution": SHAPE[1], "img_channels": SHAPE[0]}
        net = edm_networks.ConsistencyPrecond(**sizes, dropout=dropout, **THEIRS)
        self.net = net.train().requires_grad_(True)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.config = utils.Train_config(loss_type="huber", sigma_min=0.002, sigma_max=80.0)
        self.optimizer = OPTIMIZERS[optimizer](self.net.parameters(), lr=1e-4)
        self.images = torch.rand(batch, *SHAPE) * 2 - 1

    def step(self) -> None:
        utils, x0, rows = self.utils, self.images, (-1, 1, 1, 1)
        z = torch.randn_like(x0)
        count = utils.improved_timesteps_schedule(
            800, 1000, initial_timesteps=10, final_timesteps=1280
        )
        levels = utils.get_sigmas_karras(count, 0.002, 80.0)
        place = utils.lognormal_timestep_distribution(self.batch, levels)
        weights = utils.improved_loss_weighting(levels)[place]
        r, t = levels[place], levels[place + 1]
        x_r = x0 + r.view(rows) * z
        is_own = torch.rand(self.batch, 1, 1, 1) > 0.5
        with torch.no_grad():
            end = self.average(x_r, r)
            x0 = is_own * end + ~is_own * x0
            x_r = x0 + r.view(rows) * z
        x_t = x0 + t.view(rows) * z
        self.optimizer.zero_grad()
        state = torch.get_rng_state()
        with torch.no_grad():
            goal = self.net(x_r, r)
        torch.set_rng_state(state)
        loss = utils.loss_image(goal.detach(), self.net(x_t, t), self.config)
        (weights * loss).mean().backward()
        self.optimizer.step()
        self.number += 1
        if self.number % 5 == 0:  # update_every of its average
            with torch.no_grad():
                pairs = [*self.average.parameters()], [*self.net.parameters()]
                torch._foreach_lerp_(*pairs, 1e-4)  # type: ignore[arg-type]


def stand_in(name: str, **names: Any) -> None:
    """A module, with those around it, of which nothing is called."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(parts[end - 1]))
    vars(sys.modules[name]).update(names)


@torch.no_grad()
def give_weights(own: nn.Module, other: nn.Module) -> float:
    """Gives our network the other's weights; how far its outputs are from the other's."""
    weights = {name.removeprefix("model."): p for name, p in other.state_dict().items()}
    own.load_state_dict(weights)
    x, label = torch.randn(4, *SHAPE, generator=generator(0, "peers")), torch.full((4,), 0.2)
    before, after = other.model.eval()(x, label, None), own.eval()(x, label, None)  # type: ignore[operator, union-attr]
    other.train()
    own.train()
    return float((before - after).abs().max() / before.abs().max())


def compare(name: str, own: Trainer, peer: Ect | Gc, repeats: int) -> str:
    """A line of our step over the other's, and over the floor."""
    apart = give_weights(own.state.student.network, peer.net)
    calls = {"own": own.step, "peer": peer.step, "floor": own.floor}
    seconds = in_turn(calls, repeats)
    over, floor = (ratio(seconds["own"], seconds[other]) for other in ("peer", "floor"))
    ms = {what: 1e3 * median(times) for what, times in seconds.items()}
    return (
        f"{name}: step {ms['own']:.1f} ms, its own code {ms['peer']:.1f} ms, ratio"
        f" {over.value:.3f} ({over.low:.3f} .. {over.high:.3f}); of the floor {floor.value:.3f};"
        f" outputs {apart:.1e} apart"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ect", type=Path, help="checkout of locuslab/ect")
    parser.add_argument("--gc", type=Path, help="checkout of thibautissenhuth/consistency_GC")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    args = parser.parse_args()
    cases: list[tuple[str, Any, Path | None, float]] = [
        ("cifar10-ect", Ect, args.ect, 0.1),
        ("cifar10-ect", Ect, args.ect, 0.0),
        ("cifar10-gc", Gc, args.gc, 0.0),
    ]
    with threads(args.threads):
        for recipe, kind, checkout, dropout in cases:
            if checkout is not None:
                own = ours(recipe, dropout, args.batch, args.optimizer)
                peer = kind(checkout, dropout, args.batch, args.optimizer)
                name = f"{recipe}, dropout {dropout}"
                print(compare(name, own, peer, args.repeats), flush=True)


if __name__ == "__main__":
    main()
