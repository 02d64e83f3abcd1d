"""Who survives hostile numbers, as a table.

Usage, where the frameworks are installed (`pip install torch keras`):

    python benchmarks/torture.py            # print the table
    python benchmarks/torture.py --write    # and put it into benchmarks/TORTURE.md

The cases, and what must hold in them, are those of the tests, see `tests/support/hostile.py`. An
update may be 5 % off the specification, a hundred times and more of what the tests allow to this
library.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import importlib.util
import platform
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import hostile  # noqa: E402  # pyright: ignore[reportMissingImports]
import hostile_chains  # noqa: E402  # pyright: ignore[reportMissingImports]
import oracles  # noqa: E402  # pyright: ignore[reportMissingImports]

TOLERANCE = 0.05
SURVIVES, NO_SUCH_OPTION = "✓", "–"
HUGE = "2³¹ + 1 elements in one leaf"
ELEMENTS = 2**31 + 1


def keras_rmsprop(learning_rate: float, **kwargs: Any) -> optax.GradientTransformation:
    """Keras's optimizer, on JAX, as a transformation of a dictionary of arrays."""
    keras = oracles.import_keras()
    optimizer = keras.optimizers.RMSprop(learning_rate, **kwargs)

    def init(params):
        with jax.ensure_compile_time_eval():
            variables = [
                keras.Variable(np.zeros(p.shape, p.dtype), dtype=str(p.dtype))
                for p in params.values()
            ]
            optimizer.build(variables)
            return [variable.value for variable in optimizer.variables]

    def update(grads, state, params=None):
        assert params is not None
        zeros = [jnp.zeros_like(p) for p in params.values()]
        moved, state = optimizer.stateless_apply(state, list(grads.values()), zeros)
        return dict(zip(grads, moved, strict=True)), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def run_jax(form: Any, case: Any) -> dict[str, tuple[np.ndarray, np.ndarray] | str]:
    """The updates of a JAX implementation by dtype, and those without the hostile gradients."""
    results = {}
    for dtype in form.dtypes(case):
        alone = [dataclasses.replace(case, dtypes=(dtype,))]
        try:
            runs = hostile.run(form, eager=bool(case.absent), cases=alone)
            (results[dtype],) = runs.values()
        except (TypeError, ValueError, AttributeError) as error:
            results[dtype] = type(error).__name__
    return results


def run_torch(form: Any, case: Any) -> dict[str, tuple[np.ndarray, np.ndarray] | str]:
    """The same of PyTorch on the CPU."""
    return {
        dtype: (_torch(form, case, dtype, False), _torch(form, case, dtype, True))
        for dtype in form.dtypes(case)
    }


def _torch(form, case, dtype, quiet):
    torch = importlib.import_module("torch")
    kind = getattr(torch, dtype)
    wide = torch.complex128 if kind.is_complex else torch.float64
    # By way of the widest type, for NumPy knows no bfloat16 that PyTorch would.
    g = hostile.gradients(case, dtype, quiet)
    g = torch.from_numpy(g.astype(np.complex128 if kind.is_complex else np.float64)).to(kind)
    param = torch.nn.Parameter(torch.zeros(g.shape[1], dtype=kind))
    opt = torch.optim.RMSprop([param], lr=hostile.LEARNING_RATE, **form.kwargs(case))
    if case.count:  # made by a step that leaves no trace, for the optimizer makes its state late
        param.grad = torch.zeros_like(param)
        opt.step()
        opt.state[param]["step"].fill_(case.count)
    updates = []
    for i in range(case.steps):
        param.data.zero_()  # so that the parameter is the update, to the last digit
        param.grad = None if i in case.absent else g[i]
        opt.step()
        updates.append(param.detach().clone())
    return torch.stack(updates).to(wide).numpy() / -hostile.LEARNING_RATE


