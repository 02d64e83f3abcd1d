"""Gradients, parameters and states that don't fit each other: one error, which says where."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import RmsState, dialects, rmsprop, scale_by_rms

PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "scale": jnp.float32(1.0)}
OPTIMIZERS = {  # one average, the parts of all dialects that come before it, and those after
    "scale_by_rms": lambda: scale_by_rms(),
    "everything": lambda: rmsprop(lambda count: 0.1, centered=True, momentum=0.5, weight_decay=0.1),
    "keras": lambda: dialects.keras(0.1, momentum=0.5, weight_decay=0.1, clipnorm=1.0),
}


def put(tree, path, value):
    """The tree with another value at a path such as `"dense/kernel"`."""
    head, _, rest = path.partition("/")
    return {**tree, head: put(tree[head], rest, value) if rest else value}


def without(tree, path):
    head, _, rest = path.partition("/")
    new = {k: v for k, v in tree.items() if k != head}
    return {**tree, head: without(tree[head], rest)} if rest else new


WRONG_LEAVES = {
    "one axis more": ("dense/kernel", jnp.ones((5, 3, 2))),
    "transposed": ("dense/kernel", jnp.ones((2, 3))),
    "one column": ("dense/kernel", jnp.ones((3, 1))),
    "one row": ("dense/kernel", jnp.ones((1, 2))),
    "flat": ("dense/kernel", jnp.ones(6)),
    "a scalar": ("dense/kernel", jnp.float32(1.0)),
    "a Python number": ("dense/bias", 1.0),
    "an axis of 1": ("scale", jnp.ones(1)),
    "many for a scalar": ("scale", jnp.ones((4,))),
    "integers": ("dense/bias", jnp.ones(2, jnp.int32)),
    "booleans": ("dense/bias", jnp.ones(2, bool)),
    "bytes": ("dense/kernel", jnp.ones((3, 2), jnp.uint8)),
    "no tangent": ("dense/bias", np.zeros(2, jax.dtypes.float0)),
    "a string": ("dense/bias", "nothing"),
    "a function": ("scale", jnp.tanh),
}
WRONG_TREES = {
    "missing": lambda tree: without(tree, "dense/bias"),
    "extra": lambda tree: put(tree, "dense/more", jnp.ones(2)),
    "renamed": lambda tree: put(without(tree, "scale"), "factor", jnp.float32(1.0)),
    "a list": lambda tree: [tree["dense"], tree["scale"]],
    "deeper": lambda tree: put(tree, "scale", {"of": jnp.float32(1.0)}),
    "flatter": lambda tree: put(tree, "dense", jnp.ones(2)),
}
WRONG = {name: lambda tree, x=x: put(tree, *x) for name, x in WRONG_LEAVES.items()} | WRONG_TREES


def refused(tx, grads, state, params):
    """The message, of a call in Python and of the same under `jit`."""
    messages = []
    for update in (tx.update, lambda *args: jax.jit(lambda: tx.update(*args))()):
        with pytest.raises((TypeError, ValueError)) as error:
            update(grads, state, params)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    return messages[0]


@pytest.mark.parametrize("given", [False, True], ids=["", "params"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients(name, wrong, given):
    tx = OPTIMIZERS[name]()
    message = refused(tx, WRONG[wrong](PARAMS), tx.init(PARAMS), PARAMS if given else None)
    if wrong in WRONG_LEAVES and given:
        path = "".join(f"['{key}']" for key in WRONG_LEAVES[wrong][0].split("/"))
        assert path in message


@pytest.mark.parametrize(
    "wrong", [name for name in WRONG if name not in ("integers", "bytes", "booleans")]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters(name, wrong):
    tx = OPTIMIZERS[name]()
    assert "param" in refused(tx, PARAMS, tx.init(PARAMS), WRONG[wrong](PARAMS))


STATES = {
    "of other parameters": lambda tx, state: tx.init(put(PARAMS, "dense/kernel", jnp.ones((2, 3)))),
    "of a row": lambda tx, state: tx.init(put(PARAMS, "dense/kernel", jnp.ones((1, 2)))),
    "of a scalar": lambda tx, state: tx.init(put(PARAMS, "dense/kernel", jnp.float32(1.0))),
    "of fewer": lambda tx, state: tx.init(without(PARAMS, "dense/bias")),
    "of more": lambda tx, state: tx.init(put(PARAMS, "dense/more", jnp.ones(2))),
    "of complex ones": lambda tx, state: tx.init(put(PARAMS, "dense/bias", jnp.ones(2, complex))),
    "centered or not": lambda tx, state: change_rms(
        state, lambda rms: rms._replace(mu=rms.nu if rms.mu is None else None)
    ),
    "nu in bfloat16": lambda tx, state: change_rms(
        state, lambda rms: rms._replace(nu=jax.tree.map(lambda x: x.astype(jnp.bfloat16), rms.nu))
    ),
    "nu in bytes": lambda tx, state: change_rms(
        state, lambda rms: rms._replace(nu=jax.tree.map(lambda x: x.astype(jnp.uint8), rms.nu))
    ),
    "nu complex": lambda tx, state: change_rms(
        state, lambda rms: rms._replace(nu=jax.tree.map(lambda x: x.astype(complex), rms.nu))
    ),
    "count of floats": lambda tx, state: change_rms(
        state, lambda rms: rms._replace(count=jnp.float32(1.0))
    ),
    "counts": lambda tx, state: change_rms(
        state, lambda rms: rms._replace(count=jnp.zeros(3, jnp.int32))
    ),
    "no count": lambda tx, state: change_rms(state, lambda rms: rms._replace(count=None)),
    "no nu": lambda tx, state: change_rms(state, lambda rms: rms._replace(nu=None)),
    "Optax's": lambda tx, state: change_rms(state, lambda rms: optax.rmsprop(0.1).init(PARAMS)[0]),
    "Adam's": lambda tx, state: optax.adam(0.1).init(PARAMS),
    "another's": lambda tx, state: optax.chain(optax.clip(1.0), rmsprop(0.1)).init(PARAMS),
    "empty": lambda tx, state: optax.EmptyState(),
    "None": lambda tx, state: None,
    "a dictionary": lambda tx, state: {"nu": PARAMS},
    "trace of a row": lambda tx, state: change_trace(state, lambda x: x[:1] if x.ndim else x),
    "trace in bfloat16": lambda tx, state: change_trace(state, lambda x: x.astype(jnp.bfloat16)),
    "trace in bytes": lambda tx, state: change_trace(state, lambda x: x.astype(jnp.uint8)),
    "the parameters": lambda tx, state: PARAMS,
}


def change_rms(state, change):
    is_rms = lambda x: isinstance(x, RmsState)
    return jax.tree.map(lambda x: change(x) if is_rms(x) else x, state, is_leaf=is_rms)


def change_trace(state, change):
    is_trace = lambda x: isinstance(x, optax.TraceState)
    return jax.tree.map(
        lambda x: jax.tree.map(change, x) if is_trace(x) else x, state, is_leaf=is_trace
    )


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


MISFITS = [  # a trace in bytes is none where there is no trace
    (name, wrong)
    for name, make in OPTIMIZERS.items()
    for wrong, change in STATES.items()
    if types(change(make(), make().init(PARAMS))) != types(make().init(PARAMS))
]


@pytest.mark.parametrize(("name", "wrong"), MISFITS)
def test_states(name, wrong):
    tx = OPTIMIZERS[name]()
    message = refused(tx, PARAMS, STATES[wrong](tx, tx.init(PARAMS)), PARAMS)
    assert "state" in message or " of [" in message or "count" in message


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_is_compared_with_the_parameters_or_else_with_the_gradients(name):
    tx = OPTIMIZERS[name]()
    of_fewer = tx.init(without(PARAMS, "dense/bias"))
    assert "for these params: " in refused(tx, PARAMS, of_fewer, PARAMS)
    assert "for these gradients: " in refused(tx, PARAMS, of_fewer, None)
