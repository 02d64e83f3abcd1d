"""A run that changes frameworks in the middle, twice, ends where it would have ended without."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import problem
import pytest
import trajectories

from rmsprop_jax import dialects, interop

TOLERANCE = 2e-5
STEPS = problem.STEPS


def torch_run():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.Conv2d(4, 8, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * problem.sizes() ** 2, 10),
    )
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr=problem.LEARNING_RATE, **problem.SETTINGS
    )

    def train(start):
        images, labels = problem.batches()
        for i in range(start, start + STEPS):
            optimizer.param_groups[0]["lr"] = problem.rate(i)
            optimizer.zero_grad()
            x = torch.from_numpy(images[i].transpose(0, 3, 1, 2).copy())
            y = torch.from_numpy(labels[i].astype(np.int64))
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    return torch, model, optimizer, train


def weights_of(model):
    return {name: x.detach().numpy().copy() for name, x in model.named_parameters()}


@pytest.mark.nightly  # the recorded checkpoints show the same every day
def test_pytorch_to_here_to_pytorch():
    _, model, _, train = torch_run()
    for part in range(3):
        train(part * STEPS)
    there = weights_of(model)

    def journey(with_accumulators):
        torch, model, optimizer, train = torch_run()
        train(0)
        weights = weights_of(model)
        params = problem.to_params(weights)
        tx, opt_state = interop.pytorch.load(
            optimizer.state_dict(), weights, problem.to_params, lr=problem.schedule
        )
        assert jax.tree.structure(opt_state) == jax.tree.structure(tx.init(params))
        if not with_accumulators:
            opt_state = set_count(tx.init(params), STEPS)
        params, opt_state = problem.train(tx, params, opt_state, STEPS)
        tensors = lambda tree: {
            n: torch.from_numpy(x.copy()) for n, x in problem.from_params(tree).items()
        }
        model.load_state_dict(tensors(params))
        optimizer.load_state_dict(interop.pytorch.dump(tx, opt_state, weights, tensors))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(problem.rate(2 * STEPS), rel=1e-5)
        assert optimizer.state[model[0].weight]["step"] == 2 * STEPS
        train(2 * STEPS)
        return weights_of(model)

    kept = problem.largest_difference(journey(True), there)
    lost = problem.largest_difference(journey(False), there)
    print(f"\nPyTorch, here, PyTorch: {kept:.1e}; without accumulators: {lost:.1e}")
    assert kept < TOLERANCE
    assert lost > 100 * TOLERANCE


def keras_run():
    try:
        keras = oracles.import_keras()
    except ImportError as error:
        pytest.skip(str(error))
    keras.utils.set_random_seed(0)
    size = problem.batches()[0].shape[2]
    model = keras.Sequential(
        [
            keras.Input((size, size, 1)),
            keras.layers.Conv2D(4, 3, strides=2, activation="tanh", name="conv1"),
            keras.layers.Conv2D(8, 3, strides=2, activation="tanh", name="conv2"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="dense"),
        ]
    )
    settings = {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-5, "centered": True}
    optimizer = keras.optimizers.RMSprop(problem.LEARNING_RATE, weight_decay=1e-4, **settings)
    optimizer.build(model.trainable_variables)

    @jax.jit
    def step(variables, state, images, labels):
        def loss(variables):
            logits, _ = model.stateless_call(variables, [], images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return optimizer.stateless_apply(state, jax.grad(loss)(variables), variables)

    def train(start):
        images, labels = problem.batches()
        for i in range(start, start + STEPS):
            optimizer.learning_rate = problem.rate(i)
            variables = [v.value for v in model.trainable_variables]
            state = [v.value for v in optimizer.variables]
            variables, state = step(variables, state, images[i], labels[i])
            for group, values in (
                (model.trainable_variables, variables),
                (optimizer.variables, state),
            ):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(value)

    return model, optimizer, train


def keras_weights(model):
    return {v.path: np.array(np.asarray(v)) for v in model.trainable_variables}


def keras_to_params(named):
    split = [(*name.split("/")[-2:], x) for name, x in named.items()]
    return {layer: {k: x for la, k, x in split if la == layer} for layer, _, _ in split}


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
def test_keras_to_here_to_keras():
    model, _, train = keras_run()
    for part in range(3):
        train(part * STEPS)
    there = list(keras_weights(model).values())

    def journey(with_accumulators):
        model, optimizer, train = keras_run()
        train(0)
        weights = keras_weights(model)
        params = keras_to_params(weights)
        tx = dialects.keras(**{**optimizer.get_config(), "learning_rate": problem.schedule})
        variables = {v.path: np.array(np.asarray(v)) for v in optimizer.variables}
        opt_state = interop.keras.load(tx, variables, weights, keras_to_params)
        if not with_accumulators:
            opt_state = set_count(tx.init(params), STEPS)
        params, opt_state = problem.train(tx, params, opt_state, STEPS)
        prefix = next(iter(weights)).split("/")[:-2]
        from_params = lambda tree: {
            "/".join([*prefix, layer, kind]): x
            for layer, arrays in tree.items()
            for kind, x in arrays.items()
        }
        for variable in model.trainable_variables:
            variable.assign(from_params(params)[variable.path])
        constant = dialects.keras(**optimizer.get_config())
        saved = interop.keras.dump(
            constant, interop.restore(constant, opt_state, params), weights, from_params
        )
        assert list(saved) == list(variables)
        for variable, x in zip(optimizer.variables, saved.values(), strict=True):
            variable.assign(x)
        assert int(optimizer.iterations) == 2 * STEPS
        train(2 * STEPS)
        return list(keras_weights(model).values())

    difference = lambda left, right: max(
        float(np.abs(x - y).max()) for x, y in zip(left, right, strict=True)
    )
    kept = difference(journey(True), there)
    lost = difference(journey(False), there)
    print(f"\nKeras, here, Keras: {kept:.1e}; without accumulators: {lost:.1e}")
    assert kept < TOLERANCE
    assert lost > 100 * TOLERANCE


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", ["momentum", "centered"])
def test_tensorflow1_slots_to_here(case, dtype):
    """A real checkpoint after 20 steps goes on here as it did in TensorFlow."""
    configs, checkpoint = recorded_slots(case, dtype)
    with jax.enable_x64(dtype == "float64"):
        tx = dialects.tensorflow1(trajectories.learning_rates("constant")[0], **configs)
        weights = {"w": checkpoint["w"]}
        to_params = lambda named: jnp.asarray(named["w"])

        def go_on(opt_state):
            params = to_params(weights)
            for g in trajectories.gradients(dtype)[20:40]:
                updates, opt_state = tx.update(jnp.asarray(g), opt_state)
                params = optax.apply_updates(params, updates)
            return np.asarray(params)

        kept = go_on(interop.tensorflow.load(tx, checkpoint, weights, to_params))
        lost = go_on(tx.init(to_params(weights)))
    distance = lambda x: float(oracles.distance(x[None], checkpoint["continued"][None]))
    print(f"\nTensorFlow 1, {case}, {dtype}: {distance(kept):.1e}; without: {distance(lost):.1e}")
    assert distance(kept) < oracles.TOLERANCES[dtype]
    assert distance(lost) > 1e-2


def recorded_slots(case, dtype):
    with np.load(trajectories.RECORDINGS / "tensorflow1_slots.npz") as file:
        start = f"{case}/{dtype}/"
        checkpoint = {k.removeprefix(start): file[k] for k in file if k.startswith(start)}
        return json.loads(str(file["configs"]))[case]["kwargs"], checkpoint


def set_count(state, count):
    """A fresh state that has only its count from elsewhere."""
    is_count = lambda path: getattr(path[-1], "name", None) == "count"
    return jax.tree.map_with_path(
        lambda path, x: jnp.asarray(count, x.dtype) if is_count(path) else x, state
    )
