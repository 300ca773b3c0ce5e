"""The return type of all readers of raw data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ARRAYS = ("kspace", "sens_maps", "target")  # of a prepared scan
REAL_ANATOMY = "real anatomy, simulated coils and noise"  # the acquisition of :mod:`gleam.phantoms.magnitudes`


@dataclass(frozen=True)
class Volume:
    """The k-space of one scan, and its metadata.

    Attributes
    ----------
    kspace : array, shape (slice, coil, y, x) or (slice, coil, time, y, x)
        complex64, centred over (y, x); with time for a series.
    subject : str
        Stem of the file (mridata, OCMR), patient id (fastMRI) or folder (CMRxRecon).
    is_phantom : bool
        Whether this project simulated it.
    acquisition : str
        Such as "3D FSE" or "AXT2".
    field_strength : float or None
        In tesla; None if the file does not say.
    aspect : float
        Height (y) over width (x) of a pixel, from the header's field of view.
    measured : (int, int, int, int) or None
        (y0, y1, x0, x1): `kspace[..., y0:y1, x0:x1]` was measured, the rest is zero padding
        (:mod:`gleam.datasets.padding`). None: all was measured. The whole readout counts as measured.
    spacing : (float, float, float)
        mm between slices, rows (y) and columns (x); 1 where the file does not say.
    readout : str
        The axis along which the scanner read out: "y", "x", or "slice" where slices were cut across it.
    is_full : bool
        Whether the scan is fully sampled; if not, `kspace` is zero where nothing was measured.
    notes : tuple of str
        What a user should know about how the file was read, such as contradictions in it.
    """

    kspace: np.ndarray
    subject: str
    is_phantom: bool
    acquisition: str
    field_strength: float | None
    aspect: float = 1.0
    measured: tuple[int, int, int, int] | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    readout: str = "x"
    is_full: bool = True
    notes: tuple[str, ...] = ()


def array_shapes(shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that go with k-space of `shape` (slice, coil, [time,] y, x), by name."""
    n_slices, n_coils, *time, n_y, n_x = shape
    return {
        "kspace": tuple(shape),
        "sens_maps": (n_slices, n_coils, *[1 for _ in time], n_y, n_x),
        "target": (n_slices, *time, n_y, n_x),
    }
