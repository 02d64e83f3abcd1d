"""Time to trace, lower and compile `update`, over the number of arrays, beside Optax.

    python benchmarks/compile_time.py [--arrays 1 1000] [--rounds 5] [--plot FILE]

The contestants take turns in the same process, each time with JAX's caches empty; medians, and
ratios of them: below 1, rmsprop_jax is the faster. The arrays have 20 shapes in turn, or those of
EfficientNet. From 2,000 arrays on nothing is compiled, and there are 3 rounds.
"""

import argparse
import gc
import itertools
import statistics
import time

import efficientnet
import jax
import optax
from measure import save, setting, table

import rmsprop_jax

OURS = "rmsprop_jax"
OPTAX = "optax"
SAME = "optax, same formula"
CONTESTANTS = {
    OURS: rmsprop_jax.rmsprop(1e-3),
    OPTAX: optax.rmsprop(1e-3),
    SAME: optax.rmsprop(1e-3, eps_in_sqrt=False),
}
COMPILED_ARRAYS = 2000  # beyond, compiling takes minutes


def stages(tx, params):
    """Seconds to trace, to lower, and to compile, where that is done."""
    state = jax.eval_shape(tx.init, params)
    jax.clear_caches()
    gc.collect()
    seconds = [time.perf_counter()]
    traced = jax.jit(tx.update, donate_argnums=(0, 1)).trace(params, state, params)
    seconds.append(time.perf_counter())
    lowered = traced.lower()
    seconds.append(time.perf_counter())
    if len(params) < COMPILED_ARRAYS:
        lowered.compile()
        seconds.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(seconds)]


def compete(shapes, rounds):
    """For each contestant the medians of the stages, tracing and lowering in one."""
    params = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    times = {name: [] for name in CONTESTANTS}
    for _ in range(3 if len(shapes) >= COMPILED_ARRAYS else rounds):
        for name, tx in CONTESTANTS.items():
            trace, lower, *compilation = stages(tx, params)
            times[name].append([trace, lower, trace + lower, *compilation])
    return {
        name: [statistics.median(t) for t in zip(*ts, strict=True)] for name, ts in times.items()
    }


def draw(counts, results, path):
    """Seconds over the number of arrays: tracing and lowering, and compiling."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, 2, figsize=(8, 3.8), dpi=100, layout="constrained", sharex=True, sharey=True
    )
    titles = {2: "tracing and lowering", 3: "compiling"}
    labels = {
        OURS: "rmsprop_jax.rmsprop",
        OPTAX: "optax.rmsprop",
        SAME: "optax.rmsprop(eps_in_sqrt=False)",
    }
    for axes, (stage, title) in zip(panels, titles.items(), strict=True):
        for (name, label), marker in zip(labels.items(), "ov^", strict=True):
            found = [t[name][stage : stage + 1] for t in results]
            points = [(n, t[0]) for n, t in zip(counts, found, strict=True) if t]
            axes.plot(*zip(*points, strict=True), marker=marker, label=label)
        axes.set(xscale="log", yscale="log", xlabel="arrays of parameters", title=title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[0].legend(fontsize="small")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--arrays", type=int, nargs="+", default=[1, 10, 100, 1000, 4000])
    parser.add_argument("--networks", nargs="*", default=list(efficientnet.MULTIPLIERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", metavar="FILE", help="a chart over the number of arrays")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)

    trees = [("20 shapes", [(64 + i % 20, 32) for i in range(n)]) for n in args.arrays]
    trees += [(name, efficientnet.shapes(name)) for name in args.networks]
    compete([(64, 32)], 1)  # what JAX imports and sets up at the first compilation
    print(setting("jax", "optax"))
    print(f"\nt is tracing and lowering, c compiling; {args.rounds} rounds")
    row = table(
        "arrays", "number", "shapes", "tracing ms", "lowering ms", "compiling ms",
        f"t / {OPTAX}'s", f"t / {SAME}'s", f"c / {OPTAX}'s", f"c / {SAME}'s",
    )  # fmt: skip
    results = []
    for name, shapes in trees:
        times = compete(shapes, args.rounds)
        results.append(times)
        trace, lower, both, *compilation = times[OURS]
        compiled = [f"{t * 1e3:.1f}" for t in compilation] or ["–"]
        row(
            name, f"{len(shapes):,}", len(set(shapes)), f"{trace * 1e3:.1f}", f"{lower * 1e3:.1f}",
            *compiled, *(f"{both / times[other][2]:.2f}" for other in (OPTAX, SAME)),
            *(f"{compilation[0] / times[other][3]:.2f}" if compilation else "–"
              for other in (OPTAX, SAME)),
        )  # fmt: skip
    if args.plot:
        draw(args.arrays, results[: len(args.arrays)], args.plot)


if __name__ == "__main__":
    main()
