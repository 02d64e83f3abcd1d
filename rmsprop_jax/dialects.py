"""Every framework's RMSProp: its own argument names, order and defaults, and its own numbers.

Each function is one `optax.chain`, and reading the chain is reading the algorithm. What the real
frameworks compute is followed to the rounding error, with four exceptions that all dialects share:

1. Where a framework subtracts the squared mean from the mean square to center (a difference that
   cancels, goes negative and becomes NaN), a dialect has the exact variance, see `scale_by_rms`.
2. For float16 and bfloat16 parameters, accumulators are float32 and all is computed in float32;
   frameworks round to the dtype of the parameters, and stop following small changes.
3. 0/0, which can happen if eps = 0, is 0, and an infinite gradient doesn't poison the accumulators.
4. Complex gradients are scaled by their modulus. The exception is `pytorch`, which documents what
   it does with them; the others square them as complex numbers or refuse them.

In all of them, a learning rate may be a schedule, a function of the number of updates made. A
momentum or weight decay given as the Python number 0, or as `None`, leaves its part out, and the
buffer with it; one given as an array is always built, as it may be traced. A parameter group of
another framework is one branch of `optax.partition`.
"""

from typing import Any

import jax
import numpy as np

# Under another name, since the function `optax` below would hide the module.
import optax as _optax
from jax.typing import ArrayLike

from rmsprop_jax import parts
from rmsprop_jax.compiled import compiled
from rmsprop_jax.transform import check_range, scale_by_rms

__all__ = [
    "burn",
    "graves",
    "keras",
    "mlx",
    "optax",
    "paddle",
    "pytorch",
    "sonnet",
    "stable_baselines3",
    "tensorflow1",
    "tf_keras_legacy",
    "timm",
]


@compiled
def pytorch(
    lr: _optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0,
    centered: bool = False,
    capturable: bool = False,
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
) -> _optax.GradientTransformation:
    """RMSProp of PyTorch, `torch.optim.RMSprop`.

    The update of a parameter p with gradient g:

        g <- -g                                          if maximize
        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 0
        u <- g / (sqrt(v) + eps)                         v - E[g]^2 for v if centered
        buffer <- momentum buffer + u;  u <- buffer
        p <- p - lr u

    It differs from `rmsprop` as follows:

    1. The defaults are lr = 1e-2 and alpha = 0.99.
    2. maximize negates the gradient, not the update: the weights still decay towards 0.
    3. The real and imaginary parts of a complex parameter are averaged and divided as two real
       parameters. PyTorch's gradient of a complex parameter is the conjugate of `jax.grad`'s.

    PyTorch gives NaN for some centered gradients, among them constant ones; here the variance is
    exact.

    Args:
      lr: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.
      capturable: without effect here; it concerns CUDA graphs.
      foreach: without effect here; it chooses an implementation.
      maximize: ascend the gradients given.
      differentiable: without effect here; every update in JAX is differentiable.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients. For a complex leaf, the accumulators are pairs of real arrays.

    Raises:
      ValueError: for a number out of its range and for an array that is no scalar.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.pytorch(lr=0.01, alpha=0.75)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(params))
      >>> print(updates)
      [-0.02  0.02]

    References:
      https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html
    """
    del capturable, foreach, differentiable
    check_range("alpha", alpha, upper=1.0)
    _check(lr=lr, eps=eps, weight_decay=weight_decay, momentum=momentum)
    return parts.by_component(
        _optax.chain(
            _optax.scale(-1.0) if maximize else _optax.identity(),
            parts.coupled_decay(weight_decay),
            scale_by_rms(alpha, eps, centered=centered),
            parts.trace(momentum),
            _optax.scale_by_learning_rate(lr),
        )
    )


