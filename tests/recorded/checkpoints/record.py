# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Write small checkpoints with the real packages, and what the run did after them.

Run where the packages of a family are installed (see ../README.md):

    python tests/recorded/checkpoints/record.py pytorch keras

Each function named after a family returns its cases by kind, in the form that
`tests/support/real_checkpoints.py` describes.
"""

import argparse
import contextlib
import copy
import functools
import gzip
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import types
from datetime import date
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from real_checkpoints import FOLDER, STEPS, encode, gradient

SETTINGS = {"lr": 0.03, "alpha": 0.875, "eps": 1e-3, "momentum": 0.75, "centered": True}
DECAYED = {"weight_decay": 0.125, **SETTINGS}


def case_of(train, save, weights, between=None, **more):
    """A case: STEPS updates, the checkpoint, and as many updates more."""
    train(0)
    checkpoint, before = save(), weights()
    if between:
        between()
    train(STEPS)
    after = {"later": save(), "final": weights()}
    return {"checkpoint": checkpoint, "weights": before, **after, "still": [], **more}


# PyTorch


def plain(x):
    """A tree of PyTorch's as plain data."""
    import torch

    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if isinstance(x, torch.Tensor):
        x = getattr(x, "full_tensor", lambda: x)().detach().cpu()
        if x.dtype == torch.bfloat16:
            import ml_dtypes

            return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
        return x.numpy().copy()
    return x


def own_name(name):
    """A parameter's name in the model, without what wrappers put in front."""
    for wrapper in ("_fsdp_wrapped_module.", "_orig_mod.", "module."):
        name = name.replace(wrapper, "")
    return name


def set_gradients(model, step, still=()):
    import torch

    for name, p in model.named_parameters():
        name = own_name(name)
        p.grad = None
        if not p.requires_grad or name in still:
            continue
        full = getattr(p, "full_tensor", lambda p=p: p)()
        if p.is_complex():
            pair = torch.view_as_real(full.detach()).numpy()
            g = torch.view_as_complex(torch.from_numpy(gradient(name, pair, step)))
        elif p.dtype == torch.bfloat16:
            g = torch.from_numpy(gradient(name, full.detach().float().numpy(), step)).bfloat16()
        else:
            g = torch.from_numpy(gradient(name, full.detach().numpy(), step))
        if hasattr(p, "full_tensor"):
            from torch.distributed.tensor import distribute_tensor

            g = distribute_tensor(g, p.device_mesh, p.placements)
        p.grad = g


def model():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)
    )


def run(net, optimizer, still=(), still_later=None, each=None, save=None, between=None, **more):
    """A case of a model of PyTorch's."""
    save = save or (lambda: optimizer.state_dict())
    still_later = still if still_later is None else still_later
    rates = {}

    def train(start):
        rates[start] = []
        for step in range(start, start + STEPS):
            set_gradients(net, step, still_later if start else still)
            rates[start].append([float(g["lr"]) for g in optimizer.param_groups])
            optimizer.step()
            if each:
                each(step)

    case = case_of(
        train,
        save=lambda: plain(copy.deepcopy(save())),
        weights=lambda: {n: plain(p) for n, p in net.named_parameters()},
        between=between,
    )
    return {**case, "still": list(still_later), "rates": rates[STEPS], **more}


def fresh(make, net=None, save=None, **options):
    """A case of a model of its own."""
    net = net or model()
    optimizer = make(net)
    return run(net, optimizer, save=save and (lambda: save(net, optimizer)), **options)


