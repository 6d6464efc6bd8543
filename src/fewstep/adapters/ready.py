"""Ready functions for the shapes in which other packages hand over a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fewstep.adapters.adapt import adapt
from fewstep.base.errors import UserError
from fewstep.core import process as processes
from fewstep.core.conventions import Convention, Offset, convention
from fewstep.core.denoiser import Preconditioned
from fewstep.core.process import Process

CONSISTENCY = "CMStochasticIterativeScheduler"  # of consistency models, whose boundary it moves


def azula(denoiser: Callable[..., Any]) -> Preconditioned | Offset:
    """azula's denoisers: denoiser(x_t, t) -> posterior with `.mean`, with a `.schedule` on 0 .. 1.

    A condition of the data is passed as `label=`, `features=` and so on, where it is a dict, or
    else as `label=`. Source: the package azula, `azula.denoise.Denoiser`.
    """
    schedule: Any = getattr(denoiser, "schedule", None)
    if not callable(schedule):
        raise UserError("azula: expected a denoiser with a schedule: t -> (alpha, sigma)")

    def call(network: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Any:
        options = cond if isinstance(cond, Mapping) else {} if cond is None else {"label": cond}
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        return network(x, t, **options)

    return adapt(denoiser, "x0", processes.own(schedule), label="t", labels="cond", call=call)


def physicsnemo(network: Callable[..., Any]) -> Preconditioned | Offset:
    """PhysicsNeMo's preconditioned networks and EDM's: network(x, sigma, condition) -> x0.

    x = x0 + sigma z. The condition is passed where the data have one, by position.
    Source: PhysicsNeMo, `physicsnemo.diffusion.preconditioners`; EDM, arXiv 2206.00364.
    """
    return adapt(network, "x0", "edm", label="t", labels="cond")


def sbi(estimator: Any) -> Preconditioned | Offset:
    """sbi's vector-field estimators: estimator(input, condition, time) -> score or velocity.

    A score estimator has x_t = mean_t_fn(t) x0 + std_fn(t) z; a flow-matching one
    x_t = (1 - t) x0 + (t + noise_scale) z. The data's condition is the observation `[B, ...]`.
    Source: the package sbi, `sbi.neural_nets.estimators`.
    """

    def call(network: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Any:
        return network(x, cond["features"] if isinstance(cond, Mapping) else cond, t)

    if hasattr(estimator, "mean_t_fn") and hasattr(estimator, "std_fn"):

        def pair(t: Tensor) -> tuple[Tensor, Tensor]:
            rows = t.reshape(-1)
            alpha, sigma = estimator.mean_t_fn(rows), estimator.std_fn(rows)
            return alpha.reshape(len(rows), -1)[:, 0], sigma.reshape(len(rows), -1)[:, 0]

        process = processes.own(pair, t_max=float(getattr(estimator, "t_max", 1.0)))
        return adapt(estimator, "score", process, label="t", labels="cond", call=call)
    extra = float(getattr(estimator, "noise_scale", 0.0))
    process = processes.own(lambda t: (1 - t, t + extra))
    return adapt(estimator, "flow", process, label="t", labels="cond", call=call)


def policy(
    network: Callable[..., Any], scheduler: Any, *, keyword: str = "global_cond"
) -> Preconditioned | Offset:
    """A robot policy's network for chunks of actions `[B, horizon, dim]`, with its scheduler.

    network(actions, timestep, **{keyword: observation}), where the observation is the data's
    condition `[B, ...]`. scheduler: diffusers' own or its configuration, as for `diffusers`.
    Source: diffusion policy, arXiv 2303.04137.
    """

    def call(inner: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Any:
        observation = cond["features"] if isinstance(cond, Mapping) else cond
        return inner(x, t, **{keyword: observation})

    own = scheduler_convention(scheduler)
    return adapt(network, own, labels="cond", call=call, times="whole")


def diffusers(
    model: Callable[..., Any], scheduler: Any, *, null: int | None = None
) -> Preconditioned | Offset:
    """A diffusers model with its scheduler or the scheduler's configuration.

    model(sample, timestep, class_labels=labels).sample, as UNet2DModel and DiTTransformer2DModel
    have it. null: the label that means none; of DiT the one after the last class.
    Raises UserError for a scheduler that is not understood.
    """
    config: Any = getattr(model, "config", {})

    def setting(name: str) -> Any:
        return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)

    classes = setting("num_class_embeds") or setting("num_embeds_ada_norm") or 0
    if null is None and setting("num_embeds_ada_norm"):
        null = classes

    def call(inner: Callable[..., Any], x: Tensor, t: Tensor, cond: Any) -> Any:
        return inner(x, t) if cond is None else inner(x, t, class_labels=cond)

    return adapt(
        model,
        scheduler_convention(scheduler),
        labels="index" if classes else "none",
        classes=int(classes),
        null=null,
        call=call,
    )


def scheduler_convention(scheduler: Any) -> Convention:
    """What a diffusers' scheduler says of its network: prediction, process and label.

    scheduler: itself, or its configuration as a mapping. Raises UserError.
    """
    config = scheduler if isinstance(scheduler, Mapping) else dict(scheduler.config)
    name = str(config.get("_class_name") or type(scheduler).__name__)
    if "FlowMatch" in name:
        return convention("flow", "linear", label="1000 t")
    if name == CONSISTENCY:
        sigma_data = float(config.get("sigma_data", 0.5))
        return convention("edm", label="250 ln(level)", sigma_data=sigma_data)
    kind = config.get("prediction_type", "epsilon")
    if name.startswith("EDM"):
        sign = -1 if kind == "v_prediction" else 1
        return convention("edm", sigma_data=float(config.get("sigma_data", 0.5)), sign=sign)
    if config.get("beta_schedule") is None and config.get("trained_betas") is None:
        raise UserError(
            f"scheduler {name}: its table of noise is not known here: expected one with"
            " beta_schedule or trained_betas, a flow-matching, an EDM or a consistency model's"
            " one; else say it with fs.adapt"
        )
    predictions = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    if kind not in predictions:
        raise UserError(
            f"scheduler {name}: prediction_type = {kind!r}: expected {', '.join(predictions)}"
        )
    return convention(predictions[kind], table_of(config))


def table_of(config: Mapping[str, Any]) -> Process:
    """The process of a scheduler's configuration, by its own float32 numbers. Raises UserError."""
    count = int(config.get("num_train_timesteps", 1000))
    low, high = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif kind == "linear":
        betas = torch.linspace(low, high, count, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, count, dtype=torch.float32) ** 2
    elif kind == "squaredcos_cap_v2":
        t = torch.arange(count + 1, dtype=torch.float64) / count
        power = ((t + 0.008) / 1.008 * torch.pi / 2).cos().square()
        betas = (1 - power[1:] / power[:-1]).clamp_max(0.999).float()
    elif kind == "sigmoid":
        betas = torch.sigmoid(torch.linspace(-6, 6, count)) * (high - low) + low
    else:
        raise UserError(
            f"beta_schedule = {kind!r}: expected linear, scaled_linear, squaredcos_cap_v2, sigmoid"
            " or trained_betas"
        )
    power = (1 - betas).cumprod(0)
    if config.get("rescale_betas_zero_snr"):
        # arXiv 2305.08891, algorithm 1.
        root = power.sqrt()
        power = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).square()
    return processes.discrete(alphas_cumprod=power)