@compiled
def timm(
    lr: _optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.9,
    eps: ArrayLike = 1e-10,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0.0,
    centered: bool = False,
    decoupled_decay: bool = False,
    corrected_weight_decay: bool = False,
    lr_in_momentum: bool = True,
    caution: bool = False,
    foreach: bool | None = None,
    *,
    max_lr: ArrayLike | None = None,
) -> _optax.GradientTransformation:
    """RMSProp of timm, `timm.optim.RMSpropTF`: TensorFlow's in PyTorch, and more.

    The update of a parameter p with gradient g:

        p <- (1 - lr weight_decay) p                     if decoupled_decay; lr^2 / max_lr for
                                                         lr if corrected_weight_decay
        g <- g + weight_decay p                          if not decoupled_decay
        v <- alpha v + (1 - alpha) g^2                   starting at 1
        u <- g / sqrt(v + eps)                           v - E[g]^2 for v if centered
        buffer <- momentum buffer + lr u;  p <- p - buffer

    With lr_in_momentum=False, the last line is

        buffer <- momentum buffer + u;  p <- p - lr buffer

    With caution, p moves only where the buffer has the sign of g, and there by 1 / max(share,
    1e-3) of the buffer, share being the part of the array's elements that move.

    It differs from `rmsprop` as follows:

    1. v starts at 1, and eps is inside the root.
    2. lr is inside the buffer, unless lr_in_momentum=False.
    3. The weight decay may be decoupled, and caution is of its own.
    4. The defaults are lr = 1e-2 and eps = 1e-10.

    timm gives NaN for some centered gradients that hardly vary; here the variance is exact.

    Args:
      lr: 0 or more; or a schedule.
      alpha: rate of the average of squares, in [0, 1).
      eps: added under the root, 0 or more.
      weight_decay: 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.
      decoupled_decay: shrink p itself, not by way of g.
      corrected_weight_decay: with decoupled_decay, shrink by lr^2 / max_lr; without it, no effect.
      lr_in_momentum: keep lr inside the buffer, as TensorFlow does.
      caution: as above; without momentum it has no effect, as in timm.
      foreach: without effect here; it chooses an implementation.
      max_lr: the highest learning rate, more than 0. timm takes it from the lr that its optimizer
        is built with, which is right for a constant lr here too, but a schedule doesn't tell it.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range, and for corrected_weight_decay with a schedule but
        without max_lr.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.timm(lr=0.5, weight_decay=0.25, decoupled_decay=True)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> print(updates)
      [-0.125 -0.25 ]

    References:
      https://github.com/huggingface/pytorch-image-models/blob/main/timm/optim/rmsprop_tf.py

      Decoupled weight decay: https://arxiv.org/abs/1711.05101

      Corrected weight decay: https://arxiv.org/abs/2506.02285

      Caution: https://arxiv.org/abs/2411.16085
    """
    del foreach
    check_range("alpha", alpha, upper=1.0)
    _check(lr=lr, eps=eps, weight_decay=weight_decay, momentum=momentum)
    _check_positive(max_lr=max_lr)
    if corrected_weight_decay and callable(lr) and max_lr is None:
        raise ValueError("corrected_weight_decay with a schedule needs the schedule's max_lr.")
    coupled, decoupled = (0, weight_decay) if decoupled_decay else (weight_decay, 0)
    rate, trace = _optax.scale_by_learning_rate(lr), parts.trace(momentum)
    rms = scale_by_rms(alpha, eps, eps_in_sqrt=True, initial_scale=1.0, centered=centered)
    step = _optax.chain(rms, rate, trace) if lr_in_momentum else _optax.chain(rms, trace, rate)
    return _optax.chain(
        parts.coupled_decay(coupled),
        parts.cautious(step) if caution and parts.given(momentum) else step,
        parts.decoupled_decay(lr, decoupled, max_lr if corrected_weight_decay else None),
    )


