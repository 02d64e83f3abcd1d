"""Shapes of the parameters of EfficientNet, the network that RMSProp is best known for training.

From Table 1 of the paper (https://arxiv.org/abs/1905.11946) and the multipliers of width and depth
in its code: EfficientNet-B0 has 213 arrays of 5,288,548 parameters, B7 711 of 66,347,960.
"""

import math

MULTIPLIERS = {"EfficientNet-B0": (1.0, 1.0), "EfficientNet-B7": (2.0, 3.1)}
STAGES = [  # blocks, kernel, expansion, channels
    (1, 3, 1, 16),
    (2, 3, 6, 24),
    (2, 5, 6, 40),
    (3, 3, 6, 80),
    (3, 5, 6, 112),
    (4, 5, 6, 192),
    (1, 3, 6, 320),
]


def shapes(name):
    """Shapes of all parameters, convolutions as (height, width, in, out)."""
    width, depth = MULTIPLIERS[name]

    def channels(n):
        """A multiple of 8, and not below 90 % of what the multiplier says."""
        rounded = max(8, int(n * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * n * width else rounded

    def normalized(*convolution):
        """A convolution without a bias, then the scale and bias of its batch normalization."""
        return [convolution, convolution[-1:], convolution[-1:]]

    inside = channels(32)
    found = normalized(3, 3, 3, inside)
    for blocks, kernel, expansion, outside in STAGES:
        outside = channels(outside)
        for _ in range(math.ceil(depth * blocks)):
            wide, squeezed = expansion * inside, inside // 4
            if expansion > 1:
                found += normalized(1, 1, inside, wide)
            found += normalized(kernel, kernel, 1, wide)
            found += [(1, 1, wide, squeezed), (squeezed,), (1, 1, squeezed, wide), (wide,)]
            found += normalized(1, 1, wide, outside)
            inside = outside
    top = channels(1280)
    return [*found, *normalized(1, 1, inside, top), (top, 1000), (1000,)]
