"""Which RMSProp made these numbers: `identify`."""

from rmsprop_jax.identification.answer import identify
from rmsprop_jax.identification.recording import read_file
from rmsprop_jax.identification.report import Candidate, Identification

__all__ = ["Candidate", "Identification", "identify", "read_file"]
