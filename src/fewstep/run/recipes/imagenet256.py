"""ImageNet by class at 256x256, in latents 4x32x32: MeanFlow, iMF and SoFlow with a DiT."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

# DiT's sizes (arXiv 2212.09748), as MeanFlow's models_dit.py and SoFlow's models.py have them.
_SIZES: dict[str, Options] = {
    "B/2": {"patch": 2, "width": 768, "depth": 12, "heads": 12},  # 131 M weights
    "XL/2": {"patch": 2, "width": 1152, "depth": 28, "heads": 16},  # 676 M
}


def _latents(recipe: str, size: str, method: str, options: Options, **fields: Any) -> Run:
    """What all of them have in common."""
    return Run(
        recipe=recipe,
        method=method,
        method_options=options,
        # Moments by the autoencoder sd-vae-ft-mse: all three codes. docs/reproduce.md says how.
        data="imagenet-256-sd.zip",
        latents="mean-std",
        units="sd-latents",  # 0.18215 x, all three
        holdout=0.0,
        sigma_data=1.0,  # what that factor is for
        network="dit",
        network_options=_SIZES[size],
        label_drop=0.1,  # class_dropout_prob; SoFlow's cfg_drop_rate
        lr=1e-4,
        constant=1.0,
        clip=1e6,  # none in any of the codes
        ema=0.9999,
        log_every=100,
        picture_every=1000,
        checkpoint_every=10_000,
        **fields,
    )


# Steps of an epoch of 1,281,167 pictures, whose last batch is left out.
_STEPS = {256: 5004, 1024: 1251}


def _meanflow(recipe: str, size: str, method: str) -> Run:
    # The code's configs/default.py and run_b4.yml where nothing else is said.
    # Guidance of B/2 is default.py's, of XL/2 FastGen's config_mf_xl (guidance_scale,
    # guidance_mixture_ratio, guidance_t_end); the paper's own table was not at hand.
    guidance: Options = {
        "B/2": {"omega": 1.0, "kappa": 0.5},
        "XL/2": {"omega": 0.2, "kappa": 0.92, "until": 0.75},
    }[size]
    meanflow: Options = {
        "p_mean": -0.4,
        "p_std": 1.0,
        "diagonal": 0.75,  # data_proportion
        "p": 1.0,
        "c": 0.01,
        **guidance,
    }
    return _latents(
        recipe,
        size,
        method,
        {"meanflow": meanflow}.get(method, {}),
        flip=True,  # utils/input_pipeline.py: use_flip
        batch=256,
        iterations=240 * _STEPS[256],  # the paper's table 2: 240 epochs
        optimizer="adam",  # train.py: adamw with weight_decay 0
        betas=(0.9, 0.95),
        warmup=0.0,
    )


def imagenet256_meanflow(*, method: str = "meanflow", **fields: Any) -> Run:
    """ImageNet-256 by class: MeanFlow from scratch, DiT-XL/2 on latents (arXiv 2505.13447)."""
    return with_values(_meanflow("imagenet256-meanflow", "XL/2", method), fields)


def imagenet256_meanflow_b2(*, method: str = "meanflow", **fields: Any) -> Run:
    """ImageNet-256 by class: MeanFlow from scratch, DiT-B/2 on latents (arXiv 2505.13447)."""
    return with_values(_meanflow("imagenet256-meanflow-b2", "B/2", method), fields)


def _imf(recipe: str, size: str, method: str) -> Run:
    # The code's configs/default.py and train_config.yml, which is of iMF-B/2; what XL/2 has beside
    # its network was not at hand, so it has the same. The network is DiT with four end numbers: a,
    # and ln w and the interval of guidance. iMF's is another, with them as tokens.
    imf: Options = {
        "p_mean": -0.4,
        "p_std": 1.0,
        "diagonal": 0.5,  # data_proportion
        "most": 8.0,  # imf.py: s_max = 7
        "power": 1.0,  # cfg_beta
        "p": 1.0,
        "c": 0.01,
    }
    epochs = 640
    return _latents(
        recipe,
        size,
        method,
        {"imf": imf}.get(method, {}),
        flip=True,
        batch=1024,
        iterations=epochs * _STEPS[1024],
        optimizer="adam",
        betas=(0.9, 0.95),
        warmup=10 / epochs,  # warmup_epochs
    )


def imagenet256_imf(*, method: str = "imf", **fields: Any) -> Run:
    """ImageNet-256 by class: iMF from scratch, DiT-XL/2 on latents (arXiv 2512.02012)."""
    return with_values(_imf("imagenet256-imf", "XL/2", method), fields)


def imagenet256_imf_b2(*, method: str = "imf", **fields: Any) -> Run:
    """ImageNet-256 by class: iMF from scratch, DiT-B/2 on latents (arXiv 2512.02012)."""
    return with_values(_imf("imagenet256-imf-b2", "B/2", method), fields)


def imagenet256_soflow(*, method: str = "soflow", **fields: Any) -> Run:
    """ImageNet-256 by class: SoFlow from scratch, DiT-XL/2 on latents (arXiv 2512.15657)."""
    # The code's imagenet.yaml, which is of DiT-B/4 and 400k steps, and train.py; steps of XL/2 are
    # those of its published checkpoint, whose own configuration was not at hand.
    soflow: Options = {
        "p_mean": 0.2,  # time_mean[2], time_std[2], of t
        "p_std": 0.8,
        "a_mean": -1.0,  # time_mean[1], time_std[1], of a
        "a_std": 0.8,
        "diagonal": 0.75,  # velocity_loss_ratio
        "diagonal_mean": -0.2,  # time_mean[0], time_std[0]
        "diagonal_std": 1.0,
        "near": 0.1,  # l_init_ratio
        "near_end": 0.002,  # l_end_ratio
        "omega": 0.25 * 3.0,  # mix_ratio cfg_scale
        "kappa": 1 - 0.25,  # 1 - mix_ratio
        "until": 0.8,  # cfg_decay_time, from which on it fades there
        "p": 1.0,
        "c": 0.01,  # eps
    }
    run = _latents(
        "imagenet256-soflow",
        "XL/2",
        method,
        {"soflow": soflow}.get(method, {}),
        batch=256,
        iterations=1_200_000,  # its readme
        optimizer="adam",  # train.py: AdamW with weight_decay 0
        betas=(0.9, 0.99),
        warmup=0.0,
    )
    return with_values(run, fields)
