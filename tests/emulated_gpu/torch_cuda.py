"""torch.cuda's own Python over device.cpp: what it asks CUDA for, and a PyTorch for CPUs lacks, is put in its place."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

CUDA = 1
"""Its number among the kinds of devices."""
device = torch.ops.emulated


class Properties:
    """As an H100 has them."""

    name, major, minor, total_memory, multi_processor_count = "NVIDIA H100 80GB HBM3", 9, 0, 80 * 2**30, 132
    warp_size, max_threads_per_multi_processor, regs_per_multiprocessor = 32, 2048, 65536
    pci_domain_id, pci_device_id = 0, 0

    def __init__(self, number: int) -> None:
        self.pci_bus_id, self.uuid = number + 1, f"GPU-emulated-{number}"


class Stream:
    """The base of torch.cuda.Stream."""

    made = 0

    def __new__(cls, priority: int = 0, stream_id: int | None = None, device_index: int | None = None, **_: int) -> Any:
        self = super().__new__(cls)
        if stream_id is None:
            Stream.made += 1
        self.stream_id = Stream.made if stream_id is None else stream_id
        self.device_index = device.device() if device_index is None else device_index
        self.device_type, self.priority = CUDA, priority
        return self

    def __init__(self, *_: object, **__: object) -> None:
        pass

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.device_index)

    @property
    def cuda_stream(self) -> int:
        return self.stream_id

    def query(self) -> bool:
        device.host_reaches(self.stream_id, device.issued(self.stream_id))
        return True

    def synchronize(self) -> None:
        device.waited("stream")
        device.host_reaches(self.stream_id, device.issued(self.stream_id))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.stream_id, self.device) == (other.stream_id, other.device)

    __hash__ = None  # type: ignore[assignment] # torch.cuda.Stream has its own


class Event:
    """The base of torch.cuda.Event: a stream, and how much it had been asked for."""

    def __new__(cls, enable_timing: bool, blocking: bool, interprocess: bool, external: bool) -> Any:
        self = super().__new__(cls)
        self.timing, self.cuda_event, self.place = enable_timing, 0, None
        return self

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def record(self, stream: Stream) -> None:
        self.place, self.at, self.cuda_event = (
            (stream.stream_id, device.issued(stream.stream_id)),
            time.perf_counter(),
            1,
        )

    def wait(self, stream: Stream) -> None:
        if self.place is not None:
            device.device_reaches(*self.place)

    def query(self) -> bool:
        if self.place is not None:
            device.host_reaches(*self.place)
        return True

    def synchronize(self) -> None:
        if torch.cuda.is_current_stream_capturing():
            device.waited("event")  # not so elsewhere: a host may wait for an event, and says so
        self.query()

    def elapsed_time(self, end: Event) -> float:
        if not (self.timing and end.timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        return 1000 * (end.at - self.at)


class Graph:
    """The base of torch.cuda.CUDAGraph."""

    captures = False

    def __new__(cls, keep_graph: bool = False) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
        if torch.cuda.current_stream() == torch.cuda.default_stream():
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        device.capture_begin()
        Graph.captures = True

    def capture_end(self) -> None:
        Graph.captures = False
        self.number = device.capture_end()

    def replay(self) -> None:
        device.replay(self.number)

    def reset(self) -> None:
        device.drop(self.number)

    def pool(self) -> tuple[int, int]:
        return 0, 0


def _memory(_: int) -> dict[str, object]:
    now, most = device.allocated(), device.most_allocated(False)
    pools = {pool: {"current": now, "peak": most, "allocated": most} for pool in ("all", "small_pool", "large_pool")}
    kinds = dict.fromkeys(("allocated_bytes", "reserved_bytes", "active_bytes"), pools)
    return {**kinds, "num_alloc_retries": 0, "num_ooms": 0}


def _synchronize() -> None:
    device.waited("device")
    for stream in range(Stream.made + 1):
        device.host_reaches(stream, device.issued(stream))


def _shown() -> int:
    """As the driver's library counts, whether or not CUDA has looked."""
    count, shown = int(os.environ["EMULATED_GPUS"]), os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if shown is None else min(count, len(shown.split(",")) if shown else 0)


