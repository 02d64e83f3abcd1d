"""Trains the PyTorch model of porting.ipynb and records it, so that the notebook needs no PyTorch.

Run it with PyTorch installed: `python notebooks/record_porting.py` writes porting.npz beside it.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

STEPS, BATCH = 400, 64  # half of them is what the notebook starts from


def batches():
    """Row numbers of the training images in each batch, the same for everyone who asks."""
    return np.random.RandomState(0).randint(0, 1500, (STEPS, BATCH))


def main():
    digits = load_digits()
    images = torch.from_numpy(digits.images[:, None].astype(np.float32) / 16)
    labels = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 6 * 6, 10),
    )
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr=5e-4, alpha=0.99, eps=1e-8, momentum=0.9, centered=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    recorded = {}

    def record(prefix):
        for name, x in model.state_dict().items():
            recorded[f"{prefix}/model/{name}"] = x.numpy().copy()
        checkpoint = optimizer.state_dict()
        for i, slots in checkpoint["state"].items():
            for slot, x in slots.items():
                recorded[f"{prefix}/optimizer/state/{i}/{slot}"] = x.numpy().copy()
        for key, x in checkpoint["param_groups"][0].items():
            if x is not None:
                recorded[f"{prefix}/optimizer/group/{key}"] = np.asarray(x)

    losses = []
    for step, rows in enumerate(batches()):
        if step == STEPS // 2:
            record("half")
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():  # on images that nobody trains on
            losses.append(torch.nn.functional.cross_entropy(model(images[1500:]), labels[1500:]))
    record("end")
    recorded["losses"] = torch.stack(losses).numpy()
    np.savez_compressed(Path(__file__).parent / "porting.npz", **recorded)


if __name__ == "__main__":
    main()
