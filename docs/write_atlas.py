"""Writes `docs/atlas.md` from the data in `rmsprop_jax/frameworks/atlas.py`."""

import pathlib

from rmsprop_jax.frameworks.atlas import ROWS

PAGE = pathlib.Path(__file__).with_name("atlas.md")
HEAD = """\
<!-- Written by docs/write_atlas.py: change rmsprop_jax/frameworks/atlas.py instead. -->

# Which RMSProp is which

Frameworks mean different algorithms by RMSProp: where eps stands, what the average starts at, on
which side of the momentum the learning rate is, how weights decay. Yours isn't named in
`dialects`? Then this is the call. `rmsprop-jax dialects r torch` finds it in a terminal, and
`find` in Python:

```python
import jax.numpy as jnp
import optax
from rmsprop_jax import dialects, recipes, rmsprop, scale_by_rms

print(dialects.find("r torch"))
```

The numbers in a call are those of its source, mostly the defaults: put yours in their place. Each
call was run for 200 steps in float64, beside what its row names: numbers that the real package
made (recorded, with its version), or a formula in `tests/support/atlas_formulas.py`, written from
its source or its documentation. The difference is the largest of any parameter, in units of the
largest parameter.
"""
TAIL = """\
## Not here, and why

{missing}

## What several have in common

**Weight decay that isn't multiplied by the learning rate** (Gorgonia, brain.js, Flashlight) is
`optax.add_decayed_weights` with the sign turned, after the dialect. `dialects.keras(weight_decay=)`
is multiplied by it.

```python
tx = optax.chain(dialects.keras(1e-3), optax.add_decayed_weights(-1e-4))
```

**Clipping after the square was taken** (brain.js, Gorgonia, neon), and other numerators than the
gradient, are the argument `numerator` of `scale_by_rms`.

```python
tx = optax.chain(
    scale_by_rms(0.95, numerator=optax.clip_by_global_norm(5.0)),
    optax.scale_by_learning_rate(1e-3),
)
```

**A start at the first squared gradient** (SVGD, Stan's ADVI, Pyro) is a schedule of the decay.

```python
tx = rmsprop(1e-3, decay=lambda t: jnp.where(t == 0, 0.0, 0.9), eps=1e-6)
```

**`rmsprop_pytorch_style`** of Cleanba and Stoix has PyTorch's eps and Optax's momentum, with the
learning rate inside of it.

```python
tx = dialects.optax(1e-3, decay=0.99, eps=1e-2, eps_in_sqrt=False, momentum=0.9)
```

**The `decay` of Keras 1 and 2** is a schedule of the learning rate.

```python
tx = rmsprop(lambda t: 1e-3 / (1 + 0.01 * t), 0.9, 1e-8)
```
"""


def page() -> str:
    """The page as text."""
    lines = [HEAD, "| RMSProp | also | call | what to know | difference from |", "|" + "---|" * 5]
    for row in ROWS:
        if row.call:
            also = ", ".join(row.also)
            lines.append(f"| {row.name} | {also} | `{row.call}` | {row.differs} | {row.checked} |")
    missing = [f"- **{row.name}.** {row.differs}" for row in ROWS if not row.call]
    return "\n".join([*lines, "", TAIL.format(missing="\n".join(missing))])


if __name__ == "__main__":
    PAGE.write_text(page())