def huge_jax(form: Any) -> str:
    """A leaf of more elements than an int32 can count, by abstract evaluation."""
    tx = form.make(hostile.LEARNING_RATE)
    p = jax.ShapeDtypeStruct((ELEMENTS,), jnp.bfloat16)
    state = jax.eval_shape(tx.init, p)
    updates, new = jax.eval_shape(tx.update, p, state, p)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), new, state)
    return SURVIVES if updates.shape == p.shape and all(jax.tree.leaves(same)) else "shapes"


def huge_torch(form: Any) -> str:
    """The same on PyTorch's device without memory."""
    torch = importlib.import_module("torch")
    param = torch.nn.Parameter(torch.zeros(ELEMENTS, device="meta"))
    opt = torch.optim.RMSprop([param])
    param.grad = torch.zeros_like(param)
    opt.step()
    return SURVIVES if opt.state[param]["square_avg"].shape == param.shape else "shapes"


Runner = Callable[[Any, Any], dict[str, tuple[np.ndarray, np.ndarray] | str]]


def libraries() -> dict[str, tuple[Any, Runner, Callable[[Any], str] | None]]:
    """By heading: what a library calls its options, how it runs, and with a huge leaf."""
    mixed = hostile.MIXED
    ours = hostile.FORMS["rmsprop"]
    found: dict[str, Any] = {"`rmsprop_jax.rmsprop`": (ours, run_jax, huge_jax)}
    names = dict(ours.names)
    form = hostile.Form(optax.rmsprop, names, 1e-8, eps_in_sqrt=True)
    found[f"`optax.rmsprop` {optax.__version__}"] = form, run_jax, huge_jax
    names = {"decay": "alpha", "eps": "eps", "momentum": "momentum", "centered": "centered"}
    if importlib.util.find_spec("torch"):
        form = hostile.Form(None, names, 1e-8, by_component=True, refuses=mixed)
        version = importlib.metadata.version("torch").split("+")[0]
        found[f"`torch.optim.RMSprop` {version}"] = form, run_torch, huge_torch
    if importlib.util.find_spec("keras"):
        names = names | {"decay": "rho", "eps": "epsilon"}
        refuses = (*mixed, *hostile.COMPLEX)
        form = hostile.Form(keras_rmsprop, names, 1e-7, eps_in_sqrt=True, refuses=refuses)
        version = importlib.metadata.version("keras")
        found[f"`keras.optimizers.RMSprop` {version}"] = form, run_jax, None
    return found


def outcome(form: Any, run: Runner, case: Any) -> str:
    """What becomes of a library in a case, over all dtypes of the case that it has."""
    lacks_wrapper = case.skip_non_finite and form.make not in (
        optax.rmsprop,
        hostile.FORMS["rmsprop"].make,
    )
    dtypes = form.dtypes(case)
    if lacks_wrapper or not dtypes or form.kwargs(case) is None:
        return NO_SUCH_OPTION
    happened: dict[str, list[str]] = {}
    for dtype, result in run(form, case).items():
        what = result
        if not isinstance(result, str):
            what = hostile.verdict(form, case, dtype, *result, rtol=TOLERANCE)
        if what:
            happened.setdefault(str(what), []).append(dtype)
    if not happened:
        return SURVIVES
    return "; ".join(
        what if len(kinds) == len(dtypes) else f"{what} ({', '.join(kinds)})"
        for what, kinds in happened.items()
    )


def run_chain_torch(case: Any) -> np.ndarray:
    """The parameters after each step of a chain's case, in PyTorch."""
    torch = importlib.import_module("torch")
    with np.errstate(over="ignore"):
        grads = torch.from_numpy(case.gradients.astype(np.float32))
    param = torch.nn.Parameter(torch.ones(grads.shape[1]))
    opt = torch.optim.RMSprop([param], alpha=case.decay, weight_decay=case.weight_decay)
    rows = []
    for t, g in enumerate(grads):
        param.grad = g.clone()
        if case.clip is not None:
            name = {"norm": "clip_grad_norm_", "value": "clip_grad_value_"}[case.clip[0]]
            getattr(torch.nn.utils, name)([param], case.clip[1])
        opt.param_groups[0]["lr"] = hostile_chains.RATES[case.rate](t)
        opt.step()
        rows.append(param.detach().numpy().copy())
    return np.array(rows)


