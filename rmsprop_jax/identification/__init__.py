"""Which RMSProp made these numbers: `identify` and `compare_runs`."""

from rmsprop_jax.identification.answer import identify
from rmsprop_jax.identification.comparison import Comparison, compare_runs
from rmsprop_jax.identification.recording import read_file
from rmsprop_jax.identification.report import Candidate, Identification

__all__ = [
    "Candidate",
    "Comparison",
    "Identification",
    "compare_runs",
    "identify",
    "read_file",
]
