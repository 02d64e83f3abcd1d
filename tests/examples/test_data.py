"""The MNIST loader: real files where there are some, small fake ones behind a local server else."""

import functools
import gzip
import hashlib
import math
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from digits import REAL, real_mnist

from rmsprop_jax.examples import data

# Without the time, which would be in the names of tests, and differ between processes.
compress = functools.partial(gzip.compress, mtime=0)

ROOT = Path(__file__).parents[2]
NAMES = tuple(data.SHA256)
FIRST = f"{NAMES[0]}.gz"


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Four tiny files in MNIST's place, pinned by their hashes; the cache is in tmp_path."""
    shapes = ((7, 28, 28), (7,), (3, 28, 28), (3,))
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 10, shape, np.uint8) for shape in shapes]
    files = {f"{n}.gz": compress(idx(a)) for n, a in zip(NAMES, arrays, strict=True)}
    hashes = {n: hashlib.sha256(files[f"{n}.gz"]).hexdigest() for n in NAMES}
    monkeypatch.setattr(data, "SHA256", hashes)
    monkeypatch.setattr(data, "SHAPES", shapes)
    monkeypatch.setattr(data, "MIRRORS", ())
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return files, arrays


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "rmsprop_jax"


@pytest.fixture
def serve():
    """Starts servers that answer with `reply(file name) -> (status, content, announced length)`."""
    servers = []

    def start(reply):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rpartition("/")[2]
                asked.append(name)
                status, content, length = reply(name)
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format, *args):
                del format, args  # or the server writes to stderr, which a test reads

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/mnist/", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def good(files):
    return lambda name: (200, files[name], len(files[name]))


def bad(kind, files):
    """Replies of a broken mirror."""
    html = b"<html>Please log in</html>"
    return {
        "403": lambda name: (403, b"", 0),
        "500": lambda name: (500, b"oops", 4),
        "cut off": lambda name: (200, files[name][:40], len(files[name])),
        "short": lambda name: (200, files[name][:40], 40),
        "html": lambda name: (200, html, len(html)),
        "bad hash": lambda name: (200, compress(b"else"), len(compress(b"else"))),
    }[kind]


NOWHERE = "http://127.0.0.1:9/"
KINDS = ("403", "500", "cut off", "short", "html", "bad hash")


def write(directory, files):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def assert_is(dataset, arrays):
    assert dataset.name == "MNIST"
    for got, want in zip(dataset[1:], arrays, strict=True):
        assert got.dtype == np.uint8
        assert np.array_equal(got, want)  # assert_array_equal takes a second on 47 MB


# The real files.


@real_mnist
def test_real_mnist(tmp_path):
    mnist = data.load("mnist", REAL)
    assert mnist.name == "MNIST"
    assert [a.shape for a in mnist[1:]] == list(data.SHAPES)
    assert {a.dtype for a in mnist[1:]} == {np.dtype(np.uint8)}
    assert (mnist.train_images.min(), mnist.train_images.max()) == (0, 255)
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(mnist.train_labels).tolist() == train
    assert np.bincount(mnist.test_labels).tolist() == test

    for name, sha256 in data.SHA256.items():
        content = (REAL / f"{name}.gz").read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        (tmp_path / name).write_bytes(gzip.decompress(content))
    assert_is(data.load("mnist", tmp_path), mnist[1:])


def test_mirrors_are_https():
    assert len(data.MIRRORS) >= 2
    assert all(m.startswith("https://") and m.endswith("/") for m in data.MIRRORS)


# A directory that the user named.


