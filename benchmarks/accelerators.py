"""What the compilers for TPUs and GPUs make of an update, without such a device.

    pip install 'rmsprop_jax[accelerators]'               # libtpu; for h100 jax[cuda12], 5.6 GB
    python benchmarks/accelerators.py [--target v5e v6e v4 h100] [--tables updates ...]

What it printed stands in ACCELERATORS.md. Nothing runs: programs are compiled ahead of time, and
all figures are the compiler's, the same on every machine, but for the seconds that it takes. One
donated update with its `apply_updates` is compiled for one array of 1e8 parameters; figures are
bytes per parameter:

    ideal       every array that is needed, read once, and written once if it changes
    bytes       that the program reads and writes
    temporary   memory besides arguments and results
    aliased     of the results, those that take the place of arguments

`loops` are fusions over the whole array, `copies` those of it, `collectives` what devices exchange,
`64 bit` values of that size, `M cycles` the compiler's own estimate of its loops, on TPUs only.
What clips by a global norm reads the gradients twice, 4 bytes more than what is called ideal. On
TPUs, copies into the fast memory beside the core (VMEM) and back are counted too. XLA copies small
arrays so: EfficientNet-B7 has 61 bytes in place of 20, here and in Optax.

Tables are `updates` (options, formats, weights), `calls` (every dialect and recipe), `sharded`
(FSDP over four devices: bytes of the state if it were whole on one, and on four devices together
after a jitted `init`; then an update of it), `networks` (EfficientNet-B7, beside Optax), and
`epoch` (the example's compiled loop over MNIST, beside Optax; what XLA counts is its body, so bytes
are those of a step).
"""

import argparse
import importlib.util
import inspect
import math
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from efficientnet import shapes
from flax import nnx
from jax.experimental import topologies
from measure import setting, table

from rmsprop_jax import dialects, recipes, rmsprop, storage, weights
from rmsprop_jax.examples import mnist
from rmsprop_jax.storage import BF16, U8, U16

SIZE = 100_000_000
TARGETS = {
    "v5e": "v5e:2x2",
    "v6e": "v6e:2x2",
    "v5p": "v5p:2x2x1",
    "v4": "v4:2x2x1",
    "h100": "1x1x4",
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"s64": 8, "u64": 8, "f64": 8, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"bf16": 2, "f16": 2, "u16": 2, "s16": 2, "u8": 1, "s8": 1, "pred": 1}


def apply(params, updates, state):
    del state
    return optax.apply_updates(params, updates)


def apply_at_random(params, updates, state):
    step = optax.tree.get_all_with_path(state, "count")[0][1]
    return weights.apply_updates(params, updates, step)


def updates():
    """Programs: a transformation, what applies its updates, and the dtype of the parameters."""
    f32, bf16 = jnp.float32, jnp.bfloat16
    store, compensate = storage.store, weights.compensate
    plain = rmsprop(1e-3)
    return {
        "rmsprop": (plain, apply, f32),
        "optax.rmsprop": (optax.rmsprop(1e-3), apply, f32),
        "schedule": (rmsprop(optax.cosine_decay_schedule(1e-3, 1000)), apply, f32),
        "bias_correction": (rmsprop(1e-3, bias_correction=True), apply, f32),
        "weight_decay": (rmsprop(1e-3, weight_decay=0.1), apply, f32),
        "momentum": (rmsprop(1e-3, momentum=0.9), apply, f32),
        "optax momentum": (optax.rmsprop(1e-3, momentum=0.9), apply, f32),
        "centered": (rmsprop(1e-3, centered=True), apply, f32),
        "optax centered": (optax.rmsprop(1e-3, centered=True), apply, f32),
        "centered momentum": (rmsprop(1e-3, centered=True, momentum=0.9), apply, f32),
        "optax.adamw": (optax.adamw(1e-3), apply, f32),
        "U16": (store(plain, nu=U16), apply, f32),
        "U16 +d": (store(plain, nu=U16.with_decay(0.9)), apply, f32),
        "BF16": (store(plain, nu=BF16), apply, f32),
        "bfloat16": (store(plain, nu=bf16), apply, f32),
        "U8": (store(plain, nu=U8), apply, f32),
        "U8 +d": (store(plain, nu=U8.with_decay(0.9)), apply, f32),
        "centered BF16 U8": (store(rmsprop(1e-3, centered=True), mu=BF16, nu=U8), apply, f32),
        "adamw BF16 U8": (store(optax.adamw(1e-3), mu=BF16, nu=U8), apply, f32),
        "bf16 rmsprop": (plain, apply, bf16),
        "bf16 apply_updates": (plain, apply_at_random, bf16),
        "bf16 the same U8 +d": (store(plain, nu=U8.with_decay(0.9)), apply_at_random, bf16),
        "bf16 compensate": (compensate(plain), apply, bf16),
        "bf16 comp. BF16": (store(compensate(plain), remainder=BF16), apply, bf16),
        "bf16 comp. BF16 U8": (store(compensate(plain), remainder=BF16, nu=U8), apply, bf16),
    }


