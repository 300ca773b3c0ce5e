"""From a magnitude image to what a scanner measures: phase, receive coils, thermal noise, k-space."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gleam.phantoms.fields import Field, spline_matrix

N_LOOP_SEGMENTS = 20
SOFTENING_MM = 12.0  # thickness of the conductors: keeps the field finite next to a loop


class Phase:
    """A smooth phase: a polynomial of third order plus a low-frequency random part (about 1 rad in all).

    All random numbers are drawn from `rng` when the object is made.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        scales = (np.pi, 0.4, 0.8, 0.8, 0.3, 0.5, 0.3, 0.3, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3)
        self.factors = [rng.normal(0, scale) for scale in scales]
        self.field = Field(rng, (40, 28, 28), (130, 130, 130))

    def __call__(self, grid: Sequence[np.ndarray]) -> np.ndarray:
        """Phase in radians, float32, shape (s, y, x), on `grid`: three arrays of positions in mm."""
        s, y, x = np.meshgrid(*(np.asarray(g) / 80 for g in grid), indexing="ij", sparse=True)
        one, *f = self.factors  # of 1, s, y, x, sy, yx, sx, ss, yy, xx, yyy, xxx, yxx, xyy
        plane: np.ndarray = one + f[1] * y + f[2] * x + f[4] * y * x + f[7] * y**2 + f[8] * x**2
        plane = plane + f[9] * y**3 + f[10] * x**3 + f[11] * y * x**2 + f[12] * x * y**2
        # The terms without s, and the two with it, are small arrays: only their sum has the size of the grid.
        rest: Any = f[0] * s + f[3] * s * y + f[6] * s**2, f[5] * s * x
        plane, *rest = (part.astype(np.float32) for part in (plane, *rest))
        return plane + rest[0] + rest[1] + np.float32(0.2) * self.field(grid)