def pytorch():
    """All kinds of `torch.optim.RMSprop`, with and without wrappers."""
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    rmsprop = torch.optim.RMSprop
    of_parameters = lambda **settings: lambda net: rmsprop(net.parameters(), **settings)

    def groups(net, names=False):
        """No decay on vectors; the order of the groups isn't the model's."""
        pick = lambda keep: [
            (n, p) if names else p for n, p in net.named_parameters() if (p.ndim > 1) == keep
        ]
        return [
            {"params": pick(True), "weight_decay": 0.25},
            {"params": pick(False), "weight_decay": 0.0, "lr": 0.01},
        ]

    def norms(net):
        pick = lambda kind: [p for n, p in net.named_parameters() if n.endswith(kind)]
        return [{"params": pick("weight")}, {"params": pick("bias"), "lr": 0.01}]

    backwards = lambda net: [*net.named_parameters()][::-1]
    cases = {
        "parameters": fresh(of_parameters(**DECAYED)),
        "without_momentum": fresh(of_parameters(lr=0.03)),
        "named_parameters": fresh(lambda net: rmsprop(backwards(net), **SETTINGS)),
        "maximize": fresh(of_parameters(lr=0.01, maximize=True, weight_decay=0.5)),
        "foreach": fresh(of_parameters(foreach=True, **SETTINGS)),
        "lr_tensor": fresh(of_parameters(lr=torch.tensor(0.03), momentum=0.5)),
        "groups": fresh(lambda net: rmsprop(groups(net), **SETTINGS)),
        "named_groups": fresh(lambda net: rmsprop(groups(net, names=True), **SETTINGS)),
        "groups_of_one_shape": fresh(lambda net: rmsprop(norms(net), **SETTINGS)),
    }

    def by_name(**options):
        return functools.partial(get_optimizer_state_dict, options=StateDictOptions(**options))

    for kind, flat in (("by_name", False), ("by_name_flat", True)):
        save = by_name(flatten_optimizer_state_dict=flat)
        cases[kind] = fresh(lambda net: rmsprop(groups(net), **SETTINGS), save=save)

    def wrapped(wrap):
        net = model()
        outer = wrap(net)
        return run(outer, rmsprop(outer.named_parameters(), **SETTINGS), names=own_names(net))

    cases["compiled"] = wrapped(torch.compile)
    cases["data_parallel"] = wrapped(torch.nn.DataParallel)
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        cases["distributed"] = wrapped(torch.nn.parallel.DistributedDataParallel)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
        from torch.distributed.fsdp import fully_shard

        one_by_one = of_parameters(foreach=False, **SETTINGS)
        fully_shard(net := model(), mesh=init_device_mesh("cpu", (1,)))
        cases["fsdp"] = fresh(one_by_one, net, by_name(full_state_dict=True))
        sharded = FSDP(net := model(), use_orig_params=True, device_id=torch.device("cpu"))
        cases["fsdp1"] = fresh(one_by_one, sharded, FSDP.optim_state_dict, names=own_names(net))
        torch.distributed.destroy_process_group()

    with tempfile.TemporaryDirectory() as folder:
        from safetensors.numpy import load_file
        from safetensors.torch import save_file

        case = fresh(of_parameters(**SETTINGS))
        path = f"{folder}/model.safetensors"
        save_file({n: torch.from_numpy(x) for n, x in case["weights"].items()}, path)
        order = list(case["weights"])
        cases["safetensors"] = {**case, "weights": load_file(path), "order": order}

    case = fresh(of_parameters(**SETTINGS))
    text = json.dumps(case["checkpoint"], default=np.ndarray.tolist)
    cases["json"] = {**case, "checkpoint": json.loads(text)}

    def frozen():
        net = model()
        net[0].requires_grad_(False)
        return net

    first, last = ["0.weight", "0.bias"], ["3.weight", "3.bias"]
    trained = lambda net: rmsprop([p for p in net.parameters() if p.requires_grad], **DECAYED)
    with_decay = of_parameters(**DECAYED)
    cases["frozen"] = fresh(with_decay, frozen(), still=first)
    cases["never_given"] = fresh(trained, frozen(), still=first)
    cases["unused_head"] = fresh(with_decay, still=last)
    every = own_names(model())
    cases["before_first_step"] = fresh(with_decay, still=every, still_later=[])
    net = model()
    optimizer = rmsprop(net.parameters(), 0.03)

    def turn_on():  # PyTorch's own next step would be KeyError: 'momentum_buffer'
        optimizer.param_groups[0]["momentum"] = 0.75
        for slots in optimizer.state.values():
            slots["momentum_buffer"] = torch.zeros_like(slots["square_avg"])

    cases["momentum_later"] = run(net, optimizer, between=turn_on)
    cases["momentum_later"]["checkpoint"]["param_groups"][0]["momentum"] = 0.75
    net = model()
    cases["steps_apart"] = steps_apart(net, with_decay(net), first)

    schedules = torch.optim.lr_scheduler
    alone = {"cycle_momentum": False}
    schedulers = {
        "one_cycle": lambda o: schedules.OneCycleLR(o, 0.05, total_steps=20, **alone),
        "one_cycle_momentum": lambda o: schedules.OneCycleLR(o, 0.05, total_steps=20),
        "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.05, step_size_up=3, **alone),
        "lambda": lambda o: schedules.LambdaLR(o, lambda t: 0.9**t),
    }
    for kind, make in schedulers.items():
        net = model()
        optimizer = rmsprop(groups(net) if kind == "lambda" else net.parameters(), **SETTINGS)
        scheduler = make(optimizer)
        cases[kind] = run(net, optimizer, each=lambda step, s=scheduler: s.step())

    class Complex(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.spectrum = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
            self.bias = torch.nn.Parameter(torch.randn(2))

    cases["complex"] = fresh(of_parameters(**SETTINGS), Complex())
    cases["bfloat16"] = fresh(of_parameters(**SETTINGS), model().bfloat16())
    net = model().double()
    torch.set_default_dtype(torch.float64)
    cases["float64"] = fresh(of_parameters(**SETTINGS), net)
    torch.set_default_dtype(torch.float32)
    return {**cases, **wholes()}, ("torch", "safetensors", "lightning", "accelerate")


def own_names(net):
    return [name for name, _ in net.named_parameters()]


def steps_apart(net, optimizer, frozen):
    """A layer that was thawed in the middle: it has made fewer steps than the others."""
    run(net, optimizer, still=frozen, still_later=[])
    return run(net, optimizer)  # on the same targets once more


def wholes():
    """The whole checkpoints of Lightning and accelerate."""
    import lightning
    import torch
    from accelerate import Accelerator

    cases = {}

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model()

        def training_step(self, batch, index):
            from real_checkpoints import scale, target

            step = int(batch)
            far = lambda n, p: p - torch.from_numpy(target(n, tuple(p.shape), step))
            named = self.named_parameters()
            return torch.stack([scale(n) / 2 * far(n, p).square().sum() for n, p in named]).sum()

        def configure_optimizers(self):
            return torch.optim.RMSprop(self.parameters(), **SETTINGS)

    with tempfile.TemporaryDirectory() as folder:
        data = torch.utils.data.DataLoader(torch.arange(2 * STEPS), batch_size=1)
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        kept = "state_dict optimizer_states global_step pytorch-lightning_version epoch loops"
        runs = []
        for steps in (STEPS, 2 * STEPS):
            trainer = lightning.Trainer(
                max_steps=steps,
                accelerator="cpu",
                default_root_dir=folder,
                **dict.fromkeys(quiet, False),
            )
            trainer.fit(Module(), data)
            trainer.save_checkpoint(f"{folder}/{steps}.ckpt")
            saved = torch.load(f"{folder}/{steps}.ckpt", weights_only=True)
            runs.append(plain({k: saved[k] for k in [*kept.split(), "lr_schedulers"]}))
        checkpoint, later = runs
        cases["lightning"] = {
            "checkpoint": checkpoint,
            "weights": dict(checkpoint["state_dict"]),
            "later": later,
            "final": dict(later["state_dict"]),
            "still": [],
        }

        accelerator = Accelerator(cpu=True)
        net = model()
        net, optimizer = accelerator.prepare(net, torch.optim.RMSprop(net.parameters(), **SETTINGS))

        def save():
            accelerator.save_state(f"{folder}/accelerate")
            return torch.load(f"{folder}/accelerate/optimizer.bin", weights_only=True)

        cases["accelerate"] = run(net, optimizer, save=save)
    return cases


def import_timm():
    """timm's optimizers and schedulers: its models want torchvision, which has no CPU build."""

    class Stub(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Constant(name, (), {})

    class Constant(type):
        def __getattr__(cls, name):
            return name

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "torchvision":
                from importlib.machinery import ModuleSpec

                return ModuleSpec(name, self, is_package=True)
            return None

        def create_module(self, spec):
            return Stub(spec.name)

        def exec_module(self, module):
            pass

    sys.meta_path.insert(0, Finder())
    import timm.optim
    import timm.scheduler

    return timm


def timm():
    """timm's RMSpropTF, as its factory makes it."""
    timm = import_timm()
    basic = {"lr": 0.03, "momentum": 0.75}
    make = functools.partial(timm.optim.create_optimizer_v2, opt="rmsproptf", **basic)
    decays = {"caution": True, "decoupled_decay": True, "corrected_weight_decay": True}
    cases = {
        "default_groups": fresh(lambda net: make(net, weight_decay=0.125)),
        "one_group": fresh(lambda net: make(list(net.parameters()), centered=True)),
        "cautious": fresh(lambda net: make(net, weight_decay=0.125, **decays)),
    }

    def with_cosine(net, optimizer, **options):
        scheduler = timm.scheduler.CosineLRScheduler(optimizer, 20, t_in_epochs=False, **options)
        return run(net, optimizer, each=lambda step: scheduler.step_update(step))

    net = model()
    warm = {"warmup_t": 3, "warmup_lr_init": 1e-3}
    cases["cosine"] = with_cosine(net, make(net, weight_decay=0.125), **warm)
    net = model()
    groups = [
        {"params": list(net[0].parameters()), "lr_scale": 0.5},
        {"params": [p for layer in net[1:] for p in layer.parameters()], "lr_scale": 1.0},
    ]
    cases["lr_scale"] = with_cosine(net, make(groups))
    cases["lookahead"] = fresh(lambda net: make(net, opt="lookahead_rmsproptf"))
    return cases, ("timm", "torch")


# Stable-Baselines3 and bitsandbytes


def idle_environment():
    """An environment in which nothing ever happens."""
    import gymnasium

    class Env(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return np.zeros(3, np.float32), 0.0, True, False, {}

    return Env()


def stable_baselines3():
    """`A2C.save`'s zip file, read as its documentation says, with each optimizer."""
    import io
    import zipfile

    import torch
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    def agent_of(algorithm, optimizer=None, kwargs=None, **options):
        """A small agent; without an optimizer it has that of the algorithm."""
        policy = {"net_arch": [4]}
        policy |= {"optimizer_class": optimizer} if optimizer else {}
        policy |= {"optimizer_kwargs": kwargs} if kwargs else {}
        return algorithm("MlpPolicy", idle_environment(), seed=0, policy_kwargs=policy, **options)

    settings = {"alpha": 0.875, "eps": 1e-3, "momentum": 0.75, "centered": True}
    batches = {"n_steps": 8, "batch_size": 8}
    agents = {
        "a2c": lambda: agent_of(A2C),
        "a2c_tf_like": lambda: agent_of(A2C, RMSpropTFLike, {"eps": 1e-5}),
        "tf_like_momentum": lambda: agent_of(A2C, RMSpropTFLike, settings),
        "tf_like_weight_decay": lambda: agent_of(A2C, RMSpropTFLike, {"weight_decay": 0.125}),
        "ppo": lambda: agent_of(PPO, torch.optim.RMSprop, {"momentum": 0.75}, **batches),
    }
    cases = {}
    with tempfile.TemporaryDirectory() as folder:

        def save(agent):
            agent.save(f"{folder}/agent.zip")
            with zipfile.ZipFile(f"{folder}/agent.zip") as file:
                return torch.load(io.BytesIO(file.read("policy.optimizer.pth")), weights_only=True)

        for kind, make in agents.items():
            agent = make()
            net, optimizer = agent.policy, agent.policy.optimizer
            cases[kind] = run(net, optimizer, save=lambda agent=agent: save(agent))
    return cases, ("stable_baselines3", "torch")


def bitsandbytes():
    """Its RMSprop in 32 and 8 bits; arrays under 4,096 elements are kept in 32 bits by default."""
    import bitsandbytes as bnb
    import torch

    def net():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(24, 12), torch.nn.Linear(12, 2))

    cases = {}
    small = {"lr": 0.03, "alpha": 0.875, "eps": 1e-3, "weight_decay": 0.125}
    for kind, make in {
        "32bit": lambda p: bnb.optim.RMSprop32bit(p, **small),
        "8bit": lambda p: bnb.optim.RMSprop8bit(p, min_8bit_size=16, **small),
        "8bit_and_32bit": lambda p: bnb.optim.RMSprop8bit(p, min_8bit_size=128, **small),
        "plain": lambda p: bnb.optim.RMSprop(p, lr=0.01),
    }.items():
        module = net()
        cases[kind] = run(module, make(module.parameters()))
    return cases, ("bitsandbytes", "torch")


# Keras and TensorFlow


def keras_net(keras, layers=2, width=4):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((3,)), *(keras.layers.Dense(width) for _ in range(layers))])
    return net


