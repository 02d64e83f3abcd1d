"""Writes the checkpoints that all later versions must be able to load: run it once per version."""

import flax.serialization
import numpy as np
from test_checkpoints import GOLDEN, GOLDEN_OPTIMIZERS, filled, paths

import rmsprop_jax

if __name__ == "__main__":
    folder = GOLDEN / rmsprop_jax.__version__
    folder.mkdir(parents=True)  # what there is stays as it is
    for name, tx in GOLDEN_OPTIMIZERS.items():
        state = filled(tx)
        np.savez_compressed(folder / f"{name}.npz", **paths(state))
        (folder / f"{name}.msgpack").write_bytes(flax.serialization.to_bytes(state))
