# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Record what packages that are no dialect do with the problem of ``atlas_problem.py``.

    python tests/recorded/record_atlas.py           # all that is installed
    python tests/recorded/record_atlas.py river     # one of them; the others stay

A function named after a package returns the parameters after each step. Its numbers are those that
the call in the atlas has. ``npm install convnetjs@0.3.0 brain.js@1.6.1`` goes before these two, in
the folder that this runs in.
"""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from atlas_problem import KEPT, SIZE, STEPS, gradients, start

FILE = Path(__file__).with_name("atlas.npz")


def stepped(step: Callable[[np.ndarray], Any]) -> np.ndarray:
    return np.stack([np.array(step(g)) for g in gradients()])


def numpyro() -> np.ndarray:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from numpyro.optim import RMSPropMomentum

    opt = RMSPropMomentum(1e-2, gamma=0.9, eps=1e-8, momentum=0.9)
    state = opt.init(jnp.asarray(start()))

    def step(g):
        nonlocal state
        state = opt.update(jnp.asarray(g), state)
        return opt.get_params(state)

    return stepped(step)


def autograd() -> np.ndarray:
    from autograd.misc.optimizers import rmsprop

    seen: list[np.ndarray] = []
    grads = [*gradients(), np.zeros(SIZE)]
    rmsprop(
        lambda x, i: grads[i], start(), lambda x, i, g: seen.append(x.copy()), num_iters=STEPS + 1
    )
    return np.array(seen[1:])


def pennylane() -> np.ndarray:
    from pennylane import RMSPropOptimizer
    from pennylane import numpy as pnp

    opt = RMSPropOptimizer(stepsize=0.01, decay=0.9, eps=1e-8)
    params = pnp.array(start(), requires_grad=True)

    def step(g):
        nonlocal params
        (params,) = opt.apply_grad((g,), (params,))
        return params

    return stepped(step)


def river() -> np.ndarray:
    from river.optim import RMSProp

    opt = RMSProp(lr=0.1, rho=0.9, eps=1e-8)
    params = dict(enumerate(start().tolist()))

    def step(g):
        nonlocal params
        params = opt.step(params, dict(enumerate(g.tolist())))
        return [params[i] for i in range(SIZE)]

    return stepped(step)


def numpy_ml() -> np.ndarray:
    import collections
    import collections.abc

    collections.__dict__["Hashable"] = collections.abc.Hashable  # which it imports from there
    from numpy_ml.neural_nets.optimizers import RMSProp

    opt = RMSProp(lr=0.001, decay=0.9, eps=1e-7, clip_norm=1.0)
    params = start()

    def step(g):
        nonlocal params
        params = opt.update(params, g.copy(), "w")
        return params

    return stepped(step)


def climin() -> np.ndarray:
    from climin.rmsprop import RmsProp

    params, grads = start(), iter(gradients())
    opt = RmsProp(params, lambda wrt: next(grads), step_rate=0.01, decay=0.9)
    kept = []
    for info in opt:
        kept.append(params.copy())
        if info["n_iter"] == STEPS or len(kept) == STEPS:
            break
    return np.array(kept)


def pyro() -> np.ndarray:
    import torch
    from pyro.optim.adagrad_rmsprop import AdagradRMSProp

    param = torch.nn.Parameter(torch.from_numpy(start()))
    opt = AdagradRMSProp([param], eta=1.0, t=0.1)

    def step(g):
        param.grad = torch.from_numpy(g.copy())
        opt.step()
        return param.detach().numpy()

    return stepped(step)


CONVNETJS = """
const path = require("path");
const { Trainer } = require(path.join(process.cwd(), "node_modules", "convnetjs"));
const problem = JSON.parse(require("fs").readFileSync(0, "utf8"));
const list = { params: problem.start, grads: [], l2_decay_mul: 1, l1_decay_mul: 1 };
const net = { forward() {}, backward() {}, getParamsAndGrads: () => [list] };
const trainer = new Trainer(net, {
  method: "windowgrad", learning_rate: 0.01, ro: 0.95, eps: 1e-6, l2_decay: 0.001, batch_size: 1,
});
const kept = problem.gradients.map((g) => {
  list.grads = g.slice();
  trainer.train(null, null);
  return list.params.slice();
});
console.log(JSON.stringify(kept));
"""


# The rule of its recurrent networks, on one matrix. It makes its averages float32, unless they are
# there.
BRAINJS = """
const path = require("path");
const folder = path.join(process.cwd(), "node_modules", "brain.js", "dist");
const RNN = require(path.join(folder, "recurrent", "rnn")).default;
const problem = JSON.parse(require("fs").readFileSync(0, "utf8"));
const matrix = { weights: problem.start, deltas: [], rows: problem.start.length, columns: 1 };
const { regc, clipval, decayRate, smoothEps } = RNN.defaults;
const network = {
  regc, clipval, decayRate, smoothEps, stepCache: { 0: problem.start.map(() => 0) },
  trainOpts: { learningRate: 0.01 }, model: { allMatrices: [matrix] },
};
const kept = problem.gradients.map((g) => {
  matrix.deltas = g;
  RNN.prototype.adjustWeights.call(network);
  return matrix.weights.slice();
});
console.log(JSON.stringify(kept));
"""


def node(script: str) -> np.ndarray:
    problem = json.dumps({"start": start().tolist(), "gradients": gradients().tolist()})
    made = subprocess.run(
        ["node", "-e", script], input=problem, stdout=subprocess.PIPE, text=True, check=True
    )
    return np.array(json.loads(made.stdout))


def convnetjs() -> np.ndarray:
    return node(CONVNETJS)


def brainjs() -> np.ndarray:
    return node(BRAINJS)


PACKAGES: dict[Callable[[], np.ndarray], str] = {  # what has the version to note
    numpyro: "numpyro",
    autograd: "autograd",
    pennylane: "pennylane",
    river: "river",
    numpy_ml: "numpy-ml",
    climin: "climin",
    pyro: "pyro-ppl",
    convnetjs: "node_modules/convnetjs",
    brainjs: "node_modules/brain.js",
}


def version(package: str) -> str:
    if package.startswith("node_modules"):
        return json.loads(Path(package, "package.json").read_text())["version"]
    return importlib.metadata.version(package)


def main() -> None:
    arrays: dict[str, Any] = dict(np.load(FILE)) if FILE.exists() else {}
    about = json.loads(arrays.pop("about").item()) if arrays else {}
    for function, package in PACKAGES.items():
        name = function.__name__
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            params = function()
        except (ImportError, FileNotFoundError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}")
            continue
        assert params.shape == (STEPS, SIZE), params.shape
        assert np.isfinite(params).all()
        arrays[name] = params[np.array(KEPT) - 1]
        about[name] = {"version": version(package), "date": date.today().isoformat()}
        print(name, about[name]["version"], arrays[name].dtype)
    np.savez_compressed(FILE, about=np.array(json.dumps(about)), **arrays)


if __name__ == "__main__":
    main()