def calls():
    """Every dialect and recipe, with some learning rate and counts where they need one."""
    needed = {"learning_rate": 0.01, "steps_per_epoch": 1000, "batch_size": 256}
    found = {}
    for room in (dialects, recipes):
        for name in room.__all__:
            call = getattr(room, name)
            signature = inspect.signature(call).parameters.values()
            required = [p.name for p in signature if p.default is p.empty]
            found[name] = (call(*(needed.get(word, 1000) for word in required)), apply, jnp.float32)
    return found


def devices_of(target):
    """Four devices of a kind that isn't here; raises if its compiler isn't either."""
    wanted = ["jax_cuda12_plugin"] if target == "h100" else ["libtpu"]
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        extra = "jax[cuda12]" if target == "h100" else "rmsprop_jax[accelerators]"
        raise RuntimeError(f"{missing[0]} isn't installed: pip install '{extra}'.")
    if target == "h100":
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology=TARGETS[target]
        )
    else:
        alone = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
        os.environ.update(alone | {"TPU_WORKER_ID": "0", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"})
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TARGETS[target])
    return topology.devices[:4]


def compiled(function, *arguments, platform, **kwargs):
    """The compiled program, and how many seconds its compilation took."""
    lowered = jax.jit(function, **kwargs).trace(*arguments).lower(lowering_platforms=(platform,))
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start


def platform_of(devices):
    return "cuda" if "NVIDIA" in devices[0].device_kind else "tpu"


def step(tx, apply, params, devices, state_like=None):
    """The program of one update; the state lies as `state_like` says, or on the first device."""
    here = jax.NamedSharding(jax.sharding.Mesh(devices[:1], ("data",)), jax.P())
    state = jax.eval_shape(tx.init, params)
    places = state_like or jax.tree.map(lambda _: here, state)
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    state = jax.tree.map(place, state, places)

    def update(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply(params, updates, state), state

    platform = platform_of(devices)
    return compiled(update, params, state, params, platform=platform, donate_argnums=(0, 1))


def ideal(tx, params):
    """Bytes: gradients are read, parameters and accumulators read and written."""
    size = lambda tree: sum(
        math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree) if x.ndim
    )
    return 3 * size(params) + 2 * size(jax.eval_shape(tx.init, params))


def entry(program):
    """What is run, a kernel each: name, bytes of the results, the operation, the operands."""
    lines = program.as_text().partition("\nENTRY")[2].splitlines()
    pattern = re.compile(r"(?:ROOT )?(%?[\w.-]+) = (.*?) ([a-z][a-z-]*)\((.*)")
    found = [match.groups() for line in lines if (match := pattern.match(line.strip()))]
    return [(name, sizes_in(made), kind, operands) for name, made, kind, operands in found]


def sizes_in(text):
    """Bytes of every array that a piece of a program's text mentions."""
    found = re.findall(r"\b(\w+)\[([\d,]*)\]", text)
    return [
        BYTES[kind] * math.prod(map(int, filter(None, dims.split(","))))
        for kind, dims in found
        if kind in BYTES
    ]


def traffic(program):
    """Bytes that a program reads and writes; counted from its text where XLA doesn't say."""
    if costs := program.cost_analysis():
        return costs["bytes accessed"]
    defined, total = {}, 0
    for name, sizes, kind, operands in entry(program):
        defined[name.lstrip("%")] = sum(sizes)
        if kind in ("fusion", "copy", "reduce"):
            names = re.findall(r"%?([\w.-]+)", operands.partition("), ")[0])
            total += sum(sizes) + sum(defined.get(name, 0) for name in dict.fromkeys(names))
    return total


def figures(program, size):
    """What a table says of a program, per parameter."""
    memory: Any = program.memory_analysis()
    text = program.as_text()
    big = [kind for _, sizes, kind, _ in entry(program) if max(sizes, default=0) >= size]
    cycles = sum(int(n) for n in re.findall(r'"estimated_cycles":"?(\d+)', text))
    return {
        "bytes": traffic(program) / size,
        "temporary": memory.temp_size_in_bytes / size,
        "aliased": memory.alias_size_in_bytes / size,
        "loops": big.count("fusion"),
        "copies": big.count("copy") + big.count("copy-start"),
        "collectives": sum(len(re.findall(rf" {word}(?:-start)?\(", text)) for word in COLLECTIVES),
        "64 bit": len(re.findall(r"\b[suf]64\[", text)),
        "M cycles": cycles / 1e6,
    }


COLUMNS = ("bytes", "temporary", "aliased", "loops", "copies", "collectives", "64 bit", "M cycles")


def array(shape, dtype, devices):
    """A parameter that is split over some devices by its first axis."""
    mesh = jax.sharding.Mesh(devices, ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, jax.P("data")))