class Banding:
    """Signal loss by off-resonance in a balanced sequence: dark bands near the edge of the field of view."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.factors = [rng.normal(0, scale) for scale in (0.4, 0.3, 0.7, 0.7, 0.5, 0.7, 0.7)]
        self.field = Field(rng, (60, 35, 35), (130, 180, 260))

    def __call__(self, grid: Sequence[np.ndarray]) -> np.ndarray:
        """Factor of the signal, 0 to 1, float32, shape (s, y, x), on `grid`: three arrays of positions in mm."""
        s, y, x = np.meshgrid(*(np.asarray(g) / 110 for g in grid), indexing="ij", sparse=True)
        terms: Sequence[Any] = (1, s, y, x, x * y, x**2, y**2)
        angle: Any = sum(f * term for f, term in zip(self.factors, terms, strict=True))
        angle = angle + 0.3 * self.field(grid)
        # a balanced sequence has no signal where the phase turns by pi between two pulses
        dark = 0.7 * np.exp(-(((np.abs(angle) - np.pi) / 0.6) ** 2)) + 0.03 * angle**2 / (1 + angle**2)
        return (1 - dark).astype(np.float32)


def turned(angle: np.ndarray) -> np.ndarray:
    """exp(i angle), complex64, of a float32 `angle` in radians."""
    out = np.empty(angle.shape, np.complex64)
    np.cos(angle, out=out.real)
    np.sin(angle, out=out.imag)
    return out


def _loops(rng, n_coils, radii, half_length):
    """Corners (coil, segment + 1, 3) in mm of `n_coils` round loops, on one ring or more around the object."""
    n_rings = 1 if n_coils < 9 else 2 if n_coils < 17 else 3  # a ring holds about eight
    ring = np.arange(n_coils) % n_rings
    angle = 2 * np.pi * (np.arange(n_coils) + 0.25 * rng.standard_normal(n_coils)) / n_coils + rng.uniform(0, 2 * np.pi)
    level = (ring - (n_rings - 1) / 2) * 2 * half_length / max(n_rings, 2) + rng.normal(0, 5, n_coils)
    distance = rng.normal(1.0, 0.03, n_coils)
    centre = np.stack([level, radii[0] * distance * np.sin(angle), radii[1] * distance * np.cos(angle)], -1)
    size = rng.uniform(0.9, 1.1, n_coils) * np.clip(2.6 * min(radii) * n_rings**0.5 / n_coils, 32, 60)
    along = np.array([1.0, 0, 0]) + 0.15 * rng.standard_normal((n_coils, 3))
    across = np.stack([np.zeros(n_coils), np.cos(angle), -np.sin(angle)], -1)
    turn = np.linspace(0, 2 * np.pi, N_LOOP_SEGMENTS + 1)[:, None]
    return centre[:, None] + size[:, None, None] * (np.cos(turn) * along[:, None] + np.sin(turn) * across[:, None])


class Coils:
    """Receive sensitivities of loops around the object; the main field points along s.

    The field of the loops is summed on a coarse grid and interpolated, since it is smooth. The object is therefore
    small, and a sensitivity is computed when it is asked for.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the positions, sizes and phases of the loops.
    n_coils : int
        Number of loops.
    grid : three arrays
        Positions (s, y, x) in mm.
    radii : (float, float)
        Half axes (y, x) in mm of the tube that carries the loops.
    half_length : float
        Half length of the tube in mm.
    shading : float
        How much of the shading of the bare coils is left, as after the prescan normalisation of a scanner. The root
        sum of squares is 1 in the middle; its rise towards the loops, in dB, is `shading` times that of the bare coils.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        n_coils: int,
        grid: Sequence[np.ndarray],
        radii: Sequence[float],
        half_length: float,
        shading: float = 0.5,
    ) -> None:
        self.shading = shading
        first = [g[0] - 24.0 for g in grid]  # two knots, 12 mm apart, beyond the grid: cubic splines need them
        n_knots = [int(np.ceil((g[-1] - g[0]) / 12.0)) + 5 for g in grid]
        coarse = [f + 12.0 * np.arange(n) for f, n in zip(first, n_knots, strict=True)]
        points = np.stack(np.meshgrid(*coarse, indexing="ij"), -1).reshape(-1, 1, 3)
        self.lattices = np.empty((n_coils, *n_knots), np.complex64)
        phases = rng.uniform(0, 2 * np.pi, n_coils)
        for coil, corners in enumerate(_loops(rng, n_coils, radii, half_length)):
            # Biot-Savart law over the segments; the coil receives the field transverse to s
            element = np.diff(corners, axis=0)
            offset = points - (corners[1:] + corners[:-1]) / 2
            field = np.cross(element, offset) / (np.sum(offset**2, -1, keepdims=True) + SOFTENING_MM**2) ** 1.5
            field = field.sum(1).reshape(*n_knots, 3)
            self.lattices[coil] = (field[..., 1] - 1j * field[..., 2]) * np.exp(1j * phases[coil])
        self.weights = [
            spline_matrix(g, f, 12.0, n).astype(np.complex64) for g, f, n in zip(grid, first, n_knots, strict=True)
        ]

    def as_arrays(self, convert: Callable[[np.ndarray], Any]) -> Coils:
        """The same coils with `convert` applied to their arrays, for example to move them to torch and a device.

        Everything computed from the result is then computed by that library, where the arrays are.
        """
        other = object.__new__(Coils)
        other.shading = self.shading
        other.lattices, other.weights = convert(self.lattices), [convert(weight) for weight in self.weights]
        return other

    def __len__(self) -> int:
        return len(self.lattices)

    def bare(self, coil: slice, level: slice = slice(None)) -> np.ndarray | Tensor:
        """Sensitivities (coil, s, y, x) of the bare loops; `coil` and `level` (along s) are slices."""
        (along_s, along_y, along_x), lattice = self.weights, self.lattices[coil]
        lattice = along_s[level] @ lattice.reshape(*lattice.shape[:2], -1)
        return along_y @ lattice.reshape(*lattice.shape[:2], along_y.shape[1], -1) @ along_x.T

    @functools.cached_property
    def bare_rss(self) -> np.ndarray | Tensor:
        """Root sum of squares (s, y, x) of the bare loops."""
        return rss(self.bare(slice(coil, coil + 1))[0] for coil in range(len(self)))

    @functools.cached_property
    def rss(self) -> np.ndarray | Tensor:
        """Root sum of squares (s, y, x) of :meth:`maps`."""
        root = self.bare_rss**self.shading
        return root / float(np.median(root[:, root.shape[1] // 2, root.shape[2] // 2].tolist()))

    def maps(self, coil: slice, level: slice = slice(None)) -> np.ndarray | Tensor:
        """Sensitivities (coil, s, y, x) with `shading` applied; `coil` and `level` (along s) are slices."""
        return self.bare(coil, level) * (self.rss[level] / self.bare_rss[level])


def rss(coil_images: Iterable[np.ndarray | Tensor]) -> np.ndarray | Tensor:
    """Root sum of squares over axis 0 (coil)."""
    return sum(image.real**2 + image.imag**2 for image in coil_images) ** 0.5  # one coil at a time spares memory


def add_noise(rng: np.random.Generator, kspace: np.ndarray, sigma: float) -> np.ndarray:
    """Add complex Gaussian noise of standard deviation `sigma` per real channel, in place; returns `kspace`."""
    # part by part: noise for all of it at once would double the memory
    for part in kspace:
        part += np.float32(sigma) * white_noise(rng, part.shape)
    return kspace


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Complex Gaussian noise, complex64, of standard deviation 1 per real channel."""
    # pairs of real numbers, seen as complex ones
    return rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
