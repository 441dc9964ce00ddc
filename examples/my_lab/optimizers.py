"""An optimizer: torch's RAdam. What it keeps of each parameter is named, and comes into checkpoints."""

import torch

from cluster.build.optimizers import OPTIMIZERS, Optimizer


def radam(groups, train):
    return torch.optim.RAdam(groups, lr=train.lr, betas=tuple(train.betas), eps=train.eps, decoupled_weight_decay=True)


OPTIMIZERS.register("radam", Optimizer(radam, states=("exp_avg", "exp_avg_sq")))
