"""Settings of RMSProp that papers and agents used, each number with its source.

A recipe is one call of a dialect, with the clipping of gradients and the schedule of the learning
rate that belong to the source's optimizer step. Its numbers were read in the files that its
docstring names; where the source is a paper or a lecture, the docstring says what the numbers were
checked against.

The numbers of the source are the defaults of the arguments, so that a signature shows them. To
change some, name them: `recipes.dqn_nature(learning_rate=1e-4, eps=0.1)`. All recipes have the same
names for them:

- `learning_rate`: 0 or more. Where the source has a schedule, it scales that; your own schedule
  takes its place. Schedules are functions of the number of updates made, 0 at the first one.
- `decay`: rate of the averages, in [0, 1).
- `eps`: added to the root or under it, as in the update that the docstring shows; 0 or more.
- `momentum`: rate of the velocity, 0 or more.
- `max_norm`: the largest norm of all gradients together, more than 0; longer ones are shortened.

Every recipe returns an `optax.GradientTransformationExtraArgs`, whose updates have the shapes and
dtypes of the gradients. It raises a `ValueError` for a number out of its range, and a `TypeError`
for what is not a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from rmsprop_jax import clipping, dialects
from rmsprop_jax.checks import (
    check_fraction,
    check_nonnegative,
    check_optional,
    check_positive,
    check_rate,
)
from rmsprop_jax.precision import chain, public

__all__ = [
    "a2c_stable_baselines",
    "a3c",
    "dpo",
    "dqn_nature",
    "efficientnet",
    "graves2013",
    "hinton2012",
    "impala_torchbeast",
    "inception_v3",
    "mobilenet_v3",
    "pymarl",
]


def hinton2012(
    learning_rate: optax.ScalarOrSchedule, *, decay: ArrayLike = 0.9, eps: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """RMSProp as Hinton introduced it, in lecture 6e of 2012.

    The update of a weight w with gradient g:

        MeanSquare <- 0.9 MeanSquare + 0.1 g^2
        w <- w - learning_rate g / sqrt(MeanSquare)

    0.9 and 0.1 are on slide 29 (checked against transcripts and notes of the lecture). It gives no
    learning rate, no epsilon (here 0, and 0/0 is 0) and no start of the average (here 0, so that
    the first step is sqrt(10) learning rates long).

    Args:
      learning_rate: a number or a schedule.
      decay: 0.9 on the slide.
      eps: outside of the root.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.hinton2012(0.001)
      >>> g = jnp.array([5.0, -0.1, 0.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print([f"{u:.5f}" for u in updates])
      ['-0.00316', '0.00316', '-0.00000']

    References:
      https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
    """
    _check(learning_rate, decay, eps)
    return dialects.pytorch(learning_rate, alpha=decay, eps=eps)


def graves2013(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    decay: ArrayLike = 0.95,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-4,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of Graves (2013), which generated handwriting; the first centered one.

    The update of a weight w with gradient e, equations 38 to 45 of the paper:

        n <- 0.95 n + 0.05 e^2                           starting at 0
        g <- 0.95 g + 0.05 e                             starting at 0
        delta <- 0.9 delta - 0.0001 e / sqrt(n - g^2 + 0.0001)
        w <- w + delta

    The numbers were checked against Chainer's `RMSpropGraves`, which cites the paper:
    `_default_hyperparam` in chainer/optimizers/rmsprop_graves.py has lr = 1e-4, alpha = 0.95,
    momentum = 0.9, eps = 1e-4.

    Not part of the optimizer: the paper clips derivatives inside its networks.

    Args:
      learning_rate: a number or a schedule.
      decay: of both averages.
      momentum: rate of delta.
      eps: under the root.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.graves2013()
      >>> e = jnp.array([10.0])
      >>> updates, state = tx.update(e, tx.init(e))
      >>> print(f"{updates[0]:.6f}")  # -0.0001 10 / sqrt(5 - 0.5^2 + 0.0001)
      -0.000459

    References:
      https://arxiv.org/abs/1308.0850

      https://github.com/chainer/chainer/blob/master/chainer/optimizers/rmsprop_graves.py
    """
    _check(learning_rate, decay, eps, momentum=momentum)
    return dialects.graves(learning_rate, alpha=decay, momentum=momentum, eps=eps)


def dqn_nature(
    averaged_over: int = 1,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.00025,
    decay: ArrayLike = 0.95,
    eps: ArrayLike = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of DQN on Atari in Nature (Mnih et al., 2015).

    The update of a weight w, the gradient dw being summed over the minibatch:

        g <- 0.95 g + 0.05 dw                            starting at 0
        g2 <- 0.95 g2 + 0.05 dw^2                        starting at 0
        w <- w - 0.00025 dw / sqrt(g2 - g^2 + 0.01)

    There is no momentum. The paper's table of hyperparameters has a "gradient momentum" of 0.95, a
    "squared gradient momentum" of 0.95 and a "min squared gradient" of 0.01. The first is the rate
    of the mean g that centers the variance, and not the rate of a velocity: with `momentum=0.95`,
    steps would be up to 20 times as long.

    0.95 (twice) and 0.01 are literals in `qLearnMinibatch` of the released code,
    dqn/NeuralQLearner.lua, where g and g2 start as zeros; 0.00025 is `lr` in run_gpu. (Both
    were read in the copy of that code in kuz/DeepMind-Atari-Deep-Q-Learner.) The learning rate is
    constant, since `lr_end` is `lr`.

    Not part of the optimizer: TD errors are clipped to [-1, 1] (`clip_delta`), and so are rewards;
    one update is made every 4 steps (`update_freq`).

    Args:
      averaged_over: the batch size, if your loss is a mean over the minibatch, not a sum. The
        source sums; a mean makes gradients smaller, and eps has to follow: it is divided by
        averaged_over^2. dqn_zoo does so, where `optimizer_epsilon` is 0.01 / 32**2.
      learning_rate: a number or a schedule.
      decay: of both averages.
      eps: under the root, for summed gradients.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> summed, mean = recipes.dqn_nature(), recipes.dqn_nature(averaged_over=32)
      >>> dw = jnp.array([0.32])
      >>> updates, _ = summed.update(dw, summed.init(dw))
      >>> same, _ = mean.update(dw / 32, mean.init(dw))
      >>> print(f"{updates[0]:.6f} {same[0]:.6f}")
      -0.000656 -0.000656

    References:
      https://doi.org/10.1038/nature14236

      https://github.com/google-deepmind/dqn/blob/master/dqn/NeuralQLearner.lua

      https://github.com/kuz/DeepMind-Atari-Deep-Q-Learner/blob/master/run_gpu

      https://github.com/google-deepmind/dqn_zoo/blob/master/dqn_zoo/dqn/run_atari.py
    """
    _check_counts(averaged_over=averaged_over)
    _check(learning_rate, decay, eps)
    return dialects.graves(learning_rate, alpha=decay, momentum=0, eps=eps / averaged_over**2)


@public
def a3c(
    learning_rate: optax.ScalarOrSchedule,
    total_steps: int,
    t_max: int = 5,
    *,
    decay: ArrayLike = 0.99,
    eps: ArrayLike = 0.1,
    max_norm: ArrayLike = 40.0,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of A3C on Atari (Mnih et al., 2016).

    The update number n (from 0) of the weights w with gradient dw, summed over t_max steps:

        dw <- dw min(1, 40 / |dw|)                       |dw| over all weights
        g <- 0.99 g + 0.01 dw^2                          starting at 0
        eta <- learning_rate max(0, 1 - n t_max / total_steps)
        w <- w - eta dw / sqrt(g + 0.1)

    The paper's authors have told their settings by e-mail: alpha = 0.99, epsilon = 0.1, inside the
    root as in the paper's equations 8 and 9, eta = 7e-4, falling linearly to 0 (wiki of
    muupan/async-rl), and a largest norm of 40 (miyosuda/async_deep_reinforce, issue 1). The same
    numbers are in reproductions that trained: train_a3c.py of ChainerRL and of PFRL (`RMSpropAsync`
    and `SharedRMSpropEpsInsideSqrt` with lr=7e-4, eps=1e-1, alpha=0.99, and 40) and constants.py of
    async_deep_reinforce (`RMSP_ALPHA`, `RMSP_EPSILON`, `GRAD_NORM_CLIP`).

    They differ in two things that the paper leaves open. g starts at 0 in ChainerRL and PFRL, and
    at 1 in async_deep_reinforce, which uses TensorFlow's kernel; here it is 0. And the norm is that
    of all weights there, of each variable in async_deep_reinforce; here it is that of all.

    Not part of the optimizer: g is shared by all workers, which update it without a lock; rewards
    are clipped to [-1, 1]; the gradient of the value loss is halved.

    Args:
      learning_rate: at the start, or a schedule instead. The paper sampled it from 1e-4 to 1e-2,
        log-uniformly; 7e-4 was about the best.
      total_steps: steps in the environment of all workers together, after which the learning rate
        is 0; more than 0. The reproductions have 8e7, the 320 million frames of the paper's one
        day.
      t_max: steps per update, more than 0: 5 in the reproductions, and 20 in the authors' e-mail to
        async_deep_reinforce. Where episodes end sooner, the sources' learning rate falls later.
      decay: of the average of squares.
      eps: under the root.
      max_norm: of all gradients together.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.a3c(7e-4, total_steps=80_000_000)
      >>> dw = jnp.array([30.0, 40.0])  # clipped to [24, 32]
      >>> updates, state = tx.update(dw, tx.init(dw))
      >>> print(f"{updates[0]:.6f}")  # -7e-4 24 / sqrt(0.01 24^2 + 0.1)
      -0.006940

    References:
      https://arxiv.org/abs/1602.01783

      https://github.com/muupan/async-rl/wiki

      https://github.com/miyosuda/async_deep_reinforce/issues/1

      https://github.com/miyosuda/async_deep_reinforce/blob/master/constants.py

      https://github.com/chainer/chainerrl/blob/master/examples/atari/reproduction/a3c/train_a3c.py

      https://github.com/pfnet/pfrl/blob/master/examples/atari/reproduction/a3c/train_a3c.py
    """
    _check(learning_rate, decay, eps, max_norm=max_norm)
    _check_counts(total_steps=total_steps, t_max=t_max)
    rate = _scheduled(learning_rate, lambda start: _line(start, 0.0, total_steps / t_max))
    rms = dialects.sonnet(rate, decay=decay, epsilon=eps)
    return chain(clipping.clip_by_global_norm(max_norm), rms)


@public
def impala_torchbeast(
    total_steps: int,
    unroll_length: int = 80,
    batch_size: int = 8,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.00048,
    decay: ArrayLike = 0.99,
    eps: ArrayLike = 0.01,
    max_norm: ArrayLike = 40.0,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of IMPALA on Atari, as in TorchBeast.

    The update number n (from 0) of the parameters p with gradient g:

        g <- g min(1, 40 / (|g| + 1e-6))                 |g| over all parameters
        v <- 0.99 v + 0.01 g^2                           starting at 0
        lr <- 0.00048 max(0, 1 - n unroll_length batch_size / total_steps)
        p <- p - lr g / (sqrt(v) + 0.01)

    The numbers are the defaults of flags in torchbeast/monobeast.py, and again in
    polybeast_learner.py: `--learning_rate` 0.00048, `--alpha` 0.99, `--epsilon` 0.01, `--momentum`
    0, `--grad_norm_clipping` 40.0; the schedule is `lr_lambda` there. The optimizer is PyTorch's,
    so eps is outside the root. (Inside, 0.01 would do there what 0.1 does outside.)

    Not part of the optimizer: losses are summed over time and batch, not averaged, which eps and
    the clipping depend on; rewards are clipped to [-1, 1].

    Args:
      total_steps: steps in the environment, after which the learning rate is 0; more than 0. It is
        the flag `--total_steps`.
      unroll_length: the flag of that name, steps of each rollout, more than 0.
      batch_size: the flag of that name, rollouts per update, more than 0.
      learning_rate: at the start, or a schedule instead.
      decay: of the average of squares.
      eps: outside of the root.
      max_norm: of all gradients together.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.impala_torchbeast(total_steps=50_000_000)
      >>> g = jnp.array([1.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(f"{updates[0]:.6f}")  # -0.00048 1 / (sqrt(0.01 1^2) + 0.01)
      -0.004364

    References:
      https://arxiv.org/abs/1910.03552

      https://github.com/facebookresearch/torchbeast/blob/main/torchbeast/monobeast.py
    """
    _check_counts(total_steps=total_steps, unroll_length=unroll_length, batch_size=batch_size)
    _check(learning_rate, decay, eps, max_norm=max_norm)
    steps = total_steps / (unroll_length * batch_size)
    rate = _scheduled(learning_rate, lambda start: _line(start, 0.0, steps))
    return chain(
        clipping.clip_by_torch_norm(max_norm), dialects.pytorch(rate, alpha=decay, eps=eps)
    )


@public
def pymarl(
    learning_rate: optax.ScalarOrSchedule = 0.0005,
    *,
    decay: ArrayLike = 0.99,
    eps: ArrayLike = 1e-5,
    max_norm: ArrayLike = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of QMIX and VDN on StarCraft, as in PyMARL.

    The update of the parameters p with gradient g:

        g <- g min(1, 10 / (|g| + 1e-6))                 |g| over all parameters
        v <- 0.99 v + 0.01 g^2                           starting at 0
        p <- p - 0.0005 g / (sqrt(v) + 1e-5)

    The numbers are in src/config/default.yaml: `lr` 0.0005, `optim_alpha` 0.99, `optim_eps`
    0.00001, `grad_norm_clip` 10; src/config/algs/qmix.yaml and vdn.yaml leave them as they are. The
    optimizer is PyTorch's, in src/learners/q_learner.py.

    Not part of the optimizer: the loss is a mean over the steps that aren't padding; the agents and
    the mixer are clipped and updated together.

    Args:
      learning_rate: a number or a schedule.
      decay: of the average of squares.
      eps: outside of the root.
      max_norm: of all gradients together.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.pymarl()
      >>> g = {"agent": jnp.array([0.1]), "mixer": jnp.array([20.0])}
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(f"{updates['agent'][0]:.6f}")  # clipped to 0.05
      -0.004990

    References:
      https://arxiv.org/abs/1902.04043

      https://github.com/oxwhirl/pymarl/blob/master/src/config/default.yaml
    """
    _check(learning_rate, decay, eps, max_norm=max_norm)
    rms = dialects.pytorch(learning_rate, alpha=decay, eps=eps)
    return chain(clipping.clip_by_torch_norm(max_norm), rms)


@public
def a2c_stable_baselines(
    learning_rate: optax.ScalarOrSchedule = 7e-4,
    *,
    tf_like: bool = False,
    decay: ArrayLike = 0.99,
    eps: ArrayLike = 1e-5,
    max_norm: ArrayLike = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of A2C in Stable-Baselines3.

    The update of the parameters p with gradient g:

        g <- g min(1, 0.5 / (|g| + 1e-6))                |g| over all parameters
        v <- 0.99 v + 0.01 g^2                           starting at 0; at 1 if tf_like
        p <- p - learning_rate g / (sqrt(v) + 1e-5)      g / sqrt(v + 1e-5) if tf_like

    The numbers are defaults in stable_baselines3/a2c/a2c.py: `learning_rate` 7e-4, `rms_prop_eps`
    1e-5, `max_grad_norm` 0.5, and alpha=0.99 in the `optimizer_kwargs` that `use_rms_prop` gives to
    PyTorch's RMSprop. With tf_like, it is `RMSpropTFLike` with eps=1e-5 and its default alpha of
    0.99, which the documentation advises where training is unstable or has to match
    Stable-Baselines 2, and RL Baselines3 Zoo uses on Atari (`atari` in hyperparams/a2c.yml).

    Not part of the optimizer: losses are means over the rollout.

    Args:
      learning_rate: a number or a schedule. The default is constant; the zoo's `lin_7e-4`, for
        continuous control, is `optax.linear_schedule(7e-4, 0.0, updates)`.
      tf_like: follow TensorFlow's RMSProp, as above.
      decay: of the average of squares.
      eps: outside of the root; under it if tf_like.
      max_norm: of all gradients together.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.a2c_stable_baselines(tf_like=True)
      >>> g = jnp.array([0.4])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(f"{updates[0]:.6f}")  # -7e-4 0.4 / sqrt(0.99 + 0.01 0.4^2 + 1e-5)
      -0.000281

    References:
      https://github.com/DLR-RM/stable-baselines3/blob/master/stable_baselines3/a2c/a2c.py

      https://github.com/DLR-RM/stable-baselines3/blob/master/docs/modules/a2c.rst

      https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/a2c.yml
    """
    _check(learning_rate, decay, eps, max_norm=max_norm)
    dialect = dialects.stable_baselines3 if tf_like else dialects.pytorch
    rms = dialect(learning_rate, alpha=decay, eps=eps)
    return chain(clipping.clip_by_torch_norm(max_norm), rms)


@public
def efficientnet(
    steps_per_epoch: float,
    batch_size: int,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.016,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 0.001,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of EfficientNet on ImageNet (Tan and Le, 2019).

    The update number n (from 0) of a variable p with gradient g:

        peak <- 0.016 batch_size / 256
        lr <- peak 0.97^floor(n / (2.4 steps_per_epoch))
        lr <- peak n / warmup                            if n < warmup = 5 steps_per_epoch
        ms <- 0.9 ms + 0.1 g^2                           starting at 1
        mom <- 0.9 mom + lr g / sqrt(ms + 0.001)
        p <- p - mom

    The numbers are in models/official/efficientnet of tensorflow/tpu: decay=0.9, momentum=0.9,
    epsilon=0.001 in `build_optimizer` and the two schedules in `build_learning_rate` of utils.py;
    the flags `base_learning_rate` 0.016 for a batch of 256, `lr_decay_factor` 0.97,
    `lr_decay_epoch` 2.4 and `lr_warmup_epochs` 5 in main.py. The decay counts from the first
    update, so 0.97^2 is due when the warm-up ends. The optimizer is TensorFlow 1's.

    Not part of the optimizer: an L2 loss, for which you put `optax.add_decayed_weights(1e-5,
    mask)` in front in an `optax.chain`, its mask leaving out batch normalization; an average of the
    weights with a decay of 0.9999 that the evaluation uses; label smoothing of 0.1.

    Args:
      steps_per_epoch: updates per epoch, at least 0.5; in the source the quotient 1281167 /
        batch_size, which need not be whole.
      batch_size: of all devices together, more than 0: 2048 in the source.
      learning_rate: for a batch of 256, before the schedule; or a schedule instead.
      decay: of the average of squares.
      momentum: rate of mom.
      eps: under the root.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.efficientnet(steps_per_epoch=1281167 / 2048, batch_size=2048)
      >>> g = jnp.array([1.0])
      >>> first, state = tx.update(g, tx.init(g))
      >>> second, state = tx.update(g, state)
      >>> print(f"{first[0]:.1e} {second[0]:.1e}")  # the warm-up starts at 0
      0.0e+00 -4.1e-05

    References:
      https://arxiv.org/abs/1905.11946

      https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/utils.py

      https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/main.py
    """
    _check_steps_per_epoch(steps_per_epoch)
    _check_counts(batch_size=batch_size)
    _check(learning_rate, decay, eps, momentum=momentum)

    def schedule(base):
        peak, warmup = base * batch_size / 256, int(5 * steps_per_epoch)
        return _warm_up(0.0, peak, warmup, _staircase(peak, 2.4 * steps_per_epoch, 0.97))

    rate = _scheduled(learning_rate, schedule)
    return dialects.tensorflow1(rate, decay=decay, momentum=momentum, epsilon=eps)


@public
def mobilenet_v3(
    steps_per_epoch: int,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.01,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 0.002,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of MobileNetV3 on ImageNet, as in TensorFlow's Model Garden.

    The update number n (from 0) of a variable p with gradient g, for batches of 4096:

        lr <- 0.01 0.99^floor(n / (3 steps_per_epoch))
        lr <- 0.001 + (0.0099 - 0.001) n / warmup        if n < warmup = 5 steps_per_epoch
        v <- 0.9 v + 0.1 g^2                             starting at 0
        m <- 0.9 m + lr g / sqrt(v + 0.002)
        p <- p - m

    The numbers are in imagenet_mobilenetv3small_tpu.yaml, under `optimizer_config`: rho 0.9,
    momentum 0.9, epsilon 0.002; initial_learning_rate 0.01, decay_steps 936 ("3 *
    steps_per_epoch", which is 312), decay_rate 0.99, staircase; warmup_steps 1560,
    warmup_learning_rate 0.001. `OptimizerFactory` makes of them the legacy Keras RMSprop and
    `LinearWarmup`, which rises to what the decay has left when it ends. (The file for the large
    network trains with AdamW.)

    The paper has RMSProp with momentum 0.9, a batch of 4096 and a decay by 0.01 every 3 epochs,
    too, but from a learning rate of 0.1, and gives neither epsilon nor warm-up. (It was read in
    copies; the README of the authors' networks, in research/slim, has no hyperparameters either.)

    Not part of the optimizer: an L2 loss, for which you put `optax.add_decayed_weights(1e-5, mask)`
    in front in an `optax.chain`; an average of the weights with a decay of 0.9999 that the
    evaluation uses; label smoothing of 0.1; dropout of 0.2.

    Args:
      steps_per_epoch: updates per epoch, more than 0: 312 in the source. The source doesn't scale
        its learning rates with the batch.
      learning_rate: before the decay, to which the warm-up rises from 0.001; or a schedule instead.
      decay: of the average of squares.
      momentum: rate of m.
      eps: under the root.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.mobilenet_v3(steps_per_epoch=312)
      >>> g = jnp.array([1.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(f"{updates[0]:.6f}")  # -0.001 1 / sqrt(0.1 1^2 + 0.002)
      -0.003131

    References:
      https://arxiv.org/abs/1905.02244

      https://github.com/tensorflow/models/blob/master/official/vision/configs/experiments/image_classification/imagenet_mobilenetv3small_tpu.yaml

      https://github.com/tensorflow/models/blob/master/official/modeling/optimization/optimizer_factory.py

      https://github.com/tensorflow/models/blob/master/official/modeling/optimization/lr_schedule.py
    """
    _check_counts(steps_per_epoch=steps_per_epoch)
    _check(learning_rate, decay, eps, momentum=momentum)

    def schedule(base):
        falling = _staircase(base, 3 * steps_per_epoch, 0.99)
        return _warm_up(0.001, base * 0.99, 5 * steps_per_epoch, falling)

    rate = _scheduled(learning_rate, schedule)
    return dialects.tf_keras_legacy(rate, rho=decay, momentum=momentum, epsilon=eps)


@public
def inception_v3(
    steps_per_epoch: float,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.045,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of Inception v3 on ImageNet (Szegedy et al., 2015), trained on many replicas.

    The update number n (from 0) of a variable p with gradient g:

        lr <- 0.045 0.94^floor(n / int(2 steps_per_epoch))
        ms <- 0.9 ms + 0.1 g^2                           starting at 1
        mom <- 0.9 mom + lr g / sqrt(ms + 1.0)
        p <- p - mom

    The numbers are in inception/inception/inception_distributed_train.py of tensorflow/models (in
    its history; in research/inception later on): the flags `initial_learning_rate` 0.045,
    `num_epochs_per_decay` 2.0, `learning_rate_decay_factor` 0.94, and the constants `RMSPROP_DECAY`
    0.9, `RMSPROP_MOMENTUM` 0.9, `RMSPROP_EPSILON` 1.0. The optimizer is TensorFlow 1's. The paper
    has the same ones except the momentum, which it doesn't mention with RMSProp. For one machine
    with a batch of 256, inception_train.py has the same constants with 0.1, 30.0 and 0.16.

    Not part of the optimizer: the gradients of all replicas are averaged; the evaluation uses an
    average of the weights; label smoothing. The paper also clips gradients at 2.0 without saying
    which norm; the code doesn't.

    Args:
      steps_per_epoch: updates per epoch, those of all replicas together being one; at least 0.5.
        The source divides the images by the batch size and by the replicas, and the quotient need
        not be whole.
      learning_rate: at the start, or a schedule instead.
      decay: of the average of squares.
      momentum: rate of mom.
      eps: under the root.

    Returns:
      A transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.inception_v3(steps_per_epoch=800)
      >>> g = jnp.array([1.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(f"{updates[0]:.6f}")  # -0.045 1 / sqrt(0.9 + 0.1 1^2 + 1.0)
      -0.031820

    References:
      https://arxiv.org/abs/1512.00567

      https://github.com/tensorflow/models/blob/147e2c81323f690878ebeb9ff153761868228c96/inception/inception/inception_distributed_train.py

      https://github.com/tensorflow/models/blob/b002a401820d5f721e3ae77ed96dc8815dd60ee2/research/inception/inception/inception_train.py
    """
    _check_steps_per_epoch(steps_per_epoch)
    _check(learning_rate, decay, eps, momentum=momentum)
    steps = int(2 * steps_per_epoch)
    rate = _scheduled(learning_rate, lambda start: _staircase(start, steps, 0.94))
    return dialects.tensorflow1(rate, decay=decay, momentum=momentum, epsilon=eps)


@public
def dpo(
    learning_rate: optax.ScalarOrSchedule = 5e-7,
    *,
    decay: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    max_norm: ArrayLike = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp of direct preference optimization (Rafailov et al., 2023).

    The update number n (from 0) of the parameters p with gradient g:

        g <- g min(1, 10 / (|g| + 1e-6))                 |g| over all parameters
        v <- 0.99 v + 0.01 g^2                           starting at 0
        lr <- 5e-7 min(1, (n + 1) / 151)
        p <- p - lr g / (sqrt(v) + 1e-8)

    The numbers are in config/config.yaml of the authors' code: `optimizer` RMSprop ("because it
    works about as well as Adam and is more memory-efficient"), `lr` 5e-7, `max_grad_norm` 10.0,
    `warmup_steps` 150; the schedule is the lambda of `LambdaLR` in `BasicTrainer.train` of
    trainers.py, where 0.99 and 1e-8 are left to the defaults of PyTorch's RMSprop. After the
    warm-up the learning rate stays.

    Not part of the optimizer: the loss is a mean over the pairs of a batch. The supervised
    fine-tuning before it uses the same optimizer.

    Args:
      learning_rate: after the warm-up, or a schedule instead.
      decay: of the average of squares.
      eps: outside of the root.
      max_norm: of all gradients together.

    Returns:
      A transformation. Parameters in bfloat16 can't take such small steps: keep a float32 copy.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import recipes
      >>> tx = recipes.dpo()
      >>> g = jnp.array([1.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(f"{updates[0]:.2e}")  # -5e-7 / 151 / sqrt(0.01)
      -3.31e-08

    References:
      https://arxiv.org/abs/2305.18290

      https://github.com/eric-mitchell/direct-preference-optimization/blob/main/config/config.yaml

      https://github.com/eric-mitchell/direct-preference-optimization/blob/main/trainers.py
    """
    _check(learning_rate, decay, eps, max_norm=max_norm)
    rate = _scheduled(learning_rate, lambda peak: _line(peak / 151, peak, 150))
    return chain(
        clipping.clip_by_torch_norm(max_norm), dialects.pytorch(rate, alpha=decay, eps=eps)
    )


def _scheduled(learning_rate: Any, schedule: Callable[[Any], optax.Schedule]) -> Any:
    """The schedule of the source from a number; a schedule of the user's stays what it is."""
    return learning_rate if callable(learning_rate) else schedule(learning_rate)


def _line(start: Any, stop: Any, steps: float) -> optax.Schedule:
    """From start to stop, and then stop; `steps` need not be whole."""
    # As a float, since Optax divides integers in float32 even if all else is in float64.
    return optax.linear_schedule(start, stop, float(steps))  # type: ignore[arg-type]


def _staircase(rate: Any, steps: float, factor: float) -> optax.Schedule:
    """TensorFlow's `exponential_decay` with staircase=True; `steps` need not be whole."""
    return optax.exponential_decay(rate, float(steps), factor, staircase=True)  # type: ignore[arg-type]


def _warm_up(start: float, stop: Any, steps: int, schedule: optax.Schedule) -> optax.Schedule:
    """A line for some steps, during which the schedule that follows is counting already."""
    line = _line(start, stop, steps)
    return lambda count: jnp.where(jnp.less(count, steps), line(count), schedule(count))


def _check(
    learning_rate: Any, decay: Any, eps: Any, *, momentum: Any = None, max_norm: Any = None
) -> None:
    """Raises for a number out of its range, by the name that it has in all recipes."""
    check_rate(learning_rate=learning_rate)
    check_fraction(decay=decay)
    check_nonnegative(eps=eps)
    check_optional(momentum=momentum)
    check_positive(max_norm=max_norm)


def _check_steps_per_epoch(steps_per_epoch: float) -> None:
    """Raises unless a staircase over two epochs has steps of one update or more."""
    check_nonnegative(steps_per_epoch=steps_per_epoch)
    if steps_per_epoch < 0.5:
        raise ValueError(f"steps_per_epoch={steps_per_epoch!r} must be at least 0.5.")


def _check_counts(**numbers: Any) -> None:
    """Raises unless numbers are positive integers."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name}={number!r} must be a positive integer.")
