import signal

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax's Adam and reduce_on_plateau don't run under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def compiled_quickly():
    """Without most of XLA's optimizations; what `train` compiles is used by no other test."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def interruptible():
    """What a shell starts in the background ignores Ctrl-C, and so would a child of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
