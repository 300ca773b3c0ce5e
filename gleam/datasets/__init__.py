"""From raw files to mini-batches.

- `cine`, `fastmri`, `mridata`: one module for each raw format, read into a :class:`gleam.datasets.volume.Volume`;
  `headers`, `ismrmrd_lines`, `padding` are shared between them, `formats` finds the format of a file.
- `prepare`: sensitivity maps and targets, computed once.
- `scans`: metadata and arrays of a split. `slices`: its mini-batches. `resident`: its arrays in the memory of a device.
- `splits`: which file is in which split. `download`: the public files. `load`: all of these for one data set.
  `sets`: what a folder has of the book's data sets. `check`: what a loader makes of a file.
"""

from __future__ import annotations

from gleam.datasets import cine, fastmri, mridata
from gleam.datasets.load import brains, files, hearts, knees
from gleam.datasets.resident import resident as Resident
from gleam.datasets.slices import Slices
from gleam.datasets.splits import files_by_split, fold_files, folds

__all__ = [
    "Resident", "Slices", "brains", "cine", "fastmri", "files", "files_by_split", "fold_files", "folds", "hearts",
    "knees", "mridata",
]  # fmt: skip
