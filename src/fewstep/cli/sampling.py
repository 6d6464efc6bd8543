"""The options of how a generator is sampled, which several verbs share."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fewstep.base.world import World
    from fewstep.core.compiling import Mode
    from fewstep.run.generator import Generator


@dataclass(frozen=True, kw_only=True)
class SamplingArgs:
    sampler: str | None = None
    """multistep (consistency models), jumps, ctm, tcd (flow maps, as MeanFlow), or ddim, addim,
    euler, heun, ancestral, dpmpp_2m, dpmpp_3m, unipc, unipc_3 (diffusion models, and flow maps as
    such)."""
    grid: str | None = None
    """Where the moves of a diffusion model or flow map start: own, uniform (in time), karras or
    exponential (in log-SNR)."""
    sigmas: tuple[float, ...] | None = None
    """The noise levels where they start instead, such as 80,10,1,0.1: they say the steps too."""
    guidance: float = 0.0
    """Classifier-free guidance G of a diffusion model, D_c + G (D_c - D_u): 0 is none, and G + 1
    is the guidance_scale of others. It takes two evaluations a step; a flow map that learned it as
    an input takes one."""
    guidance_interval: tuple[float, float] | None = None
    """The noise levels that are guided, the lower one first; left out, all."""
    eta: float | None = None
    """The noise of --sampler ddim: 0, none, up to 1, which is ancestral."""
    gamma: float | None = None
    """The noise of --sampler ctm or tcd: 0, none, up to 1, from the data at every step."""
    variance: Path | None = None
    """The file by `fewstep variance` that --sampler addim takes; left out, a formula."""
    final_step: Literal["addim", "ddim"] = "addim"
    """The last move of --sampler addim: its own, or ddim, which leaves the guess as it is."""
    later_sigmas: tuple[float, ...] | None = None
    """Noise levels of the later steps, one fewer than the steps; left out, the run's."""
    compile: Literal["off", "on", "graphs"] = "off"
    """Whether torch compiles the network's pass first, for many samples: minutes on a CPU; graphs
    captures it as a CUDA graph too."""


def share(generator: Generator, world: World) -> Generator:
    """The generator whose samples all processes make together."""
    return replace(generator, room=replace(generator.room, world=world))


def sampled_by(generator: Generator, args: SamplingArgs) -> Generator:
    """The generator with those options as its own. Raises UserError."""
    from fewstep.base.errors import UserError

    if args.grid is not None and args.sigmas is not None:
        raise UserError(f"--grid {args.grid} and --sigmas: expected one or the other")
    if args.later_sigmas is not None:
        generator = generator.with_later_sigmas(args.later_sigmas)
    grid = args.grid if args.sigmas is None else args.sigmas
    options = {
        "sampler": args.sampler,
        "grid": grid,
        "eta": args.eta,
        "gamma": args.gamma,
        "variance": args.variance,
    }
    if any(value is not None for value in options.values()) or args.final_step != "addim":
        generator = generator.with_sampler(**options, final_step=args.final_step)  # type: ignore[arg-type]
    generator = generator.with_guidance(args.guidance, args.guidance_interval)
    return compile_passes(generator, args.compile, quiet=getattr(args, "quiet", False))


def compile_passes(generator: Generator, mode: Mode, quiet: bool) -> Generator:
    """The generator with compiled passes where the mode says so; a line says what that costs."""
    from fewstep.core.compiling import forecast

    if mode == "off":
        return generator
    generator = generator.compile(mode)
    line = forecast(generator.denoiser, passes=1)
    if line and not quiet:
        print(f"compile: {line}", file=sys.stderr, flush=True)
    return generator
