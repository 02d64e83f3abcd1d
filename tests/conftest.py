"""Settings that every test runs under."""

import jax

jax.config.update("jax_num_cpu_devices", 8)  # for the sharding tests, before the first use
jax.config.update("jax_numpy_dtype_promotion", "strict")
