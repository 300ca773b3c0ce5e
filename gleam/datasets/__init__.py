"""Raw files to mini-batches.

- `cine`, `fastmri`, `mridata`: one module for each raw format, read into a :class:`gleam.datasets.volume.Volume`;
  `headers`, `ismrmrd_lines`, `padding` are what they have in common, `formats` tells them apart.
- `prepare`: sensitivity maps and targets, computed once. `slices`, `resident`: prepared slices as mini-batches.
- `splits`: who is in which split. `download`: the public files. `load`: all of these for one data set.
"""

from gleam.datasets import cine, fastmri, mridata
from gleam.datasets.load import brains, files, hearts, knees
from gleam.datasets.resident import Resident
from gleam.datasets.slices import Slices
from gleam.datasets.splits import files_by_split, folds

__all__ = [
    "Resident", "Slices", "brains", "cine", "fastmri", "files", "files_by_split", "folds", "hearts", "knees", "mridata",
]  # fmt: skip
