"""Checkpoints: killed and resumed, damaged, in use, of another run, and where there is no room.

`test_train_killed.py` has more of the first: killed from outside, at random moments.
"""

import dataclasses
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import DIGITS, NAME, assert_identical, command, options, results

from rmsprop_jax.examples import data
from rmsprop_jax.trainer import mnist, reports
from rmsprop_jax.trainer.checkpoints import Store
from rmsprop_jax.trainer.mnist import train


def names(directory):
    """What lies there, but for the lock."""
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


# Killed and resumed.

# Runs the command and kills itself at the first file operation that fits.
CHILD = """
import os, signal, sys
operation, path, *sys.argv[1:] = sys.argv[1:]
def hook(name, values):
    if name == operation and values and str(values[0]).endswith(path):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from rmsprop_jax import cli
cli.main()
"""
LINEAR = dataclasses.replace(DIGITS, epochs=4, centered=True, momentum=0.5, batch_size=100)
PLATEAU = dataclasses.replace(LINEAR, schedule="plateau", learning_rate=0.05, epochs=5)
CNN = dataclasses.replace(DIGITS, model="cnn", epochs=4, schedule="cosine")
MOMENTS = {
    "before the first commit": (LINEAR, "os.rename", "/1.orbax-checkpoint-tmp", 0),
    "in a save": (CNN, "open", "/2.orbax-checkpoint-tmp/state.orbax-checkpoint-tmp/_METADATA", 1),
    "while an old one goes": (PLATEAU, "os.rmdir", "/1", 3),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Directories of runs that were killed, by moment, and how many lines each had printed."""
    # How XLA sums up a convolution may depend on how many devices share the threads.
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(jax.local_device_count())}
    children = {}
    for moment, (config, operation, path, _) in MOMENTS.items():
        directory = tmp_path_factory.mktemp("killed")
        line = [sys.executable, "-c", CHILD, operation, path, "mnist"]
        line += options(dataclasses.replace(config, save=directory))
        pipe = subprocess.PIPE
        child = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=env)
        children[moment] = directory, child
    left = {}
    for moment, (directory, child) in children.items():
        out, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors
        left[moment] = directory, out.count("\n")
    return left


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed(moment, killed, capsys):
    config, _, _, done = MOMENTS[moment]
    directory, printed = killed[moment]
    saved = max((int(name) for name in names(directory) if name.isdecimal()), default=0)
    assert saved == done
    assert printed == min(done, 2)  # a line is printed when its epoch is safe
    whole = train(config)
    capsys.readouterr()
    if done:
        result = train(dataclasses.replace(config, resume=directory))
        assert capsys.readouterr().out.startswith(f"{NAME}: continuing after epoch {done}\n")
    else:
        with pytest.raises(ValueError, match="has no checkpoint to go on from"):
            train(dataclasses.replace(config, resume=directory))
        result = train(dataclasses.replace(config, save=directory))
    assert_identical(result, whole)
    assert names(directory) == [str(config.epochs - 1), str(config.epochs)]
    if config == PLATEAU:  # otherwise this wouldn't show that the schedule's state is kept
        assert results(train(dataclasses.replace(config, schedule="constant"))) != results(whole)


# Of another run.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with two epochs, to be read only."""
    directory = tmp_path_factory.mktemp("saved") / "new" / "run"
    train(dataclasses.replace(DIGITS, save=directory))
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mlp"}, "model='mlp', .* model='linear'"),
        ({"batch_size": 65}, "batch_size=65, .* batch_size=64"),
        ({"seed": 1}, "seed=1, .* seed=0"),
        ({"optimizer": "adam"}, "optimizer='adam', .* optimizer='rmsprop'"),
        ({"learning_rate": 0.5}, "learning_rate=0.5, .* learning_rate=0.001"),
        ({"decay": 0.5}, "decay=0.5, .* decay=0.9"),
        ({"eps": 0.5}, "eps=0.5, .* eps=1e-08"),
        ({"momentum": 0.5}, "momentum=0.5, .* momentum=None"),
        ({"centered": True}, "centered=True, .* centered=False"),
        ({"schedule": "cosine"}, "schedule='cosine', .* schedule='constant'"),
        ({"epochs": 1}, "epochs=1, .* 2 "),
        ({"dataset": "auto"}, "dataset='MNIST', .* dataset='scikit-learn digits"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_run_is_refused(saved, change, message, monkeypatch):
    if "dataset" in change:
        other = data.load("digits")._replace(name="MNIST")
        monkeypatch.setattr(mnist, "load", lambda *args: other)
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(DIGITS, resume=saved, **change))
    assert names(saved) == ["1", "2"]


def test_a_cosine_needs_its_epochs(tmp_path):
    config = dataclasses.replace(DIGITS, schedule="cosine", save=tmp_path)
    train(config)
    with pytest.raises(ValueError, match=r"epochs=3, .* epochs=2"):
        train(dataclasses.replace(config, save=None, resume=tmp_path, epochs=3))


def test_resume_to_another_directory(saved, tmp_path, capsys):
    new = dataclasses.replace(DIGITS, epochs=3, resume=saved, save=tmp_path / "new", decay=0.9)
    result = train(dataclasses.replace(new, json=tmp_path / "a.json"))
    assert_identical(result, train(dataclasses.replace(DIGITS, epochs=3)))
    assert names(tmp_path / "new") == ["3"]
    assert names(saved) == ["1", "2"]
    report = json.loads((tmp_path / "a.json").read_text())
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3]
    assert "continuing after epoch 2" in capsys.readouterr().out


