"""On many devices: the state lies where the parameters lie, and steps neither talk nor differ."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rmsprop_jax import dialects, rmsprop, storage, weights

OPTIMIZERS = {
    "centered, momentum": lambda: rmsprop(0.01, centered=True, momentum=0.5),
    "dialect": lambda: dialects.tensorflow1(0.01, momentum=0.5, centered=True),
    "stored": lambda: storage.store(rmsprop(0.01), nu=storage.U8),
    "stored, of Optax": lambda: storage.store(
        weights.compensate(optax.trace(0.5)), trace=storage.BF16
    ),
}
nightly = functools.partial(pytest.param, marks=pytest.mark.nightly)
# Whole vectors of a CPU (16 floats) on each of 8 devices: for what is left of a loop, XLA fuses
# multiplications and additions in other ways, and some last bits differ.
SHAPES = {"up": (64, 128), "bias": (128,), "down": (128, 64)}
BOTH = ("data", "model")
PLACES = {  # of the parameters, on a mesh of these two axes
    "data parallel": {"up": jax.P(), "bias": jax.P(), "down": jax.P()},
    "FSDP": {"up": jax.P(BOTH), "bias": jax.P(BOTH), "down": jax.P(BOTH)},
    "tensor parallel": {"up": jax.P(None, "model"), "bias": jax.P("model"), "down": jax.P("model")},
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective")


def make_mesh(axis_type, data, model):
    devices = jax.devices()[: data * model]
    return jax.make_mesh((data, model), BOTH, (axis_type,) * 2, devices=devices)


def parameters(mesh, *places):
    """Parameters of several shapes and two dtypes, in some places on a mesh; and a scalar."""
    rng = np.random.default_rng(0)
    params = {"scale": jax.device_put(np.float32(1), jax.NamedSharding(mesh, jax.P()))}
    for place in places:
        for name, spec in PLACES[place].items():
            x = rng.normal(size=SHAPES[name]).astype(jnp.bfloat16 if name == "down" else "float32")
            params[f"{place} {name}"] = jax.device_put(x, jax.NamedSharding(mesh, spec))
    return params


def assert_lies_like(tree, params):
    """Every accumulator or update lies like its parameter; all else is a scalar."""
    found = 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        param = params.get(getattr(path[-1], "key", None))
        if param is None:
            assert leaf.ndim == 0
            assert leaf.sharding.is_fully_replicated
            assert leaf.sharding.device_set == params["scale"].sharding.device_set
        else:
            assert leaf.shape == param.shape
            assert leaf.sharding.is_equivalent_to(param.sharding, param.ndim)
            assert jax.typeof(leaf).sharding == jax.typeof(param).sharding
            found += 1
    assert found >= len(params)


@pytest.mark.parametrize(
    ("name", "axis_type"),
    [
        ("centered, momentum", "Explicit"),
        nightly("centered, momentum", "Auto"),
        ("dialect", "Explicit"),
        nightly("dialect", "Auto"),
        ("stored, of Optax", "Explicit"),
        ("stored, of Optax", "Auto"),  # where new arrays of a jitted init would lie anywhere
    ],
)
def test_state_lies_like_the_parameters(name, axis_type):
    mesh, tx = make_mesh(jax.sharding.AxisType[axis_type], 4, 2), OPTIMIZERS[name]()
    with jax.set_mesh(mesh):
        params = parameters(mesh, *PLACES)
        state = tx.init(params)
        assert_lies_like(state, params)
        assert_lies_like(jax.jit(tx.init)(params), params)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        compiled = step.lower(params, state, params).compile()
        text = compiled.as_text()
        assert [word for word in COLLECTIVES if word in text] == []
        # XLA copies stored bytes before it changes them, on one device too.
        assert name == "stored, of Optax" or " copy(" not in text
        promised = jax.tree.map(jax.typeof, (params, state))
        grads = parameters(mesh, *PLACES)
        new = compiled(params, state, grads)
        assert jax.tree.map(jax.typeof, new) == promised
        assert_lies_like(new[0], grads)
        assert_lies_like(new[1], grads)
        if name != "dialect":
            for tree in tx.update(grads, new[1], grads):
                assert_lies_like(tree, grads)


@functools.cache
def after_100_steps(name, data, model):
    mesh, tx = make_mesh(jax.sharding.AxisType.Auto, data, model), OPTIMIZERS[name]()
    params = parameters(mesh, "FSDP", "tensor parallel")
    rng = np.random.default_rng(1)
    grads = {}
    for k, p in params.items():
        sharding = jax.NamedSharding(mesh, jax.P(None, *p.sharding.spec))
        grads[k] = jax.device_put(rng.normal(size=(100, *p.shape)).astype(p.dtype), sharding)

    @jax.jit
    def train(params, state, grads):
        def step(carry, grads):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), grads)[0]

    return jax.device_get(train(params, tx.init(params), grads))


@pytest.mark.parametrize(
    "shape",
    [(4, 2), nightly((2, 1)), nightly((2, 2))],
)
@pytest.mark.parametrize("name", ["centered, momentum", "stored", nightly("dialect")])
def test_any_number_of_devices_gives_the_same_bits(name, shape):
    many, one = after_100_steps(name, *shape), after_100_steps(name, 1, 1)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), many, one)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("stored", 8),  # which has another one inside
        nightly("stored", 1),
        nightly("centered, momentum", 8),
        nightly("dialect", 8),
    ],
)
def test_zero1(name, count):
    """The recipe in the README: parameters everywhere, the state in parts."""
    mesh = make_mesh(jax.sharding.AxisType.Auto, count, 1)
    everywhere, split = (jax.NamedSharding(mesh, spec) for spec in (jax.P(), jax.P("data")))
    tx, params = OPTIMIZERS[name](), parameters(mesh, "data parallel")
    places = jax.tree.map(
        lambda x: split if x.ndim and x.shape[0] % mesh.size == 0 else everywhere,
        jax.eval_shape(tx.init, params),
    )
    state = jax.jit(tx.init, out_shardings=places)(params)

    def step(params, state):
        updates, state = tx.update(params, state, params)  # any gradient will do
        return optax.apply_updates(params, updates), state

    plain, zero1 = (params, tx.init(params)), (params, state)
    step1 = jax.jit(step, out_shardings=(everywhere, places))
    for _ in range(3):
        plain, zero1 = jax.jit(step)(*plain), step1(*zero1)
    assert all(p.sharding.is_fully_replicated for p in zero1[0].values())
    for leaf in jax.tree.leaves(zero1[1]):
        assert leaf.addressable_shards[0].data.size == (leaf.size // count or 1)
    jax.tree.map(np.testing.assert_array_equal, zero1, plain)


def test_shard_map():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = rmsprop(0.1, momentum=0.5)
    params = jnp.arange(16.0)
    state = tx.init(params)
    specs = jax.tree.map(lambda x: jax.P("x") if x.ndim else jax.P(), state)
    in_specs, out_specs = (jax.P("x"), specs), (jax.P("x"), specs)
    mapped = jax.shard_map(tx.update, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    new, expected = jax.jit(mapped)(params, state), tx.update(params, state)
    jax.tree.map(np.testing.assert_array_equal, new, expected)


def test_scalars_lie_on_all_devices_of_the_parameters():
    """As a jitted init has them; on no other than a single one that the parameters are put on."""
    mesh = make_mesh(jax.sharding.AxisType.Auto, 4, 2)
    params = parameters(mesh, "FSDP")
    tx = rmsprop(optax.linear_schedule(0.1, 0.0, 9), momentum=0.5)
    stored = storage.store(tx, nu=storage.U8)
    for init, count in ((tx.init, 2), (jax.jit(tx.init), 2), (stored.init, 4)):
        scalars = [x for x in jax.tree.leaves(init(params)) if x.dtype in (jnp.int32, jnp.uint32)]
        assert len(scalars) == count
        for x in scalars:
            assert x.sharding.is_fully_replicated
            assert x.sharding.device_set == set(mesh.devices.flat)
    last = jax.device_put(jnp.ones(3), jax.devices()[-1])
    assert rmsprop().init(last)[0].count.devices() == {jax.devices()[-1]}
    assert not rmsprop().init(jnp.ones(3))[0].count.committed


def test_orbax_restores_into_an_init_of_sharded_parameters(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    mesh = make_mesh(jax.sharding.AxisType.Auto, 4, 2)
    params, tx = parameters(mesh, "FSDP"), rmsprop(lambda count: 0.1, centered=True, momentum=0.5)
    step = jax.jit(lambda params, state: tx.update(params, state, params))
    _, state = step(params, tx.init(params))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    assert_lies_like(restored, params)
    jax.tree.map(np.testing.assert_array_equal, step(params, restored), step(params, state))


def test_one_complex_array_does_not_untie_the_others():
    mesh = make_mesh(jax.sharding.AxisType.Auto, 8, 1)
    split = jax.NamedSharding(mesh, jax.P("data"))
    params = {"real": jnp.ones((8, 4)), "complex": jnp.ones((8, 4), jnp.complex64)}
    params = jax.device_put(params, split)
    for tx in (rmsprop(centered=True, momentum=0.5), dialects.pytorch(momentum=0.5)):
        for x in jax.tree.leaves(jax.jit(tx.init)(params)):
            assert x.ndim == 0 or x.sharding.is_equivalent_to(split, 2)
