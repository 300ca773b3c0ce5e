"""Raw files of any format that this project reads, recognised by their content."""

from __future__ import annotations

from pathlib import Path

from gleam.datasets import cine, fastmri, headers, ismrmrd_lines, mridata
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
    return _reader(path)(path)


def _reader(path):
    if path.suffix.lower() == ".mat":
        return cine.read
    with headers.opened(path, expected=EXPECTED) as file:
        if "kspace" in file:
            return fastmri.read
        if "dataset" not in file:
            raise ValueError(f"{path}: holds {sorted(file)}; expected {EXPECTED}")
        data = ismrmrd_lines.group(file, path)["data"]
        # the first lines and the last are enough to see several phases, and quick to read from a large file
        some = ismrmrd_lines.heads(data[: ismrmrd_lines.LINES_PER_BLOCK]), ismrmrd_lines.heads(data[-1:])
        phases = {int(phase) for heads in some for phase in heads["idx"]["phase"]}
    return cine.read if len(phases) > 1 else mridata.read
