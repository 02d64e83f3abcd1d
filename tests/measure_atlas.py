"""Prints `MEASURED` of `rmsprop_jax/frameworks/atlas.py`, to be pasted there."""

from test_atlas import measured

print("MEASURED: dict[str, tuple[str, float]] = {")
for name, (against, largest) in measured().items():
    print(f'    "{name}": ("{against}", {largest:.1e}),')
print("}")
