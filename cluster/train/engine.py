"""The DeepSpeed engine: made from our config, and read and restored by parameter name at every ZeRO stage.

What of DeepSpeed is not public is used in this file alone, as it is in 0.19.8, which is pinned for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import accumulate
from typing import NamedTuple, cast

import torch
import torch.distributed as dist

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no accelerator
import deepspeed
from deepspeed.runtime import compiler
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from tdformer import TDFormer
from tdformer.attention import borrowed

from ..build import devices
from ..build.optimizer import Group, Groups
from ..build.optimizers import OPTIMIZERS, STOPS, OverShares, Piece, fuse
from ..build.planner import PERSISTENT, bucket, live
from ..config import BatchPlan, Config
from ..config.precision import FULL
from ..errors import RunError
from .reading import runs_ahead

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def init_distributed(
    rank: int, world: int, store: dist.Store | None, minutes: float = 10, wanted: str = "auto"
) -> torch.device:
    """Join the process group (NCCL on GPUs, else gloo); return the device, which is of the same kind on all ranks.

    store: where the ranks meet; None takes MASTER_ADDR and MASTER_PORT from the environment. wanted: `engine.device`.
    Raises RunError on all ranks where GPUs are asked for and one has none.
    """
    timeout = timedelta(minutes=minutes)
    if store is None:
        store, rank, world = next(dist.rendezvous("env://", rank, world, timeout=timeout))
    store.set_timeout(timeout)
    device = devices.agreed(store, rank, world, wanted)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # DeepSpeed takes LOCAL_RANK for the number of the GPU, which it is not where a rank is shown only its own.
    local = os.environ.get("LOCAL_RANK", rank) if device.index is None else device.index
    for name, value in (("RANK", rank), ("WORLD_SIZE", world), ("LOCAL_RANK", local)):
        os.environ[name] = str(value)
    own = device if device.type == "cuda" else None
    if backend == "gloo":
        # DeepSpeed 0.19.8 would compile a shared-memory backend for it (2 minutes, and a killed build blocks later
        # runs); telling it that this operator is not available keeps plain gloo. It tries compilers: not on GPUs.
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout, device_id=own)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return device


def deepspeed_config(config: Config, plan: BatchPlan, model: nn.Module) -> dict[str, object]:
    """The JSON that DeepSpeed wants for `model`. Optimizer and schedule are ours. Raises RunError for a model that it
    does not shard."""
    train = config.train
    if config.engine.zero_stage == 3 and not all(parameter.dim() for parameter in model.parameters()):
        raise RunError(
            "engine.zero_stage=3 does not shard a parameter of one number, which a plif neuron has (DeepSpeed 0.19.8); "
            "set engine.zero_stage=2, or model.neuron=lif"
        )
    zero: dict[str, object] = {"stage": config.engine.zero_stage}
    if config.engine.zero_stage:  # by default 5e8 elements: two buffers of 2 GB, and no sum before backward ends
        zero |= {"reduce_bucket_size": bucket(model), "overlap_comm": True}
    if config.engine.zero_stage == 3:  # by default more than the model: all of it would be whole from its first use on
        zero |= {"stage3_max_live_parameters": live(model), "stage3_max_reuse_distance": live(model)}
        zero |= {"stage3_prefetch_bucket_size": bucket(model), "stage3_param_persistence_threshold": PERSISTENT}
    result: dict[str, object] = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_clipping": train.clip_grad if config.engine.zero_stage else 0.0,  # without ZeRO: `update`
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device before each forward and after each step
    }
    dtype = train.computes_in.autocast
    if dtype is not None:  # parameters and BatchNorm's buffers stay in fp32; `bf16` and `fp16.enabled` would cast them
        autocast: dict[str, object] = {"enabled": True, "dtype": dtype}
        if config.engine.reduce == FULL.name:  # else ZeRO reduces gradients and gathers weights of layers in dtype
            autocast["lower_precision_safe_modules"] = []
        result["torch_autocast"] = autocast
    return result


def parameter_groups(model: TDFormer, weight_decay: float, layer_decay: float) -> Groups:
    """The optimizer's groups: vectors (norms, biases, PM weights, tau) are not decayed; with layer_decay < 1 a part's
    learning rate is scaled by layer_decay^(number of parts between it and the head)."""
    depths = model.depths()
    groups: dict[tuple[float, float], Group] = {}
    for name, parameter in trained(model):
        decay = weight_decay if parameter.dim() > 1 else 0.0
        scale = layer_decay ** (depths["head.weight"] - depths[name])
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale, "lr": 0.0})
        group["params"].append(parameter)
    return list(groups.values())


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of what is not frozen."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def start(model: TDFormer, config: Config, plan: BatchPlan) -> DeepSpeedEngine:
    """DeepSpeed's engine around `model`, whose weights are those it trains from."""
    train, kind = config.train, OPTIMIZERS.get(config.train.optimizer)
    optimizer = kind.make(parameter_groups(model, train.weight_decay, train.layer_decay), train)
    if config.engine.zero_stage == 3:  # it gathers what a module holds, unless told of more
        for module, parameter in borrowed(model):
            deepspeed.zero.register_external_parameter(module, parameter)
    DeepSpeedEngine._broadcast_model = _broadcast
    if config.engine.zero_stage:
        _import_muon()
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(config, plan, model))
    engine.kept = kind.states
    _without_scalers(engine)
    if runs_ahead(engine.device):
        fuse(_inner(engine))
    engine.stops_itself = not config.engine.zero_stage and getattr(_inner(engine), STOPS, False)
    _begin_states(engine)
    if not config.engine.zero_stage:
        engine.sums = Sums(engine, bucket(model))
    elif not kind.elementwise:
        cast(OverShares, _inner(engine)).over_shares(_pieces(engine), len(list(model.parameters())))
    return engine


