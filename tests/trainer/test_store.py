"""Checkpoints: cut off and resumed, damaged, in use, of another run, and where there is no room.

`test_train_killed.py` has more of the first: processes killed at random moments.
"""

import contextlib
import dataclasses
import gc
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import DIGITS, NAME, Tiny, assert_identical

from rmsprop_jax import cli
from rmsprop_jax.examples import data
from rmsprop_jax.trainer import mnist, models, options, reports, training
from rmsprop_jax.trainer.checkpoints import Store
from rmsprop_jax.trainer.mnist import train


def names(directory):
    """What lies there, but for the lock."""
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def saved_epochs(directory):
    return [int(name) for name in names(directory) if name.isdecimal()]


# Cut off and resumed. At a file operation, what lies in the directory is what a kill would leave.

MOMENTS = {  # operation and path, and the last epoch that is safe
    ("os.rename", "/1.orbax-checkpoint-tmp"): 0,  # before the first commit
    ("open", "/2.orbax-checkpoint-tmp/state.orbax-checkpoint-tmp/_METADATA"): 1,  # in a save
    ("os.rmdir", "/1"): 3,  # while an old one goes
}


@pytest.mark.usefixtures("compiled_quickly")
def test_cut_off_and_resumed(tmp_path, monkeypatch, capsys):
    """Dropout, running averages, the plateau and all accumulators go on as if nothing had been."""
    monkeypatch.setitem(models.MODELS, "cnn", Tiny)
    config = dataclasses.replace(DIGITS, model="cnn", epochs=5, centered=True, momentum=0.5)
    config = dataclasses.replace(config, batch_size=100, schedule="plateau", learning_rate=0.05)
    left, printed = [*MOMENTS], [0]

    def copy(operation, values):
        for moment in left:
            if operation == moment[0] and str(values[0]).endswith(moment[1]):
                left.remove(moment)  # first, for the copy has the same end
                shutil.copytree(tmp_path / "whole", tmp_path / str(MOMENTS[moment]))
                printed.append(printed[-1] + capsys.readouterr().out.count("\n"))
                return

    sys.addaudithook(copy)  # which can't be taken back, but has nothing to do afterwards
    whole = train(dataclasses.replace(config, save=tmp_path / "whole"))
    assert printed[1:] == [0, 1, 2]  # a line is printed when its epoch is safe
    rates = [epoch.learning_rate for epoch in whole.history]
    assert 0.05 > rates[2] in {0.05 / 2**n for n in range(5)}  # so the plateau has a state to keep
    for done in MOMENTS.values():
        directory = tmp_path / str(done)
        assert max(saved_epochs(directory), default=0) == done
        if done:
            capsys.readouterr()
            result = train(dataclasses.replace(config, resume=directory))
            assert capsys.readouterr().out.startswith(f"{NAME}: continuing after epoch {done}\n")
        else:
            with pytest.raises(ValueError, match="has no checkpoint to go on from"):
                train(dataclasses.replace(config, resume=directory))
            result = train(dataclasses.replace(config, save=directory))
        assert_identical(result, whole)
        assert [epoch.learning_rate for epoch in result.history] == rates
        assert names(directory) == ["4", "5"]


# Of another run.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with two epochs, to be read only."""
    directory = tmp_path_factory.mktemp("saved") / "new" / "run"
    train(dataclasses.replace(DIGITS, save=directory))
    return directory


@pytest.fixture(scope="module")
def three():
    """A run of three epochs at once."""
    return train(dataclasses.replace(DIGITS, epochs=3))


def test_another_run_is_refused(saved, monkeypatch):
    changes = {"model": "mlp", "batch_size": 65, "seed": 1, "optimizer": "adam", "decay": 0.5}
    changes |= {"learning_rate": 0.5, "eps": 0.5, "momentum": 0.5, "centered": True}
    changes |= {"schedule": "cosine", "dataset": "auto"}
    had = dataclasses.asdict(options.checked(DIGITS)) | {"dataset": NAME}
    for name, value in changes.items():
        load = lambda *args: pytest.fail("data was loaded")
        if name == "dataset":
            value, load = "MNIST", lambda *args: data.load("digits")._replace(name="MNIST")
        monkeypatch.setattr(mnist, "load", load)
        change = {name: changes[name]}
        message = f"{name}={value!r}, but the run in {saved}/2 has {name}={had[name]!r}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            train(dataclasses.replace(DIGITS, resume=saved, **change))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"epochs=1, .* 2 "):
        train(dataclasses.replace(DIGITS, resume=saved, epochs=1))
    assert names(saved) == ["1", "2"]


def test_a_cosine_needs_its_epochs(tmp_path):
    config = dataclasses.replace(DIGITS, schedule="cosine")
    with Store(tmp_path, None) as store:
        store.save(options.identity(options.checked(config), NAME), STATE, [[1, 0.5]])
    with pytest.raises(ValueError, match=r"epochs=3, .* epochs=2"):
        train(dataclasses.replace(config, resume=tmp_path, epochs=3))


