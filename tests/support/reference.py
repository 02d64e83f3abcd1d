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
    shape = g.shape
    g = g.reshape(len(g), -1)
    updates = np.empty_like(g)
    for t in range(1, len(g) + 1):
        past = g[:t]
        age = np.arange(t - 1, -1, -1.0)
        weights = ((1 - decay) * decay**age)[:, None]
        weight_of_start = decay**t
        if bias_correction:
            weights, weight_of_start = weights / weights.sum(), 0.0
        if centered:
            mean = np.sum(weights * past, axis=0)
            nu = np.sum(weights * np.abs(past - mean) ** 2, axis=0)
            nu += weight_of_start * np.abs(mean) ** 2  # the average started from a gradient of 0
        else:
            nu = np.sum(weights * np.abs(past) ** 2, axis=0)
        nu += weight_of_start * initial_scale
        root = np.sqrt(nu + eps) if eps_in_sqrt else np.sqrt(nu) + eps
        updates[t - 1] = np.divide(g[t - 1], root, out=np.zeros_like(g[t - 1]), where=root != 0)
    return updates.reshape(shape)