def _record_stream(x: torch.Tensor, stream: torch.cuda.Stream) -> None:
    if not (x.is_cuda and isinstance(stream, torch.cuda.Stream)):
        raise RuntimeError("record_stream: of a tensor on a GPU, and its stream")


def start() -> None:
    """Called once torch is imported. CUDA has not looked for its devices then."""

    def exchange(to: int) -> int:
        return -1 if to < 0 else device.exchange_device(to)

    def set_device(to: int) -> None:
        if to >= device.devices():
            raise RuntimeError("CUDA error: invalid device ordinal")
        exchange(to)

    def current_stream(of: int) -> tuple[int, int, int]:
        return device.stream(), of, CUDA

    asked: dict[str, object] = {
        "_CudaStreamBase": Stream,
        "_CudaEventBase": Event,
        "_CUDAGraph": Graph,
        "_cuda_isCurrentStreamCapturing": lambda: Graph.captures,
        "_graph_pool_handle": lambda: (0, 1),
        "_cuda_getDeviceCount": device.devices,
        "_cuda_init": lambda: None,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_setDevice": set_device,
        "_cuda_getDevice": device.device,
        "_cuda_exchangeDevice": exchange,
        "_cuda_maybeExchangeDevice": exchange,
        "_cuda_getArchFlags": lambda: "sm_80 sm_90",
        "_cuda_getCompiledVersion": lambda: 12080,
        "_cuda_getCurrentStream": current_stream,
        "_cuda_getCurrentRawStream": lambda of: device.stream(),
        "_cuda_getDefaultStream": lambda of: (0, of, CUDA),
        "_cuda_setStream": lambda stream_id, device_index, device_type: device.set_stream(stream_id),
        "_cuda_synchronize": _synchronize,
        "_cuda_emptyCache": lambda: None,
        "_host_emptyCache": lambda: None,
        "_cuda_memoryStats": _memory,
        "_cuda_resetPeakMemoryStats": lambda of: device.most_allocated(True),
        "_cuda_getAllocatorBackend": lambda: "native",
        "_cuda_set_sync_debug_mode": device.say_waits,
        "_cuda_get_sync_debug_mode": lambda: 0,
        "_nccl_version": lambda: 22703,
        "_nccl_version_suffix": lambda: b"",
        "_has_cuda": True,
    }
    torch._C.__dict__.update(asked)
    cuda: Any = torch.cuda
    cuda._exchange_device = cuda._maybe_exchange_device = exchange
    cuda._get_device_properties, cuda._CudaDeviceProperties = Properties, Properties
    cuda._cudart = SimpleNamespace(
        cudaMemGetInfo=lambda of: (Properties.total_memory - device.allocated(), Properties.total_memory),
        cudaError=SimpleNamespace(success=0),
    )
    cuda.nvtx._nvtx = SimpleNamespace(rangePushA=lambda _: 0, rangePop=lambda: 0)
    for module in (importlib.reload(cuda.streams), importlib.reload(cuda.graphs)):
        for name in ("Stream", "Event", "ExternalStream", "CUDAGraph", "graph", "is_current_stream_capturing"):
            if hasattr(module, name):
                setattr(cuda, name, getattr(module, name))
    torch.backends.cuda.is_built = lambda: True
    torch.Tensor.record_stream = _record_stream
    torch.backends.cudnn.is_available = lambda: True
    torch.backends.cudnn.version = lambda: 91002
    cuda._device_count_nvml = _shown
    all_of_them = range(int(os.environ["EMULATED_GPUS"]))
    cuda.default_generators = tuple(torch.Generator(torch.device("cuda", i)) for i in all_of_them)
    for i, generator in enumerate(cuda.default_generators):
        device.set_common(i, generator)
    for name in ("init_process_group", "new_group"):
        changed = _by_gloo(getattr(distributed_c10d, name))
        for module in (dist, distributed_c10d):
            setattr(module, name, changed)
    for module in (dist, distributed_c10d):
        module.is_nccl_available = lambda: True


def _by_gloo(function: Callable[..., Any]) -> Callable[..., Any]:
    """A group that would be NCCL's is gloo's, which the device hands its tensors to on the host."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("backend") in ("nccl", None):
            given["backend"] = "gloo"
        given["device_id"] = None
        return function(**given)

    return call
