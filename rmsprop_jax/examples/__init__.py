"""Worked examples: MNIST with Flax NNX, and linear regression."""
