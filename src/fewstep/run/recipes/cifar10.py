"""CIFAR-10 without labels, 3x32x32: iCT, ECT, ECT with GC, and TCM with their papers' settings."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# What the three have in common.
# EDM's zip has labels, which none of them uses. sigma_data = 0.5 and data / 127.5 - 1: every paper
# and code. Flips and augmentation: none in ECT's and TCM's scripts (--augment=0). Clipping: none in
# theirs (TCM's bound of 1e6 is the same). Constant learning rate without warm-up: ECT's and TCM's
# code.
_COMMON: Options = {
    "data": "cifar10-32x32.zip",  # as EDM's dataset_tool.py writes it
    "holdout": 0.0,
    "labels": False,
    "sigma_data": 0.5,
    "optimizer": "radam",  # iCT; ECT's and TCM's scripts (--optim=RAdam)
    "betas": (0.9, 0.999),  # ECT's and TCM's code; RAdam's own in iCT, which states none
    "lr": 1e-4,  # iCT; ECT's run_ecm.sh; TCM's README
    "warmup": 0.0,
    "constant": 1.0,
    "clip": 1e6,
    # this and the next two change no weight; as often as in TCM's README
    "log_every": 100,
    "picture_every": 1000,
    "checkpoint_every": 10_000,
}
# DDPM++, 55.7 M weights, as EDM's uncond-vp checkpoint; dropout 0.2: ECT's run_ecm.sh, TCM's README
_DDPMPP: Options = {"network": "song_unet", "network_options": {"dropout": 0.2}}


# NCSN++ (EDM's appendix C); EDM's own and CM's have fourier_scale 16, iCT 0.02
NCSNPP: Options = {
    "embedding": "fourier",
    "encoder": "residual",
    "taps": (1, 3, 3, 1),
    "noise_mult": 2,
}


def _ict(recipe: str, method: str, blocks: int) -> Run:
    # All from the paper's sections 3 and 4 and its appendix on experiments; its code is not public.
    # Table 1, which are the method's defaults.
    ict: Options = {"s0": 10, "s1": 1280, "p_mean": -1.1, "p_std": 2.0, "c": 0.00054}
    return Run(
        recipe=recipe,
        method=method,
        method_options={"ict": ict}.get(method, {}),
        network="song_unet",
        network_options={
            **NCSNPP,
            "fourier_scale": 0.02,  # with the label ln(t) / 4, as CM has it for CIFAR-10
            "dropout": 0.3,
            "blocks": blocks,  # 4, of iCT-deep 8
        },
        batch=1024,
        iterations=400_000,
        ema=0.99993,
        **_COMMON,
    )


def cifar10_ict(*, method: str = "ict", **fields: Any) -> Run:
    """CIFAR-10 without labels: iCT from scratch, NCSN++ (arXiv 2310.14189)."""
    return with_values(_ict("cifar10-ict", method, 4), fields)


def cifar10_ict_deep(*, method: str = "ict", **fields: Any) -> Run:
    """CIFAR-10 without labels: iCT-deep, NCSN++ of twice the blocks (arXiv 2310.14189)."""
    return with_values(_ict("cifar10-ict-deep", method, 8), fields)


# By the length of the run: what ECT's method, its average and the run have.
_ECT: dict[str, tuple[Options, float, int]] = {
    # run_ecm.sh. --mean, --std, -q, -k, -b and -c of ct_train.py are the method's defaults. stages:
    # --double=250 ticks of 12.8 kimg are 25,000 of 200,000 iterations; --duration=25.6 (millions of
    # samples); --ema_beta of ct_train.py
    "full": ({"stages": 8}, 0.9999, 200_000),
    # GC's table 2: 100k iterations, the first half of ECT's
    "half": ({"stages": 4}, 0.9999, 100_000),
    # run_ecm_1hour.sh: -q 256, --double 10000 (never), --ema_beta 0.9993. Its duration is an upper
    # limit; 8,000 iterations are FastGen's (config_cm_cifar10_fast)
    "hour": ({"q": 256.0, "stages": 1}, 0.9993, 8000),
}


def _ect(recipe: str, method: str, length: str) -> Run:
    ect, ema, iterations = _ECT[length]
    # arXiv 2406.09570, table 2: a share of 0.3 is the best; other settings as ECT's
    gc: Options = {"base": {"method": "ect", **ect}, "share": 0.3}
    return Run(
        recipe=recipe,
        method=method,
        method_options={"ect": ect, "gc": gc}.get(method, {}),
        batch=128,  # run_ecm.sh
        iterations=iterations,
        ema=ema,
        **_DDPMPP,
        **_COMMON,
    )


def cifar10_ect(*, method: str = "ect", **fields: Any) -> Run:
    """CIFAR-10 without labels: ECT of EDM's weights, DDPM++ (arXiv 2406.14548)."""
    return with_values(_ect("cifar10-ect", method, "full"), fields)


def cifar10_ect_hour(*, method: str = "ect", **fields: Any) -> Run:
    """CIFAR-10 without labels: ECT of EDM's weights in an hour of one A100 (arXiv 2406.14548)."""
    return with_values(_ect("cifar10-ect-hour", method, "hour"), fields)


def cifar10_ect_gc(*, method: str = "gc", **fields: Any) -> Run:
    """CIFAR-10 without labels: ECT of EDM's weights with GC, 100k its (arXiv 2406.09570)."""
    return with_values(_ect("cifar10-ect-gc", method, "half"), fields)


def cifar10_ect_gc_hour(*, method: str = "gc", **fields: Any) -> Run:
    """CIFAR-10 without labels: ECT's one-hour run of EDM's weights with GC (arXiv 2406.09570)."""
    return with_values(_ect("cifar10-ect-gc-hour", method, "hour"), fields)


def cifar10_tcm(*, method: str = "tcm", **fields: Any) -> Run:
    """CIFAR-10 without labels: TCM in two stages from EDM's weights, DDPM++ (arXiv 2410.14895)."""
    # Everything from the code's README (CIFAR-10, stage 1 and 2) where nothing else is said. Its
    # durations are upper limits; 250k and 230k iterations are those of the published curves
    # (figure 1b).
    stage1: Options = {
        "p_mean": -1.1,
        "p_std": 2.0,
        "q": 2.0,
        "stages": 10,  # double_iter=25000 of 250,000 iterations; the cap is reached at 225,000
        "ratio_max": 0.999,
        "c": 1e-8,
        "weight": "inverse_gap",
    }
    tcm: Options = {
        "base": {"method": "ect", **stage1},
        "t_prime": 1.0,
        "rho": 0.25,
        "w_b": 0.1,
        "mean": 0.0,
        "std": 0.2,
        "nu": 0.01,
    }
    run = Run(
        recipe="cifar10-tcm",
        method=method,
        method_options={"tcm": tcm, "ect": stage1}.get(method, {}),
        batch=1024,  # of stage 2; stage 1 has 512
        iterations=480_000,
        split=250 / 480,
        stage_lr=0.5,  # stage 2: 5e-5
        ema=0.9999,  # ct_train.py: --ema_beta
        **_DDPMPP,
        **_COMMON,
    )
    return with_values(run, fields)
