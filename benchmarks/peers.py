"""A training step beside a public trainer's own code, from a checkout that you name.

python benchmarks/peers.py --ect PATH --gc PATH --meanflow PATH --fastgen PATH

One process, one network (DDPM++ of 1.75 M weights on 3x32x32) with the same weights, whose outputs
are compared first, the same kind of optimizer, as many averages of the weights, steps in turn. The
other code's step is that of its training loop: its loss object, and the lines between it and the
next batch, without its DDP and its data loader. A network with two times has an embedding of the
second one that is the code's own: there it is 0 while outputs are compared. All is eager; with
--compile torch compiles the networks of both sides, for ECT and GC.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from fastgen_peer import THEIRS, FastGenEct, FastGenMeanFlow
from torch import Tensor, nn

from fewstep.base.randomness import generator
from fewstep.base.surroundings import threads
from fewstep.base.timing import in_turn
from fewstep.bench.steps import Trainer, describe, ratio
from fewstep.cli.plan import noise_of
from fewstep.run.prepare import prepare
from fewstep.run.recipes import RECIPES

SHAPE = (3, 32, 32)
OWN = {"width": 32, "mult": (1, 2, 2), "blocks": 2, "attention": (16,)}
# Ours; what py-meanflow's network has beside it.
TWO_TIMES: dict[str, Any] = {"noise_mult": 2, "taps": (1, 3, 3, 1)}
OPTIMIZERS = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}
STAGE = 5  # of ECT's schedule: neighbours whose targets are not the data


def ours(recipe: str, options: dict[str, Any], dropout: float, args: argparse.Namespace) -> Trainer:
    """The recipe's step on noise."""
    run = RECIPES[recipe](
        data="digits",  # noise takes its place
        init=None,
        batch=args.batch,
        block=args.batch,
        iterations=1000,
        optimizer=args.optimizer,
        compile="on" if args.compile else "off",
        augment=0.0,
        network_options={**OWN, **options, "dropout": dropout},
    )
    return Trainer("ours", prepare(replace(run, holdout=0.0), noise_of("3,32,32", 0)))


