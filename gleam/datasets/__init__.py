"""Raw formats, phantoms that write them, and prepared slices."""

from gleam.datasets import cine, fastmri, magnitudes, mridata, simulated
from gleam.datasets.load import brains, files, hearts, knees
from gleam.datasets.resident import Resident
from gleam.datasets.slices import Slices
from gleam.datasets.splits import files_by_split, folds

__all__ = [
    "Resident", "Slices", "brains", "cine", "fastmri", "files", "files_by_split", "folds", "hearts", "knees",
    "magnitudes", "mridata", "simulated",
]  # fmt: skip
