"""The schedulers of PyTorch and timm go on with an optimizer that was dumped here."""

import copy
import functools
import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest
from real_checkpoints import STEPS, gradient
from test_pytorch_recorded import from_params, go_on, table, to_params

from rmsprop_jax.interop import pytorch

torch = pytest.importorskip("torch")


@functools.cache
def timm_scheduler():
    """`timm.scheduler`, without the rest of timm, which wants torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("timm isn't installed")
    if "timm" not in sys.modules:
        package = types.ModuleType("timm")
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["timm"] = package
    return importlib.import_module("timm.scheduler")


SCHEDULERS = {
    "one_cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.05, total_steps=20, cycle_momentum=False
    ),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(
        o, 0.01, 0.05, step_size_up=3, cycle_momentum=False
    ),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "timm_cosine": lambda o: timm_scheduler().CosineLRScheduler(o, 20, t_in_epochs=False),
}


class Run:
    def __init__(self, scheduler):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        self.optimizer = torch.optim.RMSprop(self.net.parameters(), 0.03, momentum=0.75)
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)
        self.start = 0
        self.rates = []

    def train(self):
        for step in range(self.start, self.start + STEPS):
            for name, p in self.net.named_parameters():
                p.grad = torch.from_numpy(gradient(name, p.detach().numpy(), step))
            self.rates.append([g["lr"] for g in self.optimizer.param_groups])
            self.optimizer.step()
            if hasattr(self.scheduler, "step_update"):
                self.scheduler.step_update(step)
            else:
                self.scheduler.step()
        self.start += STEPS
        return {n: p.detach().numpy().copy() for n, p in self.net.named_parameters()}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_goes_on_with_its_scheduler(scheduler):
    straight = Run(scheduler)
    there = [straight.train() for _ in range(3)][-1]

    run = Run(scheduler)
    weights = run.train()
    before = copy.deepcopy(run.optimizer.state_dict())
    schedules = [table(straight.rates[STEPS:], 0)]
    tx, state = pytorch.load(before, weights, to_params, lr=schedules)
    params, state = go_on(tx, state, weights, ())
    tensors = lambda tree: {n: torch.from_numpy(x.copy()) for n, x in from_params(tree).items()}
    run.net.load_state_dict(tensors(params))
    after = pytorch.dump(tx, state, weights, tensors, like=before)
    run.optimizer.load_state_dict(after)
    for step in range(STEPS, 2 * STEPS):  # what the scheduler would have done meanwhile
        if hasattr(run.scheduler, "step_update"):
            run.scheduler.step_update(step)
        else:
            run.scheduler.step()
    run.start = 2 * STEPS
    for name, x in run.train().items():
        np.testing.assert_allclose(x, there[name], 2e-6, 2e-6)
