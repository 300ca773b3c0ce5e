"""Undersampling masks: variable-density Poisson disc, random columns, lines over k and t, and a bank of them on disk.

A mask is a centred boolean array ([time,] y, x), True where k-space is measured. The acceleration R is the number of
all positions over the number measured, and each generator meets it: within 5 % or with an error, never by chance. The
same seed gives the same mask; global random state is not used.
"""

import contextlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from gleam.files import described, digest, written_whole

VERSION = 1  # of the generators: raise it when the same seed comes to give another mask, and banks are made anew


SPACE, SERIES = (-2, -1), (-3, -2, -1)  # axes of a 2D mask, and of the mask of a series


def achieved_acceleration(mask, axes=SPACE, *, measured=None):
    """Number of positions over number of measured ones, over ``axes`` of ``mask``; one value per entry of the others.

    The default is for 2D masks and stacks of them. A series as a whole has the R of ``axes=masks.SERIES``: the mean of
    the R of its frames is another number wherever frames have different counts. ``measured``: (y0, y1, x0, x1), as
    :attr:`gleam.datasets.Slices.measured` has it for each file: only this part of a centred mask counts, for the rest
    of k-space is zero padding; None: all of it.
    """
    mask = np.asarray(mask)
    if measured is not None:
        y0, y1, x0, x1 = measured
        mask = mask[..., y0:y1, x0:x1]
    n_measured = mask.sum(axis=axes)
    return mask.size / n_measured.size / n_measured


def random_columns(shape, acceleration, *, center_fraction=0.04, seed):
    """Random columns with a fully measured centre: 1D undersampling of 2D Cartesian imaging (Section V-A2).

    Parameters: ``shape`` (n_y, n_x), columns along x; ``center_fraction`` of the columns, at least one, is always
    measured. Returns a boolean mask (n_y, n_x). Raises ValueError if the centre is empty or alone more than R allows.
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


def poisson_disc(shape, acceleration, *, n_calibration=20, seed):
    """Variable-density Poisson disc with a full centre and cropped corners (Section V-A1).

    Samples keep a distance that grows linearly with the distance from the centre of k-space. Points are chosen by
    random priority, all at once: a point is taken when it outranks every open point within its disc, which then
    close; this is a maximal disc sampling, found in a few vectorised rounds. A last random thinning meets R exactly.

    Parameters: ``shape`` (n_y, n_x); ``n_calibration``: width of the fully measured square at the centre, in samples.
    Returns a boolean mask (n_y, n_x). Raises ValueError if R cannot be met, or not with a centre.
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
    center = _center(shape, n_calibration)
    mask = center | _discs(shape, _slope(shape, acceleration, n_calibration), generator)
    surplus = max(0, mask.sum() - n_sampled)
    mask.flat[generator.choice(np.flatnonzero(mask & ~center), surplus, replace=False)] = False
    return _checked(mask, acceleration)


