"""How the networks of a run lie on several processes: whole on each (DDP), or in shards (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from torch import nn

from fewstep.base.errors import UserError, require
from fewstep.base.world import World, whole
from fewstep.core import abilities
from fewstep.core.denoiser import Preconditioned
from fewstep.core.method import Method
from fewstep.run import averages
from fewstep.run.config import Run
from fewstep.training import optimizers
from fewstep.training.state import State


def check(run: Run, world: World, shard: bool) -> None:
    """Raises UserError where a run cannot be divided among so many processes."""
    parts = run.elastic_exact or run.accumulate * world.size
    fits = parts % world.size == 0 and run.batch % (parts * run.block) == 0
    if run.elastic_exact:
        need = f"a number that divides elastic_exact={run.elastic_exact}"
    else:
        need = f"a number that cuts batch={run.batch} in equal parts of whole blocks of {run.block}"
    if run.accumulate > 1:
        need += f" for accumulate={run.accumulate}"
    require(fits, "processes", world.size, need)
    several = "several processes: start them with torchrun"
    require(not shard or world.size > 1, "shard", shard, several)
    whole_gradients = "False with elastic_exact, which adds whole gradients"
    require(not (shard and run.elastic_exact), "shard", shard, whole_gradients)
    whole_weights = "False with adamw8bit, whose kernels take whole weights"
    require(not (shard and run.optimizer == "adamw8bit"), "shard", shard, whole_weights)


def check_method(method: Method) -> None:
    """Raises UserError where ranks would ask a network in shards unlike numbers of times."""
    for one in method.chain:
        solver = getattr(one.coupling, "solver", None)
        if abilities.counts_rows(solver) and abilities.needs(one.coupling) - {"teacher"}:
            raise UserError(
                "shard = True: the student before teaches along a grid, where the rows of a process"
                " decide how many times it is asked, and shards need all processes each time: leave"
                " --shard out (DDP)"
            )


def check_network(state: State, recompute: bool, blocks: Collection[str]) -> None:
    """Raises UserError where a network cannot be trained by several processes, or recomputed."""
    several = state.world.size > 1
    for name, module in state.trainable.named_modules():
        if several and isinstance(module, nn.modules.batchnorm._BatchNorm):
            kind = type(module).__name__
            raise UserError(
                f"{name} is a {kind}, whose statistics differ by process: use GroupNorm"
            )
    need = "False: the network calls no member of a ModuleList or Sequential, so it has no blocks"
    require(bool(blocks) or not recompute, "recompute", recompute, need)


def join(
    run: Run,
    method: Method,
    state: State,
    shard: bool,
    *,
    blocks: Collection[str],
    has_unused: bool,
) -> None:
    """Connects the networks of a state at its first step with those of the other processes.

    blocks: of the student's network, which are sharded one by one. has_unused: some weights get no
    gradient, which DDP has to look for.
    """
    if state.world.size == 1:
        return
    if shard:
        _shard(run, method, state, blocks)
        return
    if run.elastic_exact:  # it adds the gradients itself, in its own order
        return
    from torch.nn.parallel import DistributedDataParallel

    with warnings.catch_warnings():
        # A later version will have another argument for not exchanging buffers at the start.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        state.loss = DistributedDataParallel(
            state.loss, broadcast_buffers=False, find_unused_parameters=has_unused
        )


def _shard(run: Run, method: Method, state: State, blocks: Collection[str]) -> None:
    """Divides every network. A pass has one block whole, and what is in none of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Its advice, given at every pass, against changing a network's output in place: nothing does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    if method.before is not None and state.frozen is None:
        # Now: a network in shards is not copied.
        state.spare = averages.average_of(state.averages["ema"])
    mesh = init_device_mesh(next(state.student.parameters()).device.type, (state.world.size,))
    for module in [*state.trainable.values(), *state.averages.values(), state.frozen, state.spare]:
        if isinstance(module, Preconditioned):
            parts = [*map(module.network.get_submodule, blocks), module.network]
        else:
            parts = [] if module is None else [module]
        for part in parts:
            # FSDP divides the first axis; the step joins gradients of weights that have none.
            single = {p for p in part.parameters() if p.ndim == 0}
            fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=single)
    state.optimizer = optimizers.build(run, state.trainable.parameters())
    state.is_sharded = True


def plain(module: nn.Module, fresh: nn.Module) -> nn.Module:
    """A fresh network with the weights of one that may be in shards."""
    weights = {name: whole(tensor).detach().cpu() for name, tensor in module.state_dict().items()}
    fresh.load_state_dict(weights)
    return fresh.requires_grad_(False).eval()
