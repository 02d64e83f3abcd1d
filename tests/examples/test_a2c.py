"""CartPole beside Gymnasium's, recorded and live, and an agent that learns."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmsprop_jax.examples import a2c

RECORDED = pathlib.Path(__file__).parents[1] / "recorded"


def assert_same(expected):
    with jax.enable_x64(True):
        after = jax.jit(a2c.physics)(expected["states"], expected["actions"])
        fallen = jax.jit(a2c.has_fallen)(after)
    np.testing.assert_allclose(after, expected["after"], rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(fallen, expected["fallen"])
    assert 20 < np.sum(fallen) < 180


def test_same_as_recorded():
    assert_same(np.load(RECORDED / "cartpole.npz"))


def test_same_as_gymnasium():
    pytest.importorskip("gymnasium", reason="needs Gymnasium to compare with")
    record = runpy.run_path(str(RECORDED / "record_cartpole.py"))
    assert_same(record["transitions"](200, seed=1))


def test_episodes():
    """They start near 0, last until the pole falls or 500 steps, and no step is lost."""
    start = jax.jit(a2c.reset, static_argnums=1)(jax.random.key(0), (1000,))
    assert 0.049 < np.abs(start).max() <= 0.05
    age = jnp.array([498, 499, 3])
    state = jnp.array([[0.0] * 4, [0.0] * 4, [0.0, 0.0, 0.2, 3.0]])
    act = lambda params, x: (jnp.zeros((*x.shape[:-1], 2)), jnp.full(x.shape[:-1], 7.0))
    agent, (before, _, rewards, done, returned) = jax.jit(a2c.play, static_argnums=0)(
        act, a2c.Agent(None, (), state, age), jax.random.key(1)
    )
    np.testing.assert_array_equal(before, state)
    np.testing.assert_array_equal(done, [False, True, True])
    np.testing.assert_array_equal(returned, [0, 500, 4])
    # Where time ran out, what would have followed counts; after a fall, nothing does.
    np.testing.assert_allclose(rewards, [1, 1 + 0.99 * 7, 1])
    np.testing.assert_array_equal(agent.age, [499, 0, 0])
    assert np.abs(agent.state[1:]).max() <= 0.05


@pytest.mark.nightly
def test_seeds_learn_together_and_apart():
    returns, episodes, _ = a2c.learn(jnp.arange(2), 1500)
    means = returns[:, -300:].sum(1) / episodes[:, -300:].sum(1)
    assert means.mean() > 150  # 25 at the start
    assert len(set(means.tolist())) == 2
    alone, _, _ = a2c.learn(jnp.array([1]), 20)
    np.testing.assert_array_equal(alone[0], returns[1, :20])


def test_table(monkeypatch, capsys):
    """Of mean lengths of episodes; `learn` itself runs in its example, and learns by night."""
    # Ten updates for each line.
    lengths = np.repeat([[0, 20, 30, 40, 50], [21, 41, 61, 81, 101]], 10, axis=1)
    episodes = np.where(lengths > 0, 3, 0)
    learn = a2c.learn

    def learned(*args):
        like = jax.eval_shape(lambda: learn(*args))
        assert [x.shape for x in like[:2]] == [lengths.shape] * 2
        return lengths * episodes, episodes, None

    monkeypatch.setattr(a2c, "learn", learned)
    a2c.report(seeds=2, steps=2000, lines=5)
    *lines, _ = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["steps", "mean", "seed", "0", "seed", "1"],
        ["400", "10.5", "0", "21"],
        ["800", "30.5", "20", "41"],
        ["1200", "45.5", "30", "61"],
        ["1600", "60.5", "40", "81"],
        ["2000", "75.5", "50", "101"],
    ]
