"""The clock, the memory and the profile of a device: all that is CUDA's own."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tdformer.measure import live_bytes

Run = Callable[[], None]
PEAKS = {
    "H100 80GB HBM3": 989.4e12,  # H100 SXM; data sheets: nvidia.com/h100, nvidia.com/h200, nvidia.com/a100
    "H100 PCIe": 756e12,
    "H200": 989.4e12,
    "A100": 312e12,
}
"""Dense bf16 operations a second by what the device's name has in it."""


class Device:
    """kind: cuda or cpu."""

    def __init__(self, kind: str) -> None:
        self.kind, self.cuda = kind, kind == "cuda"
        self.name = torch.cuda.get_device_name() if self.cuda else "CPU"
        self.peak_rate = next((rate for name, rate in PEAKS.items() if name in self.name), None)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back what nothing uses any more: also what is held in circles, and what torch keeps of a GPU."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def reserved(self) -> int:
        """Bytes that torch has of a GPU, also those of graphs that do not run."""
        return torch.cuda.memory_reserved() if self.cuda else 0

    def milliseconds(self, run: Run, rounds: int) -> list[float]:
        """Of each of `rounds` calls: between events on the device, or on the clock."""
        found = []
        for _ in range(rounds):
            if self.cuda:
                begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begun.record()
                run()
                done.record()
                done.synchronize()
                found.append(begun.elapsed_time(done))
            else:
                found.append(self.launch(run))
        return found

    def launch(self, run: Run) -> float:
        """Milliseconds until the host has launched a call; on the CPU, done it."""
        self.wait()
        begun = time.perf_counter()
        run()
        launched = time.perf_counter()
        self.wait()
        return (launched - begun) * 1e3

    def peak(self, run: Run, model: nn.Module) -> int:
        """Bytes of a call at its peak beside the model; gradients count as far as they are there together."""
        if not self.cuda:
            with live_bytes(model) as live:
                run()
            return live.peak
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        self.wait()
        return torch.cuda.max_memory_allocated() - before

    def kernels(self, run: Run) -> list[tuple[str, float, int]]:
        """Name, milliseconds and number of each kind of kernel (CPU: operator) of a call, the longest first."""
        where = DeviceType.CUDA if self.cuda else DeviceType.CPU  # of an operator's row the kernels count elsewhere
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.cuda
        self.wait()
        with profile(activities=kinds) as found:
            run()
            self.wait()
        time_of = "self_device_time_total" if self.cuda else "self_cpu_time_total"
        rows = [(e.key, getattr(e, time_of) / 1e3, e.count) for e in found.key_averages() if e.device_type == where]
        return sorted((row for row in rows if row[1] > 0), key=lambda row: -row[1])
