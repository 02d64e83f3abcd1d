"""Settings that every test runs under."""

import os
import tempfile

# All processes share what they compile, those that tests start among them: a seventh of the time.
# With -n, the first process sets this before it starts the others.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.TemporaryDirectory()  # goes with the process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 8)  # for the sharding tests, before the first use
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile("default", max_examples=100, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="module")
def module_compiled_quickly():
    """Without most of XLA's optimizations, which take longer there than they save."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # other tests in this process have the optimizations
