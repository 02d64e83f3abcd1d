"""Learning curves of A2C on CartPole, here and in Stable-Baselines3, at the same settings.

    pip install torch==2.13.0 stable-baselines3 gymnasium
    python benchmarks/a2c.py [--seeds 5] [--steps 500000]

Both have 8 environments, updates after 5 steps of each, networks of two hidden layers of 64, and
RMSProp with the same numbers. A point of a curve is the mean return of the episodes that ended in
10,000 steps, over all seeds. The picture goes to a2c.png. Seconds are of one process each, on one
thread in PyTorch; Stable-Baselines3 trains its seeds one after the other.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from matplotlib.figure import Figure
from measure import setting
from stable_baselines3 import A2C  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]

from rmsprop_jax.examples import a2c

WINDOW = 10_000  # steps


class Episodes(BaseCallback):  # pyright: ignore[reportUntypedBaseClass]
    """Notes how many steps had been made when an episode ended, and what it had earned."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.ended: list[tuple[int, float]] = []

    def _on_step(self):
        infos = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        self.ended += [(self.num_timesteps, earned) for earned in infos]
        return True


def theirs(seed, steps):
    episodes = Episodes()
    env = make_vec_env("CartPole-v1", n_envs=a2c.ENVS, seed=seed)
    A2C("MlpPolicy", env, seed=seed, device="cpu").learn(steps, callback=episodes)
    ended = np.array(episodes.ended)
    window = (ended[:, 0].astype(int) - 1) // WINDOW
    count = np.bincount(window, minlength=steps // WINDOW)
    return np.bincount(window, ended[:, 1], steps // WINDOW) / np.maximum(count, 1)


def ours(seeds, steps):
    made = a2c.ENVS * a2c.STEPS
    returns, episodes, _ = a2c.learn(jnp.arange(seeds), steps // made)
    shape = seeds, steps // WINDOW, WINDOW // made
    sums, counts = (np.reshape(x, shape).sum(-1) for x in (returns, episodes))
    return sums / np.maximum(counts, 1)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    curves = {}
    for name, run in {
        "rmsprop_jax, all seeds at once": lambda: ours(args.seeds, args.steps),
        "Stable-Baselines3": lambda: np.stack([theirs(i, args.steps) for i in range(args.seeds)]),
    }.items():
        began = time.perf_counter()
        curves[name] = run(), time.perf_counter() - began

    print(setting("jax", "optax", "flax", "torch", "stable-baselines3", "gymnasium"))
    print(f"\n{args.seeds} seeds, {args.steps:,} steps each\n")
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    panel = figure.subplots()
    at = np.arange(1, args.steps // WINDOW + 1) * WINDOW
    for name, (values, seconds) in curves.items():
        mean = values.mean(0)
        reached = at[np.argmax(mean >= 400)] if (mean >= 400).any() else None
        print(f"{name}: mean return of 400 at {reached} steps, {seconds:.0f} s")
        (line,) = panel.plot(at, mean, label=name)
        panel.fill_between(at, values.min(0), values.max(0), alpha=0.2, color=line.get_color())
    panel.set(xlabel="steps of the environments", ylabel="mean return", ylim=(0, 520))
    panel.set_title("A2C on CartPole; bands: from the worst seed to the best", fontsize="medium")
    panel.legend(loc="lower right")
    figure.savefig(Path(__file__).with_name("a2c.png"), dpi=80)


if __name__ == "__main__":
    assert jax.default_backend() == "cpu", "to be compared on a CPU"
    main()
