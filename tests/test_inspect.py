"""`rmsprop-jax inspect` on real files: what it says is so, and its lines run as they are."""

import io
import json
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from real_checkpoints import FOLDER, family

from rmsprop_jax import inspect_checkpoint, rmsprop

FILES = FOLDER / "files"
SAYS = {
    "pytorch.pt": ("torch", "PyTorch's RMSprop", 6, "dialects.pytorch(lr=0.03, momentum=0.75"),
    "stable_baselines3.zip": ("torch", "Stable-Baselines3's", 6, "dialects.stable_baselines3("),
    "keras.keras": ("h5py", "Keras's RMSprop", 6, "dialects.keras(learning_rate=0.0299"),
    "keras.weights.h5": ("h5py", "Keras's RMSprop", 6, "centered=True"),
    "tensorflow1": ("tensorflow", "TensorFlow 1's", 1, "dialects.tensorflow1("),
    "tf_keras_legacy.index": ("tensorflow", "tf_keras's legacy", 6, "dialects.tf_keras_legacy("),
}


def said(path, capsys, *options):
    inspect_checkpoint.main([str(path), *options])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SAYS)
def test_a_real_file(name, capsys):
    reader, by, count, call = SAYS[name]
    pytest.importorskip(reader)
    report = inspect_checkpoint.read(FILES / name)
    assert by in report.written_by
    assert report.count == count
    assert call in report.calls[0]
    text = said(FILES / name, capsys)
    assert call in text
    assert "# every update" in text
    again = json.loads(said(FILES / name, capsys, "--json"))
    assert (again["calls"], again["count"]) == (report.calls, count)
    scope = {}
    exec("\n".join(report.lines), scope)
    state = scope["opt_state"]
    assert jax.tree.structure(state) == jax.tree.structure(scope["tx"].init(scope["weights"]))
    nus = [row for row in report.accumulators if row["accumulator"] == "nu"]
    assert len(nus) == len(scope["weights"])
    assert not any(row["nan"] or row["zeros"] for row in nus)


TORCH = [(f, k) for f in ("pytorch", "timm", "bitsandbytes") for k in family(f)]
REFUSED = {"lookahead", "one_cycle_momentum"}
PARTIAL = {"frozen", "unused_head", "before_first_step", "complex"}  # weights that aren't in it


@pytest.mark.parametrize("kind", TORCH, ids="-".join)
def test_every_state_dict(kind, tmp_path, capsys):
    torch = pytest.importorskip("torch")

    def tensors(x):
        if isinstance(x, dict):
            return {k: tensors(v) for k, v in x.items()}
        if isinstance(x, list):
            return [tensors(v) for v in x]
        if isinstance(x, np.ndarray):
            return torch.tensor(x.astype(np.float32) if x.dtype.name == "bfloat16" else x)
        return x

    path = tmp_path / "optimizer.pt"
    torch.save(tensors(family(kind[0])[kind[1]]["checkpoint"]), path)
    if kind[1] == "lookahead":
        with pytest.raises(SystemExit, match="Lookahead"):
            said(path, capsys)
        return
    text = said(path, capsys)
    assert "dialects." in text
    if kind[1] in PARTIAL:
        assert "hasn't been trained" in text or kind[1] == "complex"
    elif kind[1] not in REFUSED:
        scope = {}
        exec("\n".join(inspect_checkpoint.read(path).lines), scope)


def test_states_of_this_library_and_of_optax(tmp_path, capsys):
    params = {"w": jnp.ones((2, 3)), "b": jnp.full(3, 2.0)}
    for by, tx in (
        ("rmsprop_jax", rmsprop(0.1, momentum=0.9)),
        ("optax.rmsprop", optax.rmsprop(0.1)),
    ):
        state = tx.init(params)
        paths = {
            jax.tree_util.keystr(p, simple=True, separator="/"): x
            for p, x in jax.tree.leaves_with_path(state)
        }
        np.savez(tmp_path / "state.npz", **paths)
        assert f"written by    {by}\n" in said(tmp_path / "state.npz", capsys)
        ocp = pytest.importorskip("orbax.checkpoint")
        folder = tmp_path / by
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, state)
            checkpointer.wait_until_finished()
        assert f"written by    {by}\n" in said(folder, capsys)


class Bomb:
    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


def test_what_can_not_be_read(tmp_path, capsys):
    bad = {
        "bomb.pt": pickle.dumps(Bomb()),
        "bomb.npz": b"PK" + pickle.dumps(Bomb()),
        "text.txt": b"text",
        "no.keras": b"not a zip file",
        "no.h5": b"not an h5 file",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    arrays = io.BytesIO()
    np.savez(arrays, **{"0/mu/w": np.ones(2), "0/count": 3})
    (tmp_path / "adam.npz").write_bytes(arrays.getvalue())
    for name in (*bad, "adam.npz", "nothing.pt"):
        if name.endswith("pt"):
            pytest.importorskip("torch")
        with pytest.raises(SystemExit, match=f"inspect .*{name}: "):
            said(tmp_path / name, capsys)
    assert not Bomb.went_off


def test_a_reader_that_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit, match="h5py, which isn't installed: pip install h5py"):
        said(FILES / "keras.keras", capsys)


def test_the_command():
    pytest.importorskip("h5py")
    command = [sys.executable, "-m", "rmsprop_jax.cli", "inspect", str(FILES / "keras.keras")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "opt_state = interop.keras.load(" in result.stdout
