"""What a loader makes of a raw file, in words and as a picture: the first thing to do with a file of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gleam.datasets import formats
from gleam.datasets.volume import Volume
from gleam.physics.fourier import ifft2c


def check(path: str | Path) -> tuple[dict[str, str], Volume | None, str | None]:
    """Read a raw file as the loaders do.

    Parameters
    ----------
    path : path
        Of any format that :func:`gleam.datasets.formats.read` knows.

    Returns
    -------
    facts : dict
        Of what to how it was read, both as text; empty if nothing could be read.
    volume : Volume or None
        What was read.
    refused : str or None
        Why training would refuse the file; None if it would not. An undersampled scan is refused and still read.
    """
    refused = None
    try:
        volume = formats.read(path)
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        refused = str(error)
        try:
            # what is undersampled can still be described and shown
            volume = formats.read_measured(path)
        except (MemoryError, OSError, RuntimeError, ValueError):
            return {}, None, refused
    return _facts(volume), volume, refused


def _facts(volume):
    n_slices, n_coils, *n_frames, n_y, n_x = volume.kspace.shape
    slices, rows, columns = (f"{size:.3g}" for size in volume.spacing)
    y0, y1, x0, x1 = volume.measured or (0, n_y, 0, n_x)
    across = "across the slices, so that both y and x are phase encoded"
    facts = {
        "acquisition": volume.acquisition,
        "source": "a phantom of this project" if volume.is_phantom else "not marked as a phantom",
        "field strength": "not said" if volume.field_strength is None else f"{volume.field_strength:g} T",
        "matrix (y x x)": f"{n_y} x {n_x}, without oversampling of the readout where the header says it",
        "slices": str(n_slices),
        "coils": str(n_coils),
        "frames": str(n_frames[0]) if n_frames else "none: images, not series",
        "readout": across if volume.readout == "slice" else f"along {volume.readout}",
        "voxel (slice, y, x)": f"{slices} x {rows} x {columns} mm; 1 where the file does not say",
        "measured": "all of k-space"
        if (y0, y1, x0, x1) == (0, n_y, 0, n_x)
        else f"y from {y0} to {y1 - 1}, x from {x0} to {x1 - 1}",
        "samples that are zero": f"{(volume.kspace == 0).mean():.1%}",
    }
    return facts | {f"note {i}": note for i, note in enumerate(volume.notes, start=1)}


def picture(volume: Volume) -> np.ndarray:
    """Root sum of squares over the coils of the middle slice, and of its middle frame: an array (y, x) from 0 to 1."""
    kspace = volume.kspace[len(volume.kspace) // 2]
    kspace = kspace[:, kspace.shape[1] // 2] if kspace.ndim == 4 else kspace
    image = ifft2c(torch.from_numpy(np.ascontiguousarray(kspace))).abs().square().sum(0).sqrt()
    brightest = torch.quantile(image, 0.995)  # the few brightest pixels would darken all others
    return (image / brightest if brightest > 0 else image).clamp(0, 1).numpy()
