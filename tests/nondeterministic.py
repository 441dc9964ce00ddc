"""Operators of torch that give other bits from one time to the next on CUDA, and what records those that are used.

Source: the two lists in the documentation of `torch.use_deterministic_algorithms` (torch 2.13), by its names; a test
compares them with the installed torch. `Tensor.resize_` of quantized tensors and sparse products, which no operator's
name tells from others, are left out: nothing here is quantized or sparse.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SWITCHED = {
    "torch.nn.Conv1d": ("convolution", "convolution_backward"),
    "torch.nn.Conv2d": ("convolution", "convolution_backward"),
    "torch.nn.Conv3d": ("convolution", "convolution_backward"),
    "torch.nn.ConvTranspose1d": ("convolution", "convolution_backward"),
    "torch.nn.ConvTranspose2d": ("convolution", "convolution_backward"),
    "torch.nn.ConvTranspose3d": ("convolution", "convolution_backward"),
    "torch.nn.ReplicationPad1d": ("replication_pad1d_backward",),
    "torch.nn.ReplicationPad2d": ("replication_pad2d_backward",),
    "torch.nn.ReplicationPad3d": ("replication_pad3d_backward",),
    "torch.bmm": (),
    "torch.Tensor.__getitem__": (),  # of a CPU tensor
    "torch.Tensor.index_put": ("index_put", "index_put_", "_index_put_impl_"),
    "torch.Tensor.put_": (),  # of a CPU tensor; on CUDA it raises
    "torch.Tensor.scatter_add_": ("scatter_add", "scatter_add_"),
    "torch.gather": (),  # its gradient is scatter_add
    "torch.index_add": ("index_add", "index_add_"),
    "torch.index_select": (),  # its gradient is index_add
    "torch.repeat_interleave": (),  # its gradient is index_add
    "torch.Tensor.index_copy": ("index_copy", "index_copy_"),
    "torch.Tensor.scatter": ("scatter.src", "scatter_.src"),
    "torch.Tensor.scatter_reduce": ("scatter_reduce", "scatter_reduce_"),
    "torch.nn.MaxPool3d": ("max_pool3d_with_indices_backward",),
}
"""Deterministic where torch is told to be, and slower."""
RAISING = {
    "torch.nn.AvgPool3d": ("avg_pool3d_backward",),
    "torch.nn.AdaptiveAvgPool2d": ("_adaptive_avg_pool2d_backward",),
    "torch.nn.AdaptiveAvgPool3d": ("_adaptive_avg_pool3d_backward",),
    "torch.nn.AdaptiveMaxPool2d": ("adaptive_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool2d": ("fractional_max_pool2d_backward",),
    "torch.nn.FractionalMaxPool3d": ("fractional_max_pool3d_backward",),
    "torch.nn.MaxUnpool1d": ("max_unpool2d",),
    "torch.nn.MaxUnpool2d": ("max_unpool2d",),
    "torch.nn.MaxUnpool3d": ("max_unpool3d",),
    "torch.nn.functional.interpolate": (
        *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
        *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward"),
    ),
    "torch.nn.ReflectionPad1d": ("reflection_pad1d_backward",),
    "torch.nn.ReflectionPad2d": ("reflection_pad2d_backward",),
    "torch.nn.ReflectionPad3d": ("reflection_pad3d_backward",),
    "torch.nn.NLLLoss": ("nll_loss2d_forward",),  # of pictures of labels; that of one label an image adds in one block
    "torch.nn.CTCLoss": ("_ctc_loss_backward",),
    "torch.nn.EmbeddingBag": ("_embedding_bag_backward", "_embedding_bag_dense_backward"),
    "torch.Tensor.put_": ("put", "put_"),
    "torch.histc": ("histc",),
    "torch.bincount": ("bincount",),
    "torch.median": ("median", "nanmedian"),
    "torch.nn.functional.grid_sample": (
        *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_grid_sampler_2d_cpu_fallback_backward"),
    ),
    "torch.cumsum": ("cumsum", "cumsum_"),
    "torch.Tensor.scatter_reduce": ("scatter_reduce", "scatter_reduce_"),
    "torch.Tensor.resize_": (),
}
"""An error where torch is told to be deterministic."""


def documented() -> tuple[set[str], set[str]]:
    """The names in the two lists of the installed torch."""
    text = str(torch.use_deterministic_algorithms.__doc__)
    _, acting, raising = re.split(r"following normally-nondeterministic operations will", text)
    found = [set(re.findall(r"^ *\* :(?:class|func):`([^`]+)`", part, re.MULTILINE)) for part in (acting, raising)]
    return found[0], found[1]


def among(used: set[str], table: dict[str, tuple[str, ...]]) -> set[str]:
    """Those of the operators `used` that a table has, by packet or with the name of their overload."""
    names = {name for ops in table.values() for name in ops}
    return {op for op in used if op in names or op.rpartition(".")[0] in names}


class Used(TorchDispatchMode):
    """Records the operators that are called meanwhile, those of the backward pass included: `scatter_add_.default`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(
            function._schema.name.removeprefix("aten::") + "." + (function._schema.overload_name or "default")
        )
        return function(*args, **(kwargs or {}))
