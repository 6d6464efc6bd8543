"""What a row costs a pipeline's network, counted on the meta device: operations and bytes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from fewstep.core import abilities
from fewstep.networks.attention import make_derivable
from fewstep.networks.blocks import blocks_of, recompute
from fewstep.networks.outline import WithoutMemory
from fewstep.networks.roles import LowRank
from fewstep.pipelines.families import Family
from fewstep.pipelines.libraries import classes
from fewstep.pipelines.network import PipelineNetwork
from fewstep.pipelines.prompts import Prompts

# Of prompts, which no configuration of a network names; those of T5 are the pipelines' defaults.
TOKENS = {"sd": 77, "sdxl": 77, "sd3": 77 + 256, "flux": 512}
MICRO = 6  # numbers of SDXL's micro-conditions


class Alive(TorchDispatchMode):
    """The bytes of the tensors that are made inside: of those alive now, and at most so far.

    What a kernel takes for itself is not seen. beside: tensors that are none of these. flops:
    operations so far, by torch's formulas (its own counter would keep tensors alive).
    """

    def __init__(self, beside: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = self.flops = 0
        self._places = {part.untyped_storage()._cdata for part in beside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for part in tree_leaves(out):
            if isinstance(part, Tensor):
                self._add(part.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._places:
            return
        self._places.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())

    def _remove(self, place: int, size: int) -> None:
        self._places.discard(place)
        self.now -= size


class OnCard(TorchFunctionMode):
    """What a GPU does, on the meta device: fused attention, and autocast to a type.

    dtype: None is no autocast, else the type of products; norms and softmax are in float32.
    """

    NARROW = ("linear", "conv2d", "matmul", "__matmul__", "bmm", "baddbmm")
    WIDE = ("group_norm", "layer_norm", "softmax")

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            query, key, value = args[:3] if len(args) > 2 else map(kwargs.get, KEYS)
            parts = [part.to(self.dtype or part.dtype) for part in (query, key, value)]
            return torch.ops.aten._scaled_dot_product_flash_attention(*parts)[0]
        if self.dtype is not None and name in self.NARROW + self.WIDE:
            kind = self.dtype if name in self.NARROW else torch.float32
            args, kwargs = tree_map(partial(_as, kind), (args, kwargs))
        return func(*args, **kwargs)


KEYS = ("query", "key", "value")


def _as(dtype: torch.dtype, part: Any) -> Any:
    is_number = isinstance(part, Tensor) and part.is_floating_point()
    return part.to(dtype) if is_number else part


@dataclass(frozen=True)
class Pass:
    """Of one row: floating-point operations, and the bytes of tensors at most, without weights."""

    flops: float
    memory: float


@dataclass(frozen=True)
class Costs:
    """What a student's row takes with and without a gradient, and how many weights there are."""

    weights: int  # of the network
    learning: int  # of them, or of the changes of low rank
    look: Pass
    learn: Pass
    again: Pass  # learn, with blocks computed again


def network_of(family: Family, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """The network of a configuration on the meta device."""
    kind = classes()[family.parts[family.network]]
    with torch.device("meta"), WithoutMemory():
        network: nn.Module = kind.from_config(dict(config)).to(dtype)
    make_derivable(network)
    return network.eval().requires_grad_(False)


def prompts_of(family: Family, config: Mapping[str, Any]) -> Prompts:
    """A prompt, and none, of embeddings that need no memory."""
    width = config.get("joint_attention_dim") or config["cross_attention_dim"]
    parts = {"tokens": torch.empty(1, TOKENS[family.name], width, device="meta")}
    if family.name == "sdxl":
        times = MICRO * config["addition_time_embed_dim"]
        width = config["projection_class_embeddings_input_dim"] - times
        parts["pooled"] = torch.empty(1, width, device="meta")
    elif family.name != "sd":
        parts["pooled"] = torch.empty(1, config["pooled_projection_dim"], device="meta")
    return Prompts(parts, {name: part[0] for name, part in parts.items()}, [""])


def student_of(
    family: Family,
    config: Mapping[str, Any],
    *,
    rank: int = 64,
    layers: tuple[str, ...] = (),
    dtype: torch.dtype = torch.bfloat16,
    ends: int = 0,
) -> nn.Module:
    """The student on the meta device; rank 0: the whole network learns."""
    own, prompts = network_of(family, config, dtype), prompts_of(family, config)
    with torch.device("meta"):
        network = PipelineNetwork(family, own, prompts, ends=ends)
    network = network.to("meta")  # with the frequencies of its end embedding
    if rank == 0:
        return network.requires_grad_(True)
    parts = ("end",) if ends else ()
    return LowRank(network, rank, layers or family.targets, own=parts)


def costs_of(student: nn.Module, shape: tuple[int, int, int], half: torch.dtype | None) -> Costs:
    """Counts passes of one row of latents `[C, h, w]`, which changes the student's type.

    half: the type of autocast, None is none. A student elsewhere than on meta is really run.
    """
    base = student.base if isinstance(student, LowRank) else student
    device = next(base.parameters()).device
    learning = sum(part.numel() for part in student.parameters())
    beside = [*base.parameters(), *base.buffers(), *student.parameters()]
    # Weights of the passes' own type: what autocast makes of them is of no row.
    student.to(half or torch.float32)
    if half is not None:
        base.to(half)  # which is no part of a role
    blocks = list(blocks_of(student).values())

    def count(grad: bool, again: bool = False) -> Pass:
        x = torch.zeros(1, *shape, device=device)
        label = torch.zeros(1, device=device, dtype=torch.int64)
        cond = {"label": label, "micro": torch.zeros(1, MICRO, device=device)}
        ends = abilities.ends(student)
        end = {"end": torch.zeros(1, ends, device=device)} if ends else {}
        with (
            torch.set_grad_enabled(grad),
            recompute(blocks if again else ()),
            without_gradients(student if grad else nn.Module()),
            Alive([*beside, *student.parameters()]) as alive,
            OnCard(half) if device.type == "meta" else nullcontext(),
        ):
            out = student(x, label.float(), cond, **end)
            if grad:
                _backward(out)
        return Pass(alive.flops, alive.most)

    weights = sum(part.numel() for part in base.parameters())
    return Costs(weights, learning, count(False), count(True), count(True, again=True))


def _backward(out: Tensor) -> None:
    """out.backward(), in which a function mode goes on: torch's own method suspends it."""
    engine: Any = torch.autograd.Variable._execution_engine
    ways = {"allow_unreachable": True, "accumulate_grad": True}
    engine.run_backward((out,), (torch.ones_like(out),), False, False, (), **ways)


@contextmanager
def without_gradients(network: nn.Module) -> Iterator[None]:
    """Inside, gradients of weights are gone as soon as they are there: they are of no row."""

    def free(weight: Tensor) -> None:
        weight.grad = None

    hooks = [p.register_post_accumulate_grad_hook(free) for p in network.parameters()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