class Peer(Protocol):
    """A step of another code; bare: the answer of its network alone."""

    net: nn.Module

    def bare(self, x: Tensor, label: Tensor) -> Tensor: ...
    def step(self) -> None: ...


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

    def bare(self, x: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.net.model(x, label, None)
        return result

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

    def bare(self, x: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.net.model(x, label, None)
        return result

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
                torch._foreach_lerp_(*pairs, 1e-4)


class MeanFlow:
    """The step of py-meanflow's training/train_loop.py, with the words of its cifar10_v0.sh.

    Without augmentation, and without the seed of each step, which asks for a GPU. Its average moves
    in each sixteenth step. The code compiles its step unless told not to.
    """

    def __init__(self, checkout: Path, dropout: float, batch: int, optimizer: str) -> None:
        sys.path.insert(0, str(checkout / "meanflow"))
        from models.meanflow import MeanFlow as Model  # type: ignore[import-not-found]
        from models.unet import SongUNet  # type: ignore[import-not-found]
        from train_arg_parser import get_args_parser  # type: ignore[import-not-found]

        words = "--tr_sampler=v0 --P_mean_t=-2 --P_std_t=2 --P_mean_r=-2 --P_std_r=2 --ratio=0.75"
        sizes = {
            "img_resolution": SHAPE[1],
            "in_channels": SHAPE[0],
            "out_channels": SHAPE[0],
            "channel_mult_noise": TWO_TIMES["noise_mult"],
            "resample_filter": list(TWO_TIMES["taps"]),
            "dropout": dropout,
        }
        args = get_args_parser().parse_args(words.split())
        self.model = Model(arch=SongUNet, args=args, net_configs={**sizes, **THEIRS}).train()
        self.net = self.model.net
        self.optimizer = OPTIMIZERS[optimizer](self.net.parameters(), lr=6e-4)
        self.rate = torch.optim.lr_scheduler.ConstantLR(self.optimizer, 1.0)
        self.images = torch.rand(batch, *SHAPE)

    def bare(self, x: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.net(x, (label, label))
        return result

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.model.forward_with_loss(self.images * 2 - 1, None)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise ValueError("the loss is not finite")
        self.optimizer.step()
        self.model.update_ema()
        self.rate.step()


def stand_in(name: str, **names: Any) -> None:
    """A module, with those around it, of which nothing is called."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(parts[end - 1]))
    vars(sys.modules[name]).update(names)


@torch.no_grad()
def give_weights(own: Any, peer: Peer) -> float:
    """Gives our network the other's weights; how far its outputs are from the other's."""
    names = own.state_dict()
    weights = {name.removeprefix("model."): p for name, p in peer.net.state_dict().items()}
    first = weights["map_layer0.weight"]
    columns = own.map_layer0.in_features
    first[:, columns:] = 0  # what it makes of the second time
    weights["map_layer0.weight"] = first[:, :columns]
    own.load_state_dict({**names, **{name: weights[name] for name in names if name in weights}})
    x, label = torch.randn(4, *SHAPE, generator=generator(0, "peers")), torch.full((4,), 0.2)
    peer.net.eval()
    end = label[:, None] if own.ends else None
    before, after = peer.bare(x, label), own.eval()(x, label, None, None, end)
    peer.net.train()
    own.train()
    return float((before - after).abs().max() / before.abs().max())


def compare(name: str, own: Trainer, peer: Peer, repeats: int) -> str:
    """A line of our step over the other's, and over the floor."""
    apart = give_weights(own.state.student.network, peer)
    if own.prepared.run.compile == "on":
        peer.net.compile()
    calls: dict[str, Callable[[], object]]
    calls = {"own": own.step, "peer": peer.step, "floor": own.floor}
    seconds = in_turn(calls, repeats)
    over, floor = (ratio(seconds["own"], seconds[other]) for other in ("peer", "floor"))
    ms = {what: 1e3 * median(times) for what, times in seconds.items()}
    passes = ", ".join(f"{count} {kind}" for kind, count in describe(own.floor.passes).items())
    return (
        f"{name}: step {ms['own']:.1f} ms, its own code {ms['peer']:.1f} ms, ratio"
        f" {over.value:.3f} ({over.low:.3f} .. {over.high:.3f}); of the floor {floor.value:.3f};"
        f" outputs {apart:.1e} apart; our rows: {passes}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ect", type=Path, help="checkout of locuslab/ect")
    parser.add_argument("--gc", type=Path, help="checkout of thibautissenhuth/consistency_GC")
    parser.add_argument("--meanflow", type=Path, help="checkout of Gsunshine/py-meanflow")
    parser.add_argument("--fastgen", type=Path, help="checkout of NVlabs/FastGen")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--compile", action="store_true", help="both networks, of ECT and GC")
    args = parser.parse_args()
    cases: list[tuple[str, Any, Path | None, dict[str, Any], float]] = [
        ("cifar10-ect", Ect, args.ect, {}, 0.1),
        ("cifar10-ect", Ect, args.ect, {}, 0.0),
        ("cifar10-gc", Gc, args.gc, {}, 0.0),
        ("cifar10-meanflow", MeanFlow, args.meanflow, TWO_TIMES, 0.2),
        ("cifar10-meanflow", MeanFlow, args.meanflow, TWO_TIMES, 0.0),
        ("cifar10-ect-hour", FastGenEct, args.fastgen, {}, 0.2),
        ("cifar10-ect-hour", FastGenEct, args.fastgen, {}, 0.0),
        ("cifar10-meanflow", FastGenMeanFlow, args.fastgen, {}, 0.2),
        ("cifar10-meanflow", FastGenMeanFlow, args.fastgen, {}, 0.0),
    ]
    with threads(args.threads):
        for recipe, kind, checkout, options, dropout in cases:
            if checkout is not None and (kind in (Ect, Gc) or not args.compile):
                own = ours(recipe, options, dropout, args)
                peer = kind(checkout, dropout, args.batch, args.optimizer)
                name = f"{recipe} beside {kind.__name__}, dropout {dropout}"
                print(compare(name, own, peer, args.repeats), flush=True)


if __name__ == "__main__":
    main()
