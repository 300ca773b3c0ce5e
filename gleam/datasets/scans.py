"""The scans of a split: what is known about them, and where their arrays are read from."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
import torch
from torch import Tensor

from gleam.datasets import hdf5
from gleam.datasets.padding import whole
from gleam.datasets.volume import ARRAYS
from gleam.physics.batch import Batch

try:
    from resource import RLIMIT_NOFILE, getrlimit

    N_ALLOWED = getrlimit(RLIMIT_NOFILE)[0]
except ImportError:  # on Windows
    N_ALLOWED = -1
N_OPEN = 512 if N_ALLOWED < 0 else min(512, max(8, N_ALLOWED // 4))  # prepared files that are kept open


class Storage(ABC):
    """Where the arrays of a split are: in files, or in the memory of a device.

    Attributes
    ----------
    device : torch.device
        Where mini-batches are made.
    """

    device: torch.device

    @abstractmethod
    def read(self, where: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Stack the arrays of some slices.

        Parameters
        ----------
        where : sequence of (int, int)
            Scan number and slice number of each; all of one shape.

        Returns
        -------
        kspace : Tensor, shape (batch, coil, [time,] y, x)
        sens_maps : Tensor, shape (batch, coil, [1,] y, x)
        target : Tensor, shape (batch, [time,] y, x)
            All on `device`.
        """

    def volumes_on(self, device: torch.device) -> list[dict[str, Tensor]] | None:
        """The arrays of every scan if they are in memory for `device`, as :meth:`Scans.fill` fills them; else None."""
        return None

    def maker(self) -> Callable[..., Batch]:
        """How training batches are made: called as `maker(make, step, *settings)`, returns `make(step, *settings)`."""
        return lambda make, step, *settings: make(step, *settings)


class Scans(ABC):
    """What is known about the scans of a split before their arrays are read, and how they are read.

    A subclass must be hashable, and pickle without arrays.

    Attributes
    ----------
    shapes : list of tuple
        (slice, coil, [time,] y, x) of each scan.
    subjects : list of str
        Subject of each scan.
    measured : list of tuple
        (y0, y1, x0, x1) of each scan: the part of centred k-space that was measured; outside of it is padding.
    index : list of (int, int)
        (scan number, slice number) of each slice.
    is_phantom : bool
        Whether any of the scans is a phantom rather than a measurement.
    aspect : float
        Height over width of a pixel, for figures; 1 if there are no scans.
    acquisition : str
        Kind of scan; empty if there are no scans.
    n_left_out : int
        Slices of the raw files that have no sensitivity maps and are not in the split.
    identity : list
        What the arrays are made of, for JSON: equal identities have equal arrays.
    """

    @property
    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """(slice, coil, [time,] y, x) of each scan."""

    @property
    @abstractmethod
    def subjects(self) -> list[str]:
        """Subject of each scan."""

    @cached_property
    def measured(self) -> list[tuple[int, int, int, int]]:
        """(y0, y1, x0, x1) of each scan, the part of centred k-space that was measured; outside of it is padding."""
        return [whole(shape) for shape in self.shapes]

    @cached_property
    def index(self) -> list[tuple[int, int]]:
        """(scan number, slice number) of each slice."""
        return [(f, s) for f, shape in enumerate(self.shapes) for s in range(shape[0])]

    @property
    @abstractmethod
    def is_phantom(self) -> bool:
        """Whether any of the scans is a phantom rather than a measurement."""

    @property
    @abstractmethod
    def aspect(self) -> float:
        """Height over width of a pixel; 1 if there are no scans."""

    @property
    @abstractmethod
    def acquisition(self) -> str:
        """Kind of scan; empty if there are no scans."""

    @property
    @abstractmethod
    def n_left_out(self) -> int:
        """Slices of the raw files that have no sensitivity maps and are not in the split."""

    @property
    @abstractmethod
    def identity(self) -> list:
        """What the arrays are made of, for JSON."""

    @abstractmethod
    def fill(self, volumes: Sequence[dict[str, Tensor]]) -> Iterator[Any]:
        """Read or compute all arrays.

        Parameters
        ----------
        volumes : sequence of dict of Tensor
            Filled in place: `kspace`, `sens_maps` and `target` of each scan, of the shapes of
            :func:`gleam.datasets.volume.array_shapes`.

        Yields
        ------
        object
            Something for each scan that is done, for a progress bar.
        """

    @abstractmethod
    def storage(self) -> Storage:
        """Where arrays are read from if no other storage is given."""

    def description(self) -> dict:
        """What :meth:`gleam.datasets.Slices.describe` says in addition."""
        return {}


