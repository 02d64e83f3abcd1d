"""Small mistakes in the library, one at a time: each has to make a test fail.

    python tests/mutate.py --sample 200           # of all mistakes in all rooms
    python tests/mutate.py storage/formats.py     # all of a room

No file is changed: the module with the mistake is compiled in memory, in a process that is forked
where everything but this library is imported, and that runs the tests which are about the room. The
real PyTorch, timm, Keras and TensorFlow are hidden, so that what counts is what every machine can
run. The exit status is 1 if more than one in ten isn't noticed, those of `EQUIVALENT` aside.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.machinery
import itertools
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rmsprop_jax"
TESTS = {  # by the start of a room's path; the quick ones first
    "transform.py": ["test_fuzz.py", "test_transform.py", "test_eager.py", "test_hostile.py"],
    "precision.py": ["test_precision.py", "test_types.py", "test_misfits.py", "test_devices.py"],
    "anatomy.py": ["test_anatomy.py", "test_explain.py", "test_diagnostics.py"],
    "closures.py": ["test_anatomy.py", "test_explain.py", "test_diagnostics.py"],
    "frameworks/": [
        "test_foreign_states.py",
        "frameworks",
        "test_checkpoints.py",
        "test_dialects.py",
        "test_recipes.py",
        "test_atlas.py",
        "test_inspect.py",
    ],
    "storage/": ["test_machine.py", "test_storage.py", "test_devices.py"],
}
HIDDEN = ("torch", "timm", "keras", "tensorflow", "tf_keras")
TIMEOUT = 1200.0  # seconds; a mistake may also make a loop endless
NEEDED = 0.9

EQUIVALENT: dict[tuple[str, str], str] = {}
"""Mistakes that change nothing that is promised: file and mutated line, and why."""

_OPPOSITES: list[tuple[type, type]] = [
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.LShift, ast.RShift), (ast.BitAnd, ast.BitOr)),
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq)),
    *((ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or)),
]
_OPERATORS = dict(_OPPOSITES) | {new: old for old, new in _OPPOSITES}
_OPERATORS |= dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow), ast.Mult) | {ast.BitXor: ast.BitOr}
_NAMES = {"min": "max", "minimum": "maximum", "any": "all", "ceil": "floor", "real": "imag"}
_NAMES |= {new: old for old, new in _NAMES.items()}


class Mutant(NamedTuple):
    """A mistake: the room, the line, what it became, and the program."""

    room: str
    line: int
    before: str
    after: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.room}:{self.line}: {self.before}  ->  {self.after}"


def count(room: str) -> int:
    """How many mistakes can be made in a room, one at a time."""
    return sum(1 for _ in _changes(ast.parse((PACKAGE / room).read_text())))


def mutant(room: str, number: int) -> Mutant:
    """One of them."""
    tree = ast.parse((PACKAGE / room).read_text())
    change, statement = next(itertools.islice(_changes(tree), number, None))
    before = ast.unparse(statement)
    change()
    pair = _where_they_differ(before, ast.unparse(statement))
    code = compile(tree, str(PACKAGE / room), "exec", dont_inherit=True)
    return Mutant(room, statement.lineno, *pair, code)


def _where_they_differ(before: str, after: str) -> tuple[str, str]:
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    return next(((a.strip(), b.strip()) for a, b in lines if a != b), (before, after))


def _changes(tree: ast.AST) -> Iterator[tuple[Any, ast.stmt]]:
    """For each place a function that makes the mistake, and the statement that it is in."""

    def walk(node: ast.AST, statement: Any) -> Iterator[tuple[Any, ast.stmt]]:
        if isinstance(node, ast.stmt):
            statement = node
        for old, new in _replacements(node):
            yield _setter(*old, new), statement
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                is_text = isinstance(child, ast.Raise | ast.JoinedStr)  # what errors say
                is_check = isinstance(child, ast.keyword) and child.arg == "strict"  # none can fail
                if isinstance(child, ast.AST) and not (is_text or is_check):
                    yield from walk(child, statement)

    return walk(tree, None)


def _setter(owner: Any, field: str, new: Any) -> Any:
    return lambda: setattr(owner, field, new)


def _replacements(node: ast.AST) -> Iterator[tuple[tuple[Any, str], Any]]:
    """What may become something else: an owner, its field, and the new value."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in _OPERATORS:
            yield (node, "op"), _OPERATORS[type(node.op)]()
        case ast.Compare() if type(node.ops[0]) in _OPERATORS:
            yield (node, "ops"), [_OPERATORS[type(node.ops[0])](), *node.ops[1:]]
        case ast.IfExp() | ast.If() | ast.While():
            yield (node, "test"), ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        case ast.UnaryOp(op=ast.USub()):
            yield (node, "op"), ast.UAdd()
        case ast.Constant(value=bool(x)):
            yield (node, "value"), not x
        case ast.Constant(value=int(x) | float(x)):
            yield (node, "value"), x + 1 if isinstance(x, int) else 2 * x + 1
        case ast.Attribute() if node.attr in _NAMES:
            yield (node, "attr"), _NAMES[node.attr]
        case ast.Name() if node.id in _NAMES:
            yield (node, "id"), _NAMES[node.id]
        case _:
            pass


