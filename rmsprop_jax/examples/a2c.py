"""Advantage actor-critic on CartPole: environments, agents and seeds in one compiled program.

The settings are those of A2C in Stable-Baselines3, whose optimizer is in `recipes`. Run it as
`rmsprop-jax a2c`, or call `learn(seeds, updates)`.

The environment is CartPole-v1 of Gymnasium, after Barto, Sutton and Anderson (1983): push a cart
to the left or to the right, so that the pole on it stays upright. Every step earns 1, and an
episode ends when the pole or the cart is too far off, or after 500 steps.
"""

import functools
import math
import time
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from rmsprop_jax import recipes

ENVS, STEPS = 8, 5  # environments per agent, and steps in each of them for an update
DISCOUNT = 0.99
LIMIT = 500  # steps of an episode


def physics(state: jax.Array, action: jax.Array) -> jax.Array:
    """Returns where cart and pole are after a push of 10 N for 0.02 s.

    Args:
      state: [..., 4] position of the cart, its velocity, angle of the pole, its velocity.
      action: integers [...], 0 to push to the left, 1 to the right.
    """
    speed, angle, spin = jnp.moveaxis(state[..., 1:], -1, 0)
    force = jnp.where(action == 1, 10.0, -10.0).astype(state.dtype)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    # A pole of 0.1 kg, its centre of mass at 0.5 m, on a cart of 1 kg.
    push = (force + 0.05 * spin**2 * sin) / 1.1
    spin_rate = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    acceleration = push - 0.05 * spin_rate * cos / 1.1
    rates = jnp.stack([speed, acceleration, spin, spin_rate], axis=-1)
    return state + 0.02 * rates


def has_fallen(state: jax.Array) -> jax.Array:
    """Returns whether the cart is 2.4 m off, or the pole 12 degrees."""
    return (jnp.abs(state[..., 0]) > 2.4) | (jnp.abs(state[..., 2]) > math.radians(12))


def reset(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns states [*shape, 4] in which episodes start."""
    return jax.random.uniform(key, (*shape, 4), minval=-0.05, maxval=0.05)


class ActorCritic(nnx.Module):
    """Two networks with two hidden layers each: one chooses, the other foretells the return."""

    def __init__(self, rngs: nnx.Rngs):  # noqa: D107
        def dense(inputs, outputs, gain):
            init = nnx.initializers.orthogonal(gain)
            return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)

        def network(outputs, gain):
            hidden = dense(4, 64, 2**0.5), nnx.tanh, dense(64, 64, 2**0.5), nnx.tanh
            return nnx.Sequential(*hidden, dense(64, outputs, gain))

        self.actor, self.critic = network(2, 0.01), network(1, 1.0)

    def __call__(self, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits [..., 2] of the actions, and values [...]."""
        return self.actor(state), self.critic(state)[..., 0]


class Agent(NamedTuple):
    """All that learning changes, a pytree of arrays."""

    params: Any
    opt_state: optax.OptState
    state: jax.Array  # [ENVS, 4]
    age: jax.Array  # [ENVS] steps that the episodes have lasted; what they have earned, too


def play(act, agent: Agent, key: jax.Array) -> tuple[Agent, tuple[jax.Array, ...]]:
    """Makes a step in all environments, and starts anew the ones that end."""
    choice, start = jax.random.split(key)
    logits, _ = act(agent.params, agent.state)
    action = jax.random.categorical(choice, logits)
    state, age = physics(agent.state, action), agent.age + 1
    fallen = has_fallen(state)
    done = fallen | (age == LIMIT)
    # An episode that ends for its length alone would have gone on earning.
    more = jnp.where(done & ~fallen, act(agent.params, state)[1], 0.0)
    step = agent.state, action, 1 + DISCOUNT * more, done, jnp.where(done, age, 0)
    fresh = jnp.where(done[:, None], reset(start, done.shape), state)
    return agent._replace(state=fresh, age=jnp.where(done, 0, age)), step


def update(act, tx, agent: Agent, key: jax.Array) -> tuple[Agent, tuple[jax.Array, jax.Array]]:
    """Plays STEPS steps and learns from them; returns the sum of the returns, and of how many."""
    agent, steps = jax.lax.scan(functools.partial(play, act), agent, jax.random.split(key, STEPS))
    states, actions, rewards, done, returned = steps

    def discount(later, step):
        reward, done = step
        value = reward + DISCOUNT * jnp.where(done, 0.0, later)
        return value, value

    _, last = act(agent.params, agent.state)
    _, returns = jax.lax.scan(discount, last, (rewards, done), reverse=True)

    def loss_fn(params):
        logits, values = act(params, states)
        advantages = jax.lax.stop_gradient(returns - values)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, actions)
        return (advantages * losses).mean() + 0.5 * ((returns - values) ** 2).mean()

    grads = jax.grad(loss_fn)(agent.params)
    updates, opt_state = tx.update(grads, agent.opt_state, agent.params)
    params = optax.apply_updates(agent.params, updates)
    return agent._replace(params=params, opt_state=opt_state), (returned.sum(), done.sum())


