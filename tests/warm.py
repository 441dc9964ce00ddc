"""What a start of training imports and compiles, for the processes of `forked`."""

from __future__ import annotations

import gc
from importlib import import_module

import PIL.Image
import torch
from deepspeed.ops import __compatible_ops__  # noqa: F401 - computed when it is first asked for

import tdformer
from cluster.run import curves
from cluster.train import engine
from pipelines.views.augment import auto_augment

engine._import_muon()
auto_augment()
for name in (
    *("cluster.jobs.processes", "cluster.jobs.opening", "cluster.train.loop"),
    *("deepspeed.comm.mori", "deepspeed.module_inject.auto_ep_layer"),
    *("deepspeed.runtime.zero.muon.muon_optimizer", "rich._emoji_codes", "torch._dynamo", "typer._adapters"),
    *("sklearn.datasets", "webdataset"),
    *("functorch.compile", "torch.export._trace", "torch.export.pt2_archive._package"),  # of an export
):
    import_module(name)
PIL.Image.init()
torch.set_num_threads(1)
if not torch.cuda.is_available():  # else autograd starts a thread for it, and does not work in a fork after that
    model = tdformer.create_model("quickstart", time_steps=2, segments=2, feedback="all", cm=1, pm=2)
    tdformer.segment_loss(model(torch.zeros(2, 1, 28, 28)), torch.tensor([0, 1])).backward()
curves.draw([], "fonts", 1.0)
gc.freeze()  # a collection in a forked process would look at, and so copy, all that is here
