"""Settings that every test runs under."""

import os

import jax
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 8)  # for the sharding tests, before the first use
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile("default", max_examples=200, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
