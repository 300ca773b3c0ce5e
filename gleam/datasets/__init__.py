"""Raw formats, phantoms that write them, and prepared slices."""

from gleam.datasets import fastmri, mridata
from gleam.datasets.load import brains, knees
from gleam.datasets.slices import Slices
from gleam.datasets.splits import files_by_split

__all__ = ["Slices", "brains", "fastmri", "files_by_split", "knees", "mridata"]
