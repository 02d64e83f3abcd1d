"""Runs the benchmarks one after the other, and writes RESULTS.md and the charts beside this file.

    python benchmarks/run.py                # about 20 minutes on 2 quiet cores
    python benchmarks/run.py --device gpu   # the same on a GPU: RESULTS-gpu.md, *-gpu.png
    python benchmarks/run.py --quick        # small sizes, to see that all of it runs

Every benchmark is a script that can be run alone and explains itself at its top; here each is a
process of its own, and its tables are put together. One that fails is reported in its place, the
rest still runs, and the exit status is 1. A quick run writes to a temporary directory. MNIST is
found as by the example: --data-dir, MNIST_DIR, or its cache.

More are run alone: `parity.py --write` and `torture.py --write` put their tables into
docs/parity.md and TORTURE.md, ACCELERATORS.md has what `accelerators.py` printed,
`storage_training.py` prints final losses.
"""

import argparse
import datetime
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SECTIONS = [  # heading, script, what --quick adds
    ("The same run as in PyTorch", "same_run", "--epochs 1"),
    ("One update", "step_time", "--sizes 1000 1000000 --arrays 1 20 --networks --seconds 2"),
    ("Tracing and compiling", "compile_time", "--arrays 1 50 --networks --rounds 3"),
    ("One update outside of jit", "eager_time", "--seconds 2"),
    ("Memory", "memory", "--size 1000000"),
    ("MNIST from start to exit", "mnist_time", "--epochs 2 --rounds 1"),
    ("A sweep in one program", "sweep_time", "--settings 8 --rounds 2"),
    ("Stored accumulators: time", "storage_time", "--shapes 1000000 1000x1000 --seconds 1"),
    ("Stored accumulators: error", "storage_error", "--size 1024"),
]
CHARTS = ("same_run", "step_time", "compile_time")


def run(command, env):
    """What a benchmark prints, passed on line by line, and what went wrong, or None."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
        status = process.wait()
        errors.seek(0)
        complaint = errors.read().strip()
    if status and complaint:
        print(complaint, file=sys.stderr)
    failure = f"exit status {status}\n{complaint}"[-2000:] if status else None
    return "".join(lines).strip(), failure


def section(heading, script, arguments, chart, env):
    """A part of RESULTS.md, and whether its benchmark failed."""
    line = shlex.join(["python", f"benchmarks/{script}.py", *arguments])
    print(f"\n== {heading}: {line}", flush=True)
    command = [sys.executable, str(HERE / f"{script}.py"), *arguments]
    if script in CHARTS:
        command += ["--plot", str(chart)]
    began = time.perf_counter()
    tables, failure = run(command, env)
    seconds = time.perf_counter() - began
    text = f"## {heading}\n\n`{line}`, {seconds:.0f} s\n\n{tables}\n"
    if failure:
        text += f"\n**Failed.**\n\n```\n{failure}\n```\n"
    return text, failure is not None


def commit():
    describe = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, into a temporary place")
    parser.add_argument("--data-dir", help="where the MNIST files are")
    args = parser.parse_args()

    # Without preallocation, JAX leaves memory of the GPU to PyTorch.
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    env["JAX_PLATFORMS"] = "cpu" if args.device == "cpu" else "cuda,cpu"
    if args.data_dir:
        env["MNIST_DIR"] = args.data_dir
    target = Path(tempfile.mkdtemp()) if args.quick else HERE
    suffix = "" if args.device == "cpu" else f"-{args.device}"
    quick = " --quick" if args.quick else ""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    how = f"python benchmarks/run.py --device {args.device}{quick}"
    load = os.getloadavg()[0]
    parts = [
        f"# Results\n\nWritten by `{how}`, {date},\n"
        f"at commit {commit()}, with a load of {load:.1f} before.\n"
        "What the columns mean is said at the top of each script.\n"
    ]
    failures = []
    for heading, script, smaller in SECTIONS:
        arguments = smaller.split() if args.quick else []
        chart = target / f"{script}{suffix}.png"
        text, failed = section(heading, script, arguments, chart, env)
        parts.append(text)
        failures += [script] if failed else []
        (target / f"RESULTS{suffix}.md").write_text("\n".join(parts), encoding="utf-8")
    print(f"\nWritten: {target / f'RESULTS{suffix}.md'}")
    if failures:
        sys.exit(f"Failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
