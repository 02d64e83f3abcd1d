"""What `rmsprop-jax inspect` says of one real file of each kind: docs/inspect.md.

    pip install -e '.[inspect,torch,tensorflow]'
    python benchmarks/inspect_page.py            # print the page
    python benchmarks/inspect_page.py --write    # and write it

The files are in `tests/recorded/checkpoints/files/`; the real packages wrote them.
"""

import argparse
import contextlib
import importlib.metadata
import io
import os
from pathlib import Path

from rmsprop_jax import inspect_checkpoint

ROOT = Path(__file__).parents[1]
FILES = ROOT / "tests" / "recorded" / "checkpoints" / "files"
PAGE = ROOT / "docs" / "inspect.md"
KINDS = {  # heading: file, and the package that reads it
    "PyTorch": ("pytorch.pt", "torch"),
    "Stable-Baselines3": ("stable_baselines3.zip", "torch"),
    "Keras, a whole model": ("keras.keras", "h5py"),
    "Keras, weights": ("keras.weights.h5", "h5py"),
    "TensorFlow 1": ("tensorflow1", "tensorflow"),
    "tf_keras, an object checkpoint": ("tf_keras_legacy", "tensorflow"),
    "Optax, as safetensors": ("optax.safetensors", "safetensors"),
    "Optax, as Orbax saves it": ("orbax", "orbax"),
    "This library, as NumPy saves it": ("rmsprop_jax.npz", "numpy"),
}
HEAD = """# What is in this checkpoint?

    pip install 'rmsprop_jax[inspect]'
    rmsprop-jax inspect FILE

It says which framework and optimizer wrote the file, gives the hyperparameters as the call to
paste, explains what that call does, tells what the accumulators look like, and prints the lines
that load them. `--json` prints the same for programs. It executes nothing that is in a file.

Of each accumulator there are the lowest, median and highest number: for the average of squares
those of its root, since that is what a gradient is divided by, with the learning rate over the
median of it; for the others those of their absolute values. Zeros are parameters that never had a
gradient; NaN and inf are a run that has gone wrong.

Files are read by the packages that are known for it. `rmsprop_jax[inspect]` brings h5py, Orbax and
safetensors; PyTorch and TensorFlow are large, and extras of their own, `rmsprop_jax[torch]` and
`rmsprop_jax[tensorflow]`. `.npz` files need nothing.
"""


def section(heading: str) -> str:
    """The part of the page about one file."""
    name, _ = KINDS[heading]
    output = io.StringIO()
    with contextlib.chdir(FILES), contextlib.redirect_stdout(output):
        inspect_checkpoint.main([name])
    return f"## {heading}\n\n```text\n$ rmsprop-jax inspect {name}\n{output.getvalue()}```\n"


def main() -> None:
    """Prints the page, and writes it on demand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write docs/inspect.md")
    write = parser.parse_args().write
    packages = ["jax", "torch", "h5py", "tensorflow-cpu", "safetensors", "orbax-checkpoint"]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    foot = f"Written by `benchmarks/inspect_page.py` with {versions}.\n"
    page = "\n".join([HEAD, *map(section, KINDS), foot])
    print(page)
    if write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
