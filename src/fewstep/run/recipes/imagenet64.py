"""ImageNet by class, 3x64x64: iCT; ECT and TCM of EDM2's weights, sizes S and XL."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# Iterations before lr / sqrt(iteration / 2000): ECT's presets (decay=2000), TCM's --decay_iter.
_FLAT = 2000
# ECT's presets edm2-img64-s and -xl (branch imgnet, ct_train.py); the same in TCM's README (S) and
# FastGen (S, XL). 280 M and 1119 M weights; dropout at resolutions 16 and 8 alone.
_SIZES: dict[str, Options] = {
    "s": {"width": 192, "dropout": 0.4, "dropout_resolutions": (16, 8)},
    "xl": {"width": 384, "dropout": 0.5, "dropout_resolutions": (16, 8)},
}
_LR = {"s": 1e-3, "xl": 7e-4}  # the same presets
_LAW: Options = {"p_mean": -0.8, "p_std": 1.6}  # the same presets; TCM's README
# ct_train.py: -c, --wt snrpk; TCM's README: --weighting cout_sq.
_LOSS: Options = {"c": 0.06, "weight": "edm"}


def _edm2(recipe: str, size: str, **fields: Any) -> Run:
    """What ECT and TCM have in common; no flips, augmentation or clipping in either code."""
    return Run(
        recipe=recipe,
        data="imagenet-64x64.zip",  # as EDM2's dataset_tool.py writes it, crop center-crop-dhariwal
        holdout=0.0,
        sigma_data=0.5,
        network="edm2_unet",
        network_options=_SIZES[size],
        optimizer="adam",
        betas=(0.9, 0.99),  # the presets; TCM's --beta2
        lr=_LR[size],
        warmup=0.0,  # TCM's --rampup_iter=0
        decay="inverse_sqrt",
        clip=1e6,
        ema=0.9999,  # ECT's --ema_beta
        later_sigmas=(1.526,),  # ECT's run_imgnet_ecm.sh; FastGen's config for TCM
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
        **fields,
    )


def _ect(recipe: str, size: str, method: str) -> Run:
    return _edm2(
        recipe,
        size,
        method=method,
        # q = 4: ct_train.py; stages: --double 500 ticks of 6.4 kimg are a quarter of the run
        method_options={"ect": {**_LAW, **_LOSS, "q": 4.0, "stages": 4}}.get(method, {}),
        # the published 102.4 million samples; run_imgnet_ecm.sh has 128 and 12.8 million
        batch=1024,
        iterations=100_000,
        constant=_FLAT / 100_000,
        # training/phema.py; FastGen's ema_1, ema_5, ema_10
        averages=("power:0.01", "power:0.05", "power:0.1"),
    )


def imagenet64_ect_s(*, method: str = "ect", **fields: Any) -> Run:
    """ImageNet-64 by class: ECT of EDM2-S's weights (arXiv 2406.14548)."""
    return with_values(_ect("imagenet64-ect-s", "s", method), fields)


def imagenet64_ect_xl(*, method: str = "ect", **fields: Any) -> Run:
    """ImageNet-64 by class: ECT of EDM2-XL's weights (arXiv 2406.14548)."""
    return with_values(_ect("imagenet64-ect-xl", "xl", method), fields)


def _tcm(recipe: str, size: str, method: str, stage_lr: float) -> Run:
    """From the code's README (ImageNet 64x64, stage 1 and 2), whose durations are upper limits.

    150k and 110k iterations are those of the published curves for EDM2-S (figure 1b); none are
    stated for EDM2-XL.
    """
    # double_iter=10000 of 150,000 iterations; --ratio_limit, reached at 40,000
    stage1: Options = {**_LAW, **_LOSS, "q": 4.0, "stages": 15, "ratio_max": 0.9961}
    tcm: Options = {
        "base": {"method": "ect", **stage1},
        "t_prime": 1.0,
        "rho": 0.25,
        "w_b": 0.1,
        "mean": 0.0,
        "std": 0.2,
        "nu": 0.01,
    }
    return _edm2(
        recipe,
        size,
        method=method,
        method_options={"tcm": tcm, "ect": stage1}.get(method, {}),
        batch=1024,  # of stage 2; stage 1 has 2048 (FastGen: 1024)
        iterations=260_000,
        split=150 / 260,
        stage_lr=stage_lr,
        constant=_FLAT / 260_000,
        precision="fp16",
        averages=("power:0.05",),  # --ema_type=power --ema_gamma=16.97
    )


def imagenet64_tcm_s(*, method: str = "tcm", **fields: Any) -> Run:
    """ImageNet-64 by class: TCM in two stages from EDM2-S's weights (arXiv 2410.14895)."""
    # Stage 2's 5e-4 / sqrt(iteration / 8000) is stage 1's 1e-3 / sqrt(iteration / 2000): the clock
    # goes on (--resume_tick), so the rate falls without a jump.
    return with_values(_tcm("imagenet64-tcm-s", "s", method, 1.0), fields)


def imagenet64_tcm_xl(*, method: str = "tcm", **fields: Any) -> Run:
    """ImageNet-64 by class: TCM in two stages from EDM2-XL's weights (arXiv 2410.14895)."""
    # TCM's code has no settings for XL. FastGen's stage 2 is 1e-4 / sqrt(iteration / 8000), here
    # on a clock that goes on as TCM's does: sqrt(8000 / 2000) 1e-4 / 7e-4. FastGen's clock starts
    # again: its rates are about three times these.
    return with_values(_tcm("imagenet64-tcm-xl", "xl", method, 2 / 7), fields)


def _ict(recipe: str, method: str, blocks: int) -> Run:
    # arXiv 2310.14189, table 1, section 4 and the appendix on experiments; its code is not public.
    # c = 0.06 is the method's 0.00054 times the root of 3 x 64 x 64. Flips: not stated.
    ict: Options = {"s0": 10, "s1": 1280, "p_mean": -1.1, "p_std": 2.0, "c": 0.00054}
    return Run(
        recipe=recipe,
        method=method,
        method_options={"ict": ict}.get(method, {}),
        data="imagenet-64x64.zip",
        holdout=0.0,
        sigma_data=0.5,
        network="adm_unet",
        network_options={
            "blocks": blocks,  # 3, of iCT-deep 6
            "scale_shift": False,  # "AdaGN hurts consistency training"
            "dropout": 0.2,
            "dropout_resolutions": (16, 8),  # 16 and below
        },
        batch=4096,
        iterations=800_000,
        optimizer="radam",
        betas=(0.9, 0.999),  # RAdam's own; none are stated
        lr=1e-4,
        warmup=0.0,
        constant=1.0,
        clip=1e6,
        ema=0.99997,
        precision="fp16",  # not stated; as CM's on ImageNet
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
    )


def imagenet64_ict(*, method: str = "ict", **fields: Any) -> Run:
    """ImageNet-64 by class: iCT from scratch, ADM (arXiv 2310.14189)."""
    return with_values(_ict("imagenet64-ict", method, 3), fields)


def imagenet64_ict_deep(*, method: str = "ict", **fields: Any) -> Run:
    """ImageNet-64 by class: iCT-deep from scratch, ADM of twice the blocks (arXiv 2310.14189)."""
    return with_values(_ict("imagenet64-ict-deep", method, 6), fields)
