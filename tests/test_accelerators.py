"""What the compilers for a TPU and a GPU make of updates; where they are installed."""

import importlib
import importlib.util

import pytest

TARGETS = {"v5e": "libtpu", "h100": "jax_cuda12_plugin"}
NAMES = (
    "rmsprop",
    "centered",
    "centered momentum",
    "U16",
    "BF16",
    "U8",
    "U8 +d",
    "adamw BF16 U8",
    "bf16 the same U8 +d",
    "bf16 compensate",
    "bf16 comp. BF16",
    "bf16 comp. BF16 U8",
)
IS_MISSING = {target: importlib.util.find_spec(name) is None for target, name in TARGETS.items()}


@pytest.fixture(scope="module", params=TARGETS)
def compiler(request):
    if IS_MISSING[request.param]:
        pytest.skip(f"{TARGETS[request.param]} isn't installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("benchmarks")
        accelerators = importlib.import_module("accelerators")
        return accelerators, accelerators.devices_of(request.param)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_one_loop_over_what_it_needs(name, compiler):
    accelerators, devices = compiler
    tx, apply, dtype = accelerators.updates()[name]
    params = accelerators.array((accelerators.SIZE,), dtype, devices[:1])
    program, _ = accelerators.step(tx, apply, params, devices)
    found = accelerators.figures(program, accelerators.SIZE)
    assert found["bytes"] == pytest.approx(accelerators.ideal(tx, params) / accelerators.SIZE, 0.01)
    assert found["temporary"] < 0.01
    whole = ("loops", "copies", "collectives", "64 bit")
    assert [found[column] for column in whole] == [1, 0, 0, 0]


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_a_new_state_is_split_and_nothing_is_exchanged(name, compiler):
    accelerators, devices = compiler
    found = accelerators.sharded(*accelerators.updates()[name], devices)
    assert found["after init"] == pytest.approx(found["state"], rel=0.01)
    assert found["exchanged"] == 0