def _import_muon() -> None:
    """ZeRO of DeepSpeed 0.19.8 imports its optimizer Muon, to see that ours is another, and that one torch.compile,
    which imports torch's whole compiler. Imported here without."""
    compile_of = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compile_of


def _broadcast(engine: DeepSpeedEngine) -> None:
    """The first rank's weights to all, as DeepSpeed 0.19.8 does, but as numbers: torch sees no bytes in a single one,
    such as a learned time constant."""
    for parameter in engine.module.parameters():
        dist.broadcast(parameter.data, 0)


def _without_scalers(engine: DeepSpeedEngine) -> None:
    """Take away the torch.amp.GradScaler that DeepSpeed 0.19.8 makes for fp16, and for whatever engine comes after one
    with fp16 in a process: its scale would be in no checkpoint. Ours is given to `backward`."""
    engine.torch_autocast_z0_gradscaler = None
    if engine.zero_optimization():
        engine.optimizer.torch_autocast_gradscaler = None


class Sums:
    """The sums of gradients over the ranks without ZeRO, bucket by bucket while backward goes on: DeepSpeed 0.19.8
    copies all of them into one buffer after it, also where there is one rank."""

    def __init__(self, engine: DeepSpeedEngine, size: int) -> None:
        self.engine, self.size = engine, size
        self._ready: list[nn.Parameter] = []
        self._begun: list[tuple[Tensor, dist.Work]] = []
        self.waiting = False
        """Meanwhile nothing is summed, and `order` notes how gradients come."""
        self.order: dict[nn.Parameter, None] = {}
        self._of_all_ranks = dist.get_world_size() > 1
        engine.allreduce_gradients = self.finish
        if self._of_all_ranks:
            for _, parameter in trained(engine.module):
                parameter.register_post_accumulate_grad_hook(self.add)

    def add(self, parameter: nn.Parameter) -> None:
        """A gradient is there; the order is autograd's, the same on all ranks."""
        if self.waiting:
            self.order.setdefault(parameter)
            return
        if not self.engine.is_gradient_accumulation_boundary():
            return
        if sum(p.numel() for p in self._ready) + parameter.numel() > self.size:
            self._begin()
        self._ready.append(parameter)

    def _begin(self) -> None:
        """Sum up what is ready; gradients are parts of the bucket from here on."""
        if not self._ready:
            return
        flat = _flatten_dense_tensors([p.grad for p in self._ready])
        for parameter, part in zip(self._ready, _unflatten_dense_tensors(flat, self._ready), strict=True):
            parameter.grad = part
        self._ready = []
        self._begun.append((flat, dist.all_reduce(flat, async_op=True)))

    def finish(self) -> None:
        """Gradients become means over the ranks; what has none gets zeros, so that the optimizer treats it alike."""
        if self.waiting or not self.engine.is_gradient_accumulation_boundary():
            return
        for _, parameter in trained(self.engine.module):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._begin()
        for flat, work in self._begun:
            work.wait()
            flat.mul_(1 / dist.get_world_size())
        self._begun = []


def backward(engine: DeepSpeedEngine, loss: Tensor, scale: float | None = None) -> None:
    """The gradients of a micro-batch's mean loss, times `scale` until `update`."""
    if scale is not None and engine.zero_optimization():
        engine.optimizer.override_loss_scale(scale)  # ZeRO multiplies by it, and divides before it clips
    elif scale is not None:
        loss = loss * scale
    engine.backward(loss)


@contextmanager
def unsummed(engine: DeepSpeedEngine) -> Iterator[None]:
    """Meanwhile `backward`, without ZeRO, leaves gradients as they are on this rank."""
    engine.sums.waiting = True
    try:
        yield
    finally:
        engine.sums.waiting = False


