"""From a magnitude image to what a scanner would measure: phase, receive coils, thermal noise, k-space."""

import numpy as np

from gleam.datasets.phantoms.fields import Field, interpolate

N_LOOP_SEGMENTS = 20
SOFTENING_MM = 12.0  # the conductors' thickness: keeps the field finite next to a loop


def smooth_phase(rng, grid, strength=1.0):
    """Phase in radians (s, y, x): a polynomial of third order plus a low-frequency random part (about 1 rad in all)."""
    s, y, x = np.meshgrid(*(g / 80 for g in grid), indexing="ij", sparse=True)
    terms = (1, s, y, x, s * y, y * x, s * x, s**2, y**2, x**2, y**3, x**3, y * x**2, x * y**2)
    scales = (np.pi, 0.4, 0.8, 0.8, 0.3, 0.5, 0.3, 0.3, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3)
    polynomial = sum(rng.normal(0, scale) * term for scale, term in zip(scales, terms, strict=True))
    return (strength * (polynomial + 0.2 * Field(rng, (40, 28, 28), (130, 130, 130))(grid))).astype(np.float32)


def banding(rng, grid):
    """Factor (s, y, x), 0 to 1, that off-resonance leaves of a balanced sequence's signal: dark bands near its edge."""
    s, y, x = np.meshgrid(*(g / 110 for g in grid), indexing="ij", sparse=True)
    scales = (0.4, 0.3, 0.7, 0.7, 0.5, 0.7, 0.7)
    angle = sum(rng.normal(0, c) * term for c, term in zip(scales, (1, s, y, x, x * y, x**2, y**2), strict=True))
    angle = angle + 0.3 * Field(rng, (60, 35, 35), (130, 180, 260))(grid)
    return (1 - 0.7 * np.exp(-(((np.abs(angle) - np.pi) / 0.6) ** 2)) - 0.03 * angle**2 / (1 + angle**2)).astype("f4")


def _loops(rng, n_coils, radii, half_length):
    """Corners (coil, segment + 1, 3) in mm of ``n_coils`` round loops, on one ring or more around the object."""
    n_rings = 1 if n_coils < 9 else 2 if n_coils < 17 else 3
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


def biot_savart_maps(rng, n_coils, grid, radii, half_length):
    """Receive sensitivities (coil, s, y, x), complex64, of loops around the object; the main field points along s.

    ``grid``: three arrays of positions in mm. ``radii``: half axes in mm (y, x) of the tube that carries the loops;
    ``half_length``: its half length. The field is summed on a coarse grid and interpolated, as it is smooth. The root
    sum of squares is 1 in the middle; nearer to the loops it is higher, but half as much (in dB) as that of the bare
    coils, as after a scanner's prescan normalisation.
    """
    first = [g[0] - 24.0 for g in grid]
    n_knots = [int(np.ceil((g[-1] - g[0]) / 12.0)) + 5 for g in grid]
    coarse = [f + 12.0 * np.arange(n) for f, n in zip(first, n_knots, strict=True)]
    points = np.stack(np.meshgrid(*coarse, indexing="ij"), -1).reshape(-1, 1, 3)
    maps = np.empty((n_coils, *(len(g) for g in grid)), np.complex64)
    phases = rng.uniform(0, 2 * np.pi, n_coils)
    for coil, corners in enumerate(_loops(rng, n_coils, radii, half_length)):
        element = np.diff(corners, axis=0)
        offset = points - (corners[1:] + corners[:-1]) / 2
        field = np.cross(element, offset) / (np.sum(offset**2, -1, keepdims=True) + SOFTENING_MM**2) ** 1.5
        field = field.sum(1).reshape(*n_knots, 3)
        transverse = (field[..., 1] - 1j * field[..., 2]) * np.exp(1j * phases[coil])
        maps[coil] = interpolate(transverse.astype(np.complex64), first, (12.0,) * 3, grid)
    maps /= np.sqrt(rss(maps))
    return maps / np.median(rss(maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]))


def rss(coil_images):
    """Root sum of squares over axis 0 (coil)."""
    return np.sqrt(sum(image.real**2 + image.imag**2 for image in coil_images))  # one coil at a time spares memory


def add_noise(rng, kspace, sigma):
    """Add complex Gaussian noise of standard deviation ``sigma`` per real channel, in place; returns ``kspace``."""
    for part in kspace:
        noise = rng.standard_normal((*part.shape, 2), dtype=np.float32)
        part += np.float32(sigma) * noise.view(np.complex64)[..., 0]
    return kspace
