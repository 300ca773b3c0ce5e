"""Smooth random fields and soft-edged shapes: what the phantoms' anatomy is drawn with.

Everything is a function of millimetres, not of pixels, so that the same subject can be rendered on any matrix. A shape
is a signed distance (negative inside, in mm); :func:`cover` turns it into the fraction of a voxel that the shape fills.
"""

import numpy as np


def spline_taps(positions, first, spacing, n_knots):
    """Cubic B-spline interpolation from knots at ``first + spacing * arange(n_knots)``: four (index, weight) pairs."""
    u = np.clip((np.asarray(positions, float) - first) / spacing, 1, n_knots - 2 - 1e-6)
    cell = np.floor(u).astype(int)
    t = u - cell
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return [(cell + offset, (piece / 6).astype(np.float32)) for offset, piece in zip(range(-1, 3), pieces, strict=True)]


def spline_matrix(positions, first, spacing, n_knots):
    """The taps of :func:`spline_taps` as a matrix (position, knot), float32."""
    matrix = np.zeros((len(positions), n_knots), np.float32)
    for index, weight in spline_taps(positions, first, spacing, n_knots):
        matrix[np.arange(len(positions)), index] += weight
    return matrix


def interpolate(lattice, first, spacing, grid):
    """Evaluate a cubic B-spline ``lattice`` (a, b, c) on the regular ``grid``, three 1D arrays of positions in mm."""
    for axis, (start, step, positions) in enumerate(zip(first, spacing, grid, strict=True)):
        taps = spline_taps(positions, start, step, lattice.shape[axis])
        shape = [-1 if axis == k else 1 for k in range(3)]
        # Four taps, not a matrix product: nothing here for BLAS threads to fight over.
        lattice = sum(np.take(lattice, index, axis) * weight.reshape(shape) for index, weight in taps)
    return lattice


class Field:
    """A smooth Gaussian random field of unit variance over a box centred at 0, drawn once, evaluated on any grid.

    ``spacing``: knot distance in mm per axis (s, y, x); structures are about twice as large.
    ``half_width``: half the box in mm.
    """

    def __init__(self, rng, spacing, half_width=(85, 85, 85)):
        self.spacing = np.broadcast_to(np.asarray(spacing, float), (3,))
        n_knots = [2 * int(np.ceil(h / d)) + 5 for h, d in zip(half_width, self.spacing, strict=True)]
        self.first = [-d * (n // 2) for d, n in zip(self.spacing, n_knots, strict=True)]
        # A cubic B-spline keeps 0.479 of the variance of white knots per axis.
        self.lattice = (rng.standard_normal(n_knots) / 0.479**1.5).astype(np.float32)

    def __call__(self, grid):
        return interpolate(self.lattice, self.first, self.spacing, grid)

    def at(self, levels, y, x):
        """The field at scattered points of the planes ``levels`` (1D): ``y`` and ``x`` (s, y, x) in mm; float32."""
        from scipy import ndimage

        taps = spline_taps(levels, self.first[0], self.spacing[0], self.lattice.shape[0])
        planes = sum(self.lattice[index] * weight[:, None, None] for index, weight in taps)
        knots = np.stack([(v - f) / d for v, f, d in zip((y, x), self.first[1:], self.spacing[1:], strict=True)], 1)
        out = np.empty(y.shape, np.float32)
        for plane, knot, values in zip(planes, knots, out, strict=True):
            ndimage.map_coordinates(plane, knot, values, order=3, mode="nearest", prefilter=False)
        return out


def sheets(values, grid, thickness, spread):
    """Coverage (0..1) of thin curved sheets where a smooth field crosses zero; ``thickness`` in mm.

    ``spread``: the voxel's width in mm; a sheet thinner than a voxel fills the fraction of it that it should.
    """
    gradient = np.gradient(values, grid[1], grid[2], axis=(1, 2))
    distance = np.abs(values) / (np.hypot(*gradient) + 0.02)
    width = np.maximum(thickness, spread)
    return (thickness / width) * np.exp(-((distance / (0.6 * width)) ** 2))


def cover(distance, width):
    """Fraction of a voxel of ``width`` mm inside the shape, from its signed ``distance`` in mm."""
    t = np.clip(0.5 - distance * (1 / (1.5 * width)), 0, 1)
    return t * t * (3 - 2 * t)


def shell(distance, inner, outer, width):
    """Coverage of the layer ``inner < distance < outer`` in mm; right on average for layers thinner than a voxel."""
    return cover(distance - outer, width) - cover(distance - inner, width)


def ellipse(u, v, a, b, angle=0.0):
    """Approximate signed distance to an ellipse at 0 with half axes ``a`` (u) and ``b`` (v), turned by ``angle``."""
    if np.any(angle):
        u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    return ellipsoid((u, a), (v, b))


def ellipsoid(*coordinates_and_radii):
    """Approximate signed distance to an ellipsoid at 0, from (coordinate, half axis) pairs."""
    k0 = np.sqrt(sum((u / a) ** 2 for u, a in coordinates_and_radii)) + 1e-6
    k1 = np.sqrt(sum((u / a**2) ** 2 for u, a in coordinates_and_radii)) + 1e-9
    return k0 * (k0 - 1) / k1


def merge(first, second, radius):
    """Signed distance of the union of two shapes, its crease filled with a fillet of about ``radius`` mm."""
    h = np.clip(0.5 + 0.5 * (second - first) / radius, 0, 1)
    return second + (first - second) * h - radius * h * (1 - h)


def box(near):
    """Index (s, y, x) of the smallest box over all s that holds every True of ``near`` (s, y, x).

    Small shapes are drawn in it alone: outside, where they cover nothing, painting would change nothing.
    """
    flat = near.any(axis=0)
    ends = [np.flatnonzero(flat.any(axis=axis)) for axis in (1, 0)]
    return (slice(None), *(slice(e[0], e[-1] + 1) if len(e) else slice(0) for e in ends))


def ellipse_box(u, v, a, b, margin):
    """The :func:`box` outside which :func:`ellipse` of (u, v, a, b), not turned, is more than ``margin`` mm."""
    reach = 1 + margin / min(a, b)
    return box((np.abs(u) < reach * a) & (np.abs(v) < reach * b))


def paint(image, coverage, value):
    """Blend ``value`` over ``image`` in place where ``coverage`` says so; returns ``image``."""
    image += coverage * (value - image)
    return image
