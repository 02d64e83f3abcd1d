"""The MNIST example on several devices and in several processes: as on one, and when one is killed.

The processes meet on this machine, with Gloo in place of a network between GPUs.
"""

import dataclasses
import json
import os
import signal
import socket
import sys

import jax
import numpy as np
import pytest
from digits import REAL, real_mnist
from flax import nnx
from runs import command

from rmsprop_jax import cli
from rmsprop_jax.trainer import devices, training
from rmsprop_jax.trainer.mnist import train
from rmsprop_jax.trainer.options import Config

DIGITS = Config(dataset="digits", epochs=2)


# Several devices, in one process. The parameters of deeper models can't agree as their losses do:
# where a gradient is 0 but for rounding, RMSProp makes a whole step of it.


@pytest.mark.parametrize(
    ("count", "change"),
    [
        (3, {}),  # 21 1/3 images of 64 on each
        (None, {"batch_size": 5, "centered": True}),  # all 8
        pytest.param(
            *(8, {"model": "cnn", "batch_size": 60, "schedule": "cosine"}),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=str,
)
def test_same_as_on_one_device(count, change):
    config = dataclasses.replace(DIGITS, **change)
    compiled = training.train_epoch._cache_size()
    many = train(dataclasses.replace(config, devices=count))
    assert training.train_epoch._cache_size() == compiled + 1
    one = train(dataclasses.replace(config, devices=1))
    for (_, loss, accuracy, *_), expected in zip(many.history, one.history, strict=True):
        assert loss == pytest.approx(expected.loss, abs=1e-6)
        assert accuracy == pytest.approx(expected.test_accuracy, abs=0.003)  # one on the edge
    leaves = [jax.tree.leaves(nnx.state(result.model)) for result in (many, one)]
    assert all(len(leaf.sharding.device_set) == (count or 8) for leaf in leaves[0])
    assert all(leaf.sharding.is_fully_replicated for leaf in leaves[0])
    if config.model == "linear":
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_each_device_gets_its_share():
    images, rows = (
        np.arange(100, dtype=np.uint8).reshape(50, 2),
        training.batches(np.arange(50), 20),
    )
    fed, fed_rows = devices.feed(devices.mesh(8), images)(rows)
    assert fed.shape == (3, 24, 2)  # 20 images, and 4 for none
    for image, row in zip(fed.addressable_shards, fed_rows.addressable_shards, strict=True):
        assert image.data.shape == (3, 3, 2)
        np.testing.assert_array_equal(np.asarray(image.data), images[np.asarray(row.data)])
    np.testing.assert_array_equal(fed_rows[:, :20], rows)
    assert (np.asarray(fed_rows[:, 20:]) == -1).all()


# Several processes.

LOST = "is gone. All can go on from the last checkpoint, with --resume."


def start(config, count, changes=(), **environment):
    """Starts the example in `count` processes; `changes` are what one of them has differently."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for i in range(count):
        one = dataclasses.replace(config, **dict(changes).get(i, {}))
        if one.coordinator is None:
            one = dataclasses.replace(
                one, coordinator=f"localhost:{port}", processes=count, process_id=i
            )
        ids = {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}
        children.append(command("mnist", one, env=os.environ | environment | ids))
    return children


def finish(children):
    """Returns exit statuses, the lines on stdout but for Gloo's, and stderr, of each process."""
    outputs = [child.communicate(timeout=500) for child in children]
    lines = [
        [line for line in out.splitlines() if "[Gloo]" not in line and "peer ranks" not in line]
        for out, _ in outputs
    ]
    return [child.returncode for child in children], lines, [err for _, err in outputs]


def kill(children, victim, epoch):
    """Kills one after an epoch; returns the statuses and the last line on stderr of the others."""
    for line in children[0].stdout:
        if f"epoch {epoch}/" in line:
            break
    children[victim].kill()
    statuses, _, errors = finish(children)
    assert statuses.pop(victim) == -signal.SIGKILL
    errors.pop(victim)
    return statuses, [error.splitlines()[-1] for error in errors]


def newest(directory):
    """The arrays and the history in a checkpoint, but for what depends on the clock."""
    import orbax.checkpoint as ocp

    path = max((p for p in directory.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    with ocp.StandardCheckpointer() as checkpointer:
        about = checkpointer.metadata(path / "state").item_metadata.tree
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), about)
        leaves = jax.tree.leaves(checkpointer.restore(path / "state", like))
    history = json.loads((path / "about" / "metadata").read_text())["history"]
    return leaves, [epoch[:3] for epoch in history]


def assert_close(result, history):
    for got, expected in zip(result.history, history, strict=True):
        assert got[:3] == pytest.approx(expected[:3], abs=1e-6)


@pytest.mark.nightly
def test_killed_and_resumed(tmp_path):
    """Four processes that go on where one of them was killed, and four that did all at once."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = Config(dataset="digits", epochs=1_000_000, momentum=0.5)
    for directory, victim, epoch in ((whole, 0, 5), (killed, 2, 2)):
        children = start(dataclasses.replace(config, save=directory), 4)
        statuses, last_lines = kill(children, victim, epoch)
        assert all(statuses)
        assert all(LOST in line for line in last_lines), last_lines
    expected, history = newest(whole)
    done = len(newest(killed)[1])
    assert 2 <= done < len(history)

    config = dataclasses.replace(config, epochs=len(history))
    files = {"json": tmp_path / "a.json", "plot": tmp_path / "a.png"}
    statuses, lines, errors = finish(start(dataclasses.replace(config, resume=killed, **files), 4))
    assert (statuses, errors) == ([0] * 4, [""] * 4)
    assert [len(printed) for printed in lines] == [1 + len(history) - done, 0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "killed", "a.json", "a.png"}
    arrays, epochs = newest(killed)
    assert epochs == history
    assert len(arrays) > 5
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, other, strict=True)

    # One process gets the same but for rounding, and can go on where the four were.
    config = dataclasses.replace(config, devices=1)
    assert_close(train(dataclasses.replace(config, save=tmp_path / "one")), history)
    for array, other in zip(newest(tmp_path / "one")[0], expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=0, atol=1e-6)
    more = train(dataclasses.replace(config, resume=whole, epochs=len(history) + 1))
    assert_close(more._replace(history=more.history[:-1]), history)


@real_mnist
@pytest.mark.nightly
def test_mnist_in_four_processes(tmp_path):
    config = Config(data_dir=REAL, save=tmp_path / "four")
    statuses, _, errors = finish(start(config, 4))
    assert (statuses, errors) == ([0] * 4, [""] * 4)
    alone = train(dataclasses.replace(config, devices=1, save=tmp_path / "one"))
    (arrays, history), (expected, _) = newest(tmp_path / "four"), newest(tmp_path / "one")
    assert_close(alone, history)
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(array, other, rtol=0, atol=1e-6)


@pytest.mark.nightly
def test_a_cluster_is_found(tmp_path):
    """Two processes of two devices each, as Slurm would start them."""
    path = tmp_path / "a.json"
    config = dataclasses.replace(DIGITS, coordinator="auto", json=path, batch_size=63)
    cluster = {
        "SLURM_JOB_ID": str(os.getpid()),  # the port comes from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    statuses, lines, errors = finish(start(config, 2, **cluster))
    assert (statuses, lines[1]) == ([0, 0], []), errors
    assert len(lines[0]) == 2
    alone = train(dataclasses.replace(config, coordinator=None, json=None, devices=1))
    report = json.loads(path.read_text())
    assert report["config"]["devices"] == 2
    assert_close(alone, [tuple(epoch.values()) for epoch in report["epochs"]])


@pytest.mark.nightly
def test_processes_that_disagree_are_refused():
    statuses, lines, errors = finish(start(DIGITS, 2, {1: {"batch_size": 65}}))
    assert (statuses, lines) == ([1, 1], [[], []])
    message = "rmsprop-jax mnist: processes [1] have other arguments or data than process 0.\n"
    assert errors == [message] * 2


def test_no_cluster_is_one_line(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rmsprop-jax", "mnist", "--coordinator", "auto"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert str(caught.value).startswith("rmsprop-jax mnist: coordinator='auto' can't be found")
    assert capfd.readouterr().err == ""
