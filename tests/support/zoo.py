"""Optimizers of all kinds, for what must understand them or say why it doesn't."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rmsprop_jax import dialects, recipes, rmsprop, scale_by_rms, storage, weights

PARAMS = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 3))}  # one shape: half the programs
IN_A = {"a": True, "b": False}


def halving(count):
    return 0.5 ** jnp.asarray(count + 1, jnp.float32)


def power(count, base):
    return 0.5 * base**count


@dataclasses.dataclass
class Rate:
    """A schedule that is an object, whose attributes may change."""

    start: float

    def __call__(self, count):
        return self.start / (count + 1.0)

    def at(self, count):
        return self(count)


def stateless(function):
    """A part of the user's, from a function of updates."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda u, s, p=None: (jax.tree.map(function, u), s)
    )


def scale(factor):
    def update(updates, state, params=None):
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def named(name, inner=None):
    """A part with an unlucky name, made by a function called so, which remembers unlucky names."""
    source = f"""
def {name}(inner, jax, optax):
    init_fns, step_size, transforms, chosen, tx, decay = 1, None, [3], object(), 7, "x"
    def update(updates, state, params=None):
        init_fns, step_size, transforms, chosen, tx, decay
        if inner is not None:
            updates, state = inner.update(updates, state, params)
        return jax.tree.map(lambda u: 0.5 * u, updates), state
    return optax.GradientTransformation(inner.init if inner else optax.init_empty_state, update)
"""
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope[name](inner, jax, optax)


def halve(updates, state, params=None, *, factor=0.5):
    return jax.tree.map(lambda u: factor * u, updates), state


def wrapped_by_hand(tx):
    """Halves what tx gives, in a function that pretends to be that of tx."""

    @functools.wraps(tx.update)
    def update(updates, state, params=None):
        updates, state = tx.update(updates, state, params)
        return jax.tree.map(lambda u: 0.5 * u, updates), state

    return optax.GradientTransformation(tx.init, update)


class Halved:
    """A wrapper that is an object, with the transformations in a list."""

    def __init__(self, *inner):
        self.inner = list(inner)
        self.itself = self

    def init(self, params):
        return tuple(tx.init(params) for tx in self.inner)

    def update(self, updates, state, params=None):
        new = []
        for tx, s in zip(self.inner, state, strict=True):
            updates, s = tx.update(updates, s, params)
            new.append(s)
        return jax.tree.map(lambda u: 0.5 * u, updates), tuple(new)


class Callable:
    """An update that is an object, and answers to every name."""

    def __call__(self, updates, state, params=None):
        return jax.tree.map(lambda u: 0.5 * u, updates), state

    def __getattr__(self, name):
        raise RuntimeError(f"nobody asks for {name}")


def around_itself():
    cell: list[Any] = []

    def update(updates, state, params=None):
        assert cell
        return jax.tree.map(lambda u: 0.5 * u, updates), state

    tx = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    cell.append(tx)
    return tx


def jitted(tx):
    return optax.GradientTransformation(jax.jit(tx.init), jax.jit(tx.update))


def partial_of(tx):
    return optax.GradientTransformation(tx.init, functools.partial(tx.update))


NAMES = [
    "scale",
    "clip",
    "chain",
    "named_chain",
    "masked",
    "store",
    "partition",
    "trace",
    "rmsprop",
    "scale_by_rms",
    "public",
    "with_extra_args_support",
    "inject_hyperparams",
    "scale_by_schedule",
    "MultiSteps",
    "identity",
]
EMPTY = lambda params: optax.EmptyState()
LABELS = {"a": "x", "b": "y"}

