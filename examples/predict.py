"""The exported model of train.py names digits that it has not seen."""

import torch

import tdformer
from pipelines.loader import to_device
from pipelines.store.tars import TarDataset

model = tdformer.from_pretrained("digits.safetensors").eval()
classes, seen = model.card["classes"], model.card["input"]

digits = TarDataset("data/digits/test")
pixels = torch.stack([torch.from_numpy(digits.image(i)) for i in range(32)])  # uint8 [32, 1, 8, 8]
images = to_device(pixels, seen["mean"], seen["std"], torch.device("cpu"))
with torch.no_grad():
    guesses = model(images).argmax(1)
for label, guess in zip(digits.labels[:32], guesses.tolist(), strict=True):
    print(f"a {classes[label]} is taken for a {classes[guess]}")