def test_save_overwrites_nothing(saved, tmp_path):
    for seed in (0, 1):
        with pytest.raises(ValueError, match="holds another run; to go on with it, resume it"):
            train(dataclasses.replace(DIGITS, save=saved, seed=seed))
    assert names(saved) == ["1", "2"]
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match="file"):
        train(dataclasses.replace(DIGITS, save=file))
    assert file.read_text() == "precious"


def test_nothing_to_resume(tmp_path):
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"resume='{directory}' has no checkpoint"):
            train(dataclasses.replace(DIGITS, resume=directory))
    assert not list(tmp_path.iterdir())
    (tmp_path / "7").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/7 is damaged .*: start anew"):
        train(dataclasses.replace(DIGITS, resume=tmp_path))


# Damaged.

STATE = {"w": jnp.arange(2000.0), "n": jnp.int32(7)}
RUN = {"model": "linear", "seed": 0}


def restored(directory):
    with Store(None, directory) as store:
        return store.restore(RUN, {"w": jnp.zeros(2000), "n": jnp.int32(0)})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with the epochs 1 and 2, of which only the second has STATE."""
    directory = tmp_path_factory.mktemp("two")
    with Store(directory, None) as store:
        store.save(RUN, {"w": STATE["w"] + 1, "n": jnp.int32(6)}, [[1, 0.5]])
        store.save(RUN, STATE, [[1, 0.5], [2, float("nan")]])
    return directory


def flip(content):
    """A bit in the middle, which a digit survives as another digit."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "harm", [flip, *(pytest.param(harm, marks=pytest.mark.nightly) for harm in (None, cut))]
)
def test_damage_is_never_taken_for_a_state(two, tmp_path, harm, capsys):
    """Whichever file is hit: the checkpoint is what was saved, or the older one is taken."""
    fallen_back = 0
    for path in sorted(path for path in (two / "2").rglob("*") if path.is_file()):
        copy = tmp_path / "copy"
        shutil.copytree(two, copy)
        hit = copy / path.relative_to(two)
        hit.write_bytes(harm(path.read_bytes())) if harm else hit.unlink()
        state, history = restored(copy)
        err = capsys.readouterr().err
        if len(history) == 1:
            fallen_back += 1
            assert f"{copy}/2 is damaged (" in err
            assert err.endswith("): going on from epoch 1.\n")
        else:
            assert err == ""
        expected = STATE["w"] + (len(history) == 1)
        np.testing.assert_array_equal(state["w"], expected, strict=True)
        assert state["n"] == (7 if len(history) == 2 else 6)
        assert names(copy) == ["1", "2" if len(history) == 2 else "2.damaged"]  # nothing is lost
        shutil.rmtree(copy)
    assert fallen_back >= 3


