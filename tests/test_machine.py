"""Any order of what one does to a run: train, save, restore, shard, store, unpack, go to PyTorch.

Whatever the order, the run is that of the gradients it has seen, by their definition in float64.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from reference import scale_by_rms

from rmsprop_jax import dialects, interop, storage
from rmsprop_jax.checkpoints import restore

SHAPES = {"w": (8, 2), "b": (8,)}
NUMBERS = {"alpha": 0.75, "eps": 1e-3}
RATE, MOMENTUM = 0.125, 0.5
OPTIMIZERS = {
    centered: dialects.pytorch(RATE, momentum=MOMENTUM, centered=centered, **NUMBERS)
    for centered in (False, True)
}
STORED = {centered: storage.store(tx, nu=storage.U16) for centered, tx in OPTIMIZERS.items()}
MESH = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))


class Run(RuleBasedStateMachine):
    """A run, and the gradients that it has seen."""

    @initialize(centered=st.booleans())
    def init(self, centered):
        self.centered, self.stored, self.split = centered, False, False
        self.params = {name: jnp.ones(shape) for name, shape in SHAPES.items()}
        self.state = self.tx.init(self.params)
        self.gradients = {name: np.zeros((0, *shape)) for name, shape in SHAPES.items()}
        self.roundings = 0
        self.updates: Any = None

    @property
    def tx(self):
        return (STORED if self.stored else OPTIMIZERS)[self.centered]

    def as_placed(self, tree):
        """The tree on one device, or what is of a parameter's shape split over all of them."""
        if not self.split:
            return jax.device_put(tree, jax.devices()[0])
        split = lambda x: NamedSharding(MESH, PartitionSpec("x") if x.ndim else PartitionSpec())
        return jax.tree.map(lambda x: jax.device_put(x, split(x)), tree)

    @rule(seed=st.integers(0, 99), jit=st.booleans())
    def update(self, seed, jit):
        random = np.random.default_rng(seed)
        new = {name: random.choice([-1.5, -1.0, 1.0, 2.0], shape) for name, shape in SHAPES.items()}
        grads = self.as_placed({name: jnp.asarray(g, jnp.float32) for name, g in new.items()})
        update = jax.jit(self.tx.update) if jit else self.tx.update
        self.updates, self.state = update(grads, self.state, self.params)
        self.gradients = {k: np.concatenate([g, new[k][None]]) for k, g in self.gradients.items()}
        self.roundings += self.stored

    @rule()
    def save_and_restore(self):
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
        saved = {name(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(self.state)}
        self.state = restore(self.tx, saved, self.params)

    @rule()
    def shard_or_gather(self):
        self.split = not self.split
        self.params, self.state = self.as_placed(self.params), self.as_placed(self.state)

    @rule()
    def store_or_unpack(self):
        if self.stored:
            self.state = storage.unpack(self.state, nu=storage.U16)
        else:
            self.state = storage.pack(self.state, nu=storage.U16)
            self.roundings += 1
        self.stored = not self.stored

    @precondition(lambda self: not self.stored)
    @rule()
    def to_pytorch_and_back(self):
        weights = {name: np.asarray(p) for name, p in self.params.items()}
        saved = interop.pytorch.dump(self.tx, self.state, weights, lambda named: named)
        _, state = interop.pytorch.load(saved, weights, lambda named: named)
        self.state = self.as_placed(state)

    @invariant()
    def state_is_one_that_init_makes(self):
        if hasattr(self, "state"):
            promised = self.tx.init(self.params)
            assert jax.tree.structure(self.state) == jax.tree.structure(promised)
            shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
            assert shapes(self.state) == shapes(promised)

    @invariant()
    def updates_are_those_of_the_definition(self):
        if getattr(self, "updates", None) is None:
            return
        steps = len(self.gradients["b"])
        counts = optax.tree.get_all_with_path(self.state, "count")
        assert {int(count) for _, count in counts} == {steps}
        for name, g in self.gradients.items():
            exact = scale_by_rms(g, 0.75, 1e-3, centered=self.centered)
            fading = MOMENTUM ** np.arange(steps - 1, -1, -1.0)
            expected = -RATE * np.tensordot(fading, exact, 1)
            limit = 1e-5 + self.roundings * 2.0**-8
            size = RATE * np.tensordot(fading, np.abs(exact), 1)
            assert np.all(np.abs(self.updates[name] - expected) <= limit * size)


def test_any_order_of_everything():
    run_state_machine_as_test(
        Run, settings=settings(max_examples=25, stateful_step_count=10, deadline=None)
    )