def test_resume_to_another_directory(saved, three, tmp_path, capsys):
    new = dataclasses.replace(DIGITS, epochs=3, resume=saved, save=tmp_path / "new", decay=0.9)
    result = train(dataclasses.replace(new, json=tmp_path / "a.json"))
    assert_identical(result, three)
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

STATE = {"w": np.arange(2000, dtype=np.float32), "n": np.int32(7)}
RUN = {"model": "linear", "seed": 0}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with the epochs 1 and 2, of which only the second has STATE."""
    directory = tmp_path_factory.mktemp("two")
    with Store(directory, None) as store:
        store.save(RUN, {"w": STATE["w"] + 1, "n": np.int32(6)}, [[1, 0.5]])
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
        with Store(None, copy) as store:
            state, history = store.restore(RUN, {"w": jnp.zeros(2000), "n": jnp.int32(0)})
        fell = len(history) == 1
        fallen_back += fell
        err = capsys.readouterr().err
        assert err.startswith(f"{copy}/2 is damaged (" if fell else "")
        assert err.endswith("): going on from epoch 1.\n" if fell else "")
        assert bool(err) == fell
        np.testing.assert_array_equal(state["w"], STATE["w"] + np.float32(fell), strict=True)
        assert state["n"] == 7 - fell
        assert names(copy) == ["1", "2.damaged" if fell else "2"]  # nothing is lost
        shutil.rmtree(copy)
    assert fallen_back >= 3


# Orbax drops what it had begun to read when it meets the damage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_going_on_from_an_older_one(saved, three, tmp_path, capsys):
    directory = shutil.copytree(saved, tmp_path / "run")
    metadata = directory / "2" / "about" / "metadata"
    metadata.write_text(metadata.read_text()[:387])
    result = train(dataclasses.replace(DIGITS, resume=directory, epochs=3))
    assert_identical(result, three)
    out, err = capsys.readouterr()
    assert f"{NAME}: continuing after epoch 1\n" in out
    assert err.startswith(f"{directory}/2 is damaged (")
    assert err.count("\n") == 1
    assert names(directory) == ["2", "2.damaged", "3"]

    for step in ("2", "3"):
        (directory / step / "about" / "metadata").unlink()
    with pytest.raises(ValueError, match=r"/3 is damaged .*/2 is damaged .*: start anew"):
        train(dataclasses.replace(DIGITS, resume=directory, epochs=5))
    gc.collect()  # here, not in another test


# In use.


def test_a_directory_in_use_is_refused_until_its_run_is_killed(saved, three, tmp_path):
    directory = shutil.copytree(saved, tmp_path / "run")
    code = (
        "import pathlib, sys; from rmsprop_jax.trainer.checkpoints import Store\n"
        "with Store(None, pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    line, pipe = [sys.executable, "-c", code, str(directory)], subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe) as child:
        assert child.stdout
        assert child.stdout.readline() == b"locked\n"
        message = rf"{directory} is in use by another run, process {child.pid} on "
        for save, resume in ((directory, None), (None, directory), (tmp_path / "x", directory)):
            with pytest.raises(ValueError, match=message):
                train(dataclasses.replace(DIGITS, save=save, resume=resume))
        child.kill()
    assert_identical(train(dataclasses.replace(DIGITS, epochs=3, resume=directory)), three)


# No room. A limit on the size of files stands for a full disk.


@contextlib.contextmanager
def little_room():
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_room(tmp_path):
    run, file = tmp_path / "run", tmp_path / "a.json"
    with Store(run, None) as store, little_room():
        for path, use in (
            (run, lambda: store.restore(RUN, STATE)),
            (run / "1", lambda: store.save(RUN, STATE, [[1, 0.5]])),
            (file, lambda: options.check_file("json", file)),
            (file, lambda: reports.write(file, bytes(20_001))),
        ):
            with pytest.raises(OSError, match=f"File too large: '{path}'$"):
                use()
    assert names(tmp_path) == ["run"]
    assert names(run) == []


@pytest.mark.parametrize(
    ("option", "name"), [("save", "run"), ("json", "a.json"), ("plot", "a.png")]
)
def test_no_room_is_noticed_before_the_training(option, name, tmp_path, monkeypatch):
    config = dataclasses.replace(DIGITS, **{option: tmp_path / name})
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", "mnist", *runs.options(config)])
    prepare, epoch = training.prepare, lambda *args: pytest.fail("an epoch began")
    untrained = lambda *args: prepare(*args)._replace(epoch=epoch)
    monkeypatch.setattr(training, "prepare", untrained)
    with little_room(), pytest.raises(SystemExit) as ended:
        cli.main()
    path = tmp_path / name
    assert ended.value.code == f"rmsprop-jax mnist: [Errno 27] File too large: '{path}'"
    assert names(tmp_path) == ["run"] * (option == "save")


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
