"""Runs of `drawn_runs.py` in the real frameworks that a test environment has."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawn_runs import Run, problem, stack
from oracles import import_keras, import_timm_rmsprop

Arrays = dict[str, np.ndarray]
Step = Callable[[Arrays], Arrays]


def live_run(run: Run) -> tuple[Arrays, Arrays]:
    """Parameters and gradients of a run, made now."""
    params, grads = problem(run)
    with jax.enable_x64(run.dtype == "float64"):
        step = FRAMEWORKS[run.framework](run.arguments, params)
        states = [params]
        for t in range(len(next(iter(grads.values())))):
            states.append(step({k: g[t] for k, g in grads.items()}))
    return stack(states), grads


def network_run(
    optimizer: str, arguments: dict[str, Any], seed: int = 0, steps: int = 40, clip: float = 0.0
) -> tuple[Arrays, Arrays]:
    """A small network of PyTorch that learns to add up squares: its own gradients."""
    torch = importlib.import_module("torch")
    factory = torch.optim.RMSprop if optimizer == "pytorch" else import_timm_rmsprop()
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh()
    ).append(torch.nn.Linear(8, 1))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5, generator=generator)
    tx = factory(model.parameters(), foreach=False, **arguments)
    plain = lambda of: {k: of(p).detach().numpy().copy() for k, p in model.named_parameters()}
    states, grads = [plain(lambda p: p)], []
    for _ in range(steps):
        x = torch.randn(16, 4, generator=generator)
        tx.zero_grad()
        ((model(x) - (x**2).sum(1, keepdim=True)) ** 2).mean().backward()
        grads.append(plain(lambda p: p.grad))
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        tx.step()
        states.append(plain(lambda p: p))
    return stack(states), stack(grads)


def _torch(factory: Any, arguments: dict[str, Any], params: Arrays) -> Step:
    torch = importlib.import_module("torch")
    variables = {k: torch.nn.Parameter(torch.from_numpy(x.copy())) for k, x in params.items()}
    optimizer = factory(variables.values(), foreach=False, **arguments)

    def step(grads: Arrays) -> Arrays:
        for k, v in variables.items():
            v.grad = torch.from_numpy(grads[k].copy())
        optimizer.step()
        return {k: v.detach().numpy().copy() for k, v in variables.items()}

    return step


def _pytorch(arguments: dict[str, Any], params: Arrays) -> Step:
    return _torch(importlib.import_module("torch").optim.RMSprop, arguments, params)


def _timm(arguments: dict[str, Any], params: Arrays) -> Step:
    return _torch(import_timm_rmsprop(), arguments, params)


def _keras(arguments: dict[str, Any], params: Arrays) -> Step:
    keras = import_keras()
    variables = {k: keras.Variable(x, dtype=x.dtype.name) for k, x in params.items()}
    optimizer = keras.optimizers.RMSprop(**arguments)
    optimizer.build(list(variables.values()))

    def step(grads: Arrays) -> Arrays:
        optimizer.apply([jnp.asarray(grads[k]) for k in variables])
        return {k: np.array(v.value) for k, v in variables.items()}

    return step


def _optax(arguments: dict[str, Any], params: Arrays) -> Step:
    return optax_step(optax.rmsprop(**arguments), params)


def optax_step(tx: optax.GradientTransformation, params: Arrays) -> Step:
    """Any transformation of Optax."""
    now: Any = {k: jnp.asarray(x) for k, x in params.items()}
    state = tx.init(now)

    def step(grads: Arrays) -> Arrays:
        nonlocal now, state
        updates, state = tx.update({k: jnp.asarray(g) for k, g in grads.items()}, state, now)
        now = optax.apply_updates(now, updates)
        return {k: np.array(x) for k, x in now.items()}

    return step


def _jax_example_libraries(arguments: dict[str, Any], params: Arrays) -> Step:
    library = importlib.import_module("jax.example_libraries.optimizers")
    factory = library.rmsprop_momentum if "momentum" in arguments else library.rmsprop
    init, update, get = factory(**arguments)
    state = init({k: jnp.asarray(x) for k, x in params.items()})
    count = 0

    def step(grads: Arrays) -> Arrays:
        nonlocal state, count
        state = update(count, {k: jnp.asarray(g) for k, g in grads.items()}, state)
        count += 1
        return {k: np.array(x) for k, x in get(state).items()}

    return step


FRAMEWORKS = {
    "pytorch": _pytorch,
    "timm": _timm,
    "keras": _keras,
    "optax": _optax,
    "jax_example_libraries": _jax_example_libraries,
}
