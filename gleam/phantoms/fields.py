"""Smooth random fields and soft-edged shapes, the tools that the anatomy of the phantoms is drawn with.

All are functions of positions in mm, not of pixels, so that one subject can be rendered on any matrix. A shape is a
signed distance in mm, negative inside; :func:`cover` turns it into the fraction of a voxel that the shape fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def spline_taps(
    positions: np.ndarray, first: float, spacing: float, n_knots: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cubic B-spline interpolation at `positions` as four (index, weight) pairs of arrays.

    The knots lie at `first + spacing * arange(n_knots)`, in the units of `positions`.
    """
    # all four taps must exist: beyond the last knots the field stays as it is there
    u = np.clip((np.asarray(positions, float) - first) / spacing, 1, n_knots - 2 - 1e-6)
    cell = np.floor(u).astype(int)
    t = u - cell
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return [(cell + offset, (piece / 6).astype(np.float32)) for offset, piece in zip(range(-1, 3), pieces, strict=True)]


def spline_matrix(positions: np.ndarray, first: float, spacing: float, n_knots: int) -> np.ndarray:
    """The interpolation of :func:`spline_taps` as a matrix (position, knot), float32."""
    matrix = np.zeros((len(positions), n_knots), np.float32)
    for index, weight in spline_taps(positions, first, spacing, n_knots):
        matrix[np.arange(len(positions)), index] += weight
    return matrix


def interpolate(
    lattice: np.ndarray, first: Sequence[float], spacing: Sequence[float] | np.ndarray, grid: Sequence[np.ndarray]
) -> np.ndarray:
    """Evaluate a cubic B-spline on a regular grid.

    Parameters
    ----------
    lattice : array, shape (a, b, c)
        Values at the knots.
    first, spacing : three numbers each
        Position of the first knot and distance of the knots along each axis, in mm.
    grid : three 1D arrays
        Positions in mm along each axis.

    Returns
    -------
    array
        One value for each point of `grid`.
    """
    for axis, (start, step, positions) in enumerate(zip(first, spacing, grid, strict=True)):
        taps = spline_taps(positions, start, step, lattice.shape[axis])
        shape = [-1 if axis == k else 1 for k in range(3)]
        # Four taps instead of a matrix product: several processes draw at once, and BLAS threads would compete.
        lattice = sum(np.take(lattice, index, axis) * weight.reshape(shape) for index, weight in taps)
    return lattice


class Field:
    """A smooth Gaussian random field of unit variance in a box centred at 0, drawn once, evaluated on any grid.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the values at the knots.
    spacing : float or three of them
        Distance of the knots in mm along (s, y, x); structures are about twice as large.
    half_width : three numbers
        Half the sides of the box in mm.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        spacing: float | Sequence[float],
        half_width: Sequence[float] = (85, 85, 85),
    ) -> None:
        self.spacing = np.broadcast_to(np.asarray(spacing, float), (3,))
        n_knots = [2 * int(np.ceil(h / d)) + 5 for h, d in zip(half_width, self.spacing, strict=True)]
        self.first = [-d * (n // 2) for d, n in zip(self.spacing, n_knots, strict=True)]
        # A cubic B-spline keeps 0.479 of the variance of white knots per axis.
        self.lattice = (rng.standard_normal(n_knots) / 0.479**1.5).astype(np.float32)

    def __call__(self, grid: Sequence[np.ndarray]) -> np.ndarray:
        """The field (s, y, x) on `grid`: three 1D arrays of positions in mm."""
        return interpolate(self.lattice, self.first, self.spacing, grid)

    def at(self, levels: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The field, float32, at scattered points of planes.

        Parameters
        ----------
        levels : array, shape (s,)
            Positions of the planes in mm.
        y, x : arrays, shape (s, y, x)
            Positions of the points in each plane, in mm.

        Returns
        -------
        array, shape (s, y, x)
        """
        from scipy import ndimage

        taps = spline_taps(levels, self.first[0], self.spacing[0], self.lattice.shape[0])
        planes = sum(self.lattice[index] * weight[:, None, None] for index, weight in taps)
        knots = np.stack([(v - f) / d for v, f, d in zip((y, x), self.first[1:], self.spacing[1:], strict=True)], 1)
        out = np.empty(y.shape, np.float32)
        for plane, knot, values in zip(planes, knots, out, strict=True):
            ndimage.map_coordinates(plane, knot, values, order=3, mode="nearest", prefilter=False)
        return out


