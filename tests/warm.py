"""What a start of training imports and compiles, for the processes of `forked`."""

from __future__ import annotations

import gc

import PIL.Image
import torch
import torch._dynamo
from deepspeed.ops import __compatible_ops__  # noqa: F401

import cluster.jobs.processes
import cluster.train.loop  # noqa: F401
import tdformer
from cluster.run import curves
from cluster.train import engine

PIL.Image.init()
engine._import_muon()
torch.set_num_threads(1)
model = tdformer.create_model("quickstart", time_steps=2, segments=2, feedback="all", cm=1, pm=2)
tdformer.segment_loss(model(torch.zeros(2, 1, 28, 28)), torch.tensor([0, 1])).backward()
curves.draw([], "fonts", 1.0)
gc.freeze()  # a collection in a forked process would look at, and so copy, all that is here