def config_of(optimizer):
    return json.loads(json.dumps(optimizer.get_config(), default=float))


def targets(net, step, scale=1.0, name=lambda v: v.path, trainable=None):
    """The gradients of a model's variables."""
    variables = net.trainable_variables if trainable is None else trainable
    return [scale * gradient(name(v), np.array(v), step) for v in variables]


def keras():
    """Keras 3 in files and in memory. (`bfloat16` and others are as for mixed_float16.)"""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import h5py
    import keras
    import tensorflow as tf

    settings = {"rho": 0.875, "momentum": 0.75, "epsilon": 1e-3, "centered": True}
    cases = {}

    def state(optimizer):
        return {v.path: np.array(v) for v in optimizer.variables}

    def in_file(net, path):
        """Weights and optimizer, as h5py lists them."""
        net.save_weights(path) if path.endswith(".weights.h5") else net.save(path)
        with h5py.File(path) as file:
            found = {}
            file.visititems(lambda k, x: found.update({k: x[()]}) if hasattr(x, "shape") else None)
        return found

    def train(optimizer, net, start, variables=None, factor=lambda: 1.0):
        variables = net.trainable_variables if variables is None else variables
        for step in range(start, start + STEPS):
            grads = targets(net, step, trainable=variables)
            optimizer.apply([tf.constant(g * factor()) for g in grads], variables)

    def case(net, optimizer, save=None, factor=lambda: 1.0):
        optimizer.build(net.trainable_variables)
        return case_of(
            lambda start: train(optimizer, net, start, factor=factor),
            save or (lambda: state(optimizer)),
            weights=lambda: {v.path: np.array(v) for v in net.trainable_variables},
            config=config_of(optimizer),
        )

    def make(net=None, rate=0.03, **options):
        net = net or keras_net(keras)
        return net, keras.optimizers.RMSprop(rate, **settings, **options)

    def scaled():
        """In half precision, with a loss that is scaled."""
        keras.mixed_precision.set_global_policy("mixed_float16")
        net, inner = make()
        keras.mixed_precision.set_global_policy("float32")
        optimizer = keras.optimizers.LossScaleOptimizer(inner)
        return net, optimizer, lambda: float(optimizer.dynamic_scale)

    cases["by_path"] = case(*make())
    cases["weight_decay_clipnorm"] = case(*make(weight_decay=0.125, clipnorm=0.5))
    net = keras_net(keras)
    rate = keras.optimizers.schedules.ExponentialDecay(0.03, 1, 0.9)
    cases["schedule"] = case(*make(net, rate))
    with tempfile.TemporaryDirectory() as folder:
        net, optimizer = make(keras_net(keras, 12, 3))
        net.compile(optimizer, "mse")
        path = f"{folder}/model.weights.h5"
        cases["weights_h5"] = case(net, optimizer, lambda: in_file(net, path))
        net, optimizer = make()
        net.compile(optimizer, "mse")

        def archive():
            import zipfile

            net.save(f"{folder}/model.keras")
            with zipfile.ZipFile(f"{folder}/model.keras") as file:
                file.extract("model.weights.h5", folder)
            with h5py.File(f"{folder}/model.weights.h5") as file:
                return {k: x[()] for k, x in file["optimizer/vars"].items()}

        cases["keras_archive"] = case(net, optimizer, archive)
        net, optimizer, factor = scaled()
        cases["mixed_float16"] = case(net, optimizer, factor=factor)
        net, optimizer, factor = scaled()
        net.compile(optimizer, "mse")
        path = f"{folder}/mixed.weights.h5"
        cases["mixed_float16_h5"] = case(net, optimizer, lambda: in_file(net, path), factor)
    cases["ema"] = case(*make(use_ema=True))
    cases["accumulation"] = case(*make(gradient_accumulation_steps=2))
    net, optimizer = make()
    net.layers[0].trainable = False
    cases["frozen"] = case(net, optimizer)
    return cases, ("keras", "tensorflow-cpu", "h5py")


