"""Linear regression beside the formulas in NumPy, and beside the closed form."""

import jax
import numpy as np
import pytest

from rmsprop_jax import rmsprop
from rmsprop_jax.examples import linear_regression
from rmsprop_jax.examples.linear_regression import descend


def oracle(x, y, steps, learning_rate, decay, eps, eps_in_sqrt):
    theta, nu = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    thetas, costs = [], []
    for _ in range(steps + 1):
        residual = x @ theta - y
        thetas.append(theta)
        costs.append(np.sum(residual**2) / (2 * len(y)))
        grad = x.T @ residual / len(y)
        nu = decay * nu + (1 - decay) * grad**2
        root = np.sqrt(nu + eps) if eps_in_sqrt else np.sqrt(nu) + eps
        theta = theta - learning_rate * grad / root
    return np.array(thetas), np.array(costs)


@pytest.mark.parametrize(
    ("numbers", "eps_in_sqrt"), [((0.01, 0.999, 1e-8), False), ((0.1, 0.5, 1e-2), True)]
)
def test_trajectory(numbers, eps_in_sqrt):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(17, 3)), rng.normal(size=17)
    thetas, costs = descend(rmsprop(*numbers, eps_in_sqrt=eps_in_sqrt), x, y, 60)
    expected, expected_costs = oracle(x, y, 60, *numbers, eps_in_sqrt)
    assert thetas.dtype == costs.dtype == np.float64
    np.testing.assert_allclose(thetas, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(costs, expected_costs, rtol=1e-9)
    other, _ = oracle(x, y, 60, *numbers, not eps_in_sqrt)
    assert np.max(np.abs(other - expected)) > 1e-7  # so the test can tell the forms apart
    assert jax.numpy.zeros(1).dtype == np.float32  # the precision of the rest is left alone


def test_table(capsys):
    linear_regression.fit(steps=1000, every=400)
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert list(rows)[2:] == ["0", "400", "800", "1000", "best"]
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(100), rng.uniform(-1, 1, 100)])
    y = x @ [1.0, 2.0] + 0.1 * rng.standard_normal(100)
    best = np.linalg.solve(x.T @ x, x.T @ y)
    np.testing.assert_allclose([float(v) for v in rows["best"][1:3]], best, atol=1e-5)
    for columns, eps_in_sqrt in ((slice(0, 3), False), (slice(3, 6), True)):
        thetas, costs = oracle(x, y, 1000, 0.01, 0.9, 1e-4, eps_in_sqrt)
        cost, *theta = map(float, rows["1000"][columns])
        assert cost == pytest.approx(costs[-1], rel=1e-5)
        np.testing.assert_allclose(theta, thetas[-1], atol=1e-5)
        off = np.max(np.abs(thetas[-1] - best))
        assert off < 1e-9 if eps_in_sqrt else 1e-5 < off < 0.01  # it goes on jumping, or settles


@pytest.mark.parametrize(
    "bad",
    [{"learning_rate": -1.0}, {"decay": 1.0}, {"eps": -1e-8}, {"steps": 0}, {"every": 0},
     {"points": 1}, {"noise": -1.0}],
    ids=str,
)  # fmt: skip
def test_refusals(bad, capsys):
    with pytest.raises(ValueError, match=next(iter(bad))):
        linear_regression.fit(**bad)
    assert capsys.readouterr().out == ""