KNOWN = {  # all that they do to updates is known
    "rmsprop": lambda: rmsprop(0.5),
    "rmsprop schedule": lambda: rmsprop(halving, 0.75, 1e-3, centered=True),
    "rmsprop all": lambda: rmsprop(
        halving, 0.75, 1e-3, momentum=0.5, nesterov=True, weight_decay=0.25, mask=IN_A
    ),
    "scheduled decay": lambda: rmsprop(0.5, weight_decay=halving, mask=lambda p: IN_A),
    "bias_correction": lambda: rmsprop(0.5, 0.75, 0.5, bias_correction=True),
    "scale_by_rms": lambda: scale_by_rms(0.75, 0.5, eps_in_sqrt=True, initial_scale=2.0),
    "scheduled average": lambda: rmsprop(0.5, halving),
    "scheduled variance": lambda: scale_by_rms(halving, 0.5, centered=True),
    "two eps": lambda: scale_by_rms(0.75, 0.5, eps_root=0.25),
    "least root": lambda: scale_by_rms(0.75, 0.0, least_root=2.0),
    "all in the root": lambda: scale_by_rms(0.75, 0.5, eps_in_sqrt=True, least_root=1.5),
    "numerator": lambda: scale_by_rms(0.75, 0.5, numerator=optax.trace(0.5)),
    "numerator, a chain": lambda: scale_by_rms(
        0.75, 0.5, numerator=optax.chain(optax.clip_by_global_norm(50.0), optax.scale(2.0))
    ),
    "burn": lambda: dialects.burn(0.5, weight_decay=0.1),
    "graves": lambda: dialects.graves(halving, eps=0.5),
    "keras": lambda: dialects.keras(0.5, weight_decay=0.1, momentum=0.5, loss_scale_factor=4.0),
    "keras clipnorm": lambda: dialects.keras(halving, clipnorm=50.0),
    "keras clipvalue": lambda: dialects.keras(0.5, clipvalue=50.0),
    "mlx": lambda: dialects.mlx(Rate(0.5)),
    "optax": lambda: dialects.optax(0.5, momentum=0.5, initial_scale=2.0, nesterov=True),
    "optax ascends": lambda: dialects.optax(lambda count: -halving(count)),
    "paddle": lambda: dialects.paddle(0.5, weight_decay=0.1, momentum=0.5),
    "pytorch": lambda: dialects.pytorch(0.5, weight_decay=0.1, momentum=0.9, maximize=True),
    "pytorch centered": lambda: dialects.pytorch(halving, centered=True),
    "sonnet": lambda: dialects.sonnet(functools.partial(power, base=0.5)),
    "stable_baselines3": lambda: dialects.stable_baselines3(0.5, momentum=0.5),
    "fastai": lambda: dialects.fastai(halving, 0.5, wd=0.1),
    "fastai coupled": lambda: dialects.fastai(0.5, wd=0.1, decouple_wd=False),
    "jax_example_libraries": lambda: dialects.jax_example_libraries(halving, momentum=0.5),
    "mindspore": lambda: dialects.mindspore(0.5, momentum=0.5, loss_scale=4.0, weight_decay=0.1),
    "tensorflowjs": lambda: dialects.tensorflowjs(0.5, momentum=0.5),
    "torchopt": lambda: dialects.torchopt(
        0.5, momentum=0.5, nesterov=True, maximize=True, weight_decay=0.1, initial_scale=0.5
    ),
    "tensorflow1": lambda: dialects.tensorflow1(0.5, momentum=0.5, centered=True),
    "tf_keras_legacy": lambda: dialects.tf_keras_legacy(0.5, decay=0.1),
    "tf_keras_legacy schedule": lambda: dialects.tf_keras_legacy(halving, momentum=0.5, decay=0.1),
    "timm": lambda: dialects.timm(0.5, weight_decay=0.1, decoupled_decay=True),
    "timm cautious": lambda: dialects.timm(0.5, momentum=0.9, caution=True),
    "timm corrected": lambda: dialects.timm(
        halving, weight_decay=0.1, decoupled_decay=True, corrected_weight_decay=True, max_lr=0.5
    ),
    "a3c": lambda: recipes.a3c(0.5, 100),
    "dqn_nature": lambda: recipes.dqn_nature(),
    "impala_torchbeast": lambda: recipes.impala_torchbeast(6400),
    "pymarl": lambda: recipes.pymarl(),
    "hinton2012": lambda: recipes.hinton2012(Rate(0.5).at),
    "efficientnet": lambda: recipes.efficientnet(10.0, 256),
    "mobilenet_v3": lambda: recipes.mobilenet_v3(10),
    "chain": lambda: optax.chain(optax.clip(50.0), dialects.graves(0.5), optax.scale(0.25)),
    "clip behind": lambda: optax.chain(rmsprop(0.5), optax.clip_by_global_norm(1e3)),
    "block_rms between": lambda: optax.chain(
        scale_by_rms(), optax.clip_by_block_rms(50.0), optax.scale_by_learning_rate(halving)
    ),
    "named_chain": lambda: optax.named_chain(("nu", optax.clip(50.0)), ("rms", rmsprop(halving))),
    "two momentums": lambda: optax.chain(dialects.burn(0.5), optax.trace(0.5)),
    "masked": lambda: optax.masked(rmsprop(0.5), True),
    "masked part": lambda: optax.chain(rmsprop(0.5), optax.masked(optax.scale(0.5), IN_A)),
    "masked by a function": lambda: optax.chain(
        rmsprop(0.5), optax.masked(optax.scale(0.5), lambda p: IN_A)
    ),
    "freeze": lambda: optax.chain(rmsprop(halving), optax.freeze(IN_A)),
    "partition": lambda: optax.partition(
        {"x": rmsprop(halving), "y": dialects.keras(0.25, momentum=0.5)}, LABELS
    ),
    "partition by a function": lambda: optax.partition(
        {"x": rmsprop(0.5), "y": rmsprop(0.25)}, lambda p: LABELS
    ),
    "rates by part": lambda: optax.chain(
        scale_by_rms(), optax.partition({"x": optax.scale(-0.5), "y": optax.scale(-0.1)}, LABELS)
    ),
    "MultiSteps": lambda: optax.MultiSteps(rmsprop(halving), 1),
    "MultiSteps transformation": lambda: optax.MultiSteps(
        rmsprop(halving), lambda step: 1, use_grad_mean=False
    ).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(rmsprop(halving), 3),
    "conditionally": lambda: optax.chain(
        rmsprop(0.5), optax.conditionally_transform(optax.scale(0.5), lambda step: step > 0)
    ),
    "conditionally scheduled": lambda: optax.chain(
        rmsprop(0.5),
        optax.conditionally_transform(optax.scale_by_schedule(halving), lambda step: step > 0),
    ),
    "conditionally_mask": lambda: optax.conditionally_mask(rmsprop(0.5), lambda step: step != 1),
    "inject_hyperparams": lambda: optax.inject_hyperparams(rmsprop)(halving, decay=0.75, eps=0.5),
    "inject float32": lambda: optax.inject_hyperparams(rmsprop, hyperparam_dtype=jnp.float32)(0.01),
    "inject a constant": lambda: optax.inject_hyperparams(dialects.keras)(0.5, momentum=0.5),
    "with_extra_args_support": lambda: optax.with_extra_args_support(rmsprop(0.5)),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(rmsprop(0.5)),
    "store": lambda: storage.store(rmsprop(halving), nu=jnp.float32),
    "compensate": lambda: weights.compensate(rmsprop(halving)),
    "jitted": lambda: jitted(rmsprop(0.5)),
    "a partial": lambda: partial_of(rmsprop(0.5)),
}