SPELLINGS = {
    "gz": lambda name: f"{name}.gz",
    "plain": lambda name: name,
    "dotted": lambda name: name.replace("-idx", ".idx"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_directory(fakes, tmp_path, monkeypatch, spelling):
    """By argument, which beats the environment, by the environment, and under one's home."""
    _, arrays = fakes
    contents = [idx(a) for a in arrays]
    if spelling == "gz":  # compressed anew: another hash, the same content
        contents = [gzip.compress(c, 1, mtime=1) for c in contents]
    files = zip(map(SPELLINGS[spelling], NAMES), contents, strict=True)
    directory = write(tmp_path / "d", dict(files))
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "nowhere"))
    for dataset in ("auto", "mnist"):
        for spelled in (directory, str(directory), "~/d"):
            assert_is(data.load(dataset, spelled), arrays)
    monkeypatch.setenv("MNIST_DIR", str(directory))
    for dataset in ("auto", "mnist"):
        assert_is(data.load(dataset), arrays)


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_directory_lacks_files(fakes, tmp_path, monkeypatch, serve, dataset):
    files, _ = fakes
    mirror, asked = serve(good(files))
    monkeypatch.setattr(data, "MIRRORS", (mirror,))
    directory = write(tmp_path / "d", files)
    (directory / f"{NAMES[1]}.gz").unlink()
    (directory / NAMES[1]).mkdir()  # a directory of that name isn't the file
    with pytest.raises(FileNotFoundError, match=rf"lacks \({NAMES[1]}\.gz\)"):
        data.load(dataset, directory)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.load(dataset, tmp_path / "nowhere")
    monkeypatch.setenv("MNIST_DIR", str(directory))
    with pytest.raises(FileNotFoundError, match=NAMES[1]):
        data.load(dataset)
    assert not asked


def test_directory_has_a_damaged_file(fakes, tmp_path):
    files, _ = fakes
    damaged = write(tmp_path / "damaged", {**files, FIRST: files[FIRST][:-20]})
    train, test = f"{NAMES[0]}.gz", f"{NAMES[2]}.gz"
    swapped = write(tmp_path / "swapped", {**files, train: files[test], test: files[train]})
    for dataset in ("auto", "mnist"):
        with pytest.raises(ValueError, match=f"{FIRST}: damaged gzip file"):
            data.load(dataset, damaged)
        with pytest.raises(ValueError, match=rf"{FIRST}: the shape is \(3, 28, 28\)"):
            data.load(dataset, swapped)


# The format.


@pytest.mark.parametrize("pack", [bytes, compress], ids=["plain", "gzip"])
def test_read_idx(tmp_path, pack):
    path = tmp_path / "whatever.bin"
    for shape in ((5,), (0,), (2, 3), (2, 3, 4)):
        array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
        path.write_bytes(pack(idx(array)))
        np.testing.assert_array_equal(data.read_idx(path), array, strict=True)
        np.testing.assert_array_equal(data.read_idx(str(path)), array, strict=True)


WHOLE = idx(np.arange(6).reshape(2, 3))
FLIPPED = bytearray(compress(WHOLE))
FLIPPED[-6] ^= 1  # in the checksum


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"<!DOCTYPE html>", "not an IDX file.*<!DOCTYPE"),
        (b"\0\0\x0d" + WHOLE[3:], "not an IDX file of bytes"),
        (WHOLE[:9], "truncated"),
        (WHOLE[:-1], "wrong length"),
        (WHOLE + b"\0", "wrong length"),
        (compress(b"<html>"), "not an IDX file.*<html>"),
        (compress(WHOLE[:-1]), "wrong length"),
        (compress(WHOLE)[:-9], "damaged gzip"),
        (compress(WHOLE)[:5], "damaged gzip"),
        (compress(WHOLE) + b"rest", "damaged gzip"),
        (compress(WHOLE)[:10] + b"\xff" * 30, "damaged gzip"),
        (bytes(FLIPPED), "damaged gzip"),
    ],
)
def test_read_idx_names_the_damaged_file(tmp_path, content, message):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"some-file: {message}"):
        data.read_idx(path)


# Cache and download.


def test_download_then_offline(fakes, cache, serve, monkeypatch, capfd):
    files, arrays = fakes
    mirror, asked = serve(good(files))
    monkeypatch.setattr(data, "MIRRORS", (mirror,))
    monkeypatch.setenv("MNIST_DIR", "")  # empty is not given
    assert_is(data.load(data_dir=""), arrays)
    assert asked == list(files)
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == files
    assert_is(data.load("mnist"), arrays)
    assert asked == list(files)  # not asked again

    monkeypatch.setattr(data, "MIRRORS", (NOWHERE,))
    assert_is(data.load("auto"), arrays)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_second_mirror(fakes, cache, serve, monkeypatch, kind):
    files, arrays = fakes
    first, asked = serve(bad(kind, files))
    second, _ = serve(good(files))
    monkeypatch.setattr(data, "MIRRORS", (first, second))
    assert_is(data.load("mnist"), arrays)
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == files
    assert asked == [FIRST]  # the broken one is tried last from then on


