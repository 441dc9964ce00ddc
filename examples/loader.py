"""The data alone: batches of a training epoch for one of two ranks, in an order that nothing needs to remember."""

import torch

from pipelines import order
from pipelines.loader import eval_loader, to_device, train_loader
from pipelines.store.tars import TarDataset

digits = TarDataset("data/digits/train")  # written by train.py, or by `tdformer prepare digits`
print(f"{len(digits):,} pictures of {digits.classes} classes, {digits.shape}")

# Epoch 3, from its step 5 on. The steps before it are not read: the order is a function of seed, epoch and n.
cursor = order.Cursor(seed=0, epoch=3, step=5, global_batch=64, digest=digits.digest)
steps = [
    train_loader(digits, cursor, rank=rank, world=2, micro_batch=16, accumulation=2, augment=None, workers=0)
    for rank in (0, 1)
]
mine, theirs = (next(of_rank) for of_rank in steps)  # two micro-batches each
ids = torch.cat([batch.ids for batch in mine + theirs])
print(f"step 5: {len(mine)} micro-batches of {tuple(mine[0].images.shape)}, {len(ids.unique())} different pictures")

# Evaluation gives each picture once, the last batch smaller.
test = TarDataset("data/digits/test")
seen = 0
for batch in eval_loader(test, rank=0, world=1, batch_size=100, workers=0):
    images = to_device(batch.images, test.mean, test.std, torch.device("cpu"))  # float32, normalised
    seen += len(images)
print(f"{seen} of {len(test)} test pictures")