@functools.partial(jax.jit, static_argnames="updates")
def learn(seeds: jax.Array, updates: int, learning_rate: float = 7e-4) -> tuple[Any, ...]:
    """Trains an agent for each seed, all of them at once.

    Args:
      seeds: integers [n].
      updates: how many each makes, each after ENVS * STEPS steps of its environments.
      learning_rate: of `recipes.a2c_stable_baselines`.

    Returns:
      The returns of the episodes that ended in each update, summed, [n, updates]; how many they
      are, [n, updates]; and the parameters of the agents.

    Example:
      >>> returns, episodes, _ = learn(jnp.arange(2), updates=50, learning_rate=7e-4)
      >>> bool((returns.sum(1) / episodes.sum(1) > 10).all())  # steps, before an agent has learned
      True
    """
    tx = recipes.a2c_stable_baselines(learning_rate)

    def one(seed):
        init, start, key = jax.random.split(jax.random.key(seed), 3)
        graphdef, params = nnx.split(ActorCritic(nnx.Rngs(init)))
        act = lambda params, state: nnx.merge(graphdef, params)(state)
        agent = Agent(params, tx.init(params), reset(start, (ENVS,)), jnp.zeros(ENVS, jnp.int32))
        step = functools.partial(update, act, tx)
        agent, (returns, episodes) = jax.lax.scan(step, agent, jax.random.split(key, updates))
        return returns, episodes, agent.params

    return jax.vmap(one)(seeds)


def report(
    seeds: int = 5,
    steps: int = 500_000,
    lines: int = 25,
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--lr"])] = 7e-4,
) -> None:
    """Learns to balance a pole on a cart; prints how long it stood, of 500 steps at most.

    Args:
      seeds: agents, which learn at once.
      steps: of the environments of each agent, eight of them, taken together.
      lines: of the table, each a mean over the episodes that ended meanwhile.
      learning_rate: of RMSProp.
    """
    began = time.perf_counter()
    per_line = steps // (ENVS * STEPS * lines)
    if seeds < 1 or lines < 1 or per_line < 1:
        raise ValueError(f"seeds={seeds}, steps={steps}, lines={lines}: too few to learn from.")
    print("  steps    mean  " + "".join(f"  seed {seed}" for seed in range(seeds)), flush=True)
    returns, episodes, _ = learn(jnp.arange(seeds), per_line * lines, learning_rate)
    shape = seeds, lines, per_line
    sums, counts = (np.reshape(x, shape).sum(-1) for x in (returns, episodes))
    means = sums / np.maximum(counts, 1)
    for i, row in enumerate(means.T):
        columns = "".join(f"{value:8.0f}" for value in row)
        print(f"{(i + 1) * per_line * ENVS * STEPS:7}  {row.mean():6.1f}  {columns}")
    print(f"{time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    tyro.cli(report)
