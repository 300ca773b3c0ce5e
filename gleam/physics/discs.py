"""Poisson discs on a grid: random points with a least distance that grows away from the centre."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gleam.physics.fourier import central


def center(shape: Sequence[int], width: int) -> np.ndarray:
    """True in the central square of `width` points."""
    mask = np.zeros(shape, bool)
    mask[central(shape, width)] = True
    return mask


def distance_from_center(shape: Sequence[int]) -> np.ndarray:
    """Distance of each grid point (y, x) from the centre, in half widths of the grid."""
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    return np.hypot(y[:, None], x[None, :])


@lru_cache(maxsize=32)
def slope_of(shape: tuple[int, int], acceleration: float, n_calibration: int) -> float:
    """Growth of the disc radius with distance for which slightly more samples are left than R asks for."""
    # samples can be removed afterwards and none added
    wanted = 1.02 * shape[0] * shape[1] / acceleration
    low, high = 0.0, 4 * np.sqrt(acceleration)
    for _ in range(14):  # bisection; with one seed, so that the slope is the same for all masks
        middle = (low + high) / 2
        n_sampled = (center(shape, n_calibration) | discs(shape, middle, np.random.default_rng(0))).sum()
        low, high = (middle, high) if n_sampled > wanted else (low, middle)
    return low


def discs(shape: Sequence[int], slope: float, generator: np.random.Generator) -> np.ndarray:
    """The points of the disc sampling that :func:`gleam.masks.poisson_disc` describes, without its centre."""
    inside = distance_from_center(shape) <= 1
    first, second = _conflicts(shape, slope)
    priority = generator.permutation(inside.size)
    is_open, taken = inside.ravel().copy(), np.zeros(inside.size, bool)
    while first.size:
        best = np.full(inside.size, -1)  # highest priority among the open points within the disc; -1: none
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
    n_y, n_x = shape
    distance = distance_from_center(shape)
    radius = np.where(distance <= 1, 1 + slope * distance, 0)
    reach = int(np.ceil(radius.max()))
    index = np.arange(distance.size).reshape(shape)
    pairs = []
    for dy in range(reach + 1):
        for dx in range(-reach if dy else 1, reach + 1):
            # a, b: the parts of the grid and of the grid moved by (dy, dx) that lie on each other
            a = (slice(0, max(0, n_y - dy)), slice(max(0, -dx), max(0, n_x - max(dx, 0))))
            b = (slice(min(dy, n_y), n_y), slice(max(0, dx), max(0, n_x + min(dx, 0))))
            close = (np.hypot(dy, dx) < (radius[a] + radius[b]) / 2) & (radius[a] > 0) & (radius[b] > 0)
            pairs.append((index[a][close], index[b][close]))
    return tuple(np.concatenate(side) for side in zip(*pairs, strict=True))