def kt_variable_density(shape, acceleration, *, n_center=4, seed):
    """Whole readouts along x, another set of lines y in every frame, denser towards the centre (Section V-A3).

    Every frame measures ``n_center`` central lines; the others take turns. A line y is due ``rate(y)`` times a frame;
    in each frame the lines most overdue are measured. So a line comes back at nearly equal intervals, neighbouring
    frames complement each other and the frames together cover k-space. Neighbouring lines start a golden ratio of
    their interval apart, with some random play, so that they fall into different frames.

    Parameters: ``shape`` (n_frames, n_y, n_x). Returns a boolean mask (n_frames, n_y, n_x) whose overall R is met up to
    the rounding to whole lines of the whole series; frames differ by one line at most. Raises ValueError if R cannot be
    met, or not with a centre.
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
    counts = np.diff(np.arange(n_frames + 1) * n_lines // n_frames) - n_center
    lines = np.zeros((n_frames, n_y), bool)
    rate = _rate(n_y, center, n_lines / n_frames - n_center)
    overdue = (np.arange(n_y) * (np.sqrt(5) - 1) / 2 + generator.random() + _PLAY * generator.random(n_y)) % 1
    for frame, count in zip(lines, counts, strict=True):
        overdue = overdue + rate
        overdue[center] = -np.inf
        taken = np.argsort(-overdue, kind="stable")[:count]
        overdue[taken] -= 1
        frame[taken] = frame[center] = True
    return _checked(np.broadcast_to(lines[..., None], shape).copy(), acceleration, SERIES)


_PLAY = 0.5  # of the phases at which lines start, in intervals


def _rate(n_y, center, n_lines):
    """How often each line y is measured, per frame, so that the rates outside ``center`` add up to ``n_lines``."""
    distance = np.abs(np.arange(n_y) - n_y // 2) / (n_y / 2)
    weight = 0.3 + (1 - distance).clip(0) ** 2  # the 0.3 keeps the edges of k-space in the average over time
    weight[center] = 0
    return n_lines * weight / max(weight.sum(), 1e-9)


def bank(generate, n_masks, *, seed, cache_dir=None):
    """Masks ``generate(seed=...)`` for ``n_masks`` seeds derived from ``seed``: boolean (n_masks, [time,] n_y, n_x).

    ``generate`` is one of the generators above with its arguments bound by ``functools.partial``. With ``cache_dir``
    the bank is made once and read from there ever after, so that training never waits for a mask.
    """
    settings = [described(generate), n_masks, seed, VERSION]
    path = cache_dir and Path(cache_dir) / f"masks-{digest(settings)[:12]}.npy"
    if path and path.exists():
        with contextlib.suppress(ValueError, EOFError):  # a damaged bank is made again
            return np.load(path, allow_pickle=False)
    seeds = np.random.SeedSequence(seed).spawn(n_masks)
    masks = np.stack([generate(seed=s) for s in tqdm(seeds, desc="masks", unit="mask", leave=False)])
    if path:
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.save(file, masks)
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
    if not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"{name}={n!r} leaves no centre to calibrate on; expected a whole number of at least 1")


def _checked(mask, acceleration, axes=SPACE):
    achieved = achieved_acceleration(mask, axes)
    if abs(achieved / acceleration - 1) > 0.05:
        raise ValueError(
            f"acceleration={acceleration} cannot be met within 5 % on a {' x '.join(map(str, mask.shape))} "
            f"grid with these settings; the nearest mask has {achieved:.2f}"
        )
    return mask


def _center(shape, width):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(n // 2 - width // 2, n // 2 - width // 2 + width) for n in shape)] = True
    return mask


def _distance_from_center(shape):
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    return np.hypot(y[:, None], x[None, :])


@lru_cache(maxsize=32)
def _slope(shape, acceleration, n_calibration):
    """Growth of the disc radius with distance that leaves slightly more samples than R asks for."""
    wanted = 1.02 * shape[0] * shape[1] / acceleration
    low, high = 0.0, 4 * np.sqrt(acceleration)
    for _ in range(14):
        middle = (low + high) / 2
        n_sampled = (_center(shape, n_calibration) | _discs(shape, middle, np.random.default_rng(0))).sum()
        low, high = (middle, high) if n_sampled > wanted else (low, middle)
    return low


def _discs(shape, slope, generator):
    inside = _distance_from_center(shape) <= 1
    first, second = _conflicts(shape, slope)
    priority = generator.permutation(inside.size)
    is_open, taken = inside.ravel().copy(), np.zeros(inside.size, bool)
    while first.size:
        best = np.full(inside.size, -1)
        np.maximum.at(best, first, priority[second])
        np.maximum.at(best, second, priority[first])
        winner = is_open & (priority > best)
        taken |= winner
        is_open &= ~winner
        is_open[second[winner[first]]] = False
        is_open[first[winner[second]]] = False
        still = is_open[first] & is_open[second]
        first, second = first[still], second[still]
    return (taken | is_open).reshape(shape)


@lru_cache(maxsize=2)
def _conflicts(shape, slope):
    """Pairs of grid points, as two arrays of flat indices, closer than the mean of their two radii."""
    distance = _distance_from_center(shape)
    radius = np.where(distance <= 1, 1 + slope * distance, 0)
    reach = int(np.ceil(radius.max()))
    index = np.arange(distance.size).reshape(shape)
    pairs = []
    for dy in range(reach + 1):
        for dx in range(-reach if dy else 1, reach + 1):
            a, b = _overlap(shape, dy, dx)
            close = (np.hypot(dy, dx) < (radius[a] + radius[b]) / 2) & (radius[a] > 0) & (radius[b] > 0)
            pairs.append((index[a][close], index[b][close]))
    return tuple(np.concatenate(side) for side in zip(*pairs, strict=True))


def _overlap(shape, dy, dx):
    """Slices of the grid and of the grid moved by (dy, dx) that lie on each other."""
    n_y, n_x = shape
    here = (slice(0, max(0, n_y - dy)), slice(max(0, -dx), max(0, n_x - max(dx, 0))))
    there = (slice(min(dy, n_y), n_y), slice(max(0, dx), max(0, n_x + min(dx, 0))))
    return here, there
