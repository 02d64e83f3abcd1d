"""Time of the MNIST example beside the same training in PyTorch, as whole processes.

    python benchmarks/mnist_time.py [--epochs 5] [--rounds 5] [--data-dir DIR]

Both train logistic regression on batches of 64 with RMSProp(1e-3, 0.9, 1e-8), test after every
epoch, and read the same MNIST files from disk (also MNIST_DIR, or the cache of the example). They
run in turn, round after round, each as a process of its own from start to exit, so imports and
compilation count; JAX's cache of compiled programs is off. Medians, and in brackets minima. PyTorch
runs on the GPU if it can, unless JAX_PLATFORMS is cpu; the last lines of both say where.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import setting, table

LOADER = Path(__file__).parents[1] / "rmsprop_jax" / "examples" / "data.py"
PYTORCH = """
import os, runpy, sys, time
import torch
from torch.utils.data import DataLoader, TensorDataset

# The loader by its path: through the package, PyTorch would have to pay for the import of JAX.
data = runpy.run_path(sys.argv[2])["load"]("mnist")
assert "jax" not in sys.modules
def images(array):
    return torch.tensor(array).flatten(1).float() / 255
train = TensorDataset(images(data.train_images), torch.tensor(data.train_labels).long())
gpu = torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS") != "cpu"
device = "cuda" if gpu else "cpu"
test_images = images(data.test_images).to(device)
test_labels = torch.tensor(data.test_labels).long().to(device)

torch.manual_seed(0)
loader = DataLoader(train, batch_size=64, shuffle=True)
model = torch.nn.Linear(784, 10).to(device)
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-8)
for epoch in range(int(sys.argv[1])):
    began = time.perf_counter()
    total = 0.0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    print(f"PyTorch on {device}: epoch {epoch + 1}, training loss {total / len(train):.4f}, "
          f"test accuracy {accuracy:.2%}, {time.perf_counter() - began:.4f} s", flush=True)
"""


def timed(command, env):
    """Seconds of a process, and of each of its epochs; its last line."""
    began = time.perf_counter()
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if run.returncode:
        sys.exit(run.stderr)
    lines = run.stdout.strip().splitlines()
    epochs = [float(match[1]) for line in lines if (match := re.search(r"([\d.]+) s$", line))]
    return seconds, epochs, lines[-1]


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first has the compilation in it")

    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    if args.data_dir:
        env["MNIST_DIR"] = args.data_dir
    epochs = str(args.epochs)
    ours = [sys.executable, "-m", "rmsprop_jax.cli", "mnist", "--dataset", "mnist"]
    commands = {
        "rmsprop_jax": [*ours, "--epochs", epochs],
        "PyTorch": [sys.executable, "-c", PYTORCH, epochs, str(LOADER)],
    }
    whole = {name: [] for name in commands}
    first = {name: [] for name in commands}
    later = {name: [] for name in commands}
    last = {}
    for round in range(args.rounds + 1):
        for name, command in commands.items():
            seconds, times, last[name] = timed(command, env)
            if round:  # the round before the first fills the cache of the disk
                whole[name].append(seconds)
                first[name].append(times[0])
                later[name].extend(times[1:])

    print(setting("jax", "optax", "flax", "torch", "numpy"))
    print(f"\n{args.epochs} epochs, {args.rounds} rounds")
    for line in last.values():
        print(f"\n    {line}")
    row = table("s, median (minimum)", *whole, "ratio")
    measures = {"whole process": whole, "first epoch": first, "an epoch after the first": later}
    for what, times in measures.items():
        (ours, our_least), (theirs, their_least) = (
            (statistics.median(values), min(values)) for values in times.values()
        )
        row(
            what, f"{ours:.3f} ({our_least:.3f})", f"{theirs:.3f} ({their_least:.3f})",
            f"{ours / theirs:.2f} ({our_least / their_least:.2f})",
        )  # fmt: skip


if __name__ == "__main__":
    main()
