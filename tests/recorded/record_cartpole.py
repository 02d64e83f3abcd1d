"""Records transitions of Gymnasium's CartPole-v1 into cartpole.npz.

pip install gymnasium==1.4.0
python tests/recorded/record_cartpole.py
"""

import pathlib

import gymnasium  # pyright: ignore[reportMissingImports]
import numpy as np


def transitions(n, seed):
    """Random states and actions, the states after them, and whether the pole has fallen."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (n, 4)) * [2.5, 3.0, 0.22, 3.5]
    actions = rng.integers(0, 2, n)
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset()
    after, fallen = [], []
    for state, action in zip(states, actions, strict=True):
        env.state, env.steps_beyond_terminated = tuple(state), None
        _, reward, terminated, _, _ = env.step(int(action))
        assert reward == 1.0
        after.append(env.state)
        fallen.append(terminated)
    return {"states": states, "actions": actions, "after": np.array(after), "fallen": fallen}


if __name__ == "__main__":
    path = pathlib.Path(__file__).with_name("cartpole.npz")
    np.savez_compressed(path, **transitions(200, 0), version=gymnasium.__version__)
