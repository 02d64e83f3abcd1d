"""The command `rmsprop-jax`."""