FOREIGN = {  # without an RMSProp of this library
    "optax.rmsprop": lambda: optax.rmsprop(0.5, momentum=0.5),
    "optax.rmsprop corrected": lambda: optax.rmsprop(
        halving, 0.75, 0.5, eps_in_sqrt=False, bias_correction=True
    ),
    "optax.rmsprop centered": lambda: optax.rmsprop(
        0.5, 0.75, 0.5, centered=True, bias_correction=True, momentum=0.5, nesterov=True
    ),
    "optax.sgd": lambda: optax.sgd(halving, momentum=0.5),
    "add_decayed_weights": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
    "inject optax": lambda: optax.inject_hyperparams(optax.rmsprop)(0.5, decay=halving),
}

OPAQUE = {  # some part of them isn't known, or more than a part by part account can tell
    "optax.adam": lambda: optax.adam(0.5),
    "adam behind": lambda: optax.chain(rmsprop(0.5), optax.scale_by_adam()),
    "trust ratio behind": lambda: optax.chain(rmsprop(0.5), optax.scale_by_trust_ratio()),
    "sam": lambda: optax.contrib.sam(rmsprop(0.1), optax.sgd(0.5)),
    "schedule_free": lambda: optax.contrib.schedule_free(rmsprop(0.5), 0.5),
    "mechanize": lambda: optax.contrib.mechanize(rmsprop(0.5)),
    "conditionally around": lambda: optax.conditionally_transform(rmsprop(0.5), lambda t: t > 1),
    "stateless": lambda: optax.chain(rmsprop(0.5), optax.stateless(lambda g, p: g)),
    "user's scale": lambda: optax.chain(rmsprop(0.5), scale(0.5)),
    "a partial of a function": lambda: optax.chain(
        rmsprop(0.5), optax.GradientTransformation(EMPTY, functools.partial(halve, factor=0.25))
    ),
    "an object": lambda: optax.chain(rmsprop(0.5), optax.GradientTransformation(EMPTY, Callable())),
    "a lambda": lambda: optax.chain(rmsprop(0.5), stateless(lambda u: 0.5 * u)),
    "around itself": lambda: optax.chain(rmsprop(0.5), around_itself()),
    "wraps": lambda: wrapped_by_hand(rmsprop(0.5)),
    "wraps optax.scale": lambda: optax.chain(rmsprop(0.5), wrapped_by_hand(optax.scale(0.5))),
    "a wrapper that is an object": lambda: Halved(rmsprop(0.5), optax.clip(50.0)),
    **{
        f"called {name}": lambda name=name: optax.chain(rmsprop(0.5), named(name)) for name in NAMES
    },
    **{
        f"around, called {name}": lambda name=name: named(name, rmsprop(0.5))
        for name in ("chain", "masked", "store", "compiled", "with_extra_args_support")
    },
}

OPTIMIZERS = KNOWN | FOREIGN | OPAQUE