def sheets(values: np.ndarray, grid: Sequence[np.ndarray], thickness: float, spread: float) -> np.ndarray:
    """Coverage (0 to 1) of thin curved sheets, which lie where a smooth field crosses zero.

    Parameters
    ----------
    values : array, shape (s, y, x)
        The field.
    grid : three 1D arrays
        Positions (s, y, x) in mm.
    thickness : float
        Thickness of a sheet in mm.
    spread : float
        Width of a voxel in mm; a sheet thinner than a voxel fills the right fraction of it.
    """
    gradient = np.gradient(values, grid[1], grid[2], axis=(1, 2))
    distance = np.abs(values) / (np.hypot(*gradient) + 0.02)
    width = np.maximum(thickness, spread)
    return (thickness / width) * np.exp(-((distance / (0.6 * width)) ** 2))


def cover(distance: np.ndarray, width: float) -> np.ndarray:
    """Fraction of a voxel of `width` mm inside the shape, from its signed `distance` in mm."""
    t = np.clip(0.5 - distance * (1 / (1.5 * width)), 0, 1)
    return t * t * (3 - 2 * t)  # smooth at both ends


def shell(distance: np.ndarray, inner: float | np.ndarray, outer: float | np.ndarray, width: float) -> np.ndarray:
    """Coverage of the layer `inner < distance < outer` in mm; right on average for layers thinner than a voxel."""
    return cover(distance - outer, width) - cover(distance - inner, width)


def ellipse(
    u: np.ndarray,
    v: np.ndarray,
    a: float | np.ndarray,
    b: float | np.ndarray,
    angle: float | np.ndarray = 0.0,
) -> np.ndarray:
    """Approximate signed distance to an ellipse at 0.

    Parameters
    ----------
    u, v : arrays
        Coordinates in mm.
    a, b : float or array
        Half axes in mm along `u` and `v`.
    angle : float or array
        Angle in radians by which the ellipse is turned.
    """
    if np.any(angle):
        u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    return ellipsoid((u, a), (v, b))


def ellipsoid(*coordinates_and_radii: tuple[np.ndarray, float | np.ndarray]) -> np.ndarray:
    """Approximate signed distance to an ellipsoid at 0, from (coordinate, half axis) pairs in mm."""
    k0 = np.sqrt(sum((u / a) ** 2 for u, a in coordinates_and_radii)) + 1e-6
    k1 = np.sqrt(sum((u / a**2) ** 2 for u, a in coordinates_and_radii)) + 1e-9
    # k0 - 1 is 0 on the surface, and k0 / k1 its scale in mm: exact to first order
    return k0 * (k0 - 1) / k1


def merge(first: np.ndarray, second: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Signed distance of the union of two shapes, its crease filled with a fillet of about `radius` mm."""
    h = np.clip(0.5 + 0.5 * (second - first) / radius, 0, 1)
    return second + (first - second) * h - radius * h * (1 - h)


def box(near: np.ndarray) -> tuple[slice, slice, slice]:
    """Index (s, y, x) of the smallest box over all s that holds every True of `near` (s, y, x).

    Small shapes are drawn only in their box: outside it they cover nothing, and painting would change nothing.
    """
    flat: Any = near.any(axis=0)
    ends = [np.flatnonzero(flat.any(axis=axis)) for axis in (1, 0)]
    # an empty box where nothing is near
    y, x = (slice(e[0], e[-1] + 1) if len(e) else slice(0) for e in ends)
    return slice(None), y, x


def ellipse_box(u: np.ndarray, v: np.ndarray, a: float, b: float, margin: float) -> tuple[slice, slice, slice]:
    """The :func:`box` outside which an :func:`ellipse` of (u, v, a, b), not turned, is more than `margin` mm away."""
    reach = 1 + margin / min(a, b)
    return box((np.abs(u) < reach * a) & (np.abs(v) < reach * b))


def paint(image: np.ndarray, coverage: np.ndarray | float, value: np.ndarray | float) -> np.ndarray:
    """Blend `value` over `image` in place, with the weight `coverage` (0 to 1); returns `image`."""
    image += coverage * (value - image)
    return image
