"""ISMRMRD headers, and raw HDF5 files opened with clear error messages."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

PHANTOM_VENDOR = "GLEAM phantom"
PROTON_HZ_PER_TESLA = 42.577478518e6


@dataclass(frozen=True)
class Header:
    """The part of an ISMRMRD header that reconstruction needs.

    Attributes
    ----------
    encoded, recon : (int, int, int)
        Matrix sizes (x, y, z); x is the readout.
    centers : (int or None, int or None)
        Line at the centre of k-space for encoding steps 1 and 2; None if not stated.
    spacing : (float, float, float)
        mm per sample of the encoded field of view (x, y, z).
    oversampling : float
        Encoded over recon field of view along the readout; 1 if not stated.
    trajectory : str
        Such as "cartesian".
    protocol : str or None
        Name of the protocol; None if not stated.
    field_strength : float or None
        In tesla; None if not stated.
    is_phantom : bool
        Whether this project simulated the scan.
    """

    encoded: tuple[int, ...]
    recon: tuple[int, ...]
    centers: tuple[int | None, ...]
    spacing: tuple[float, float, float]
    oversampling: float
    trajectory: str
    protocol: str | None
    field_strength: float | None
    is_phantom: bool


def parse(xml: bytes | str, path: str | Path) -> Header:
    """Parse the ISMRMRD header `xml` of file `path`; ValueError, naming the file, if it is not one."""
    from ismrmrd import xsd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # otherwise a value that cannot be parsed comes as text
            document = xsd.CreateFromDocument(xml)
        encoding = document.encoding[0]
        spaces = encoding.encodedSpace, encoding.reconSpace
        encoded, recon = (tuple(int(getattr(space.matrixSize, axis)) for axis in "xyz") for space in spaces)
    except (ValueError, TypeError, AttributeError, IndexError, Warning) as error:
        raise ValueError(f"{path}: the ISMRMRD header cannot be read ({error}); expected XML of ismrmrd.xsd") from None
    system, measurement = document.acquisitionSystemInformation, document.measurementInformation
    limits = encoding.encodingLimits
    steps = (limits.kspace_encoding_step_1, limits.kspace_encoding_step_2) if limits else (None, None)
    return Header(
        encoded=encoded,
        recon=recon,
        centers=tuple(step.center if step else None for step in steps),
        spacing=_spacing(spaces[0].fieldOfView_mm, encoded),
        oversampling=_oversampling(*(space.fieldOfView_mm for space in spaces)),
        trajectory=getattr(encoding.trajectory, "value", str(encoding.trajectory)),
        protocol=(measurement.protocolName or None) if measurement else None,
        field_strength=_field_strength(system, document.experimentalConditions),
        is_phantom=bool(system) and system.systemVendor == PHANTOM_VENDOR,
    )


def _spacing(field_of_view, matrix):
    """Samples count as 1 mm apart along a side that states nothing usable (zero, or no field of view at all)."""
    sides = [float(getattr(field_of_view, axis, 0) or 0) for axis in "xyz"]
    return tuple(side / n if side > 0 and n > 0 else 1.0 for side, n in zip(sides, matrix, strict=True))


def _oversampling(*fields_of_view):
    encoded, recon = (float(getattr(side, "x", 0) or 0) for side in fields_of_view)
    return encoded / recon if encoded > recon > 0 else 1.0


def _field_strength(system, conditions):
    """In tesla, or else computed from the proton frequency; files that do not know it write zero."""
    if system and system.systemFieldStrength_T:
        return float(system.systemFieldStrength_T)
    frequency_hz = conditions.H1resonanceFrequency_Hz if conditions else 0
    return round(frequency_hz / PROTON_HZ_PER_TESLA, 4) if frequency_hz and frequency_hz > 0 else None


@contextmanager
def opened(path: str | Path, *, expected: str) -> Iterator[h5py.File]:
    """Context manager: open an HDF5 file for reading.

    Parameters
    ----------
    path : path
        The file.
    expected : str
        Name of the format, for messages.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is not HDF5, or truncated or damaged, also while it is read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # h5py raises each of them for damaged files
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise  # the reader's own message names the file
        what = "is not an HDF5 file" if not h5py.is_hdf5(path) else "is truncated or damaged"
        raise OSError(f"{path}: {what}; expected {expected}, download or copy it again ({error})") from None
