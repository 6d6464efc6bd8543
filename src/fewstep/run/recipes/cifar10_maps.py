"""CIFAR-10 without labels, 3x32x32: MeanFlow and SoFlow from scratch, CMT and ECT after it."""

from typing import Any

from fewstep.base.options import Options
from fewstep.run.config import Run, with_values

_COMMON: Options = {
    "data": "cifar10-32x32.zip",
    "holdout": 0.0,
    "labels": False,
    "sigma_data": 0.5,
    "network": "song_unet",
    "betas": (
        0.9,
        0.999,
    ),  # MeanFlow's paper, SoFlow's cifar.yaml, CMT's run_cmt.py and ct_train.py
    "clip": 1e6,  # none in any of the codes
    "log_every": 100,
    "picture_every": 1000,
    "checkpoint_every": 10_000,
}
# py-meanflow's model_configs.py and SoFlow's models.py: DDPM++ with NCSN++'s filter and twice the
# features of the noise; both make room for the end that way.
_TWO_TIMES: Options = {"taps": (1, 3, 3, 1), "noise_mult": 2}


def _from_scratch(recipe: str, method: str, dropout: float, **fields: Any) -> Run:
    """What MeanFlow and SoFlow have in common."""
    return Run(
        recipe=recipe,
        method=method,
        network_options={**_TWO_TIMES, "dropout": dropout, "augment": 9},
        batch=1024,  # MeanFlow's paper; cifar.yaml
        iterations=800_000,  # the same
        constant=1.0,  # the same
        # Both codes: EDM's augmentation, but without upside down and turns, which are in ours.
        augment=0.12,
        **_COMMON,
        **fields,
    )


def cifar10_meanflow(*, method: str = "meanflow", **fields: Any) -> Run:
    """CIFAR-10 without labels: MeanFlow from scratch, DDPM++ (arXiv 2505.13447)."""
    # The paper's appendix on CIFAR-10; in brackets what stands in py-meanflow's cifar10_v0.sh and
    # train_arg_parser.py alone.
    meanflow: Options = {
        "p_mean": -2.0,
        "p_std": 2.0,
        "diagonal": 0.25,  # [--ratio 0.75 of the rows have a < t]
        "p": 0.75,
        "c": 1e-3,  # [--norm_eps]
    }
    run = _from_scratch(
        "cifar10-meanflow",
        method,
        0.2,
        method_options={"meanflow": meanflow}.get(method, {}),
        optimizer="adam",
        lr=6e-4,
        warmup=10_000 / 800_000,  # [--warmup_epochs 200 are 9,765 to 9,800 steps]
        ema=0.99995,
        averages=("decay:0.9999", "decay:0.9996"),  # [--ema_decay, --ema_decays]
    )
    return with_values(run, fields)


def cifar10_soflow(*, method: str = "soflow", **fields: Any) -> Run:
    """CIFAR-10 without labels: SoFlow from scratch, DDPM++ (arXiv 2512.15657)."""
    # The code's cifar.yaml where nothing else is said.
    soflow: Options = {
        "p_mean": -0.9,  # time_mean[2], time_std[2], of t
        "p_std": 1.6,
        "a_mean": -4.0,  # time_mean[1], time_std[1], of a
        "a_std": 1.6,
        "diagonal": 0.0,  # velocity_loss_ratio
        "near": 1.0,  # l_init_ratio
        "near_end": 3.125e-4,  # l_end_ratio
        "p": 0.75,
        "c": 1e-3,  # eps
    }
    run = _from_scratch(
        "cifar10-soflow",
        method,
        0.3,  # models.py
        method_options={"soflow": soflow}.get(method, {}),
        optimizer="radam",  # train.py
        lr=1e-4,
        warmup=0.0,
        ema=0.9999,
    )
    return with_values(run, fields)


def cifar10_cmt(*, method: str = "cmt", **fields: Any) -> Run:
    """CIFAR-10 without labels: CMT of EDM's weights, then ECT, DDPM++ (arXiv 2509.24526)."""
    # The code's run_cmt_cifar.sh (mid-training) and run_cmt+ecm_cifar.sh (ECT after it). ECT's gap
    # of -q 4096 never shrinks (--double 10000 ticks); -k, -b, -c, --mean and --std are the methods'
    # defaults.
    ect: Options = {"q": 4096.0, "stages": 1}
    cmt: Options = {
        "n": 16,  # --nfe: 16 points of each trajectory, so 8 of them in a batch
        "distance": "lpips",  # run_cmt.py: --loss_metric
        "ratio": 1 - 1 / 4096,
    }
    run = Run(
        recipe="cifar10-cmt",
        method=method,
        method_options={"cmt": cmt, "ect": ect}.get(method, {}),
        network_options={"dropout": 0.2},
        batch=128,
        iterations=400_000,  # --duration 38.4 and 12.8 million samples
        split=300 / 400,
        optimizer="radam",
        lr=2e-4,
        stage_lr=0.5,  # ECT: 1e-4
        warmup=0.0,
        constant=0.0,  # to 0 on a line, in each stage: learning_rate_schedule of both loops
        decay="linear",
        final=0.0,
        lr_clock="stage",
        ema=0.9999,  # of ECT; mid-training has 0.999
        **_COMMON,
    )
    return with_values(run, fields)
