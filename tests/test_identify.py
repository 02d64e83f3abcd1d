"""`identify` on runs of real frameworks, and on what is no RMSProp.

The 200 drawn settings of all frameworks are in benchmarks/identify.py; here are some strong ones.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn_runs import STEPS, Run, problem, recorded_runs, stack
from live_runs import live_run, network_run, optax_step

import rmsprop_jax
from rmsprop_jax import clipping, compare_runs, dialects, identify
from rmsprop_jax.cli import main
from rmsprop_jax.identification import read_file
from rmsprop_jax.identification.calls import Structure, calls

RECORDING = Path(__file__).parents[1] / "notebooks" / "which_rmsprop.npz"


def run_of(tx, dtype="float32"):
    """Parameters and gradients of any transformation on the problem of the runs."""
    params, grads = problem(Run(3, "", {}, dtype))
    step = optax_step(tx, params)
    states = [params]
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        for t in range(STEPS):
            states.append(step({k: g[t] for k, g in grads.items()}))
    return stack(states), grads


def live(framework, dtype, **arguments):
    try:
        return live_run(Run(5, framework, arguments, dtype))
    except ImportError as error:
        pytest.skip(f"{framework} isn't here: {error}")


PYTORCH = {"lr": 3e-3, "alpha": 0.95, "eps": 1e-3, "momentum": 0.8, "weight_decay": 1e-3}
TIMM = {"lr": 3e-3, "momentum": 0.9, "weight_decay": 0.01, "decoupled_decay": True}
KERAS = {"learning_rate": 7e-4, "rho": 0.99, "momentum": 0.9, "centered": True}
OPTAX = {"learning_rate": 0.01, "decay": 0.97, "eps": 1e-4, "momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize(
    ("framework", "dtype", "arguments", "known"),
    [
        ("pytorch", "float32", PYTORCH, {"centered": False}),  # what is known saves time
        ("pytorch", "float64", {"lr": 0.0123, "alpha": 0.999, "centered": True, "eps": 1e-8}, {}),
        ("timm", "float32", TIMM, {"centered": False}),
        ("keras", "float32", KERAS, {"weight_decay": 0}),
        ("optax", "float64", OPTAX, {}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_real_frameworks(framework, dtype, arguments, known):
    found = identify(*live(framework, dtype, **arguments), known=known)
    best = found.candidates[0]
    assert found.fits
    assert framework in best.dialects
    tx = getattr(dialects, best.dialects[0])(**best.arguments)  # the words are the dialect's
    assert isinstance(tx, optax.GradientTransformation)
    numbers = {k: x for k, x in best.arguments.items() if isinstance(x, float)}
    for name, x in arguments.items():
        if best.dialects[0] == framework and name not in best.undetermined:
            assert best.arguments[name] == x
        elif isinstance(x, float) and not best.undetermined:
            assert x in numbers.values()


@pytest.mark.parametrize(
    "framework",
    ["tensorflow1", "mlx", "fastai", "tensorflowjs"]
    + [pytest.param(name, marks=pytest.mark.nightly) for name in ("paddle", "mindspore")],
)
def test_recorded_frameworks(framework):
    run, params = recorded_runs(framework)[1]
    found = identify(params, problem(run)[1])
    assert found.fits
    assert framework in found.candidates[0].dialects


def test_gradients_of_a_network():
    pytest.importorskip("torch")
    found = identify(*network_run("pytorch", {"lr": 2e-3, "alpha": 0.9, "eps": 1e-5}))
    assert found.fits
    assert "pytorch" in found.candidates[0].dialects
    assert 2e-3 in found.candidates[0].arguments.values()


def test_an_eps_that_never_mattered():
    best = identify(*run_of(dialects.timm(1e-3, eps=1e-20))).candidates[0]
    name = next(k for k in best.undetermined if k in ("eps", "epsilon"))
    low, high = best.undetermined[name]
    assert low <= 1e-20 <= high
    # Inside and outside can't be told apart, and neither can those who have it there.
    assert {"timm", "tensorflow1", "stable_baselines3", "rmsprop"} <= set(best.dialects)


KNOWN = {"weight_decay": 0, "centered": False}
NONE, PLAIN = {"momentum": 0}, {"nesterov": False}
HEAVY = PLAIN | {"momentum": 0.9}


def test_a_schedule():
    schedule = optax.cosine_decay_schedule(1e-3, 40)
    run = run_of(dialects.keras(schedule, momentum=0.9))
    found = identify(*run, known=KNOWN | HEAVY)
    best = found.candidates[0]
    assert found.fits
    assert "keras" in best.dialects
    assert "pytorch" not in best.dialects  # on the other side of the momentum
    rates = best.arguments["learning_rate"]
    np.testing.assert_allclose(rates, [schedule(t) for t in range(STEPS)], rtol=1e-3)


def test_a_known_schedule():
    schedule = optax.linear_schedule(1e-3, 1e-4, 20)
    rates = np.array([schedule(t) for t in range(STEPS)])
    params, grads = run_of(dialects.pytorch(schedule, alpha=0.9))
    found = identify(params, grads, known={"lr": rates, "momentum": 0})
    assert found.fits
    assert "pytorch" in found.candidates[0].dialects


def reversed_elements(grads):
    flat = grads["kernel"].reshape(STEPS, -1)
    grads["kernel"] = flat[:, ::-1].reshape(grads["kernel"].shape)


def shuffled_steps(grads):
    order = np.random.RandomState(0).permutation(STEPS)
    grads.update({k: g[order] for k, g in grads.items()})


def wrong_gradient(grads):
    grads["bias"][17] *= -1.5


CLIPPED = optax.chain(clipping.clip_by_torch_norm(1.0), dialects.pytorch(1e-3))


@pytest.mark.parametrize(
    ("tx", "change", "known", "reason"),
    [
        (optax.adam(1e-3), None, NONE, "Adam"),
        (optax.sgd(1e-2, momentum=0.9), None, {}, "SGD"),
        (optax.lion(1e-3), None, NONE, "signs, as of Lion"),
        (CLIPPED, None, NONE, "clipped before the optimizer got them, by global norm"),
        (dialects.pytorch(1e-3), reversed_elements, NONE, "8 elements in kernel belong"),
        (dialects.pytorch(1e-3), shuffled_steps, NONE, "another order than the steps"),
        (dialects.pytorch(1e-3, momentum=0.9), wrong_gradient, HEAVY, "isn't the one that"),
    ],
    ids=["adam", "sgd", "lion", "clipping", "elements", "steps", "gradient"],
)
def test_what_is_no_rmsprop(tx, change, known, reason):
    params, grads = run_of(tx)
    grads = {k: g.copy() for k, g in grads.items()}
    if change:
        change(grads)
    found = identify(params, grads, known=KNOWN | known)
    assert not found.fits
    assert reason in found.reason
    assert found.reason in str(found)
    if change is wrong_gradient:
        assert found.departs == (17, ("bias",))
        assert "pytorch" in found.candidates[0].dialects


def test_clipping_of_a_dialect_is_its_own():
    run = run_of(dialects.keras(1e-3, global_clipnorm=1.0))
    found = identify(*run, known=KNOWN | NONE | PLAIN)
    assert found.fits
    assert found.candidates[0].call == "rmsprop_jax.dialects.keras(global_clipnorm=1.0)"


def test_every_dialect_is_a_candidate():
    """They are read off the functions: one that is added can't be forgotten."""
    known = {call.dialect for ways in calls().values() for call in ways}
    assert known == {*dialects.__all__, "rmsprop"} - {"find"}
    ways = calls()[Structure(eps="inside", momentum="plain", rate_inside=True)]
    names = next(call.names for call in ways if call.dialect == "keras")
    theirs = {"decay": "rho", "eps": "epsilon"}
    same = {name: name for name in ("learning_rate", "momentum")}
    assert names == theirs | same


