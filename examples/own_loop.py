"""The model alone, in a training loop of yours: it is plain PyTorch and knows no files, processes or configurations."""

import torch
from sklearn.datasets import load_digits

import tdformer

digits = load_digits()
few = digits.target < 2  # zeros and ones: so few steps do not tell ten digits apart
images = torch.from_numpy(digits.images[few]).float().unsqueeze(1) / 8 - 1  # [360, 1, 8, 8], -1..1
labels = torch.from_numpy(digits.target[few])

torch.manual_seed(0)
model = tdformer.create_model(
    "quickstart", num_classes=2, in_channels=1, image_size=8, time_steps=4, segments=2, feedback="all"
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

for step in range(60):
    batch = torch.randint(300, (32,))
    logits = model(images[batch])  # [2, 32, 2], one for each segment of time
    loss = tdformer.segment_loss(logits, labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}")

model.eval()
with torch.no_grad():
    guesses = model(images[300:]).argmax(1)  # [60, 2] -> [60], by the last segment
print(f"accuracy {(guesses == labels[300:]).float().mean().item():.1%}")