def take(engine: DeepSpeedEngine, gradients: Mapping[nn.Parameter, Tensor]) -> None:
    """Go on as if `backward` had made these gradients, `unsummed`, of all micro-batches of a step: they are summed up
    over the ranks in the order in which backward comes to them, and `update` is next."""
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    while not engine.is_gradient_accumulation_boundary():
        engine.step()  # which counts
    for parameter in engine.sums.order:
        engine.sums.add(parameter)
    engine.sums.finish()


class Outcome(NamedTuple):
    """Of an optimizer step, on the device and the same on all ranks: whether weights and moments may have moved, and
    the gradient's norm before clipping, in fp64."""

    applied: Tensor
    norm: Tensor


def update(engine: DeepSpeedEngine, clip_grad: float, scale: float | None = None) -> Outcome | None:
    """Take a micro-batch's gradients in and, with the last one, the optimizer step: unless the gradient, over all
    ranks, is not finite. None: there is no step yet. scale: that of `backward`, divided out first.

    The host waits for the norm where the optimizer cannot leave out a step by itself, and with ZeRO, where DeepSpeed
    does all of it."""
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return None
    if engine.zero_optimization():
        engine.step()
        norm = torch.full((), float(engine.get_global_grad_norm()), dtype=torch.float64, device=engine.device)
        return Outcome(norm.isfinite(), norm)
    parameters = list(engine.module.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    if scale is not None:
        torch._foreach_mul_(gradients, 1 / scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    finite, before = norm.isfinite(), None
    if engine.stops_itself:
        _inner(engine).found_inf = (~finite).float()  # type: ignore[attr-defined] # as torch.amp.GradScaler hands it
    elif not finite:
        engine.module.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient,
        before = [float(count) for count in _steps(engine)]  # but may count the step
    if clip_grad and before is None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_grad, norm)
    engine.step()
    for count, value in zip(_steps(engine), before or (), strict=False):
        count.fill_(value)
    return Outcome(finite, norm.double())


def set_lr(engine: DeepSpeedEngine, lr: float) -> None:
    """Set this step's learning rate, scaled for each parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[object]:
    """Whole parameters to read on every rank: ZeRO-3 keeps only a share of each between uses."""
    if any(hasattr(p, "ds_id") for p in parameters):
        whole: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(parameters)
        return whole
    return nullcontext()


def weights(engine: DeepSpeedEngine, keep: bool) -> dict[str, Tensor]:
    """Every parameter (fp32) and buffer by name, in host memory of its own, if this rank is the first and is to `keep`
    them, else nothing; all ranks call it together."""
    found = _whole(engine, None, keep)
    if keep:
        found |= {name: buffer.detach().to("cpu", copy=True) for name, buffer in engine.module.named_buffers()}
    return found


def moments(engine: DeepSpeedEngine, keep: bool) -> dict[str, Tensor]:
    """What the optimizer keeps, such as `exp_avg.NAME`, whole and in fp32, as `weights`."""
    return {f"{key}.{name}": value for key in engine.kept for name, value in _whole(engine, key, keep).items()}


@torch.no_grad()
def _whole(engine: DeepSpeedEngine, key: str | None, keep: bool) -> dict[str, Tensor]:
    """What the optimizer keeps of each parameter as `key`, or (None) the parameters: a bucket of many at a time, to
    which every rank adds its share, is gathered by the first rank."""
    found: dict[str, Tensor] = {}
    sharded = engine.zero_optimization_stage() > (2 if key is None else 0)  # ZeRO 1 and 2 leave weights whole
    for named in _buckets(engine, engine.module.named_parameters() if key is None else trained(engine.module)):
        if not sharded and keep:
            for name, parameter in named:
                full = parameter if key is None else engine.optimizer.state[parameter][key]
                found[name] = full.detach().to("cpu", torch.float32, copy=True)
        if not sharded:
            continue
        whole = (_gathered if engine.zero_optimization_stage() == 3 else _summed)([p for _, p in named], key, keep)
        if keep:
            found |= {name: part.view(_shape(p)) for (name, p), part in zip(named, whole, strict=True)}
    return found


def _buckets(
    engine: DeepSpeedEngine, parameters: Iterable[tuple[str, nn.Parameter]]
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Names and parameters, so many at a time as `bucket` has elements."""
    found: list[tuple[str, nn.Parameter]] = []
    left = size = bucket(engine.module)
    for name, parameter in parameters:
        count = _shape(parameter).numel()
        if count > left:
            yield found
            found, left = [], size
        found.append((name, parameter))
        left -= count
    yield found


def _summed(parameters: list[nn.Parameter], key: str | None, keep: bool) -> Sequence[Tensor]:
    """ZeRO 1 and 2: a rank has parts of some parameters, as they lie in one flat group."""
    sizes = [p.numel() for p in parameters]
    flat = torch.zeros(sum(sizes), device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        fragment = parameter._hp_mapping  # type: ignore[attr-defined]
        if fragment is not None:
            place = fragment.lp_fragment_address
            part[place.start : place.start + place.numel].copy_(fragment.get_hp_fragment(key))
    if dist.get_world_size() > 1:
        dist.reduce(flat.view(torch.int32), 0)  # one share is not zero; as floats -0 and 0 would become 0
    return flat.to("cpu").split(sizes) if keep else ()


def _gathered(parameters: list[nn.Parameter], key: str | None, keep: bool) -> Sequence[Tensor]:
    """ZeRO 3: a rank has an equal share of each parameter, the last ones filled up."""
    own = [safe_get_local_optimizer_state(p, key) if key else _own_share(p) for p in parameters]
    mine = torch.cat(own)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())] if keep else None
    dist.gather(mine, every, 0)
    if every is None:
        return ()
    shares = zip(*(one.to("cpu").split([len(part) for part in own]) for one in every), strict=True)
    return [torch.cat(share)[: _shape(p).numel()] for share, p in zip(shares, parameters, strict=True)]


