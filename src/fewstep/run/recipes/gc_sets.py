"""The four picture sets of GC, without labels: CIFAR-10, ImageNet-32, CelebA-64, LSUN Church-64."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# arXiv 2406.09570, its code's configs/*_GC_mix50.yaml and utils.py. CelebA's config cannot run (it
# names a class that does not exist), but its numbers are used. LSUN has no config: batch 128, the
# rest as CelebA's.
_NETWORKS: dict[str, Options] = {
    "cifar10": {"mult": (1, 2, 2), "blocks": 3},
    "imagenet32": {"mult": (1, 1, 2), "level_blocks": (3, 5, 7), "attention": (16,)},
    "celeba64": {"mult": (1, 2, 2, 2), "level_blocks": (3, 3, 4, 5)},
}
# The paper's baseline, --method ict, has dropout (configs/*_base.yaml: [0, .2, .2] and
# [0, 0, .2, .2] by level); GC has none.
_DROPS: dict[str, Options] = {
    "cifar10": {"dropout": 0.3},
    "imagenet32": {"dropout": 0.2, "dropout_resolutions": (16, 8)},
    "celeba64": {"dropout": 0.2, "dropout_resolutions": (16, 8)},
}

# By iterations. The code has ema_pytorch with beta = 0.9999 every 5 steps, whose warm-up
# 1 - k^(-2/3) still matters at the end: the averaged weights are then 10,000 and 13,300 steps old
# on average. With these decays ours are 9,600 and 14,000.
_EMA = {100_000: 0.9999, 150_000: 0.99993}


def _gc(recipe: str, like: str, method: str, iterations: int, **fields: Any) -> Run:
    # The configs, utils.py.
    ict: Options = {"s0": 10, "s1": 1280, "p_mean": -1.1, "p_std": 2.0, "c": 0.00054}
    gc: Options = {
        "base": {"method": "ict", **ict},
        "share": 0.5,  # the paper's mu; the code's mixing value is 1 - mu
        "predictor": "ema",  # generator_induced_traj_ema
        # ours, in deviations of the data: the code does not clip, and pictures lie in [-1, 1]
        "bound": 3.0,
    }
    drops = {"ict": _DROPS[like]}.get(method, {"dropout": 0.0})
    return Run(
        recipe=recipe,
        method=method,
        method_options={"gc": gc, "ict": ict}.get(method, {}),
        # EDM's, 128 channels, positional labels ln(t) / 4; attention in the middle alone
        network="song_unet",
        network_options={"attention": (), **_NETWORKS[like], **drops},
        labels=False,
        sigma_data=0.5,
        holdout=0.0,
        optimizer="lion",  # lion_pytorch's own betas and no weight decay
        betas=(0.9, 0.99),
        weight_decay=0.0,
        warmup=0.0,  # constant rate, no clipping, fp32, no flips: train_consistency.py
        constant=1.0,
        clip=1e6,
        iterations=iterations,
        ema=_EMA[iterations],
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
        **fields,
    )


def cifar10_gc(*, method: str = "gc", **fields: Any) -> Run:
    """CIFAR-10 without labels: GC on iCT from scratch, DDPM++ (arXiv 2406.09570)."""
    data: Options = {"data": "cifar10-32x32.zip", "batch": 512, "lr": 1e-4}
    return with_values(_gc("cifar10-gc", "cifar10", method, 100_000, **data), fields)


def imagenet32_gc(*, method: str = "gc", **fields: Any) -> Run:
    """ImageNet-32 without labels: GC on iCT from scratch, DDPM++ (arXiv 2406.09570)."""
    data: Options = {"data": "imagenet", "data_size": 32, "batch": 512, "lr": 8e-5}
    return with_values(_gc("imagenet32-gc", "imagenet32", method, 150_000, **data), fields)


def celeba64_gc(*, method: str = "gc", **fields: Any) -> Run:
    """CelebA-64: GC on iCT from scratch, DDPM++ (arXiv 2406.09570)."""
    data: Options = {"data": "img_align_celeba", "data_size": 64, "batch": 128, "lr": 8e-5}
    return with_values(_gc("celeba64-gc", "celeba64", method, 150_000, **data), fields)


def lsun64_gc(*, method: str = "gc", **fields: Any) -> Run:
    """LSUN Church-64: GC on iCT from scratch, DDPM++, with CelebA's settings (arXiv 2406.09570)."""
    data: Options = {"data": "church_outdoor_train", "data_size": 64, "batch": 128, "lr": 8e-5}
    return with_values(_gc("lsun64-gc", "celeba64", method, 150_000, **data), fields)
