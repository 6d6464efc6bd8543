"""The training steps of NVIDIA's FastGen, from a checkout, for `peers.py --fastgen`.

Needs the packages hydra-core, omegaconf, loguru and diffusers. Of FastGen's own list all others
have stand-ins: they read data, show pictures and build networks that these steps do without.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.base.randomness import generator

# The sizes of DDPM++ with 1.75 M weights, in the words of EDM's code, which others have too.
THEIRS: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 2, 2],
    "num_blocks": 2,
    "attn_resolutions": [16],
}
# What its files import and a step on the CPU has no use for.
OTHERS = (
    *("boto3", "botocore.config", "botocore.exceptions", "einops", "ftfy", "imageio.v3"),
    *("torchvision.transforms", "wandb.util", "webdataset"),
)
OWN_PARTS = ("fastgen.configs.data", "fastgen.datasets.augment")
CALLBACKS = ("ct_schedule", "ema", "grad_clip")  # the beginnings of those that a step needs


class Absent:
    """Something of a module that is not here: it is named in a configuration, and never called."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass


class StandIn(types.ModuleType):
    """A module, with those inside it, of which nothing is called."""

    __path__: list[str] = []  # noqa: RUF012 - what makes a module a package

    def __getattr__(self, name: str) -> type[Absent]:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Absent,), {"__module__": "builtins"})


def stand_in(name: str) -> None:
    """Puts a stand-in where a module is not there, and where those are not that it lies in."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), StandIn(parts[end - 1]))


@dataclass
class Loop:
    """What its `Trainer.train_step` reads of its trainer."""

    config: Any
    callbacks: Any = None


class FastGen:
    """The step of its trainer.py: a model's `single_train_step`, backward, and the callbacks."""

    CONFIG = ""
    HAS_END = False

    def __init__(self, checkout: Path, dropout: float, batch: int, optimizer: str) -> None:
        config = config_of(checkout, self.CONFIG)
        from fastgen.callbacks.callback import CallbackDict  # type: ignore[import-not-found]
        from fastgen.trainer import Trainer  # type: ignore[import-not-found]
        from fastgen.utils import instantiate  # type: ignore[import-not-found]

        model = config.model
        model.device, model.precision, model.pretrained_model_path = "cpu", "float32", ""
        model.net = network_of({**model.net, "dropout": dropout, "augment_dim": 0})
        model.net_optimizer.optim_type = optimizer
        config.dataloader_train.batch_size = batch
        callbacks = config.trainer.callbacks
        config.trainer.callbacks = {
            name: one for name, one in callbacks.items() if name.startswith(CALLBACKS)
        }
        config.model_class.config = model
        self.model = instantiate(config.model_class)
        self.model.on_train_begin()
        self.model.init_optimizers()
        self.loop = Loop(config)
        self.loop.callbacks = CallbackDict(config, self.loop)
        self.loop.callbacks.on_model_init_end(self.model)
        self.loop.callbacks.on_train_begin(self.model)
        self.train_step = Trainer.train_step
        self.net, self.number = self.model.net.model, 0
        source = generator(0, "fastgen")
        images = torch.rand(batch, *model.input_shape, generator=source) * 2 - 1
        self.data = {"real": images, "condition": None, "neg_condition": None}

    def bare(self, x: Tensor, label: Tensor) -> Tensor:
        """The network's answer."""
        end = label if self.HAS_END else None
        result: Tensor = self.net(x, label, None, r_noise_labels=end, feature_indices={})
        return result

    def step(self) -> None:
        self.number += 1
        number, model, data = self.number, self.model, self.data
        losses, outputs = self.train_step(self.loop, model, model, data, number, 0)
        self.loop.callbacks.on_training_step_end(
            model=model, data_batch=data, output_batch=outputs, loss_dict=losses, iteration=number
        )


class FastGenEct(FastGen):
    """ECT: fastgen/methods/consistency_model/CM.py."""

    CONFIG = "config_cm_cifar10_fast"


class FastGenMeanFlow(FastGen):
    """MeanFlow: fastgen/methods/consistency_model/mean_flow.py, which derives all rows."""

    CONFIG = "config_mf_cifar10"
    HAS_END = True


def config_of(checkout: Path, name: str) -> Any:
    """Its configuration of an experiment on CIFAR-10; of its networks there is this one alone."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
        # It looks for packages that are here, and takes a stand-in for one.
        from diffusers import CogVideoXDPMScheduler, DDIMScheduler  # noqa: F401

        for other in OTHERS:
            stand_in(other)
        import fastgen.configs  # type: ignore[import-not-found]  # noqa: F401 - a stand-in's place
        from loguru import logger  # type: ignore[import-not-found]

        logger.disable("fastgen")
        for part in OWN_PARTS:
            stand_in(part)
        list_of_networks: Any = StandIn("net")
        list_of_networks.EDM_CIFAR10_Config = network_of({})
        list_of_networks.CKPT_ROOT_DIR = ""
        sys.modules["fastgen.configs.net"] = list_of_networks
    from fastgen.configs.experiments.EDM import (  # type: ignore[import-not-found]
        config_cm_cifar10_fast,
        config_mf_cifar10,
    )

    configs = {
        "config_cm_cifar10_fast": config_cm_cifar10_fast,
        "config_mf_cifar10": config_mf_cifar10,
    }
    return configs[name].create_config()


def network_of(options: dict[str, Any]) -> Any:
    """DDPM++ in its words, with other options."""
    from fastgen.networks.EDM.network import EDMPrecond  # type: ignore[import-not-found]
    from fastgen.utils import LazyCall

    standard: dict[str, Any] = {
        "img_resolution": 32,
        "img_channels": 3,
        "label_dim": 0,
        "sigma_data": 0.5,
        "model_type": "SongUNet",
        "r_timestep": False,
        "drop_precond": None,
    }
    own = {name: value for name, value in options.items() if name != "_target_"}
    return LazyCall(EDMPrecond)(**{**standard, **THEIRS, **own})
