"""No framework is imported, whatever interop does."""

import subprocess
import sys

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "keras", "tf_keras", "tensorflow", "timm", "h5py"}:
            raise AssertionError(f"import of {name}")

sys.meta_path.insert(0, Refuse())
import numpy as np
import optax
import rmsprop_jax
from rmsprop_jax import dialects, interop

weights, same = {"w": np.ones((2, 3), np.float32)}, lambda x: x
on = {"momentum": 0.9, "centered": True}
for dialect in (dialects.pytorch, dialects.timm, dialects.stable_baselines3):
    tx = dialect(0.1, **on)
    saved = interop.pytorch.dump(tx, tx.init(weights), weights, same)
    interop.pytorch.load(saved, weights, same, dialect=dialect)
tx = dialects.pytorch(0.1)
interop.pytorch.load(
    interop.pytorch.dump(tx, tx.init(weights), weights, same, bitsandbytes=True), weights, same
)
for dialect in (dialects.keras, dialects.tf_keras_legacy):
    tx = dialect(0.1, **on)
    saved = interop.keras.dump(tx, tx.init(weights), weights, same)
    interop.keras.load(tx, saved, weights, same)
    interop.keras.load(tx, list(saved.values()), weights, same)
tx = dialects.tensorflow1(0.1, **on)
for optimizer in (None, "opt"):
    saved = interop.tensorflow.dump(tx, tx.init(weights), weights, same, optimizer=optimizer)
    interop.tensorflow.load(tx, saved, weights, same)
tx = dialects.optax(0.1, **on)
interop.optax.load(tx, interop.optax.dump(tx, tx.init(weights), weights), weights)
interop.restore(tx, tx.init(weights), weights)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_no_framework_is_imported():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    modules = set(result.stdout.split())
    assert {"jax", "optax", "rmsprop_jax"} <= modules
    assert not modules & {
        "torch",
        "keras",
        "tf_keras",
        "tensorflow",
        "timm",
        "h5py",
        "flax",
        "orbax",
    }
