"""Trains the PyTorch model of which_rmsprop.ipynb and records it: the notebook needs no PyTorch.

Run it with PyTorch installed: `python notebooks/record_which_rmsprop.py` writes which_rmsprop.npz
beside it.
"""

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

STEPS, BATCH = 150, 64
RECORDED = 50
ARRAYS = ("2.weight", "2.bias", "0.bias")  # enough to identify the optimizer


def main():
    digits = load_digits()
    images = torch.from_numpy(digits.images.reshape(-1, 64).astype(np.float32) / 16)
    labels = torch.from_numpy(digits.target)
    rows = np.random.RandomState(0).randint(0, len(images), (STEPS, BATCH))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr=2e-3, alpha=0.95, eps=1e-4, momentum=0.8, weight_decay=1e-3
    )
    named = dict(model.named_parameters())
    initial = {f"initial/{k}": p.detach().numpy().copy() for k, p in named.items()}
    plain = lambda of: {k: of(named[k]).detach().numpy().copy() for k in ARRAYS}
    params, grads, losses = [plain(lambda p: p)], [], []
    for batch in rows:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        losses.append(loss.item())
        if len(grads) < RECORDED:
            grads.append(plain(lambda p: p.grad))
        optimizer.step()
        if len(params) <= RECORDED:
            params.append(plain(lambda p: p))
    recording = {
        f"{kind}/{k}": np.stack([step[k] for step in steps])
        for kind, steps in (("params", params), ("grads", grads))
        for k in ARRAYS
    }
    about = {"torch": torch.__version__, "numpy": np.__version__}
    np.savez_compressed(
        Path(__file__).with_suffix("").with_name("which_rmsprop.npz"),
        about=json.dumps(about),
        losses=np.array(losses),
        rows=rows,
        **initial,
        **recording,
    )


if __name__ == "__main__":
    main()
