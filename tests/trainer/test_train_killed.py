"""Twenty runs on MNIST, each killed at a random moment, resumed, and the same to the bit.

`test_store` kills at chosen moments; this is run by `.ci/nightly`.
"""

import random
import re
import signal
import subprocess
import sys
import time

import pytest
from digits import REAL, real_mnist
from runs import assert_identical

from rmsprop_jax.trainer.mnist import train
from rmsprop_jax.trainer.options import Config

KILLS = 20


@pytest.mark.nightly
@real_mnist
def test_killed_at_random_moments(tmp_path):
    config = Config(data_dir=REAL, devices=1)
    expected = train(config)
    command = [sys.executable, "-m", "rmsprop_jax.cli", "mnist", "--data-dir", str(REAL)]
    began = time.perf_counter()
    subprocess.run([*command, "--save", str(tmp_path / "whole")], check=True, capture_output=True)
    seconds = time.perf_counter() - began
    moments = random.Random(0)
    progress = []
    for kill in range(KILLS):
        save = tmp_path / str(kill)
        # Half of them while epochs end and checkpoints are written, in the last part of the run.
        moment = seconds * moments.uniform(0.0 if kill % 2 else 0.6, 1.0)
        with subprocess.Popen([*command, "--save", str(save)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            time.sleep(moment)
            child.send_signal(signal.SIGKILL)
            printed = len(re.findall("epoch", child.stdout.read().decode()))
        saved = [int(path.name) for path in save.glob("*") if path.name.isdigit()]
        progress.append(max(saved, default=0))
        assert max(saved, default=0) >= printed  # a line is printed when its epoch is safe
        options = {"resume": save} if saved else {"save": save}
        result = train(Config(data_dir=REAL, devices=1, **options))
        assert_identical(result, expected)
    print(f"epochs that were safe when the process was killed: {progress}")
    assert len(set(progress)) > 2  # the moments differed