@compiled
def stable_baselines3(
    lr: _optax.ScalarOrSchedule = 1e-2,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0,
    momentum: ArrayLike = 0,
    centered: bool = False,
) -> _optax.GradientTransformation:
    """RMSProp of Stable-Baselines3, `RMSpropTFLike`.

    The update of a parameter p with gradient g:

        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 1
        u <- g / sqrt(v + eps)                           v - E[g]^2 for v if centered
        buffer <- momentum buffer + u;  u <- buffer
        p <- p - lr u

    It differs from `rmsprop` as follows:

    1. v starts at 1, and eps is inside the root, as in TensorFlow; the learning rate isn't inside
       the buffer, unlike in TensorFlow.
    2. The defaults are lr = 1e-2 and alpha = 0.99. (A2C passes lr = 7e-4 and eps = 1e-5.)

    The real one gives NaN for some centered gradients, among them constant ones; here the variance
    is exact.

    Args:
      lr: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      eps: added under the root, 0 or more.
      weight_decay: coupled, 0 or more; unless 0, `update` needs `params`.
      momentum: rate of the buffer, 0 or more.
      centered: divide by the standard deviation of the gradients.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.stable_baselines3(lr=0.5, alpha=0.75, eps=0.25)
      >>> params = jnp.zeros(1)
      >>> updates, state = tx.update(jnp.array([2.0]), tx.init(params))
      >>> print(f"{updates[0]:.4f}")  # -0.5 2 / sqrt(0.75 + 0.25 2^2 + 0.25)
      -0.7071

    References:
      https://github.com/DLR-RM/stable-baselines3/blob/master/stable_baselines3/common/sb2_compat/rmsprop_tf_like.py
    """
    check_range("alpha", alpha, upper=1.0)
    _check(lr=lr, eps=eps, weight_decay=weight_decay, momentum=momentum)
    return _optax.chain(
        parts.coupled_decay(weight_decay),
        scale_by_rms(alpha, eps, eps_in_sqrt=True, initial_scale=1.0, centered=centered),
        parts.trace(momentum),
        _optax.scale_by_learning_rate(lr),
    )


@compiled
def keras(
    learning_rate: _optax.ScalarOrSchedule = 0.001,
    rho: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-7,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    global_clipnorm: ArrayLike | None = None,
    use_ema: bool = False,
    ema_momentum: ArrayLike = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: ArrayLike | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
) -> _optax.GradientTransformation:
    """RMSProp of Keras 3, `keras.optimizers.RMSprop`; and of Keras 2 from TensorFlow 2.11 on.

    The update of a variable p with gradient g:

        g <- g / loss_scale_factor
        g <- g clipnorm / max(|g|, clipnorm)             |g| over the elements of the variable
        g <- g global_clipnorm / max(|g|, ...)           |g| over all variables
        g <- clip(g, -clipvalue, clipvalue)
        p <- p - learning_rate weight_decay p
        v <- rho v + (1 - rho) g^2                       starting at 0
        u <- g / sqrt(v + epsilon)                       v - E[g]^2 for v if centered
        m <- momentum m + learning_rate u;  p <- p - m

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root: epsilon = 1e-7 here does what 3e-4 does outside.
    2. The learning rate is inside the momentum.
    3. The weight decay is decoupled: it doesn't enter v.
    4. It clips gradients and takes back the scaling of a loss.
    5. The default of epsilon is 1e-7.

    Keras gives NaN for some centered gradients, among them constant ones; here the variance is
    exact. What Keras leaves out by `exclude_from_weight_decay` is here a second `keras` without
    weight decay in `optax.partition`.

    Args:
      learning_rate: 0 or more; or a schedule, which unlike a callable of Keras is given the number
        of updates made.
      rho: rate of the average of squares, in [0, 1).
      momentum: in [0, 1].
      epsilon: added under the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: decoupled, 0 or more; if given, `update` needs `params`.
      clipnorm: largest norm of the gradient of a variable, more than 0.
      clipvalue: largest absolute value of an element, more than 0.
      global_clipnorm: largest norm of all gradients together, more than 0. At most one of the
        three.
      use_ema: must be false.
      ema_momentum: without effect, since use_ema is.
      ema_overwrite_frequency: without effect, since use_ema is.
      loss_scale_factor: divides the gradients, more than 0; multiplying the loss is up to you.
      gradient_accumulation_steps: must be `None`.
      name: without effect here.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range, for more than one kind of clipping, and for
        use_ema and gradient_accumulation_steps, naming the part of Optax that does it.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.keras(learning_rate=0.1)
      >>> var1 = jnp.array(10.0)
      >>> updates, state = tx.update(var1, tx.init(var1))
      >>> print(f"{var1 + updates:.6f}")  # the example of Keras's own documentation
      9.683772

    References:
      https://keras.io/api/optimizers/rmsprop/
    """
    del name, ema_momentum, ema_overwrite_frequency
    check_range("rho", rho, upper=1.0)
    _check(learning_rate=learning_rate, epsilon=epsilon, weight_decay=weight_decay)
    _check_momentum(momentum)
    _check_positive(loss_scale_factor=loss_scale_factor)
    _check_one_of(clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm)
    _refuse_keras_wrappers(use_ema, gradient_accumulation_steps)
    return _optax.chain(
        parts.unscale(loss_scale_factor),
        parts.clip(clipvalue, clipnorm, global_clipnorm),
        scale_by_rms(rho, epsilon, eps_in_sqrt=True, centered=centered),
        _optax.scale_by_learning_rate(learning_rate),
        parts.trace(momentum),
        parts.decoupled_decay(learning_rate, weight_decay, as_factor=False),
    )