def test_each_mirror_has_a_half(fakes, serve, monkeypatch):
    files, arrays = fakes
    gone = (404, b"", 0)
    one, _ = serve(lambda name: good(files)(name) if "train" in name else gone)
    two, _ = serve(lambda name: good(files)(name) if "t10k" in name else gone)
    monkeypatch.setattr(data, "MIRRORS", (two, one))
    assert_is(data.load("mnist"), arrays)


@pytest.mark.parametrize("kind", [*KINDS, "no network"])
def test_no_good_mirror(fakes, cache, serve, monkeypatch, capfd, kind):
    """An error that names all there is to do; or scikit-learn's digits, and a line that says so."""
    files, _ = fakes
    served = [serve(bad(kind, files)) if kind in KINDS else (NOWHERE, [FIRST]) for _ in range(2)]
    mirrors, asked = zip(*served, strict=True)
    monkeypatch.setattr(data, "MIRRORS", mirrors)
    with pytest.raises(OSError, match="MNIST could not be downloaded") as caught:
        data.load("mnist")
    message = str(caught.value)
    for name, sha256 in data.SHA256.items():
        assert f"{name}.gz  SHA-256 {sha256}" in message
    for mirror in mirrors:
        assert f"{mirror}{FIRST}: " in message
    assert "--data-dir" in message
    assert "MNIST_DIR" in message
    if kind in ("403", "500"):
        assert message.count(f"{kind} ") >= 2
    assert list(asked) == [[FIRST], [FIRST]]  # once a file can't be had, the others aren't tried
    assert not list(cache.iterdir())

    assert capfd.readouterr() == ("", "")
    got = data.load()
    assert "NOT MNIST" in got.name
    assert got.train_images.shape == (1437, 8, 8)
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"MNIST could not be downloaded ({FIRST}: ")
    assert "digits" in err
    assert "ConnectionError" in err or kind != "no network"


def test_damaged_cache_is_repaired_or_not_used(fakes, cache, serve, monkeypatch):
    files, arrays = fakes
    mirror, asked = serve(good(files))
    broken, _ = serve(bad("500", files))
    for content in (files[FIRST][:30], compress(idx(np.zeros((7, 28, 28))))):
        write(cache, {**files, FIRST: content})
        monkeypatch.setattr(data, "MIRRORS", (broken,))
        with pytest.raises(OSError, match="could not be downloaded"):
            data.load("mnist")
        monkeypatch.setattr(data, "MIRRORS", (mirror,))
        assert_is(data.load("mnist"), arrays)
        assert asked == [FIRST]
        asked.clear()
        assert (cache / FIRST).read_bytes() == files[FIRST]


@pytest.mark.usefixtures("fakes")
def test_unusable_cache_directory(cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_bytes(b"a file where the directory should be")
    monkeypatch.setattr(data, "MIRRORS", (NOWHERE,))
    with pytest.raises(OSError, match="could not be downloaded"):
        data.load("mnist")


def test_progress_on_a_terminal(fakes, serve, monkeypatch, capsys):
    files, arrays = fakes
    mirror, _ = serve(good(files))
    monkeypatch.setattr(data, "MIRRORS", (mirror,))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert_is(data.load("mnist"), arrays)
    assert "100%" in capsys.readouterr().err


# Digits, arguments, imports.


def test_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "nowhere"))  # does not matter here
    one, two = data.load("digits"), data.load("digits")
    assert "NOT MNIST" in one.name
    assert [a.shape for a in one[1:]] == [(1437, 8, 8), (1437,), (360, 8, 8), (360,)]
    assert {a.dtype for a in one[1:]} == {np.dtype(np.uint8)}
    assert (one.train_images.min(), one.train_images.max()) == (0, 255)
    assert len(np.unique(one.train_images)) == 17  # the scale loses no level
    assert set(one.test_labels.tolist()) == set(range(10))
    assert np.bincount(one.test_labels).min() > 30
    for a, b in zip(one[1:], two[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="'cifar'"):
        data.load("cifar")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="data_dir"):
        data.load("digits", tmp_path)


def test_imports():
    code = (
        "import sys; import rmsprop_jax.examples.data;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    line = [sys.executable, "-c", code]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"tensorflow", "torch", "pooch", "requests", "tqdm", "sklearn"}
