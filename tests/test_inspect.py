"""`rmsprop-jax inspect` on real files: what it says is so, and its lines run as they are."""

import json
import os
import pickle
import runpy
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from real_checkpoints import FOLDER, family

from rmsprop_jax import RmsState, cli, dialects, inspect_checkpoint, rmsprop, storage

FILES = FOLDER / "files"
SAYS = {
    "pytorch.pt": ("torch", "PyTorch's RMSprop", 6, "dialects.pytorch(lr=0.03, momentum=0.75"),
    "stable_baselines3.zip": ("torch", "Stable-Baselines3's", 6, "dialects.stable_baselines3("),
    "keras.keras": ("h5py", "Keras's RMSprop", 6, "dialects.keras(learning_rate=0.0299"),
    "keras.weights.h5": ("h5py", "Keras's RMSprop", 6, "centered=True"),
    "tensorflow1": ("tensorflow", "TensorFlow 1's", 1, "dialects.tensorflow1("),
    "tf_keras_legacy.index": ("tensorflow", "tf_keras's legacy", 6, "dialects.tf_keras_legacy("),
    "optax.safetensors": ("safetensors", "optax.rmsprop", None, "dialects.optax(learning_rate="),
    "orbax": ("orbax.checkpoint", "optax.rmsprop", 6, "centered=True"),
    "rmsprop_jax.npz": ("numpy", "rmsprop_jax", 6, "rmsprop(learning_rate=0.01, momentum=0.9"),
}


is_rms = lambda x: isinstance(x, RmsState)


def by_path(state):
    """The arrays of a state by their paths, as NumPy's files have them."""
    text = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {text(path): x for path, x in jax.tree.leaves_with_path(state)}


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
    state, params = scope["opt_state"], scope["params" if "params" in scope else "weights"]
    assert jax.tree.structure(state) == jax.tree.structure(scope["tx"].init(params))
    nus = [row for row in report.accumulators if row["accumulator"] == "nu"]
    assert len(nus) == len(jax.tree.leaves(params))
    # What is loaded is what the table is about.
    (rms,) = (x for x in jax.tree.leaves(state, is_leaf=is_rms) if is_rms(x))
    second = rms.nu if rms.mu is None else jax.tree.map(lambda n, m: n + m**2, rms.nu, rms.mu)
    highest = [float(jnp.sqrt(x.max())) for x in jax.tree.leaves(second)]
    theirs = [row["highest"] for row in nus]
    if report.written_by == "rmsprop_jax":  # whose centered nu is the variance
        highest = [float(jnp.sqrt(x.max())) for x in jax.tree.leaves(rms.nu)]
    np.testing.assert_allclose(sorted(highest), sorted(theirs), rtol=1e-5)
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
    """Alone, and among other things, as trainers save it."""
    ocp = pytest.importorskip("orbax.checkpoint")
    params = {"w": np.ones((2, 3), np.float32), "b": np.full(3, 2.0, np.float32)}
    for by, tx in (
        ("rmsprop_jax", rmsprop(0.1, momentum=0.9)),
        ("optax.rmsprop", optax.rmsprop(0.1)),
    ):
        state = tx.init(params)
        np.savez(tmp_path / "state.npz", **by_path(state))
        np.savez(tmp_path / "whole.npz", **by_path({"step": 3, "opt_state": state}))
        whole = {"params": params, "step": np.int32(3), "train": {"opt_state": state}}
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / by, state)
            checkpointer.save(tmp_path / f"{by} whole", whole)
            checkpointer.wait_until_finished()
        for path in (tmp_path / "state.npz", tmp_path / by):
            assert f"written by    {by}\n" in said(path, capsys)
        for path in (tmp_path / f"{by} whole", tmp_path / "whole.npz"):
            exec("\n".join(inspect_checkpoint.read(path).lines), scope := {})
            assert jax.tree.structure(scope["params"]) == jax.tree.structure(params)


MAKERS = {
    "rmsprop": lambda: rmsprop(0.1, momentum=0.9),
    "dialects.pytorch": lambda: dialects.pytorch(momentum=0.9),
    "dialects.keras": lambda: dialects.keras(momentum=0.9, centered=True),
    "dialects.timm": lambda: dialects.timm(weight_decay=0.1),
    "dialects.graves": dialects.graves,
}


@pytest.mark.parametrize("function", MAKERS)
def test_the_function_is_told_by_the_places(function, tmp_path, capsys):
    """Those that keep the same arrays in the same places are named together."""
    state = MAKERS[function]().init({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    np.savez(tmp_path / "state.npz", **by_path(state))
    report = inspect_checkpoint.read(tmp_path / "state.npz")
    assert function in f"{report.calls} {report.unknown}"
    exec("\n".join(report.lines), scope := {})
    assert jax.tree.structure(scope["opt_state"]) == jax.tree.structure(state)


def test_stored_accumulators_are_named(tmp_path, capsys):
    tx = storage.store(rmsprop(0.1), nu=storage.U8)
    np.savez(tmp_path / "stored.npz", **by_path(tx.init({"w": jnp.ones(3)})))
    with pytest.raises(SystemExit, match=r"nu/w: storage.store made this"):
        said(tmp_path / "stored.npz", capsys)


# The page of the documentation.

PAGE = Path(__file__).parents[1] / "docs" / "inspect.md"
SCRIPT = runpy.run_path(str(PAGE.parents[1] / "benchmarks" / "inspect_page.py"))


@pytest.mark.parametrize("heading", SCRIPT["KINDS"])
@pytest.mark.skipif("RECORDED_CHECKPOINTS" in os.environ, reason="these are other files")
def test_the_page_is_what_it_prints(heading):
    pytest.importorskip(SCRIPT["KINDS"][heading][1])
    if SCRIPT["section"](heading) not in PAGE.read_text():
        pytest.fail("docs/inspect.md is old: run python benchmarks/inspect_page.py --write")


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
    np.savez(tmp_path / "adam.npz", **{"0/mu/w": np.ones(2), "0/count": 3})
    for name in (*bad, "adam.npz", "nothing.pt"):
        if name.endswith("pt"):
            pytest.importorskip("torch")
        with pytest.raises(SystemExit, match=f"inspect .*{name}: "):
            said(tmp_path / name, capsys)
    assert not Bomb.went_off


@pytest.mark.parametrize(
    ("package", "extra", "name"),
    [
        ("h5py", "inspect", "keras.keras"),
        ("safetensors", "inspect", "optax.safetensors"),
        ("orbax", "inspect", "orbax"),
        ("torch", "torch", "pytorch.pt"),
        ("torch", "torch", "stable_baselines3.zip"),
        ("tensorflow", "tensorflow", "tensorflow1"),
    ],
)
def test_a_reader_that_is_missing(package, extra, name, monkeypatch, capsys):
    for module in (package, *(m for m in sys.modules if m.startswith(f"{package}."))):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"{package}, which isn't installed: pip .*\[{extra}\]'"):
        said(FILES / name, capsys)
    extras = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text())["project"]
    assert any(package in need for need in extras["optional-dependencies"][extra])


def test_the_command(monkeypatch, capsys):
    pytest.importorskip("h5py")
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", "inspect", str(FILES / "keras.keras")])
    cli.main()
    assert "opt_state = interop.keras.load(" in capsys.readouterr().out
