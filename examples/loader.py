"""The data alone: batches of a training epoch for one of two ranks, in an order that nothing needs to remember."""

import torch

from pipelines import Cursor, Share, eval_loader, open_split, to_device, train_loader

digits = open_split("data/digits/train")  # written by train.py, or by `tdformer prepare digits`
print(f"{len(digits):,} pictures of {digits.classes} classes, {digits.shape}")

# Epoch 3, from its step 5 on. The steps before it are not read: the order is a function of seed, epoch and n.
cursor = Cursor(seed=0, epoch=3, step=5, global_batch=64, digest=digits.digest)
steps = [train_loader(digits, cursor, Share(micro_batch=16, accumulation=2, rank=rank, world=2)) for rank in (0, 1)]
mine, theirs = (next(of_rank) for of_rank in steps)  # two micro-batches each
ids = torch.cat([batch.ids for batch in mine + theirs])
print(f"step 5: {len(mine)} micro-batches of {tuple(mine[0].images.shape)}, {len(ids.unique())} different pictures")

# Evaluation gives each picture once, the last batch smaller.
test = open_split("data/digits/test")
seen = 0
for batch in eval_loader(test, batch_size=100):
    images = to_device(batch.images, test.mean, test.std, torch.device("cpu"))  # float32, normalised
    seen += len(images)
print(f"{seen} of {len(test)} test pictures")
