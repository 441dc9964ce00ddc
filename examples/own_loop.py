"""The model alone, in a training loop of yours: it is plain PyTorch and knows no files, processes or configurations."""

import torch
from sklearn.datasets import load_digits

import tdformer

digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # [1797, 1, 8, 8], 0..1
labels = torch.from_numpy(digits.target)

torch.manual_seed(0)
model = tdformer.create_model(
    "quickstart", num_classes=10, in_channels=1, image_size=8, time_steps=4, segments=2, feedback="all"
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

for step in range(60):
    batch = torch.randint(1500, (64,))
    logits = model(images[batch])  # [2, 64, 10], one for each segment of time
    loss = tdformer.segment_loss(logits, labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(f"step {step + 1}: loss {loss.item():.3f}")

model.eval()
with torch.no_grad():
    guesses = model(images[1500:]).argmax(1)  # [297, 10], of the last segment
print(f"accuracy {(guesses == labels[1500:]).float().mean().item():.1%}")