@compiled
def tf_keras_legacy(
    learning_rate: _optax.ScalarOrSchedule = 0.001,
    rho: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike | None = 1e-7,
    centered: bool = False,
    name: str = "RMSprop",
    *,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    global_clipnorm: ArrayLike | None = None,
    lr: _optax.ScalarOrSchedule | None = None,
    decay: ArrayLike = 0.0,
) -> _optax.GradientTransformation:
    """RMSProp of Keras 2 before TensorFlow 2.11, today `tf_keras.optimizers.legacy.RMSprop`.

    The update number t (from 0) of a variable p with gradient g:

        g <- clip(g, -clipvalue, clipvalue)
        g <- g clipnorm / max(|g|, clipnorm)             |g| over the elements of the variable
        g <- g global_clipnorm / max(|g|, ...)           |g| over all variables
        v <- rho v + (1 - rho) g^2                       starting at 0
        u <- g / (sqrt(v) + epsilon)                     v - E[g]^2 for v if centered
        p <- p - learning_rate / (1 + decay t) u

    With momentum, epsilon moves inside the root, and the last two lines are

        u <- g / sqrt(v + epsilon)
        m <- momentum m + learning_rate / (1 + decay t) u;  p <- p - m

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root with momentum, and outside without. A momentum given as an array
       counts as momentum, whatever its value, as a tensor does there.
    2. epsilon = 0 and epsilon = `None` silently mean 1e-7, which is the default.
    3. The learning rate is inside the momentum.
    4. It clips gradients and has an inverse-time decay of the learning rate.

    The real one gives NaN for some centered gradients, among them constant ones; here the variance
    is exact.

    Args:
      learning_rate: 0 or more; or a schedule, which unlike a callable of Keras is given the number
        of updates made.
      rho: rate of the average of squares, in [0, 1).
      momentum: in [0, 1].
      epsilon: added to the denominator, 0 or more; see 1 and 2.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.
      clipnorm: largest norm of the gradient of a variable, more than 0.
      clipvalue: largest absolute value of an element, more than 0.
      global_clipnorm: largest norm of all gradients together, more than 0; not with clipnorm.
      lr: an older name of learning_rate, which it replaces if given.
      decay: of the learning rate (not of an average), 0 or more.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range, and for clipnorm with global_clipnorm.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tf_keras_legacy(learning_rate=0.1, rho=0.75, epsilon=1.0)
      >>> g = jnp.array([2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.1 2 / (1 + 1): epsilon is outside
      [-0.1]

    References:
      https://www.tensorflow.org/api_docs/python/tf/keras/optimizers/legacy/RMSprop
    """
    del name
    learning_rate = learning_rate if lr is None else lr
    eps = epsilon if parts.given(epsilon) else 1e-7
    check_range("rho", rho, upper=1.0)
    _check(learning_rate=learning_rate, epsilon=eps, decay=decay)
    _check_momentum(momentum)
    _check_positive(clipvalue=clipvalue)
    _check_one_of(clipnorm=clipnorm, global_clipnorm=global_clipnorm)
    return _optax.chain(
        parts.clip(clipvalue, clipnorm, global_clipnorm),
        scale_by_rms(rho, eps, eps_in_sqrt=parts.given(momentum), centered=centered),
        _optax.scale_by_learning_rate(parts.inverse_time_decay(learning_rate, decay)),
        parts.trace(momentum),
    )


@compiled
def tensorflow1(
    learning_rate: _optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-10,
    use_locking: bool = False,
    centered: bool = False,
    name: str = "RMSProp",
) -> _optax.GradientTransformation:
    """RMSProp of TensorFlow 1, `tf.compat.v1.train.RMSPropOptimizer`.

    The update of a variable p with gradient g:

        ms <- decay ms + (1 - decay) g^2                 starting at 1
        u <- g / sqrt(ms + epsilon)                      ms - E[g]^2 for ms if centered
        mom <- momentum mom + learning_rate u;  p <- p - mom

    It differs from `rmsprop` as follows:

    1. ms starts at 1: gradients much smaller than 1 make much shorter steps at first.
    2. epsilon is inside the root.
    3. The learning rate is inside the momentum.
    4. learning_rate has no default, and that of epsilon is 1e-10.

    The real one gives NaN for some centered gradients that hardly vary; here the variance is exact.

    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      use_locking: without effect here; it concerns concurrent updates.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.tensorflow1(0.1, decay=0.5)
      >>> g = jnp.array([1.0, 7.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # where rmsprop makes two equal steps
      [-0.1  -0.14]

    References:
      https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/RMSPropOptimizer
    """
    del use_locking, name
    _check(learning_rate=learning_rate, momentum=momentum, epsilon=epsilon)
    return _optax.chain(
        scale_by_rms(decay, epsilon, eps_in_sqrt=True, initial_scale=1.0, centered=centered),
        _optax.scale_by_learning_rate(learning_rate),
        parts.trace(momentum),
    )


@compiled
def sonnet(
    learning_rate: _optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    momentum: ArrayLike = 0.0,
    epsilon: ArrayLike = 1e-10,
    centered: bool = False,
    name: str | None = None,
) -> _optax.GradientTransformation:
    """RMSProp of Sonnet 2, `sonnet.optimizers.RMSProp`.

    The update of a parameter p with gradient g:

        ms <- decay ms + (1 - decay) g^2                 starting at 0
        u <- g / sqrt(ms + epsilon)                      ms - E[g]^2 for ms if centered
        mom <- momentum mom + learning_rate u;  p <- p - mom

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root.
    2. The learning rate is inside the momentum.
    3. learning_rate has no default, and that of epsilon is 1e-10.

    The real one gives NaN for some centered gradients, among them constant ones; here the variance
    is exact.

    Args:
      learning_rate: 0 or more; or a schedule.
      decay: rate of the average of squares, in [0, 1).
      momentum: 0 or more.
      epsilon: added under the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      name: without effect here.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.sonnet(0.1, decay=0.75, epsilon=0.75)
      >>> g = jnp.array([1.0, 0.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.1 1 / sqrt(0.25 + 0.75)
      [-0.1 -0. ]

    References:
      https://github.com/google-deepmind/sonnet/blob/v2/sonnet/src/optimizers/rmsprop.py
    """
    del name
    _check(learning_rate=learning_rate, momentum=momentum, epsilon=epsilon)
    return _optax.chain(
        scale_by_rms(decay, epsilon, eps_in_sqrt=True, centered=centered),
        _optax.scale_by_learning_rate(learning_rate),
        parts.trace(momentum),
    )


@compiled
def optax(
    learning_rate: _optax.ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> _optax.GradientTransformation:
    """RMSProp of Optax, in the place of `optax.rmsprop`.

    The update of a parameter p with gradient g:

        nu <- decay nu + (1 - decay) |g|^2               starting at initial_scale
        u <- g / sqrt(nu + eps)                          g / (sqrt(nu) + eps) if not eps_in_sqrt;
                                                         nu - |E g|^2 for nu if centered
        trace <- momentum trace + learning_rate u;  u <- trace, if momentum is given
        u <- momentum trace + learning_rate u            with nesterov, in addition
        p <- p - u

    It differs from `rmsprop` as follows:

    1. eps is inside the root by default, and decay, eps and others may be given by position.
    2. The learning rate is inside the momentum.
    3. learning_rate has no default. It may be negative, to ascend.
    4. nesterov without momentum has no effect, as in Optax.

    It differs from `optax.rmsprop` in its state, in what the module says of all dialects, and in
    that initial_scale and bias_correction can't be combined (the averages are kept corrected, so a
    start would be forgotten). With centered and bias_correction, the first variance is 0, where
    Optax has what the rounding of 0 leaves.

    Args:
      learning_rate: a number or a schedule.
      decay: rate of the average of squares, in [0, 1).
      eps: added to the denominator, 0 or more.
      initial_scale: value at which nu starts, 0 or more; 0 with bias_correction.
      eps_in_sqrt: add eps under the root, not outside.
      centered: divide by the standard deviation of the gradients.
      momentum: rate of the trace, 0 or more; `None` for none. (0 here makes a trace, as in Optax.)
      nesterov: look ahead by one step of momentum.
      bias_correction: free the averages of the value they start at.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range, and for initial_scale with bias_correction.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.optax(0.1, bias_correction=True)
      >>> g = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print([f"{u:.3f}" for u in updates])
      ['-0.100', '0.100']

    References:
      https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.rmsprop
    """
    _check(momentum=momentum)
    return _optax.chain(
        scale_by_rms(
            decay,
            eps,
            eps_in_sqrt=eps_in_sqrt,
            initial_scale=initial_scale,
            centered=centered,
            bias_correction=bias_correction,
        ),
        _optax.scale_by_learning_rate(learning_rate),
        _optax.identity() if momentum is None else _optax.trace(momentum, nesterov),
    )


@compiled
def paddle(
    learning_rate: _optax.ScalarOrSchedule,
    rho: ArrayLike = 0.95,
    epsilon: ArrayLike = 1e-6,
    momentum: ArrayLike = 0.0,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    grad_clip: None = None,
    name: str | None = None,
) -> _optax.GradientTransformation:
    """RMSProp of PaddlePaddle, `paddle.optimizer.RMSProp`.

    The update of a parameter p with gradient g:

        g <- g + weight_decay p
        r <- rho r + (1 - rho) g^2                       starting at 0
        u <- g / sqrt(r + epsilon)                       r - E[g]^2 for r if centered
        v <- momentum v + learning_rate u;  p <- p - v

    It differs from `rmsprop` as follows:

    1. epsilon is inside the root.
    2. The learning rate is inside the momentum. (It isn't Nesterov's, though Paddle's documentation
       says so.)
    3. learning_rate has no default; rho = 0.95 and epsilon = 1e-6 are the others.

    The real one gives NaN for some centered gradients, among them constant ones; here the variance
    is exact. MXNet's RMSProp with centered=False is this one too, its gamma1 being rho and its wd
    weight_decay.

    Args:
      learning_rate: 0 or more; or a schedule.
      rho: rate of the average of squares, in [0, 1).
      epsilon: added under the root, 0 or more.
      momentum: 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: coupled, 0 or more; if given, `update` needs `params`. Of Paddle's regularizers,
        this is `L2Decay`.
      grad_clip: must be `None`.
      name: without effect here.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range, and for grad_clip, which is a part of its own in
        Optax.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from rmsprop_jax import dialects
      >>> tx = optax.chain(optax.clip(1.0), dialects.paddle(0.5, rho=0.75, epsilon=0.75))
      >>> g = jnp.array([3.0, -4.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # -0.5 1 / sqrt(0.25 1^2 + 0.75)
      [-0.5  0.5]

    References:
      https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/optimizer/RMSProp_en.html
    """
    del name
    check_range("rho", rho, upper=1.0)
    _check(learning_rate=learning_rate, momentum=momentum, epsilon=epsilon)
    _check(weight_decay=weight_decay)
    _refuse_clipping("grad_clip", grad_clip)
    return _optax.chain(
        parts.coupled_decay(weight_decay),
        scale_by_rms(rho, epsilon, eps_in_sqrt=True, centered=centered),
        _optax.scale_by_learning_rate(learning_rate),
        parts.trace(momentum),
    )


@compiled
def mlx(
    learning_rate: _optax.ScalarOrSchedule,
    alpha: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
) -> _optax.GradientTransformation:
    """RMSProp of MLX, `mlx.optimizers.RMSprop`.

    The update of a parameter p with gradient g:

        v <- alpha v + (1 - alpha) g^2                   starting at 0
        p <- p - learning_rate g / (sqrt(v) + eps)

    It differs from `rmsprop` as follows:

    1. learning_rate has no default, and that of alpha is 0.99.
    2. There is nothing else: no momentum, no centering, no weight decay.

    Args:
      learning_rate: 0 or more; or a schedule.
      alpha: rate of the average of squares, in [0, 1).
      eps: added to the root, 0 or more. (MLX wants more than 0, for it divides by it.)

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.mlx(0.1, alpha=0.75)
      >>> g = jnp.array([1.0, -2.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)
      [-0.2  0.2]

    References:
      https://ml-explore.github.io/mlx/build/html/python/optimizers/_autosummary/mlx.optimizers.RMSprop.html
    """
    check_range("alpha", alpha, upper=1.0)
    _check(learning_rate=learning_rate, eps=eps)
    return _optax.chain(
        scale_by_rms(alpha, eps),
        _optax.scale_by_learning_rate(learning_rate),
    )


@compiled
def burn(
    learning_rate: _optax.ScalarOrSchedule,
    alpha: ArrayLike = 0.99,
    momentum: ArrayLike = 0.9,
    epsilon: ArrayLike = 1e-5,
    centered: bool = False,
    weight_decay: ArrayLike | None = None,
    grad_clipping: None = None,
) -> _optax.GradientTransformation:
    """RMSProp of burn, made by `RmsPropConfig`.

    The update of a parameter p with gradient g:

        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2                   starting at 0
        u <- g / (sqrt(v) + epsilon)                     v - E[g]^2 for v if centered
        buf <- momentum buf + u;  u <- buf
        p <- p - learning_rate u

    It differs from `rmsprop` as follows:

    1. It has momentum unless you say momentum=0, and alpha = 0.99 and epsilon = 1e-5.
    2. learning_rate has no default: burn is given it with each step.

    The real one gives NaN for some centered gradients, among them constant ones; here the variance
    is exact.

    Args:
      learning_rate: 0 or more; or a schedule. It multiplies the buffer as it stands.
      alpha: rate of the average of squares, in [0, 1).
      momentum: rate of the buffer, 0 or more.
      epsilon: added to the root, 0 or more.
      centered: divide by the standard deviation of the gradients.
      weight_decay: the penalty of burn's `WeightDecayConfig`, coupled, 0 or more; if given,
        `update` needs `params`.
      grad_clipping: must be `None`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range, and for grad_clipping, which is a part of its own
        in Optax.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.burn(0.01, alpha=0.75)
      >>> g = jnp.array([1.0, 0.0])
      >>> first, state = tx.update(g, tx.init(g))
      >>> second, state = tx.update(0 * g, state)  # coasting
      >>> print(f"{first[0]:.4f} {second[0]:.4f}")
      -0.0200 -0.0180

    References:
      https://github.com/tracel-ai/burn/blob/main/crates/burn-optim/src/optim/rmsprop.rs
    """
    check_range("alpha", alpha, upper=1.0)
    _check(learning_rate=learning_rate, momentum=momentum, epsilon=epsilon)
    _check(weight_decay=weight_decay)
    _refuse_clipping("grad_clipping", grad_clipping)
    return _optax.chain(
        parts.coupled_decay(weight_decay),
        scale_by_rms(alpha, epsilon, centered=centered),
        parts.trace(momentum),
        _optax.scale_by_learning_rate(learning_rate),
    )


@compiled
def graves(
    lr: _optax.ScalarOrSchedule = 1e-4,
    alpha: ArrayLike = 0.95,
    momentum: ArrayLike = 0.9,
    eps: ArrayLike = 1e-4,
) -> _optax.GradientTransformation:
    """RMSProp of Graves (2013), as in Chainer's `RMSpropGraves` and MXNet's `RMSProp`.

    The update of a parameter w with gradient e, equations 38 to 45 of the paper:

        n <- alpha n + (1 - alpha) e^2                   starting at 0
        g <- alpha g + (1 - alpha) e                     starting at 0
        delta <- momentum delta - lr e / sqrt(n - g^2 + eps)
        w <- w + delta

    It differs from `rmsprop` as follows:

    1. It is centered, always.
    2. eps is inside the root.
    3. The learning rate is inside the momentum.
    4. The defaults are those of the paper and of Chainer.

    The real ones give NaN for some gradients, among them constant ones; here the variance is exact.

    The arguments are Chainer's. Those of MXNet's RMSProp with centered=True are in the same order
    learning_rate, gamma1, gamma2, epsilon; with centered=False, MXNet ignores gamma2, and is
    `paddle` without momentum. A weight decay (Chainer's hook, MXNet's wd) goes in front:
    `optax.chain(optax.add_decayed_weights(rate), graves(...))`.

    Args:
      lr: 0 or more; or a schedule.
      alpha: rate of both averages, in [0, 1).
      momentum: 0 or more.
      eps: added under the root, 0 or more.

    Returns:
      An `optax.GradientTransformationExtraArgs`; updates have the shapes and dtypes of the
      gradients.

    Raises:
      ValueError: for a number out of its range.
      TypeError: for a number that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from rmsprop_jax import dialects
      >>> tx = dialects.graves(lr=0.5, alpha=0.5, eps=0.0)
      >>> g = jnp.array([1.0, -3.0])
      >>> updates, state = tx.update(g, tx.init(g))
      >>> print(updates)  # the variance is 0.5 g^2 - (0.5 g)^2
      [-1.  1.]

    References:
      https://arxiv.org/abs/1308.0850

      https://docs.chainer.org/en/stable/reference/generated/chainer.optimizers.RMSpropGraves.html

      https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/optimizer/index.html
    """
    check_range("alpha", alpha, upper=1.0)
    _check(lr=lr, momentum=momentum, eps=eps)
    return _optax.chain(
        scale_by_rms(alpha, eps, eps_in_sqrt=True, centered=True),
        _optax.scale_by_learning_rate(lr),
        parts.trace(momentum),
    )


def _check(**numbers: Any) -> None:
    """Raises unless numbers are scalars, 0 or more; or a schedule of learning rates; or `None`."""
    for name, number in numbers.items():
        if callable(number) if name in ("lr", "learning_rate") else number is None:
            continue
        check_range(name, number)
        if isinstance(number, jax.Array | np.ndarray) and number.ndim > 0:
            raise ValueError(f"{name} must be a scalar, and has the shape {number.shape}.")


def _check_positive(**numbers: Any) -> None:
    """Raises unless numbers are more than 0; `None` passes."""
    _check(**numbers)
    for name, number in numbers.items():
        if number is not None and not parts.given(number):
            raise ValueError(f"{name}=0 is out of range: it must be more than 0, or None.")


def _check_one_of(**numbers: Any) -> None:
    """Raises unless at most one number is given, and is more than 0."""
    _check_positive(**numbers)
    if sum(number is not None for number in numbers.values()) > 1:
        raise ValueError(f"Only one of {', '.join(numbers)} can be given.")


def _check_momentum(momentum: Any) -> None:
    """Raises unless Keras's momentum is in [0, 1], 1 included."""
    _check(momentum=momentum)
    if isinstance(momentum, int | float) and momentum > 1:
        raise ValueError(f"momentum={momentum!r} is out of range: it must be in [0, 1].")


def _refuse_keras_wrappers(use_ema: bool, gradient_accumulation_steps: int | None) -> None:
    """Raises for what Keras wraps around an optimizer."""
    if use_ema:
        raise ValueError(
            "use_ema: keep the average beside the parameters, after each update by average = "
            "optax.incremental_update(params, average, 1 - ema_momentum), or by optax.ema."
        )
    if gradient_accumulation_steps:
        raise ValueError(
            "gradient_accumulation_steps: wrap the optimizer in optax.MultiSteps(keras(...), "
            "every_k_schedule=steps). Its schedules count updates, where Keras's count batches."
        )


def _refuse_clipping(name: str, clipping: Any) -> None:
    """Raises for clipping objects of another framework, which all act before anything else."""
    if clipping is not None:
        raise ValueError(
            f"{name}: put the clipping in front, as in "
            "optax.chain(optax.clip_by_global_norm(1.0), ...) or with optax.clip."
        )
