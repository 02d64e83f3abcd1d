"""What the benchmarks share: a line about the machine, taking turns, tables and charts."""

import importlib.metadata
import os
import platform
import statistics
import time

import jax
import numpy as np


def setting(*packages):
    """A line that says where, and with which versions of those packages that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    return f"{device}; {', '.join(found)}"


def medians(contestants, seconds, least=5):
    """Median time of each contestant's calls, in rounds, and the number of rounds.

    Contestants are functions that return when their work is done, called before, so that they are
    compiled. They take turns until `seconds` are over, and for `least` rounds or more. A turn is 10
    ms or one call, so that short calls aren't measured in the wake of another's threads and caches.
    """
    times = {name: [] for name in contestants}
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < least or time.perf_counter() < end:
        for name, call in contestants.items():
            time.sleep(0.02)
            call()
            now = time.perf_counter()
            turn_ends = now + 0.01
            while now < turn_ends:
                start = now
                call()
                now = time.perf_counter()
                times[name].append(now - start)
        rounds += 1
    return {name: statistics.median(t) for name, t in times.items()}, rounds


def table(*heads):
    """Prints the head of a Markdown table, and returns the function that prints a row."""
    widths = [max(len(head), 9) for head in heads[1:]]

    def row(first, *others):
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths, strict=True)]
        print(f"| {first:20} | {' | '.join(cells)} |", flush=True)

    print()
    row(*heads)
    print("|---" + "|--:" * len(widths) + "|")
    return row


def ratio(times, one, other):
    """Of two contestants' times, or a dash where one didn't take part."""
    return f"{times[one] / times[other]:.2f}" if one in times and other in times else "–"


def save(figure, path):
    """Writes a chart as a PNG of few colours, a quarter of the size that it has with all."""
    import PIL.Image

    figure.canvas.draw()
    image = PIL.Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    image.quantize(64).save(path, optimize=True)
