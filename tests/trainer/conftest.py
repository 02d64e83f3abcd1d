import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax's Adam and reduce_on_plateau don't run under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield
