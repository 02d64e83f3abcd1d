"""The specification of `scale_by_rms`, in float64 NumPy, from the definitions alone.

Nothing here is recursive: every average is written out as the weighted sum over all gradients that
it stands for, and the variance as the weighted sum of squared deviations from the mean. So an
error in a recursion of the library can't be an error here.
"""

import numpy as np


def scale_by_rms(
    gradients,
    decay=0.9,
    eps=1e-8,
    *,
    eps_in_sqrt=False,
    initial_scale=0.0,
    centered=False,
    bias_correction=False,
):
    """The updates [steps, ...] that belong to the gradients [steps, ...]."""
    g = np.asarray(gradients, np.complex128 if np.iscomplexobj(gradients) else np.float64)
    shape, steps = g.shape, np.arange(len(g))
    g = g.reshape(len(g), -1)
    # A row of weights for each step, of all gradients until then.
    weights = np.tril((1 - decay) * decay ** np.maximum(steps[:, None] - steps, 0.0))
    weight_of_start = decay ** (steps[:, None] + 1.0)
    if bias_correction:
        weights, weight_of_start = weights / weights.sum(1, keepdims=True), 0.0
    if centered:
        mean = weights @ g
        past = zip(steps + 1, weights, mean, strict=True)
        nu = np.array([w[:t] @ np.abs(g[:t] - m) ** 2 for t, w, m in past])
        nu += weight_of_start * np.abs(mean) ** 2  # the average started from a gradient of 0
    else:
        nu = weights @ np.abs(g) ** 2
    nu += weight_of_start * initial_scale
    root = np.sqrt(nu + eps) if eps_in_sqrt else np.sqrt(nu) + eps
    updates = np.divide(g, root, out=np.zeros_like(g), where=root != 0)
    return updates.reshape(shape)
