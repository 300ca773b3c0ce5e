"""Zeros in raw k-space: padding about the measured lines, or lines that are missing. One rule for all formats."""

import numpy as np

MAX_DIFFERENCE = 2  # between the lines of padding at the two ends: what is centred to a line is symmetric


def whole(shape):
    """The (y0, y1, x0, x1) of k-space (..., y, x) of ``shape`` in which nothing is padding."""
    return 0, int(shape[-2]), 0, int(shape[-1])


def measured_lines(lines, path):
    """First and last + 1 of the lines measured along a phase-encoding axis of the file ``path``.

    Zeros at both ends of centred k-space are padding if they are about as many on either side. Zeros at one end are
    partial Fourier, and zeros between measured lines, in any frame, are undersampling: neither is a reference.

    Parameters
    ----------
    lines : bool array, shape (slice, [time,] line)
        Whether a line holds anything but zeros. A slice of zeros has nothing to say.

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


def check_symmetric(start, stop, n, path):
    """Raise ValueError unless lines ``start`` to ``stop`` - 1 reach about equally far from the centre, ``n`` // 2."""
    if abs(start - (n - stop)) > MAX_DIFFERENCE:
        raise ValueError(
            f"{path}: its lines reach from {start - n // 2} to {stop - 1 - n // 2} about the centre of k-space "
            "(partial Fourier); expected a fully sampled scan"
        )


def cropped(start, stop, n, n_cropped):
    """The measured lines ``start`` to ``stop`` - 1 of ``n`` once the image is cropped to ``n_cropped`` pixels.

    The k-space of the smaller field of view has fewer lines, further apart; those that lie between the same two
    frequencies are the measured ones.
    """
    edges = (2 * (edge - n // 2) - 1 for edge in (start, stop))  # half a line below, in halves of a line
    return tuple(n_cropped // 2 - (-edge * n_cropped) // (2 * n) for edge in edges)