def tensorflow():
    """TensorFlow 1's own optimizer and tf_keras's two, in their own files."""
    import tensorflow as tf
    import tf_keras

    settings = {"rho": 0.875, "momentum": 0.75, "epsilon": 1e-3, "centered": True}
    first = {"decay": 0.875, "epsilon": 1e-3}
    cases = {}

    def read(path):
        reader = tf.train.load_checkpoint(path)
        arrays = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
        return {n: x for n, x in arrays.items() if isinstance(x, np.ndarray | np.generic | int)}

    def tf1(kind, scope=None, two=False, **kwargs):
        with tf.Graph().as_default(), tempfile.TemporaryDirectory() as folder:
            v1 = tf.compat.v1
            random = np.random.default_rng(0)
            shapes = {"net/hidden/kernel": (3, 4), "net/hidden/bias": (4,)}
            if two:
                shapes |= {"critic/kernel": (3, 2), "critic/bias": (2,)}
            variables = {
                n: v1.get_variable(n, initializer=random.standard_normal(s).astype(np.float32))
                for n, s in shapes.items()
            }
            fed = {n: v1.placeholder(tf.float32, s) for n, s in shapes.items()}
            optimizers = [(v1.train.RMSPropOptimizer(0.03, **first, **kwargs), "net/")]
            if two:
                second = v1.train.RMSPropOptimizer(0.01, name="Critic", **first, **kwargs)
                optimizers.append((second, "critic/"))
            step = v1.train.get_or_create_global_step()

            update = []
            with v1.variable_scope(scope) if scope else contextlib.nullcontext():
                for optimizer, prefix in optimizers:
                    pairs = [(fed[n], v) for n, v in variables.items() if n.startswith(prefix)]
                    counted = None if update else step
                    update.append(optimizer.apply_gradients(pairs, global_step=counted))
            saver = v1.train.Saver()
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())

                def train(start):
                    for t in range(start, start + STEPS):
                        now = session.run(variables)
                        session.run(update, {fed[n]: gradient(n, x, t) for n, x in now.items()})
                    return read(saver.save(session, f"{folder}/model")), session.run(variables)

                (checkpoint, weights), (later, final) = train(0), train(STEPS)
        cases[kind] = {
            "checkpoint": checkpoint,
            "weights": weights,
            "later": later,
            "final": final,
            "still": [],
            "settings": {"learning_rate": 0.03, **first, **kwargs},
        }

    tf1("saver", momentum=0.0)
    tf1("saver_momentum", momentum=0.75)
    tf1("saver_centered", momentum=0.75, centered=True)
    tf1("saver_scope", scope="train", momentum=0.75, centered=True)
    tf1("saver_two_optimizers", two=True, momentum=0.75)

    own = lambda v: v.name

    def apply(net, optimizer, step):
        pairs = zip(targets(net, step, name=own), net.trainable_variables, strict=True)
        optimizer.apply_gradients([(tf.constant(g), v) for g, v in pairs])

    def eager(net, optimizer, save, settings=None):
        def train(start):
            for step in range(start, start + STEPS):
                apply(net, optimizer, step)

        weights = lambda: {v.name: np.array(v) for v in net.trainable_variables}
        return case_of(train, save, weights, settings=settings or config_of(optimizer))

    def legacy():
        return tf_keras.optimizers.legacy.RMSprop(0.03, **settings)

    def current(net):
        optimizer = tf_keras.optimizers.RMSprop(0.03, **settings)
        optimizer.build(net.trainable_variables)
        return optimizer

    def net():
        tf_keras.backend.clear_session()
        tf_keras.utils.set_random_seed(0)
        return tf_keras.Sequential(
            [
                tf_keras.Input((3,)),
                tf_keras.layers.Dense(4, name="hidden"),
                tf_keras.layers.Dense(2, name="out"),
            ]
        )

    with tempfile.TemporaryDirectory() as folder:

        def object_checkpoint(kind, model, optimizer, settings=None):
            writer = tf.train.Checkpoint(model=model, optimizer=optimizer)
            save = lambda: read(writer.write(f"{folder}/{kind}"))
            case = eager(model, optimizer, save, settings)
            suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
            of_model = {
                key.removesuffix(suffix): x
                for key, x in case["checkpoint"].items()
                if key.startswith("model/")
                and "OPTIMIZER_SLOT" not in key
                and "variables/" not in key
            }
            key_of = lambda x: next(key for key, y in of_model.items() if np.array_equal(x, y))
            cases[kind] = {**case, "keys": {n: key_of(x) for n, x in case["weights"].items()}}

        model = net()
        tf1_settings = {"learning_rate": 0.03, **first, "momentum": 0.75, "centered": True}
        optimizer = tf.compat.v1.train.RMSPropOptimizer(**tf1_settings)
        object_checkpoint("object_tensorflow1", model, optimizer, tf1_settings)
        object_checkpoint("object_legacy", net(), legacy())
        model = net()
        object_checkpoint("object_tf_keras", model, current(model))

        # tf_keras in memory, which `interop.keras` reads
        def in_memory(model, optimizer):
            return eager(
                model, optimizer, lambda: {v.name: np.array(v) for v in optimizer.variables()}
            )

        model, optimizer = net(), legacy()
        cases["legacy"] = in_memory(model, optimizer)
        model.compile(optimizer, "mse")
        model.save(f"{folder}/legacy.h5")
        model = tf_keras.models.load_model(f"{folder}/legacy.h5")
        cases["legacy_loaded"] = in_memory(model, model.optimizer)
        model, old, trained = net(), net(), legacy()
        apply(old, trained, 0)
        path = tf.train.Checkpoint(model=old, optimizer=trained).write(f"{folder}/restored")
        optimizer = legacy()
        tf.train.Checkpoint(model=model, optimizer=optimizer).read(path)
        cases["legacy_restored"] = in_memory(model, optimizer)
        model = net()
        optimizer = current(model)
        save = lambda: {v.name: np.array(v) for v in optimizer.variables}
        cases["tf_keras"] = eager(model, optimizer, save)
    return cases, ("tensorflow-cpu", "tf_keras")