def test_bad_input():
    params, grads = run_of(dialects.pytorch(1e-3))
    bad = {k: p.copy() for k, p in params.items()}
    bad["bias"][7, 0] = np.nan
    late = {k: p[1:] for k, p in params.items()}
    for run, known, message in (
        ((params, grads), {"espilon": 1e-8}, "known has 'espilon', and may have: .*epsilon"),
        ((params, grads), {"dialect": "torch"}, "dialect='torch' is none of .*pytorch"),
        ((late, grads), {}, r"params\['kernel'\] is \(30, 2, 4\) and grads"),
        (({"kernel": params["kernel"]}, grads), {}, "has the arrays"),
        ((bad, grads), {}, r"params\['bias'\] isn't finite at step 7"),
        ((np.ones((3, 3)), np.ones((2, 3))), {}, "2 steps of 3 elements: 6 numbers are too few"),
        ((np.zeros((3, 2), int), np.zeros((2, 2))), {}, "must hold real numbers, and is int"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            identify(*run, known=known)


def test_compare_runs():
    one = run_of(dialects.pytorch(1e-3))
    assert compare_runs(one, one).same
    other = compare_runs(one, run_of(dialects.pytorch(2e-3)))
    assert (other.same, other.step) == (False, 0)
    assert "times those of the other" in other.kind
    shrunk = compare_runs(one, run_of(dialects.fastai(1e-3, wd=0.1)))
    assert "weight decay" in shrunk.kind
    gradients = {k: g.copy() for k, g in one[1].items()}
    gradients["bias"][4] *= 2
    moved = {k: p.copy() for k, p in one[0].items()}
    for p in moved.values():
        p[5:] += 1
    late = compare_runs(one, (moved, gradients))
    assert late.step == 4
    assert "gradients differ from step 4" in late.kind
    eps = compare_runs(one, run_of(dialects.pytorch(1e-3, eps=1e-4)))
    assert "another eps" in eps.kind
    with pytest.raises(ValueError, match="must be of the same arrays"):
        compare_runs(one, ({"x": one[0]["bias"]}, {"x": one[1]["bias"]}))


def test_the_command(tmp_path, capsys, monkeypatch):
    picture = tmp_path / "found.png"
    words = ["rmsprop-jax", "identify", str(RECORDING), "--json", "--plot", str(picture)]
    monkeypatch.setattr("sys.argv", [*words, "--known", "eps=1e-4", "--known", "centered=false"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["candidates"][0]["dialects"][0] == "pytorch"
    assert picture.stat().st_size > 10_000
    monkeypatch.setattr("sys.argv", ["rmsprop-jax", "identify", "missing.npz"])
    with pytest.raises(SystemExit, match=r"There is no missing\.npz"):
        main()


def test_a_torch_file(tmp_path):
    torch = pytest.importorskip("torch")
    params, grads = run_of(dialects.pytorch(1e-3))
    steps = [{k: torch.from_numpy(p[t]) for k, p in params.items()} for t in range(STEPS + 1)]
    saved = {"params": steps, "grads": {k: torch.from_numpy(g) for k, g in grads.items()}}
    torch.save(saved, tmp_path / "run.pt")
    read_params, read_grads = read_file(tmp_path / "run.pt")
    for k in params:
        np.testing.assert_array_equal(read_params[k], params[k])
        np.testing.assert_array_equal(read_grads[k], grads[k])


def snippet(title):
    """The code under a title of the page."""
    page = (Path(__file__).parents[1] / "docs" / "identify.md").read_text()
    code = page.split(f"### {title}\n")[1].split("```py\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 10
    return code


def test_the_snippet_for_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    batches = [(torch.randn(8, 6), torch.randn(8, 3)) for _ in range(20)]
    scope = {"torch": torch, "model": model, "batches": batches}
    scope["optimizer"] = torch.optim.RMSprop(model.parameters(), lr=0.01, eps=1e-3)
    exec(snippet("PyTorch"), {**scope, "loss_fn": torch.nn.functional.mse_loss})
    found = identify(*read_file("run.pt"))
    assert found.fits
    assert "pytorch" in found.candidates[0].dialects


def test_the_snippet_for_jax(capsys):
    batches = np.random.RandomState(0).normal(size=(20, 2, 8)).astype(np.float32)
    tx, params = rmsprop_jax.rmsprop(0.01, eps=1e-3), {"w": jnp.ones(8)}
    scope = {"tx": tx, "params": params, "opt_state": tx.init(params), "batches": batches}
    scope["loss_fn"] = lambda params, x, y: jnp.sum((params["w"] * x - y) ** 2)
    modules = {"jax": jax, "np": np, "optax": optax, "rmsprop_jax": rmsprop_jax}
    exec(snippet("JAX"), scope | modules)
    report = capsys.readouterr().out
    assert "It reproduces 20 steps of 8 elements" in report
    assert "pytorch(alpha=0.9, eps=0.001)" in report  # with its default lr of 0.01