def run_chain_optax(case: Any) -> np.ndarray:
    """The same in Optax, with Optax's own clipping."""
    kind, limit = case.clip or ("", 0.0)
    clips = {"norm": optax.clip_by_global_norm, "value": optax.clip}
    tx = optax.chain(
        clips[kind](limit) if kind else optax.identity(),
        optax.add_decayed_weights(case.weight_decay),
        optax.rmsprop(hostile_chains.RATES[case.rate], case.decay, eps_in_sqrt=False),
    )
    return hostile_chains.run(tx, case)


def chains(show: Callable[[str], None]) -> list[str]:
    """The table of what stands in front of the average."""
    make, _ = hostile_chains.FORMS["rmsprop"]
    rate = lambda case: hostile_chains.RATES[case.rate]
    found: dict[str, Callable[[Any], np.ndarray]] = {
        "`rmsprop_jax.rmsprop`": lambda case: hostile_chains.run(make(case, rate(case)), case),
        f"`optax.rmsprop` {optax.__version__}": run_chain_optax,
    }
    if importlib.util.find_spec("torch"):
        version = importlib.metadata.version("torch").split("+")[0]
        found[f"`torch.optim.RMSprop` {version}"] = run_chain_torch
    lines = [f"| case, in float32 | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    rows = []
    for case in hostile_chains.CASES:
        rows.append(
            [
                hostile_chains.verdict(case, run(case), False, TOLERANCE) or SURVIVES
                for run in found.values()
            ]
        )
        lines.append(f"| {case.name} | {' | '.join(rows[-1])} |")
        show(lines[-1])
    totals = [f"**{column.count(SURVIVES)} of {len(rows)}**" for column in zip(*rows, strict=True)]
    return [*lines, f"| **survived** | {' | '.join(totals)} |"]


def markdown(show: Callable[[str], None] = lambda line: None) -> str:
    """The table, its totals, and what was measured where."""
    found = libraries()
    lines = [f"| case | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    columns: list[list[str]] = [[] for _ in found]
    for case in [*hostile.CASES, None]:
        for column, (form, run, huge) in zip(columns, found.values(), strict=True):
            if case is None:
                column.append(NO_SUCH_OPTION if huge is None else huge(form))
            else:
                column.append(outcome(form, run, case))
        name = HUGE if case is None else case.name
        lines.append(f"| {name} | {' | '.join(column[-1] for column in columns)} |")
        show(lines[-1])
    totals = [
        f"{column.count(SURVIVES)} of {len(column) - column.count(NO_SUCH_OPTION)}"
        for column in columns
    ]
    lines.append(f"| **survived** | {' | '.join(f'**{total}**' for total in totals)} |")
    device = jax.devices()[0].platform.upper()
    return "\n".join(
        [
            *lines,
            "",
            "What stands in front of the average, such as clipping, and what comes after it:",
            "",
            *chains(show),
            "",
            "✓: finite, within its bound, within 5 % of the specification once the gradients are "
            "well again, and no other element disturbed, in every dtype of the case. "
            "–: no such option. Frozen: an update of less than a thousandth of what it should be. "
            f"Measured by `benchmarks/torture.py` with jax {jax.__version__} on {device} "
            f"({platform.machine()}); the cases are in `tests/support/hostile.py` and "
            "`hostile_chains.py`.",
        ]
    )


def main() -> None:
    """Prints the table, and writes it on demand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/TORTURE.md")
    write = parser.parse_args().write
    warnings.simplefilter("ignore")  # Keras and NumPy warn of what the table is about
    table = markdown(functools.partial(print, file=sys.stderr, flush=True))
    print(table)
    if write:
        (ROOT / "benchmarks" / "TORTURE.md").write_text(
            f"# Who survives hostile numbers\n\n{table}\n"
        )


if __name__ == "__main__":
    main()
