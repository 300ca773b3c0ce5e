"""What every reader of raw data returns."""

from dataclasses import dataclass

import numpy as np

REAL_ANATOMY = "real anatomy, simulated coils and noise"  # the acquisition of :mod:`gleam.phantoms.magnitudes`


@dataclass(frozen=True)
class Volume:
    """The fully sampled k-space of one scan, and what is known about it.

    ``kspace``: (slice, coil, y, x) or, of a series, (slice, coil, time, y, x); complex64, centred over (y, x);
    ``subject``: the file's stem (mridata, OCMR), patient id (fastMRI) or folder (CMRxRecon); ``is_phantom``: simulated
    by this project; ``acquisition``: e.g. "3D FSE" or "AXT2"; ``field_strength``: tesla, None where the file does not
    say; ``aspect``: height (y) over width (x) of a pixel, from the header's field of view; ``measured``: (y0, y1, x0,
    x1), ``kspace[..., y0:y1, x0:x1]`` is what was measured and the rest zero padding (:mod:`gleam.datasets.padding`),
    None: all is measured. The readout counts as measured throughout.
    """

    kspace: np.ndarray
    subject: str
    is_phantom: bool
    acquisition: str
    field_strength: float | None
    aspect: float = 1.0
    measured: tuple[int, int, int, int] | None = None
