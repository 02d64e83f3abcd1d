"""MNIST as NumPy arrays: from a directory you name, from the cache, or downloaded."""

import gzip
import math
import os
import sys
import zlib
from collections import deque
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256: dict[str, str] = {  # of the original files, which end in .gz
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
SHAPES = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))  # in the same order
# Seconds to connect and to wait for more. The first counts for each address of a mirror in turn,
# and one host name can have eight, so it is kept small.
TIMEOUT = (2, 10)


class Dataset(NamedTuple):
    """Images and labels as `uint8`; MNIST's arrays are read-only."""

    name: str  # says in words when it is not MNIST
    train_images: np.ndarray  # [n, height, width], 0 to 255
    train_labels: np.ndarray  # [n], 0 to 9
    test_images: np.ndarray
    test_labels: np.ndarray


def load(
    dataset: Literal["auto", "mnist", "digits"] = "auto",
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads MNIST, or scikit-learn's small digits where MNIST can't be had.

    MNIST comes from the directory `data_dir`, else the one in the environment variable
    `MNIST_DIR`; once a directory is named, nothing else is tried. With none named it comes from
    the user's cache, `pooch.os_cache("rmsprop_jax")`, and what is missing there, or has the wrong
    SHA-256, is downloaded from the first of `MIRRORS` that has it.

    Args:
      dataset: `"mnist"`: MNIST or an error. `"digits"`: the 1,797 8x8 digits that scikit-learn
        carries, scaled to 0..255, the last 360 in file order as the test set. `"auto"`: MNIST, or
        if no directory is named and the download fails, a line on stderr and `"digits"`.
      data_dir: Directory with the four files, gzipped (`train-images-idx3-ubyte.gz`) or not
        (`train-images-idx3-ubyte`, `train-images.idx3-ubyte`). They may have been compressed
        anew: format and shape are checked, not the hash. `None` or `""`, as an empty
        `MNIST_DIR`, names no directory.

    Returns:
      A `Dataset`; its `name` tells which one.

    Raises:
      ValueError: If `dataset` is none of the three, if `data_dir` comes with `"digits"`, or if a
        file in the named directory is damaged.
      FileNotFoundError: If the named directory lacks files.
      OSError: If `dataset` is `"mnist"` and the download fails.

    Example:
      >>> data = load("digits")
      >>> data.name, data.train_images.shape, data.test_images.shape
      ('scikit-learn digits (8x8, NOT MNIST)', (1437, 8, 8), (360, 8, 8))
    """
    if dataset not in ("auto", "mnist", "digits"):
        raise ValueError(f"dataset must be 'auto', 'mnist' or 'digits', got {dataset!r}")
    if dataset == "digits":
        if data_dir:
            raise ValueError(f"dataset='digits' reads no files, got data_dir={str(data_dir)!r}")
        return _digits()
    if directory := data_dir or os.environ.get("MNIST_DIR"):
        paths = _find(Path(directory).expanduser())
    else:
        try:
            paths = _fetch()
        except OSError as error:
            if dataset == "mnist":
                raise
            reason = str(error).partition("\n")[0]
            print(
                f"{reason} Using scikit-learn's bundled 8x8 digits instead, which are NOT MNIST; "
                "dataset='mnist' tells more.",
                file=sys.stderr,
            )
            return _digits()
    arrays = [read_idx(path) for path in paths]
    for path, array, shape in zip(paths, arrays, SHAPES, strict=True):
        if array.shape != shape:
            raise ValueError(f"{path}: the shape is {array.shape}, in MNIST it is {shape}")
    return Dataset("MNIST", *arrays)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a file of bytes in IDX format, gzipped or not (its content tells, not its name).

    The format: two zero bytes, the type (8 is `uint8`), the number of dimensions, each dimension
    as a big-endian `uint32`, the data in C order.

    Args:
      path: The file.

    Returns:
      A read-only `uint8` array.

    Raises:
      ValueError: If the file is damaged or something else; the message names it.
    """
    content = Path(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an IDX file of bytes, it starts with {content[:16]!r}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path}: truncated, the header has {len(content)} of {start} bytes")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{path}: wrong length, {len(content) - start} bytes for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(directory: Path) -> list[Path]:
    """Returns the paths of the four files in a directory that the user named."""
    found, missing = [], []
    for name in SHA256:
        dotted = name.replace("-idx", ".idx")
        spellings = [directory / s for s in (f"{name}.gz", name, f"{dotted}.gz", dotted)]
        # Some archives unpack into directories of these names, hence not `exists`.
        path = next((p for p in spellings if p.is_file()), None)
        if path is None:
            missing.append(f"{name}.gz")
        else:
            found.append(path)
    if missing:
        raise FileNotFoundError(
            f"the MNIST directory {directory} {'lacks' if directory.is_dir() else 'does not exist'}"
            f" ({', '.join(missing)}); each file may be gzipped or not, for example "
            "train-images-idx3-ubyte.gz, train-images-idx3-ubyte or train-images.idx3-ubyte"
        )
    return found


def _fetch() -> list[Path]:
    """Returns the paths of the four files in the cache, downloading what isn't there."""
    import pooch

    cache = pooch.os_cache("rmsprop_jax")
    terminal = sys.stderr.isatty()
    # Its line for every URL goes with the progress bar; in a log file it is noise.
    pooch.get_logger().setLevel("INFO" if terminal else "WARNING")
    downloader = pooch.HTTPDownloader(progressbar=terminal, chunk_size=1 << 16, timeout=TIMEOUT)
    mirrors = deque(MIRRORS)
    paths = []
    for name, sha256 in SHA256.items():
        reasons, details = [], []
        for url in [f"{mirror}{name}.gz" for mirror in mirrors]:
            try:
                path = pooch.retrieve(
                    url,
                    sha256,
                    f"{name}.gz",
                    cache,
                    downloader=downloader,  # pyright: ignore[reportArgumentType]
                )
            except (OSError, ValueError) as error:  # ValueError: the hash is wrong
                reasons.append(type(error).__name__ if isinstance(error, OSError) else "bad hash")
                details.append(f"  {url}: {type(error).__name__}: {error}\n")
                mirrors.rotate(-1)  # a dead mirror costs its timeout once, not for every file
            else:
                paths.append(Path(path))
                break
        else:
            wanted = "".join(f"\n  {key}.gz  SHA-256 {value}" for key, value in SHA256.items())
            raise OSError(
                f"MNIST could not be downloaded ({name}.gz: {', '.join(reasons)}).\n"
                f"{''.join(details)}Put these four files in a directory and name it with "
                f"--data-dir (data_dir in Python) or the environment variable MNIST_DIR:{wanted}"
            )
    return paths


def _digits() -> Dataset:
    """Returns scikit-learn's digits, the last fifth for testing."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(np.reshape(pixels, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(labels, np.uint8)
    split = len(labels) * 4 // 5
    name = "scikit-learn digits (8x8, NOT MNIST)"
    return Dataset(name, images[:split], labels[:split], images[split:], labels[split:])
