"""The trainer behind `rmsprop-jax mnist`, `sweep` and `compare`: what an application needs."""
