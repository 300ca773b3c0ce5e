"""Zeros in raw k-space: padding around the measured lines, or missing lines. One rule for all formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_DIFFERENCE = 2  # lines between the paddings of the two ends of k-space that is centred to a line


def whole(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """(y0, y1, x0, x1) of k-space (..., y, x) of `shape` without padding."""
    return 0, int(shape[-2]), 0, int(shape[-1])


def measured_lines(lines: np.ndarray, path: str | Path) -> tuple[int, int]:
    """First and last + 1 of the measured lines along a phase-encoding axis.

    Zeros at both ends of centred k-space are padding if there are about as many on either side. Zeros at one end are
    partial Fourier, and zeros between measured lines, in any frame, are undersampling: neither is a reference.

    Parameters
    ----------
    lines : bool array, shape (slice, [time,] line)
        Whether a line holds anything but zeros. A slice of zeros is ignored.
    path : path
        The file, for messages.

    Returns
    -------
    (int, int)

    Raises
    ------
    ValueError
        For partial Fourier and for undersampling.
    """
    n = lines.shape[-1]
    lines = lines.reshape(len(lines), -1, n)
    found = np.flatnonzero(lines.any(axis=(0, 1)))
    if not len(found):
        return 0, n
    start, stop = int(found[0]), int(found[-1]) + 1
    for s, inside in enumerate(lines[..., start:stop]):
        if inside.any() and not inside.all():
            raise ValueError(
                f"{path}: is undersampled, {np.sum(~inside)} of the {inside.size} lines of slice {s} are zero; "
                "expected a fully sampled scan"
            )
    check_symmetric(start, stop, n, path)
    return start, stop


def is_full(lines: np.ndarray) -> bool:
    """Whether lines, as in :func:`measured_lines`, are those of a fully sampled scan."""
    try:
        measured_lines(lines, "")
    except ValueError:
        return False
    return True


def check_symmetric(start: int, stop: int, n: int, path: str | Path) -> None:
    """Raise ValueError unless lines `start` to `stop` - 1 reach about equally far from the centre, `n` // 2."""
    if abs(start - (n - stop)) > MAX_DIFFERENCE:
        raise ValueError(
            f"{path}: its lines reach from {start - n // 2} to {stop - 1 - n // 2} about the centre of k-space "
            "(partial Fourier); expected a fully sampled scan"
        )


def cropped(start: int, stop: int, n: int, n_cropped: int) -> tuple[int, int]:
    """First and last + 1 of the measured lines after the image was cropped.

    The k-space of the smaller field of view has fewer lines, further apart. Those between the same two frequencies are
    the measured ones.

    Parameters
    ----------
    start, stop : int
        First and last + 1 of the measured lines of the full field of view.
    n, n_cropped : int
        Number of lines before, and pixels after the crop.
    """
    edges = (2 * (edge - n // 2) - 1 for edge in (start, stop))  # half a line below, in halves of a line
    first, last = (n_cropped // 2 - (-edge * n_cropped) // (2 * n) for edge in edges)
    return first, last
