"""A scheduler of diffusers whose steps are numbers in its configuration.

Each step asks the network at one or more points, and combines x, the answers and fresh noise by
factors: so every sampler that is linear in these is exactly itself. A generator that was exported
carries this file; loading it takes `trust_remote_code=True`, and torch and diffusers alone.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

Combination = list[tuple[str, float]]


class FewStepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Steps by numbers: `plans` by how many evaluations they make, `start` the prior's deviation.

    plans: {"2": [{"asks": [{"label", "in", "skip", "out", "point"}], "result"}, ...]}. An answer is
    skip point + out F(in point, label); a combination is a list of (name, factor), whose names are
    x, noise and answer 0, answer 1, ... A step with "stretch" is aDDIM's. "memory" are the two
    combinations that are `past x 1` and `past answer 1` of the next step, `past x 2` of the next
    but one, and so on.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, plans: dict[str, Any] | None = None, start: float = 1.0) -> None:
        self.init_noise_sigma = start
        self.set_timesteps(None)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """Begins anew, with as many evaluations. Raises ValueError where there is no such plan."""
        config: Any = self.config
        plans = config.plans or {"0": []}
        count = str(num_inference_steps) if num_inference_steps else next(iter(plans))
        if timesteps is not None or count not in plans:
            raise ValueError(f"num_inference_steps: expected one of {', '.join(plans)}")
        self.steps = plans[count]
        labels = [ask["label"] for step in self.steps for ask in step["asks"]]
        self.timesteps = torch.tensor(labels, dtype=torch.float32, device=device)
        self.step_number = 0
        self.ask_number = 0
        self.values: dict[str, torch.Tensor] = {}
        self.past: list[list[torch.Tensor]] = []  # x and the answer of earlier steps

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """What the network gets of a point."""
        ask = self.steps[self.step_number]["asks"][self.ask_number]
        point: torch.Tensor = ask["in"] * sample
        return point

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = False,
        variance_noise: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """The next point, or the end. variance_noise: in place of the generator's."""
        step = self.steps[self.step_number]
        ask = step["asks"][self.ask_number]
        if self.ask_number == 0:
            self.values = {"x": sample}
            for age, point in enumerate(reversed(self.past), start=1):
                self.values[f"past x {age}"], self.values[f"past answer {age}"] = point
        answer = ask["skip"] * sample + ask["out"] * model_output
        self.values[f"answer {self.ask_number}"] = answer
        self.ask_number += 1
        if "stretch" in step:  # aDDIM
            self.step_number += 1
            self.ask_number = 0
            return (_stretch(sample, answer, **step["stretch"]),)
        if self.ask_number < len(step["asks"]):
            return (self._combine(step["asks"][self.ask_number]["point"]),)
        if any(name == "noise" for name, _ in step["result"]):
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
                )
            self.values["noise"] = variance_noise
        self.step_number += 1
        self.ask_number = 0
        if "memory" in step:
            point = [self._combine(part) for part in step["memory"]]
            self.past = [*self.past[-3:], point]
        return (self._combine(step["result"]),)

    def _combine(self, combination: Combination) -> torch.Tensor:
        total = torch.zeros_like(self.values["x"])
        for name, factor in combination:
            total = total + factor * self.values[name]
        return total

    def __len__(self) -> int:
        return len(self.timesteps)


def _stretch(
    x: torch.Tensor,
    answer: torch.Tensor,
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    extra: float,
) -> torch.Tensor:
    """aDDIM: DDIM whose noise is lengthened by what the answer averages away.

    Source: Multistep Consistency Models, arXiv 2403.06807, section 4.
    """
    z = (x - alpha_t * answer) / sigma_t
    axes = list(range(1, x.ndim))
    mean = z.double().square().mean(axes, keepdim=True).clamp_min(1e-38)
    length = (sigma_s**2 + extra / mean).sqrt().to(x.dtype)
    return alpha_s * answer + length * z
