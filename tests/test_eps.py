"""`convert_eps`: the denominators agree where they shall, and the bounds hold elsewhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmsprop_jax import convert_eps

sizes = st.floats(1e-6, 1e6)


@given(eps=sizes, at=st.just(0.0) | sizes, into_sqrt=st.booleans())
def test_eps_conversion(eps, at, into_sqrt):
    new, slowest, fastest = convert_eps(eps, into_sqrt=into_sqrt, at=at)
    inside, outside = (new, eps) if into_sqrt else (eps, new)
    assert math.hypot(at, math.sqrt(inside)) == pytest.approx(at + outside, rel=1e-12)
    root = np.concatenate([[0], np.geomspace(1e-12, 1e14, 20_001)])
    factor = (root + outside) / np.hypot(root, math.sqrt(inside))
    factor = factor if into_sqrt else 1 / factor
    # The bounds hold, and nothing tighter would.
    assert slowest * (1 - 1e-12) <= factor.min() == pytest.approx(slowest, rel=1e-4)
    assert fastest * (1 + 1e-12) >= factor.max() == pytest.approx(fastest, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "eps=0"),
        ({"eps": -1.0}, "eps=-1.0"),
        ({"eps": math.nan}, "eps=nan"),
        ({"eps": 1.0, "at": -1.0}, "at=-1.0"),
    ],
)
def test_eps_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert_eps(**arguments, into_sqrt=True)
