"""Raw files of any format that this project reads, recognised by their content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gleam.datasets import cine, fastmri, hdf5, ismrmrd_lines, mridata
from gleam.datasets.volume import Volume

EXPECTED = "fastMRI's multicoil layout (HDF5 with 'kspace'), CMRxRecon's .mat, or " + ismrmrd_lines.EXPECTED


def read(path: str | Path) -> Volume:
    """Read a raw file of any known format.

    Parameters
    ----------
    path : path
        `.mat` is read by :mod:`gleam.datasets.cine`, HDF5 with a data set `kspace` by :mod:`gleam.datasets.fastmri`,
        ISMRMRD with several cardiac phases by :mod:`gleam.datasets.cine` and any other by
        :mod:`gleam.datasets.mridata`.

    Returns
    -------
    gleam.datasets.volume.Volume

    Raises
    ------
    ValueError
        If the file has none of these formats; the message names the file.
    Exception
        Any error of the reader.
    """
    path = Path(path)
    return _module(path).read(path)


def read_measured(path: str | Path, *, slices: tuple[int | None, int | None] = (None, None)) -> Volume:
    """Same as :func:`read`, but undersampled scans are taken as well; their `is_full` is False.

    Parameters
    ----------
    path : path
    slices : (int, int)
        First slice to keep, and the one after the last; None: from the first, to the last.

    Raises
    ------
    ValueError
        As :func:`read`, or if no slice is left.
    """
    path = Path(path)
    volume = _module(path).read_measured(path)
    kept = volume.kspace[slice(*slices)]
    if not len(kept):
        wanted = ":".join("" if n is None else str(n) for n in slices)
        raise ValueError(f"{path}: has {len(volume.kspace)} slices, numbered from 0, and none of {wanted}")
    return replace(volume, kspace=kept)


def is_series(path: str | Path) -> bool:
    """Whether a raw file holds series of images over time; raises as :func:`read`."""
    return _module(Path(path)) is cine


def _module(path) -> Any:
    # an old MATLAB file is no HDF5, and its own reader says so best
    if path.suffix.lower() == ".mat":
        return cine
    with hdf5.opened(path, expected=EXPECTED) as file:
        if "kspace" in file:
            return fastmri
        if "dataset" not in file:
            raise ValueError(f"{path}: holds {sorted(file)}; expected {EXPECTED}")
        data = ismrmrd_lines.acquisitions(file, path)
        # the first lines and the last are enough to see several phases, and quick to read from a large file
        some = ismrmrd_lines.heads(data[: ismrmrd_lines.LINES_PER_BLOCK]), ismrmrd_lines.heads(data[-1:])
        phases = {int(phase) for heads in some for phase in heads["idx"]["phase"]}
    return cine if len(phases) > 1 else mridata