@final
@dataclass(frozen=True)
class PreparedFiles(Scans):
    """Prepared HDF5 files (:mod:`gleam.datasets.prepare`), one per scan.

    Every property and method raises OSError, naming the file, if one is damaged.

    Parameters
    ----------
    files : tuple of paths
    """

    files: tuple[str | Path, ...]

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """(slice, coil, [time,] y, x) of each file."""
        return [_opened(file)["kspace"].shape for file in self.files]

    @cached_property
    def subjects(self) -> list[str]:
        """Subject of each file."""
        return [str(_opened(file).attrs["subject"]) for file in self.files]

    @cached_property
    def measured(self) -> list[tuple[int, int, int, int]]:
        """(y0, y1, x0, x1) of each file; all of k-space where the file does not say."""
        found = []
        for file, shape in zip(self.files, self.shapes, strict=True):
            y0, y1, x0, x1 = map(int, _opened(file).attrs.get("measured", whole(shape)))
            found.append((y0, y1, x0, x1))
        return found

    @property
    def is_phantom(self) -> bool:
        """Whether any of the files holds a phantom rather than a measurement."""
        return any(bool(_opened(file).attrs["is_phantom"]) for file in self.files)

    @property
    def aspect(self) -> float:
        """Height over width of a pixel, from the first file."""
        return float(_opened(self.files[0]).attrs.get("aspect", 1.0)) if self.files else 1.0

    @property
    def acquisition(self) -> str:
        """Kind of scan, from the first file."""
        return str(_opened(self.files[0]).attrs["acquisition"]) if self.files else ""

    @property
    def n_left_out(self) -> int:
        """Slices of the raw files that have no sensitivity maps and are not in the prepared files."""
        return sum(len(_opened(file).attrs.get("left_out", ())) for file in self.files)

    @property
    def identity(self) -> list:
        """Names of the files, which hold the digest of what made them."""
        return [[Path(file).name for file in self.files]]

    def description(self) -> dict:
        """The calibration that made the maps, if the files say one and the same."""
        told = {str(_opened(file).attrs.get("settings", "{}")) for file in self.files}
        made = [json.loads(text).get("calibrate") for text in told]
        return {"sens_maps": made[0]} if made and made[0] and all(one == made[0] for one in made) else {}

    def fill(self, volumes: Sequence[dict[str, Tensor]]) -> Iterator[str | Path]:
        """Read all files, slice by slice; yields each file that is done."""
        for file, volume in zip(self.files, volumes, strict=True):
            for key, tensor in volume.items():
                for number, one in enumerate(tensor):
                    one.copy_(torch.from_numpy(_read(file, key, number)))
            yield file

    def storage(self) -> Storage:
        """The files themselves, on the CPU."""
        return _OnDisk(self)


@final
class _OnDisk(Storage):
    """Arrays read from files whenever a batch needs them."""

    device = torch.device("cpu")

    def __init__(self, scans):
        self.scans = scans

    def read(self, where):
        files = self.scans.files
        return [torch.from_numpy(np.stack([_read(files[f], key, s) for f, s in where])) for key in ARRAYS]


def _opened(file):
    """The open file; one that was replaced, or prepared again, is opened again."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise hdf5.explained(error, file, "") from None
    # all but the name tells versions of the file apart
    return _handle(str(file), status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=N_OPEN)
def _handle(file, *_):
    try:
        opened = h5py.File(file, "r")
        for name in ARRAYS:
            hdf5.dataset(opened, name, file, "a prepared file")
        opened.attrs["subject"]  # KeyError without it: not a prepared file
        return opened
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _explained(error, file, "is no prepared file or damaged") from None


def _read(file, key, number):
    try:
        return _opened(file)[key][number]
    except OSError as error:
        _handle.cache_clear()  # what is prepared again must not be read through an old handle
        if str(error).startswith(str(file)):  # explained already
            raise
        raise _explained(error, file, "is damaged") from None


def _explained(error, file, what):
    """What the system refuses, or else damage, and what to do about it."""
    if getattr(error, "errno", None) is not None:
        return hdf5.explained(error, file, "")
    return OSError(f"{file} {what} ({error}); delete it, and it is prepared again")
