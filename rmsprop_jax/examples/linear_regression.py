"""Linear regression by RMSProp, with eps outside and under the root of the denominator.

Close to the optimum the gradient is small against eps. Outside of the root, eps has to be compared
with the gradient; under the root, with its square, so the same eps damps much more: the steps
shrink with the gradient and theta settles, instead of jumping by about the learning rate for ever.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from rmsprop_jax import rmsprop


def cost(theta, x, y):
    """J(theta) = 1/(2m) sum (theta . x - y)^2 over m examples."""
    return ((x @ theta - y) ** 2).mean() / 2


def descend(tx: optax.GradientTransformation, x: np.ndarray, y: np.ndarray, steps: int):
    """Minimizes the cost from theta = 0, with all examples in every step, in float64.

    Returns:
      theta [steps + 1, features] and its cost [steps + 1], from the start to after the last step.

    Example:
      >>> x, y = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([1.0, 3.0])
      >>> thetas, costs = descend(rmsprop(0.01, eps=1e-4, eps_in_sqrt=True), x, y, steps=1000)
      >>> thetas[-1].round(3)
      array([1., 2.])
    """

    def step(carry, _):
        theta, state = carry
        value, grads = jax.value_and_grad(cost)(theta, x, y)
        updates, state = tx.update(grads, state, theta)
        return (theta + updates, state), (theta, value)

    with jax.enable_x64(True):
        start = jnp.zeros(x.shape[1], jnp.float64)
        (theta, _), (thetas, costs) = jax.lax.scan(step, (start, tx.init(start)), length=steps)
        return np.vstack([thetas, theta]), np.append(costs, cost(theta, x, y))


def fit(
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--lr"])] = 0.01,
    decay: float = 0.9,
    eps: float = 1e-4,
    steps: int = 1000,
    every: int = 100,
    points: int = 100,
    noise: float = 0.1,
    seed: int = 0,
) -> None:
    """Fits a line to noisy points by RMSProp, with eps outside and under the root.

    Args:
      learning_rate: step size.
      decay: rate of the average of squared gradients, in [0, 1).
      eps: added to the denominator, outside or under its root.
      steps: steps of gradient descent.
      every: steps between two lines of the table.
      points: number of points on the line.
      noise: standard deviation of the points around the line y = 1 + 2 x.
      seed: of the points.
    """
    if min(steps, every, points - 1) < 1 or not 0 <= noise < np.inf:
        reason = "at least one step, every 1, two points, and noise of 0 or more are needed."
        raise ValueError(f"{steps=}, {every=}, {points=}, {noise=}: {reason}")
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(points), rng.uniform(-1, 1, points)])
    y = x @ [1.0, 2.0] + noise * rng.standard_normal(points)
    outside = descend(rmsprop(learning_rate, decay, eps), x, y, steps)
    inside = descend(rmsprop(learning_rate, decay, eps, eps_in_sqrt=True), x, y, steps)

    row = lambda thetas, costs, i: f"{costs[i]:13.6e} {thetas[i, 0]:8.5f} {thetas[i, 1]:8.5f}"
    print(f"{'':>6}   {'sqrt(nu) + eps':^31}   {'sqrt(nu + eps)':^31}")
    print(f"{'step':>6}" + 2 * f"   {'J':>13} {'theta_0':>8} {'theta_1':>8}")
    for i in sorted({*range(0, steps, every), steps}):
        print(f"{i:>6}   {row(*outside, i)}   {row(*inside, i)}")
    best = np.linalg.lstsq(x, y)[0]
    print(f"{'best':>6}   {row(best[None], [cost(best, x, y)], 0)}   in closed form")


if __name__ == "__main__":
    tyro.cli(fit)
