"""Activations of a model: capture them, replace them, and list their names.

from etude.activations import heads, zero

with model.capture("blocks.*.attention.pattern", at=-1) as seen:
    model(ids)
with model.replace({"blocks.3.attention.mixed": heads([1], zero)}):
    model(ids)
"""

from etude.activations.capture import Capture, capture
from etude.activations.edits import add, from_, heads, mean, positions, replace, zero
from etude.activations.names import Site, list_sites

__all__ = [
    "Capture",
    "Site",
    "add",
    "capture",
    "from_",
    "heads",
    "list_sites",
    "mean",
    "positions",
    "replace",
    "zero",
]