# Orbax drops what it had begun to read when it meets the damage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_going_on_from_an_older_one(tmp_path, capsys):
    train(dataclasses.replace(DIGITS, save=tmp_path, epochs=3))
    metadata = tmp_path / "3" / "about" / "metadata"
    metadata.write_text(metadata.read_text()[:387])
    result = train(dataclasses.replace(DIGITS, resume=tmp_path, epochs=4))
    assert_identical(result, train(dataclasses.replace(DIGITS, epochs=4)))
    out, err = capsys.readouterr()
    assert f"{NAME}: continuing after epoch 2\n" in out
    assert err.startswith(f"{tmp_path}/3 is damaged (")
    assert err.count("\n") == 1
    assert names(tmp_path) == ["3", "3.damaged", "4"]

    for step in ("3", "4"):
        (tmp_path / step / "about" / "metadata").unlink()
    with pytest.raises(ValueError, match=r"/4 is damaged .*/3 is damaged .*: start anew"):
        train(dataclasses.replace(DIGITS, resume=tmp_path, epochs=5))
    gc.collect()  # here, not in another test


def test_another_run_is_refused_before_any_data_is_touched(tmp_path, monkeypatch):
    train(dataclasses.replace(DIGITS, save=tmp_path, epochs=1))
    monkeypatch.setattr(mnist, "load", lambda *args: pytest.fail("data was loaded"))
    with pytest.raises(ValueError, match=r"decay=0.5, but the run in .*/1 has decay=0.9"):
        train(dataclasses.replace(DIGITS, resume=tmp_path, decay=0.5))


# In use.


def test_a_directory_in_use_is_refused_until_its_run_is_killed(tmp_path):
    config = dataclasses.replace(DIGITS, epochs=1_000_000, save=tmp_path)
    with command("mnist", config) as child:
        assert child.stdout.readline().startswith(f"{NAME}: epoch 1/")
        message = rf"{tmp_path} is in use by another run, process {child.pid} on "
        for change in ({"save": tmp_path}, {"resume": tmp_path}, {"resume": tmp_path, "save": "x"}):
            change = {"save": None} | change
            if change["save"] == "x":
                change["save"] = tmp_path / "x"
            with pytest.raises(ValueError, match=message):
                train(dataclasses.replace(config, **change))
        child.kill()
    done = max(int(name) for name in names(tmp_path) if name.isdecimal())
    result = train(dataclasses.replace(config, save=None, resume=tmp_path, epochs=done + 1))
    assert len(result.history) == done + 1


# No room. A limit on the size of files stands for a full disk.

LIMITED = """
import resource, sys
from rmsprop_jax import cli
from rmsprop_jax.trainer import checkpoints, mnist
when, size, *sys.argv[1:] = sys.argv[1:]
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), -1))
prepare = mnist.training.prepare
def late(*args):
    program = prepare(*args)
    def epoch(state, number):
        limit()
        return program.epoch(state, number)
    return program._replace(epoch=epoch)
limit() if when == "before" else setattr(mnist.training, "prepare", late)
cli.main()
"""


@pytest.mark.parametrize(
    ("when", "size", "option", "named"),
    [
        ("before", 20_000, "save", ""),
        ("later", 20_000, "save", "/1"),
        ("later", 200, "json", ""),
        pytest.param("before", 20_000, "json", "", marks=pytest.mark.nightly),
        pytest.param("before", 20_000, "plot", "", marks=pytest.mark.nightly),
        pytest.param("later", 2000, "plot", "", marks=pytest.mark.nightly),
    ],
)
def test_no_room(tmp_path, when, size, option, named):
    pytest.importorskip("resource")
    path = tmp_path / {"save": "run", "json": "a.json", "plot": "a.png"}[option]
    line = [sys.executable, "-c", LIMITED, when, str(size), "mnist"]
    line += options(dataclasses.replace(DIGITS, epochs=1, **{option: path}))
    child = subprocess.run(line, capture_output=True, text=True)
    assert child.stderr == f"rmsprop-jax mnist: [Errno 27] File too large: '{path}{named}'\n"
    assert child.returncode == 1
    assert bool(child.stdout) == (when == "later" and option != "save")  # else before a line
    assert [p.name for p in tmp_path.rglob("*") if p.name != ".lock"] == ["run"] * (
        option == "save"
    )


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "replace", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        reports.write(path, b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_orbax_has_no_room(tmp_path, monkeypatch):
    """Where the disk fills up between the check and the write, as in a test with a real one."""
    import orbax.checkpoint as ocp

    with Store(tmp_path, None) as store:
        store.save(RUN, STATE, [[1, 0.5]])

        def full(self, step, **kwargs):
            (tmp_path / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
            raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [28]")

        monkeypatch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/2'"):
            store.save(RUN, STATE, [[1, 0.5], [2, 0.25]])
    assert names(tmp_path) == ["1"]
