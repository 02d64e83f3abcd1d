# pyright: basic
"""How often `identify` finds what made a run: runs of real frameworks with drawn settings.

    python benchmarks/identify.py                 # all, 240 runs; prints a table in Markdown
    python benchmarks/identify.py --only keras --runs 5 --verbose
    python benchmarks/identify.py --table         # how few steps and elements suffice
    python benchmarks/identify.py --time          # 50 steps of 1,000 elements

A run counts as right if the framework's own call is among those that `identify` names, and each
number is within 0.1 % or said to be undetermined; as open if nothing fits; as wrong otherwise.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from drawn_runs import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    WORDS,
    draw,
    problem,
    recorded_runs,
)
from live_runs import (  # noqa: E402  # pyright: ignore[reportMissingImports]
    live_run,
    network_run,
)

from rmsprop_jax import identify  # noqa: E402

LIVE = {"pytorch": 28, "timm": 28, "keras": 24, "optax": 24, "jax_example_libraries": 16}
RECORDED = [name for name in WORDS if name not in LIVE]
NETWORKS = 24
# What the library calls the update of a framework that has no dialect of its name.
SAME = {"numpyro": "jax_example_libraries", "chainer_graves": "graves", "mxnet": "graves"}
NUMBERS = {  # our words for each of a framework's
    "lr": "learning_rate", "step_size": "learning_rate", "learning_rate": "learning_rate",
    "alpha": "decay", "rho": "decay", "gamma": "decay", "gamma1": "decay", "decay": "decay",
    "sqr_mom": "decay", "eps": "eps", "epsilon": "eps",
    "momentum": "momentum", "gamma2": "momentum", "mom": "momentum",
    "weight_decay": "weight_decay", "wd": "weight_decay",
}  # fmt: skip


def runs(only, count):
    """Name, arguments, parameters and gradients of each run."""
    for framework, most in LIVE.items():
        for number in range(min(most, count)) if only in (None, framework) else ():
            run = draw(framework, number)
            yield (framework, run.arguments, run.dtype, *live_run(run))
    for framework in RECORDED:
        if only in (None, framework):
            for run, params in recorded_runs(framework)[:count]:
                yield framework, run.arguments, run.dtype, params, problem(run)[1]
    for number in range(min(NETWORKS, count)) if only in (None, "network") else ():
        optimizer = ("pytorch", "timm")[number % 2]
        arguments = draw(optimizer, 100 + number).arguments
        yield (optimizer, arguments, "network", *network_run(optimizer, arguments, number))


def judge(framework, arguments, found):
    """Right, open, or what is wrong."""
    if not found.fits:
        return "open", 0
    best = found.candidates[0]
    if SAME.get(framework, framework) not in best.dialects:
        return f"wrong: {best.dialects}", 0
    mine = {NUMBERS[k]: x for k, x in best.arguments.items() if k in NUMBERS}
    theirs = {NUMBERS[k]: x for k, x in arguments.items() if k in NUMBERS}
    undetermined = {NUMBERS[k] for k in best.undetermined}
    for k, x in theirs.items():
        if k not in undetermined and np.any(np.abs(mine.get(k, 0) - x) > 1.001e-3 * abs(x)):
            return f"wrong: {k} {mine.get(k)} for {x}", 0
    return "right", len(undetermined)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, optax {optax.__version__}, numpy {np.__version__}\n")
    if options.table:
        few()
    elif options.time:
        clock()
    else:
        share(options)


def share(options):
    counts = {}
    for framework, arguments, dtype, params, grads in runs(options.only, options.runs):
        start = time.perf_counter()
        found = identify(params, grads)
        seconds = time.perf_counter() - start
        verdict, undetermined = judge(framework, arguments, found)
        row = f"{framework}, {dtype}"
        counts.setdefault(row, []).append((verdict, undetermined, seconds))
        if verdict != "right" or options.verbose:
            distance = found.candidates[0].distance
            call = found.candidates[0].call[:220]
            print(
                f"- {framework} {dtype} {arguments}: {verdict}; distance {distance:.3g}, "
                f"{seconds:.1f} s, {call}",
                flush=True,
            )
    print("\n| runs of | number | right | open | wrong | with a number undetermined | seconds |")
    print("|---|---|---|---|---|---|---|")
    total = [x for of in counts.values() for x in of]
    for name, of in [*counts.items(), ("all", total)]:
        kinds = [verdict.partition(":")[0] for verdict, _, _ in of]
        numbers = [kinds.count(kind) for kind in ("right", "open", "wrong")]
        left = sum(undetermined > 0 for _, undetermined, _ in of)
        seconds = np.median([s for _, _, s in of])
        print(f"| {name} | {len(of)} | {' | '.join(map(str, numbers))} | {left} | {seconds:.1f} |")
    kinds = [verdict.partition(":")[0] for verdict, _, _ in total]
    if "wrong" in kinds or kinds.count("right") < 0.97 * len(kinds):
        sys.exit("Fewer than 97 % are right, or one is wrong with confidence.")


def few():
    """For so many steps and elements the share of PyTorch's runs that are found."""
    steps, elements = (3, 5, 10, 20, 30), (1, 2, 4, 8, 12)
    print("| steps | " + " | ".join(f"{n} elements" for n in elements) + " |")
    print("|---" * (len(elements) + 1) + "|")
    made = [(draw("pytorch", i), *live_run(draw("pytorch", i))) for i in range(1, 13)]
    for t in steps:
        cells = []
        for n in elements:
            verdicts = []
            for run, params, grads in made:
                flat = lambda of: np.concatenate([x.reshape(len(x), -1) for x in of.values()], 1)
                try:
                    found = identify(flat(params)[: t + 1, -n:], flat(grads)[:t, -n:])
                except ValueError:
                    verdicts.append("refused")
                    continue
                verdicts.append(judge("pytorch", run.arguments, found)[0].partition(":")[0])
            kinds = [verdicts.count(kind) for kind in ("right", "open", "wrong")]
            cells.append("refused" if "refused" in verdicts else "/".join(map(str, kinds)))
        print(f"| {t} | {' | '.join(cells)} |", flush=True)
    print(f"\nRight/open/wrong, of {len(made)} runs each.")


def clock():
    """Seconds for 50 steps of 1,000 elements."""
    stream = np.random.RandomState(0)
    grads = (stream.normal(size=(50, 1000)) * np.geomspace(1e-4, 1, 1000)).astype(np.float32)
    for name, tx in {
        "plain": optax.rmsprop(1e-3),
        "momentum, nesterov": optax.rmsprop(1e-3, momentum=0.9, nesterov=True),
        "a schedule": optax.rmsprop(optax.cosine_decay_schedule(1e-3, 50)),
        "Adam, which isn't one": optax.adam(1e-3),
    }.items():
        params: list[Any] = [np.ones(1000, np.float32)]
        state = tx.init(params[0])
        for g in grads:
            updates, state = tx.update(g, state)
            params.append(np.asarray(params[-1] + updates))
        start = time.perf_counter()
        found = identify(np.array(params), grads)
        print(f"{name}: {time.perf_counter() - start:.1f} s, fits={found.fits} {found.reason}")


if __name__ == "__main__":
    main()