def files():
    """One real file of each kind, for `rmsprop-jax inspect`."""
    import tensorflow as tf
    import tf_keras
    import torch
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    folder = FOLDER / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    net = model()
    optimizer = torch.optim.RMSprop(net.named_parameters(), weight_decay=0.125, **SETTINGS)
    for step in range(STEPS):
        set_gradients(net, step)
        optimizer.step()
    both = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(both, folder / "pytorch.pt")

    from stable_baselines3 import A2C

    policy = {"net_arch": [4], "optimizer_class": RMSpropTFLike}
    agent = A2C("MlpPolicy", idle_environment(), policy_kwargs=policy)
    for step in range(STEPS):
        set_gradients(agent.policy, step)
        agent.policy.optimizer.step()
    agent.save(folder / "stable_baselines3.zip")

    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    net = keras_net(keras)
    net.compile(keras.optimizers.RMSprop(0.03, momentum=0.75, centered=True), "mse")
    for step in range(STEPS):
        net.optimizer.apply([tf.constant(g) for g in targets(net, step)], net.trainable_variables)
    net.save(folder / "keras.keras")
    net.save_weights(folder / "keras.weights.h5")

    legacy = tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Dense(4)])
    optimizer = tf_keras.optimizers.legacy.RMSprop(0.03, momentum=0.75)
    for step in range(STEPS):
        gs = targets(legacy, step, name=lambda v: v.name)
        pairs = zip([tf.constant(g) for g in gs], legacy.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
    tf.train.Checkpoint(model=legacy, optimizer=optimizer).write(str(folder / "tf_keras_legacy"))
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        w = v1.get_variable("w", initializer=np.ones(3, np.float32))
        v1.train.get_or_create_global_step()
        rate = v1.train.RMSPropOptimizer(0.03, momentum=0.75, centered=True)
        update = rate.apply_gradients([(2 * w, w)], global_step=v1.train.get_global_step())
        session.run(v1.global_variables_initializer())
        session.run(update)
        v1.train.Saver().save(session, str(folder / "tensorflow1"), write_meta_graph=False)
    (folder / "checkpoint").unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        print(path.name, path.stat().st_size)


def states():
    """States of Optax and of this library, in files of the kinds that JAX's users have."""
    import jax
    import jax.numpy as jnp
    import optax
    import orbax.checkpoint as ocp
    from safetensors.numpy import save_file

    sys.path.insert(0, str(Path(__file__).parents[3]))
    from rmsprop_jax import rmsprop

    params = {"dense": {"bias": jnp.ones(4), "kernel": jnp.full((3, 4), 0.5)}, "scale": jnp.ones(2)}

    def trained(tx):
        gradients = lambda tree, step: jax.tree.map_with_path(
            lambda path, x: gradient(jax.tree_util.keystr(path), np.asarray(x), step), tree
        )
        state, p = tx.init(params), params
        for step in range(STEPS):
            updates, state = tx.update(gradients(p, step), state, p)
            p = optax.apply_updates(p, updates)
        return state

    def by_path(state):
        text = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
        return {text(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(state)}

    folder = FOLDER / "files"
    save_file(by_path(trained(optax.rmsprop(0.03, momentum=0.75))), folder / "optax.safetensors")
    np.savez(
        folder / "rmsprop_jax.npz", **by_path(trained(rmsprop(0.03, momentum=0.75, centered=True)))
    )
    shutil.rmtree(folder / "orbax", ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        schedule = optax.cosine_decay_schedule(0.03, 100)
        checkpointer.save(folder / "orbax", trained(optax.rmsprop(schedule, centered=True)))
    (folder / "orbax" / "commit_success.txt").unlink(missing_ok=True)  # it has the folder's path


FAMILIES = {
    f.__name__: f for f in (pytorch, timm, stable_baselines3, bitsandbytes, keras, tensorflow)
}


def record(name):
    cases, distributions = FAMILIES[name]()
    about = {
        "versions": {
            **{d: importlib.metadata.version(d) for d in distributions},
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "date": date.today().isoformat(),
    }
    path = FOLDER / f"{name}.json.gz"
    text = json.dumps(encode({"about": about, "cases": cases}))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{path.name}: {len(cases)} kinds, {path.stat().st_size} bytes: {', '.join(cases)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record the checkpoints of real packages.")
    parser.add_argument("family", nargs="+", choices=[*FAMILIES, "files", "states"])
    for family in parser.parse_args().family:
        {"files": files, "states": states}.get(family, functools.partial(record, family))()
