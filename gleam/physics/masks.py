"""Undersampling masks: variable-density Poisson disc, random columns, lines over k and t, and banks of them on disk.

A mask is a centred boolean array ([time,] y, x), True where k-space is measured. The acceleration R is the number of
all positions over the number of measured ones. Each generator meets R within 5 % or raises an error. The same seed
gives the same mask; global random state is not used.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from gleam.files import described, digest, is_whole_number, written_whole
from gleam.physics import discs

VERSION = 1  # of the generators; raise it when the same seed gives another mask, so that banks are made again
SPACE, SERIES = (-2, -1), (-3, -2, -1)  # axes of a 2D mask and of the mask of a series
Seed = int | np.random.SeedSequence


def achieved_acceleration(
    mask: np.ndarray, axes: Sequence[int] = SPACE, *, measured: Sequence[int] | None = None
) -> np.ndarray:
    """Acceleration R of masks: the number of positions over the number of measured ones.

    Parameters
    ----------
    mask : array, shape (..., y, x)
        One mask or a stack of them.
    axes : tuple of int
        Axes to count over. The default is for 2D masks and stacks of them. For the R of a whole series take
        `masks.SERIES`: the mean of the R of its frames differs from it where frames have different counts.
    measured : (y0, y1, x0, x1), optional
        Count only this part of a centred mask, because the rest of k-space is zero padding
        (:attr:`gleam.datasets.Slices.measured` has it for each file). Default: all of it.

    Returns
    -------
    array or NumPy scalar
        One value per entry of the other axes.
    """
    mask = np.asarray(mask)
    if measured is not None:
        y0, y1, x0, x1 = measured
        mask = mask[..., y0:y1, x0:x1]
    n_measured = mask.sum(axis=axes)
    return mask.size / n_measured.size / n_measured


def random_columns(
    shape: Sequence[int], acceleration: float, *, center_fraction: float = 0.04, seed: Seed
) -> np.ndarray:
    """Random columns with a fully measured centre, for 1D undersampling of 2D Cartesian imaging.

    Parameters
    ----------
    shape : (n_y, n_x)
        Size of the mask; columns are counted along x.
    acceleration : float
        R, at least 1.
    center_fraction : float
        This part of the columns, at least one column, is always measured.
    seed : int or SeedSequence

    Returns
    -------
    bool array, shape (n_y, n_x)

    Raises
    ------
    ValueError
        If the centre is empty or alone larger than R allows, or if R cannot be met within 5 %.

    Notes
    -----
    Section V-A2 of the paper.
    """
    shape = _checked_shape(shape, acceleration)
    if not 0 < center_fraction <= 1:
        raise ValueError(f"center_fraction={center_fraction!r} leaves no centre to calibrate on; expected 0 < it <= 1")
    n_columns = shape[1]
    n_center, n_sampled = max(1, round(center_fraction * n_columns)), round(n_columns / acceleration)
    if n_center > n_sampled:
        raise ValueError(
            f"acceleration={acceleration} leaves {n_sampled} of {n_columns} columns, "
            f"fewer than the {n_center} of center_fraction={center_fraction}; lower one of them"
        )
    columns = np.zeros(n_columns, bool)
    start = n_columns // 2 - n_center // 2
    columns[start : start + n_center] = True
    generator = np.random.default_rng(seed)
    columns[generator.choice(np.flatnonzero(~columns), n_sampled - n_center, replace=False)] = True
    return _checked(np.broadcast_to(columns, shape).copy(), acceleration)


def poisson_disc(shape: Sequence[int], acceleration: float, *, n_calibration: int = 20, seed: Seed) -> np.ndarray:
    """Variable-density Poisson disc with a fully measured centre and cropped corners.

    Parameters
    ----------
    shape : (n_y, n_x)
        Size of the mask.
    acceleration : float
        R, at least 1.
    n_calibration : int
        Width of the fully measured square at the centre, in samples.
    seed : int or SeedSequence

    Returns
    -------
    bool array, shape (n_y, n_x)

    Raises
    ------
    ValueError
        If R cannot be met within 5 %, or not together with the centre.

    Notes
    -----
    Section V-A1 of the paper. The distance between samples grows linearly with the distance from the centre of k-space.
    All points have a random priority. In each round, a point is taken if its priority is higher than that of every
    open point within its disc, and these points are then closed. The result is a maximal disc sampling, found in a few
    vectorised rounds. At the end, random samples are removed until R is met.
    """
    shape = _checked_shape(shape, acceleration)
    _check_center(n_calibration=n_calibration)
    n_sampled = round(shape[0] * shape[1] / acceleration)
    if n_calibration**2 > n_sampled:
        raise ValueError(
            f"acceleration={acceleration} leaves {n_sampled} of {shape[0]} x {shape[1]} samples, fewer than "
            f"n_calibration={n_calibration} squared; lower one of them"
        )
    generator = np.random.default_rng(seed)
    center = discs.center(shape, n_calibration)
    slope = discs.slope_of(shape, acceleration, n_calibration)
    mask = center | discs.discs(shape, slope, generator)
    surplus = max(0, mask.sum() - n_sampled)  # about 2 %, by the slope
    mask.flat[generator.choice(np.flatnonzero(mask & ~center), surplus, replace=False)] = False
    return _checked(mask, acceleration)


def kt_variable_density(shape: Sequence[int], acceleration: float, *, n_center: int = 4, seed: Seed) -> np.ndarray:
    """Whole readouts along x with another set of lines y in every frame, denser towards the centre of k-space.

    Parameters
    ----------
    shape : (n_frames, n_y, n_x)
        Size of the mask.
    acceleration : float
        R of the whole series, at least 1.
    n_center : int
        Number of central lines that every frame measures.
    seed : int or SeedSequence

    Returns
    -------
    bool array, shape (n_frames, n_y, n_x)
        R is met up to rounding to whole lines of the whole series; frames differ by one line at most.

    Raises
    ------
    ValueError
        If R cannot be met within 5 %, or not together with the centre.

    Notes
    -----
    Section V-A3 of the paper. Outside the centre, line y is to be measured `rate(y)` times per frame. Each frame
    measures the lines that are most overdue. So a line returns at nearly equal intervals, neighbouring frames
    complement each other, and all frames together cover k-space. The phases of neighbouring lines differ by the golden
    ratio of their interval plus a random part, so that they fall into different frames.
    """
    n_frames, n_y, _ = shape = _checked_shape(shape, acceleration, ("n_frames", "n_y", "n_x"))
    _check_center(n_center=n_center)
    n_lines = round(n_frames * n_y / acceleration)
    if n_center * n_frames > n_lines:
        raise ValueError(
            f"acceleration={acceleration} leaves {n_lines} lines for {n_frames} frames, fewer than n_center={n_center} "
            "in each; lower one of them"
        )
    generator = np.random.default_rng(seed)
    center = np.arange(n_center) + n_y // 2 - n_center // 2
    counts = np.diff(np.arange(n_frames + 1) * n_lines // n_frames) - n_center  # lines beside the centre, by frame
    lines = np.zeros((n_frames, n_y), bool)
    distance = np.abs(np.arange(n_y) - n_y // 2) / (n_y / 2)
    weight = 0.3 + (1 - distance).clip(0) ** 2  # 0.3: the frames together measure the edges of k-space, too
    weight[center] = 0
    rate = (n_lines / n_frames - n_center) * weight / max(weight.sum(), 1e-9)
    overdue = (np.arange(n_y) * (np.sqrt(5) - 1) / 2 + generator.random() + _PLAY * generator.random(n_y)) % 1
    for frame, count in zip(lines, counts, strict=True):
        overdue = overdue + rate
        overdue[center] = -np.inf  # the centre is measured anyway
        taken = np.argsort(-overdue, kind="stable")[:count]
        overdue[taken] -= 1  # due again after one interval
        frame[taken] = frame[center] = True
    return _checked(np.broadcast_to(lines[..., None], shape).copy(), acceleration, SERIES)


_PLAY = 0.5  # width of the random part of the phases of lines, in intervals


def bank(
    generate: Callable[..., np.ndarray], n_masks: int, *, seed: int, cache_dir: str | Path | None = None
) -> np.ndarray:
    """Make `n_masks` masks from seeds derived from `seed`, or read them from a cache.

    Parameters
    ----------
    generate : callable
        seed -> mask: one of the generators above, its arguments bound by `functools.partial`.
    n_masks : int
    seed : int
    cache_dir : path, optional
        Folder where the bank is stored after it was made, with its SHA-256, so that training never waits for a mask.
        A file that was changed since, or that has no digest, is made again.

    Returns
    -------
    bool array, shape (n_masks, [time,] n_y, n_x)
    """
    settings = [described(generate), n_masks, seed, VERSION]
    path = cache_dir and Path(cache_dir) / f"masks-{digest(settings)[:12]}.npy"
    if path and path.exists():
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() == content[-32:]:
            return np.load(io.BytesIO(content), allow_pickle=False)
    seeds = np.random.SeedSequence(seed).spawn(n_masks)
    masks = np.stack([generate(seed=s) for s in tqdm(seeds, desc="masks", unit="mask", leave=False)])
    if path:
        stream = io.BytesIO()
        np.save(stream, masks)
        with written_whole(path) as temporary:
            # the digest lies behind the array, where np.load does not look
            temporary.write_bytes(stream.getvalue() + hashlib.sha256(stream.getvalue()).digest())
    return masks


def _checked_shape(shape, acceleration, names=("n_y", "n_x")):
    if len(shape) != len(names) or min(shape) < 2:
        count = {2: "two", 3: "three"}[len(names)]
        raise ValueError(f"shape={shape!r} of a mask must be {count} sizes ({', '.join(names)}), each at least 2")
    if not acceleration >= 1:
        raise ValueError(f"acceleration={acceleration!r} must be a number of at least 1")
    return tuple(int(n) for n in shape)


def _check_center(**width):
    ((name, n),) = width.items()
    if not is_whole_number(n):
        raise ValueError(f"{name}={n!r} leaves no centre to calibrate on; expected a whole number of at least 1")


def _checked(mask, acceleration, axes=SPACE):
    achieved = achieved_acceleration(mask, axes)
    if abs(achieved / acceleration - 1) > 0.05:
        raise ValueError(
            f"acceleration={acceleration} cannot be met within 5 % on a {' x '.join(map(str, mask.shape))} "
            f"grid with these settings; the nearest mask has {achieved:.2f}"
        )
    return mask