def run(module: str, code: CodeType | None, tests: Sequence[str], timeout: float = TIMEOUT) -> str:
    """The first test that fails with another program for a module; nothing if none does."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=_run, args=(module, code, tests, sender)
    )
    child.start()
    sender.close()
    end = time.monotonic() + timeout
    while child.is_alive() and time.monotonic() < end and not receiver.poll(0.5):
        pass
    try:
        result = (
            receiver.recv() if receiver.poll() else "it hangs" if child.is_alive() else "it dies"
        )
    except EOFError:
        result = "it dies"
    child.kill()
    child.join()
    return result


def _run(module, code, tests, sender):
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self, fullname):
        return code if code is not None and fullname == module else original(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code
    sys.modules.update(dict.fromkeys(HIDDEN))  # pyright: ignore[reportArgumentType, reportCallIssue]
    import pytest

    failed: list[str] = []

    class Plugin:
        def pytest_runtest_logreport(self, report):
            if report.failed:
                failed.append(report.nodeid)

        def pytest_collectreport(self, report):
            if report.failed:
                failed.append(f"{report.nodeid} (collection)")

    args = ["-x", "-q", "--assert=plain", "-n", "0", "-p", "no:cacheprovider", *tests]
    status: Any = "it doesn't start"
    with contextlib.suppress(BaseException):
        status = pytest.main(args, plugins=[Plugin()])
    sender.send("" if status == 0 else next(iter(failed), str(status)))
    os._exit(0)


def tests_of(room: str) -> list[str]:
    """The paths of the tests that are about a room."""
    names = next(names for start, names in TESTS.items() if room.startswith(start))
    return [str(ROOT / "tests" / name) for name in names]


def module_of(room: str) -> str:
    """The name under which a room is imported."""
    return ".".join(["rmsprop_jax", *Path(room).with_suffix("").parts]).removesuffix(".__init__")


def prepare() -> None:
    """Imports what is slow and not ours, before the first fork."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    cache = tempfile.mkdtemp(prefix="mutants")  # what a mistake doesn't touch is compiled once
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    for name in ("equinox", "flax", "hypothesis", "jax", "optax", "orbax.checkpoint", "pytest"):
        importlib.import_module(name)
    importlib.import_module("flax.nnx")


def main() -> None:
    """Makes the mistakes, and says which weren't noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rooms", nargs="*", help="files or folders; default: all in TESTS")
    parser.add_argument("--sample", type=int, help="so many at random; default: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rooms = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if str(path.relative_to(PACKAGE)).startswith(tuple(args.rooms or TESTS))
    ]
    mistakes = [(room, number) for room in rooms for number in range(count(room))]
    total = len(mistakes)
    random.Random(args.seed).shuffle(mistakes)
    mistakes = mistakes[: args.sample]
    prepare()
    for tests in dict.fromkeys(tuple(tests_of(room)) for room, _ in mistakes):
        if failed := run("", None, tests):
            sys.exit(f"{failed} fails as it is.")
    survivors = []
    for number, mistake in enumerate(mistakes, 1):
        made = mutant(*mistake)
        killer = EQUIVALENT.get((made.room, made.after))
        killer = killer or run(module_of(made.room), made.code, tests_of(made.room))
        survivors += [] if killer else [made]
        print(f"{number}/{len(mistakes)} {made}\n    {killer or 'SURVIVES'}", flush=True)
    noticed = 1 - len(survivors) / max(1, len(mistakes))
    print(f"\n{noticed:.1%} of {len(mistakes)} noticed, of {total} that there are. The others:")
    print(*survivors, sep="\n")
    sys.exit(noticed < NEEDED)


if __name__ == "__main__":
    main()
