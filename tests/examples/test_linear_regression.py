"""Linear regression beside the formulas in NumPy, and beside the closed form."""

import dataclasses

import jax
import numpy as np
import pytest

from rmsprop_jax.examples import linear_regression
from rmsprop_jax.examples.linear_regression import Config, compare, descend


def oracle(x, y, config, eps_in_sqrt):
    theta, nu = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    thetas, costs = [], []
    for _ in range(config.steps + 1):
        residual = x @ theta - y
        thetas.append(theta)
        costs.append(np.sum(residual**2) / (2 * len(y)))
        grad = x.T @ residual / len(y)
        nu = config.decay * nu + (1 - config.decay) * grad**2
        root = np.sqrt(nu + config.eps) if eps_in_sqrt else np.sqrt(nu) + config.eps
        theta = theta - config.learning_rate * grad / root
    return np.array(thetas), np.array(costs)


@pytest.mark.parametrize("eps_in_sqrt", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        Config(steps=60),
        Config(steps=60, eps=1e-2, decay=0.5, learning_rate=0.1),
        Config(steps=60, eps=1e-8, decay=0.999),
    ],
)
def test_trajectory(config, eps_in_sqrt):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(17, 3))
    y = rng.normal(size=17)
    got = descend(x, y, config, eps_in_sqrt=eps_in_sqrt)
    theta, cost = oracle(x, y, config, eps_in_sqrt)
    assert got.theta.dtype == got.cost.dtype == np.float64
    np.testing.assert_allclose(got.theta, theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.cost, cost, rtol=1e-9)
    other, _ = oracle(x, y, config, not eps_in_sqrt)
    assert np.max(np.abs(other - theta)) > 1e-7  # so the test can tell the forms apart


def test_cost_of_one_example_by_hand():
    got = descend(np.array([[2.0]]), np.array([3.0]), Config(steps=1), eps_in_sqrt=False)
    assert got.cost[0] == 4.5  # 1/(2m) (0 - 3)^2; without the 2 it would be 9


def test_optimum_in_closed_form():
    config = Config()
    x, y = linear_regression.line(config)
    best = np.linalg.solve(x.T @ x, x.T @ y)
    inside = descend(x, y, config, eps_in_sqrt=True)
    np.testing.assert_allclose(inside.theta[-1], best, atol=1e-9)
    outside = descend(x, y, config, eps_in_sqrt=False)
    off = np.abs(outside.theta[-1] - best)
    assert 1e-5 < np.max(off) < config.learning_rate  # it goes on jumping, as the help says


def test_table(capsys):
    result = compare(Config(steps=250))
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert list(rows)[2:] == ["0", "100", "200", "250", "best"]
    for form, columns in (("outside", slice(0, 3)), ("inside", slice(3, 6))):
        cost, *theta = map(float, rows["250"][columns])
        assert cost == pytest.approx(result[form].cost[250], rel=1e-5)
        np.testing.assert_allclose(theta, result[form].theta[250], atol=1e-5)
    x, y = linear_regression.line(Config())
    best = np.linalg.solve(x.T @ x, x.T @ y)
    np.testing.assert_allclose([float(v) for v in rows["best"][1:3]], best, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        {"decay": 0.8},
        {"eps": 0.5},
        {"points": 50},
        {"noise": 0.2},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_argument_counts(change, capsys):
    base = Config(steps=20)
    one, two = compare(base), compare(dataclasses.replace(base, **change))
    capsys.readouterr()
    for form in one:
        assert not np.array_equal(one[form].cost, two[form].cost)


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": -1},
        {"learning_rate": float("nan")},
        {"decay": 1},
        {"eps": -1e-8},
        {"steps": 0},
        {"every": 0},
        {"points": 1},
        {"noise": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_refusals(bad, capsys):
    with pytest.raises(ValueError, match=next(iter(bad))):
        compare(Config(**bad))
    assert capsys.readouterr().out == ""


def test_leaves_precision_alone():
    x, y = linear_regression.line(Config())
    descend(x, y, Config(steps=2), eps_in_sqrt=True)
    assert not jax.config.read("jax_enable_x64")
    assert jax.numpy.zeros(1).dtype == np.float32


def test_command(capsys):
    linear_regression.main(["--steps", "20", "--every", "10"])
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["0", "10", "20", "best"]
    assert err == ""
    with pytest.raises(SystemExit) as caught:
        linear_regression.main(["--steps", "0"])
    assert caught.value.code == (
        "rmsprop-jax linear-regression: steps=0 is out of range: it must be at least 1."
    )
