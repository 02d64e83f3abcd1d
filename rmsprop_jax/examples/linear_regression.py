"""Linear regression by RMSProp, with eps outside and under the root of the denominator.

The cost of theta on m examples is J(theta) = 1/(2m) sum (theta . x - y)^2. Every step uses all of
them, in float64. Run it as `rmsprop-jax linear-regression`, or call `descend` with your own data.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rmsprop_jax


@dataclasses.dataclass(frozen=True)
class Config:
    """Fits a line to noisy points by RMSProp, with eps outside and under the root.

    Close to the optimum the gradient is small against eps. Outside of the root, eps has to be
    compared with the gradient; under the root, with its square, so the same eps damps much more:
    the steps shrink with the gradient and theta settles, instead of jumping by about the learning
    rate for ever.
    """

    learning_rate: float = 0.01
    """Step size."""
    decay: float = 0.9
    """Rate of the average of squared gradients, in [0, 1)."""
    eps: float = 1e-4
    """Added to the denominator, outside or under its root."""
    steps: int = 1000
    """Steps of gradient descent."""
    every: int = 100
    """Steps between two lines of the table."""
    points: int = 100
    """Number of points on the line."""
    noise: float = 0.1
    """Standard deviation of the points around the line y = 1 + 2 x."""
    seed: int = 0
    """Of the points."""


class Trajectory(NamedTuple):
    """Where descent went, from the start to after the last step."""

    theta: np.ndarray  # float64 [steps + 1, features]
    cost: np.ndarray  # float64 [steps + 1], J(theta)


def cost(theta, x, y):
    """J(theta) = 1/(2m) sum (theta . x - y)^2."""
    residual = x @ theta - y
    return residual @ residual / (2 * len(residual))


def descend(x: np.ndarray, y: np.ndarray, config: Config, *, eps_in_sqrt: bool) -> Trajectory:
    """Minimizes the cost from theta = 0 by RMSProp.

    Args:
      x: [m, features]; give it a column of ones for an intercept.
      y: [m].
      config: `learning_rate`, `decay`, `eps` and `steps` are used.
      eps_in_sqrt: whether the denominator is sqrt(nu + eps), or sqrt(nu) + eps.

    Returns:
      The trajectory, as NumPy arrays.

    Example:
      >>> x, y = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([1.0, 3.0])
      >>> descend(x, y, Config(), eps_in_sqrt=True).theta[-1].round(3)
      array([1., 2.])
    """
    tx = rmsprop_jax.rmsprop(
        config.learning_rate, config.decay, config.eps, eps_in_sqrt=eps_in_sqrt
    )

    @jax.jit
    def run(theta, x, y):
        def step(carry, _):
            theta, state = carry
            value, grad = jax.value_and_grad(cost)(theta, x, y)
            updates, state = tx.update(grad, state)
            return (theta + updates, state), (theta, value)

        start = (theta, tx.init(theta))
        (theta, _), (thetas, costs) = jax.lax.scan(step, start, length=config.steps)
        return jnp.vstack([thetas, theta]), jnp.append(costs, cost(theta, x, y))

    with jax.enable_x64(True):
        start = np.zeros(x.shape[1])
        return Trajectory(*map(np.asarray, run(start, np.float64(x), np.float64(y))))


def line(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points to fit: [m, 2] with a column of ones, and [m]."""
    rng = np.random.default_rng(config.seed)
    x = np.column_stack([np.ones(config.points), rng.uniform(-1, 1, config.points)])
    return x, x @ [1.0, 2.0] + config.noise * rng.standard_normal(config.points)


def checked(config: Config) -> Config:
    """Returns the configuration, or raises ValueError for a value out of its range."""
    for name, low in {"steps": 1, "every": 1, "points": 2, "noise": 0, "seed": 0}.items():
        if not low <= (value := getattr(config, name)) < np.inf:
            raise ValueError(f"{name}={value} is out of range: it must be at least {low}.")
    return config


def compare(config: Config) -> dict[str, Trajectory]:
    """Fits the line in both forms and prints a table.

    Args:
      config: see `Config`.

    Returns:
      The trajectories, under "outside" and "inside".

    Raises:
      ValueError: for a value out of its range.
    """
    x, y = line(checked(config))
    outside = descend(x, y, config, eps_in_sqrt=False)
    inside = descend(x, y, config, eps_in_sqrt=True)
    best = np.linalg.lstsq(x, y)[0]
    rest = float(cost(best, x, y))
    print(f"{'':>6}   {'sqrt(nu) + eps':^31}   {'sqrt(nu + eps)':^31}")
    print(f"{'step':>6}" + 2 * f"   {'J':>13} {'theta_0':>8} {'theta_1':>8}")
    for i in sorted({*range(0, config.steps, config.every), config.steps}):
        rows = [
            f"{t.cost[i]:13.6e} {t.theta[i, 0]:8.5f} {t.theta[i, 1]:8.5f}"
            for t in (outside, inside)
        ]
        print(f"{i:>6}   {'   '.join(rows)}")
    print(f"{'best':>6}   {rest:13.6e} {best[0]:8.5f} {best[1]:8.5f}   in closed form")
    return {"outside": outside, "inside": inside}


def main(args: Sequence[str] | None = None) -> None:
    """The command `rmsprop-jax linear-regression`."""
    import tyro

    config = tyro.cli(Config, prog="rmsprop-jax linear-regression", args=args)
    try:
        compare(config)
    except ValueError as error:
        sys.exit(f"rmsprop-jax linear-regression: {error}")


if __name__ == "__main__":
    main()
