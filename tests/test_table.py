"""The table of dialects says what the dialects do."""

from rmsprop_jax import dialects
from rmsprop_jax.table import dialect_table


def test_dialect_table():
    lines = [line.split("|")[1:-1] for line in dialect_table().splitlines()]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    cells = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert set(cells) == set(dialects.__all__)
    assert cells["timm"]["nu from"] == cells["tensorflow1"]["nu from"] == "1"
    assert cells["keras"]["nu from"] == "0"
    assert cells["pytorch"]["eps"] == "outside"
    assert cells["tf_keras_legacy"]["eps"] == "inside or outside"
    assert cells["pytorch"]["learning rate"] == "outside momentum"
    assert cells["tensorflow1"]["learning rate"] == "inside momentum"
    assert cells["graves"]["centered"] == "yes"
    assert cells["mlx"]["learning rate"] == "-"
    assert cells["timm"]["weight decay"] == "coupled or decoupled"
    assert cells["keras"]["weight decay"] == "decoupled"
    assert "momentum 0.9" in cells["burn"]["defaults"]