def sharded(tx, apply, dtype, devices):
    """What the table of that name says of an optimizer: square arrays and others, in four parts."""
    kinds = {"a": (8, 4), "b": (4096, 4096), "c": (4096,)}
    size = sum(map(math.prod, kinds.values()))
    params = {name: array(shape, dtype, devices) for name, shape in kinds.items()}
    init, _ = compiled(tx.init, params, platform=platform_of(devices), keep_unused=True)
    memory: Any = init.memory_analysis()
    program, seconds = step(tx, apply, params, devices, init.output_shardings)
    found, start = (figures(x, size / len(devices)) for x in (program, init))
    state = [x for x in jax.tree.leaves(jax.eval_shape(tx.init, params)) if x.ndim]
    return {
        "state": sum(math.prod(x.shape) * x.dtype.itemsize for x in state) / size,
        "after init": memory.output_size_in_bytes * len(devices) / size,
        "exchanged": found["collectives"] + start["collectives"],
        "aliased": found["aliased"],
        "temporary": found["temporary"],
        "compile s": seconds,
    }


def print_updates(programs, devices):
    row = table("one update", "ideal", *COLUMNS, "compile s")
    for name, (tx, applied, dtype) in programs.items():
        params = array((SIZE,), dtype, devices[:1])
        program, seconds = step(tx, applied, params, devices)
        found = figures(program, SIZE)
        cells = (f"{found[column]:.4g}" for column in COLUMNS)
        row(name, f"{ideal(tx, params) / SIZE:g}", *cells, f"{seconds:.1f}")


def print_sharded(programs, devices):
    columns = ("state", "after init", "exchanged", "aliased", "temporary", "compile s")
    row = table("FSDP over 4", *columns)
    for name, (tx, applied, dtype) in programs.items():
        found = sharded(tx, applied, dtype, devices)
        row(name, *(f"{found[column]:.3g}" for column in columns))


def print_networks(devices):
    arrays = shapes("EfficientNet-B7")
    size = sum(map(math.prod, arrays))
    params = [array(shape, jnp.float32, devices[:1]) for shape in arrays]
    row = table("EfficientNet-B7", "ideal", "bytes", "temporary", "aliased", "compile s")
    programs = {"rmsprop": rmsprop(1e-3), "optax.rmsprop": optax.rmsprop(1e-3)}
    for name, tx in (programs | {"U8": storage.store(rmsprop(1e-3), nu=U8)}).items():
        program, seconds = step(tx, apply, params, devices)
        found = figures(program, size)
        cells = [ideal(tx, params) / size, *(found[c] for c in ("bytes", "temporary", "aliased"))]
        row(name, *(f"{x:.4g}" for x in cells), f"{seconds:.1f}")


def print_epoch(devices):
    row = table("MNIST, an epoch", "bytes", "temporary", "aliased", "collectives", "compile s")
    mesh = jax.sharding.Mesh(devices[:1], ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P())
    here = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    images, labels = jnp.zeros((60_000, 28, 28), jnp.uint8), jnp.zeros(60_000, jnp.int32)
    data = jax.tree.map(here, (images, labels, jnp.zeros((937, 64), jnp.int32)))
    for name, tx in {"rmsprop": rmsprop(1e-3), "optax.rmsprop": optax.rmsprop(1e-3)}.items():
        model = mnist.Linear(28, 28, rngs=nnx.Rngs(0))
        made = nnx.split((model, nnx.Optimizer(model, tx, wrt=nnx.Param)))

        def epoch(state, *data, structure=made[0]):
            parts = nnx.merge(structure, state)
            losses = mnist.train_steps(*parts, *data)
            return nnx.state(parts), losses

        platform = platform_of(devices)
        state = jax.tree.map(here, made[1])
        program, seconds = compiled(epoch, state, *data, platform=platform, donate_argnums=0)
        found = figures(program, 1)
        cells = (f"{found[column]:.4g}" for column in ("bytes", "temporary", "aliased"))
        row(name, *cells, found["collectives"], f"{seconds:.1f}")


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=["v5e"])
    tables = ("updates", "calls", "sharded", "networks", "epoch")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables[:3])
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    for target in args.target:
        compiler = "jax-cuda12-plugin" if target == "h100" else "libtpu"
        print(f"\n## {target}\n\nCompiled on: {setting('jax', 'optax', compiler)}")
        try:
            devices = devices_of(target)
        except Exception as error:
            print(f"\nNothing is known of {target} here: {str(error).splitlines()[0]}")
            continue
        if "updates" in args.tables:
            print_updates(updates(), devices)
        if "calls" in args.tables:
            print_updates(calls(), devices)
        if "sharded" in args.tables:
            print_sharded(updates(), devices)
        if "networks" in args.tables:
            print_networks(devices)
        if "epoch" in args.tables:
            print_epoch(devices)


if __name__ == "__main__":
    main()