def _own_share(parameter: nn.Parameter) -> Tensor:
    """This rank's part of a weight, in fp32; of a frozen one the optimizer has no copy."""
    if parameter.requires_grad:
        return cast(Tensor, safe_get_local_fp32_param(parameter))
    share: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
    return share.detach().float()


def restore_moments(engine: DeepSpeedEngine, saved: dict[str, Tensor], step: int) -> None:
    """Put the optimizer back to where it was after `step` steps, from `moments` of any ZeRO stage and number of
    ranks."""
    for count in _steps(engine):
        count.fill_(step)
    for name, parameter in trained(engine.module):
        for key in engine.kept:
            value = saved[f"{key}.{name}"]  # in a file that is mapped: of its bytes, a rank reads those that it keeps
            if hasattr(parameter, "ds_id"):
                safe_set_local_optimizer_state(parameter, _share(value, parameter).to(engine.device), key)
            elif engine.zero_optimization():
                safe_set_full_optimizer_state(parameter, value, key)
            else:
                engine.optimizer.state[parameter][key].copy_(value)


def _share(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of `value` under ZeRO 3, the last one filled up with zeros: DeepSpeed 0.19.8 sets whole
    states only where the ranks divide them evenly."""
    size: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    share = value.flatten()[size * dist.get_rank() :][:size]
    return torch.cat([share, share.new_zeros(size - share.numel())])


def _inner(engine: DeepSpeedEngine) -> torch.optim.Optimizer:
    """The optimizer itself, which ZeRO wraps and gives flat shares of the parameters."""
    inner: torch.optim.Optimizer = engine.optimizer.optimizer if engine.zero_optimization() else engine.optimizer
    return inner


def _steps(engine: DeepSpeedEngine) -> list[Tensor]:
    """Where the optimizer counts its steps."""
    inner = _inner(engine)
    return [holder["step"] for holder in (*inner.state.values(), *inner.param_groups) if "step" in holder]


def _begin_states(engine: DeepSpeedEngine) -> None:
    """Make the optimizer's state now instead of at the first step: ZeRO 1 and 2 tie parameter names to it once, and do
    so after the first parameter group's first step, when the other groups have none yet (DeepSpeed 0.19.8)."""
    inner = _inner(engine)
    shares = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO 3 keeps its groups empty at rest
    for share in shares or [share for group in inner.param_groups for share in group["params"]]:
        where = share.device if getattr(inner, STOPS, False) else None  # what may not count a step, counts there
        inner.state[share] = {"step": torch.tensor(0.0, device=where)} | {
            k: torch.zeros_like(share) for k in engine.kept
        }
    for count in _steps(engine):
        count.zero_()  # ZeRO 3 has taken a step without gradients
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


def _pieces(engine: DeepSpeedEngine) -> dict[Tensor, list[Piece]]:
    """What the flat shares that ZeRO gives to the optimizer on this rank are made of."""
    numbers = {parameter: number for number, parameter in enumerate(engine.module.parameters())}
    zero = engine.optimizer
    found: dict[Tensor, list[Piece]] = {}
    if engine.zero_optimization_stage() == 3:
        for share, parameters in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
            sizes = [p.ds_tensor.numel() for p in parameters]
            starts = accumulate(sizes, initial=0)
            found[share] = [Piece(numbers[p], *place) for p, *place in zip(parameters, starts, sizes, strict=False)]
        return found
    found |= {share: [] for share in zero.single_partition_of_fp32_groups}
    for parameter, number in numbers.items():
        fragment = getattr(parameter, "_hp_mapping", None)  # a frozen one has none
        if fragment is not None:
            place = fragment.hp_fragment_address
            share = zero.single_partition_of_fp32_groups[fragment.param_group_index]
            found[share].append(Piece(number, place.start, place.numel))
    return found


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
