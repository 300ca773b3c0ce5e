"""One phantom subject in a scanner: its images, its receive coils and its noise level.

A scan draws its few random numbers when it is made, so making one is cheap; its images are drawn when asked for. It
does no input or output: :mod:`.subject` writes raw files from it, :mod:`gleam.phantoms.simulated` needs none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gleam.phantoms import acquire
from gleam.phantoms.acquire import Coils
from gleam.phantoms.brain_anatomy import Brain
from gleam.phantoms.heart_anatomy import THICKNESS_MM, Heart
from gleam.phantoms.heart_motion import Breathing, breathe
from gleam.phantoms.knee_anatomy import Knee
from gleam.physics.fourier import Array

KNEE_FOV_MM = (120.0, 160.0, 153.6)  # (s, y, x)
KNEE_CENTRE_MM = 5.0  # of s, from the joint
BRAIN_FOV_MM = (224.0, 224.0)
BRAIN_LEVELS_MM = (-14.0, 62.0)  # of the lowest and the highest slice
BRAIN_SPACING_MM = 5.5
BRAIN_RSS_SCALE = 4e-4  # images of raw fastMRI files are of this order
FIELD_STRENGTH_T = 2.8936  # of scanners sold as 3 T
HEART_FIELD_STRENGTHS_T = (1.494, 2.8936)
BLOOD_PHASE = 0.35  # radians, added to the phase of blood by fast flow
N_STILLS = 5  # the chest drifts by less than a millimetre in a fifth of a series
SLAB = 2  # slices drawn at once: so few that their arrays stay in the cache of a processor


def streams(job: dict) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator, int, float]:
    """Independent generators for anatomy, acquisition and noise, and the number of coils and noise level drawn.

    `job` is made by :mod:`.plan`.
    """
    anatomy, acquisition, noise = (
        np.random.default_rng(s) for s in np.random.SeedSequence(job["settings"]["subject"]).spawn(3)
    )
    low, high = job["settings"]["n_coils"]
    n_coils = int(acquisition.integers(low, high + 1))
    return anatomy, acquisition, noise, n_coils, float(acquisition.uniform(*job["settings"]["noise"]))


def axis(n: int, fov_mm: float, centre: float = 0.0) -> np.ndarray:
    """Positions in mm of `n` pixels over `fov_mm`; index n // 2 lies at `centre`."""
    return centre + (np.arange(n) - n // 2) * (fov_mm / n)


def draw(job: dict) -> Scan:
    """The scan of a subject; `job` is made by :mod:`.plan`."""
    return SCANS[job["settings"]["kind"]](job)


class Scan:
    """Base class of all scans; a subclass sets `grid`, `anatomy`, `phase`, `coils` and `header`.

    Attributes
    ----------
    coils : gleam.phantoms.acquire.Coils
        The receive coils.
    noise : numpy.random.Generator
        Source of the noise, in the state in which a measurement starts.
    level : float
        Standard deviation of the noise per real channel over the 95th percentile of the combined image.
    encoded, recon : (int, int)
        Matrix (y, x) measured, and kept.
    unit : float or None
        Value that the 95th percentile of the combined image is scaled to; None: images are not scaled.
    """

    acquisition: str
    field_strength: float
    axes: tuple[int, ...]
    unit: float | None = None
    grid: Sequence[np.ndarray]
    anatomy: Any
    phase: Callable[[Sequence[np.ndarray]], np.ndarray]
    coils: Coils
    header: dict[str, Any]

    def __init__(self, job: dict) -> None:
        self.job, settings = job, job["settings"]
        self.n_slices, self.recon = settings["n_slices"], tuple(settings["matrix"])
        self.encoded = self.recon
        self.anatomy_rng, self.rng, self.noise, self.n_coils, self.level = streams(job)

    def images(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Noise-free images (slice, [time,] y, x), complex64, of slices `start` to `stop` - 1, before any coil."""
        stop = self.n_slices if stop is None else stop
        slabs = [slice(a, min(a + SLAB, stop)) for a in range(start, stop, SLAB)]
        return np.concatenate([self._slab(slab) for slab in slabs])

    def _slab(self, slab):
        grid = (self.grid[0][slab], *self.grid[1:])
        return self.anatomy.image(grid) * acquire.turned(self.phase(grid))

    def scales(self, images: np.ndarray | Tensor, coils: Coils) -> tuple[float, float]:
        """Factor to multiply the images by, and standard deviation of the noise per real channel.

        `images` and `coils` are both NumPy's or both torch's, of the whole scan.
        """
        total: Any = coils.rss if images.ndim == 3 else coils.rss[:, None]
        magnitude: Any = abs(images)
        combined = cropped(magnitude, self.recon) * cropped(total, self.recon)
        combined = combined if isinstance(combined, np.ndarray) else combined.cpu().numpy()
        scale = float(np.percentile(combined, 95))
        return (1.0, self.level * scale) if self.unit is None else (self.unit / scale, self.level * self.unit)

    def coil_images(self, images: Array, coils: Coils) -> Iterator[tuple[Any, Array]]:
        """Yield (index, coil images without noise) in the order in which the noise is drawn.

        The index is that of an array (slice, coil, ...). The images are those of one slice at a time, (coil, y, x) or,
        of a series, (time, coil, y, x).
        """
        for s, image in enumerate(images):
            maps: Any = coils.maps(slice(None), slice(s, s + 1))[:, 0]
            yield np.s_[s], (image * maps if image.ndim == 2 else image[:, None] * maps)


class KneeScan(Scan):
    """A 3D scan, measured as a whole, coil by coil; its slices are positions along the readout."""

    acquisition, field_strength, axes = "3D FSE", FIELD_STRENGTH_T, (-3, -2, -1)

    def __init__(self, job: dict) -> None:
        super().__init__(job)
        shape = (self.n_slices, *self.recon)
        self.grid = [axis(n, fov, c) for n, fov, c in zip(shape, KNEE_FOV_MM, (KNEE_CENTRE_MM, 0, 0), strict=True)]
        self.anatomy, self.phase = Knee(self.anatomy_rng), acquire.Phase(self.rng)
        self.coils = acquire.Coils(self.rng, self.n_coils, self.grid, (94, 90), 60)
        spaces = {"encoded": shape, "encoded_fov_mm": KNEE_FOV_MM, "recon": shape, "recon_fov_mm": KNEE_FOV_MM}
        self.header = {**spaces, "n_slices": 1}

    def coil_images(self, images: Array, coils: Coils) -> Iterator[tuple[Any, Array]]:
        """Same as :meth:`Scan.coil_images`, but all slices (slice, y, x) of one coil at a time."""
        for c in range(len(coils)):
            maps: Any = coils.maps(slice(c, c + 1))
            yield np.s_[:, c], images * maps[0]


class BrainScan(Scan):
    """Slices one by one, the readout (y) oversampled twofold, scaled like the values in fastMRI's files."""

    acquisition, field_strength, axes, unit = "AXT2", FIELD_STRENGTH_T, (-2, -1), BRAIN_RSS_SCALE

    def __init__(self, job: dict) -> None:
        super().__init__(job)
        n_y, n_x = self.recon
        self.encoded = 2 * n_y, n_x
        low, high = BRAIN_LEVELS_MM
        # many slices stand closer, so that all lie between the two levels
        spacing = min(BRAIN_SPACING_MM, (high - low) / self.n_slices) * self.rng.uniform(0.92, 1.0)
        levels = self.rng.uniform(low, high - spacing * (self.n_slices - 1)) + spacing * np.arange(self.n_slices)
        self.grid = [levels, *(axis(n, fov) for n, fov in zip(self.recon, BRAIN_FOV_MM, strict=True))]
        self.anatomy, self.phase = Brain(self.anatomy_rng), acquire.Phase(self.rng)
        self.coils = acquire.Coils(self.rng, self.n_coils, self.grid, (128, 118), 60)
        fov = (*BRAIN_FOV_MM, spacing)
        self.header = {
            "encoded": (2 * n_y, n_x, 1),
            "encoded_fov_mm": (2 * fov[0], *fov[1:]),
            "recon": (n_y, n_x, 1),
            "recon_fov_mm": fov,
            "n_slices": self.n_slices,
        }


class HeartScan(Scan):
    """Series slice by slice, the readout (x) oversampled twofold."""

    acquisition, axes = "cine_bSSFP_sax", (-2, -1)

    def __init__(self, job: dict) -> None:
        super().__init__(job)
        self.n_frames, (n_y, n_x) = job["settings"]["n_frames"], self.recon
        self.encoded = n_y, 2 * n_x
        heart = self.anatomy = Heart(self.anatomy_rng)
        self.levels, spacing = heart.ventricles.levels(self.n_slices)
        self.thickness = min(THICKNESS_MM, spacing) if self.n_slices > 1 else THICKNESS_MM
        fov = heart.field_of_view(self.recon)
        self.grid = [self.levels, axis(n_y, fov[0]), axis(2 * n_x, 2 * fov[1])]
        self.breathing = Breathing(self.anatomy_rng, self.n_slices)
        self.banding, self.phase, self.blood_phase = (
            kind(self.rng) for kind in (acquire.Banding, acquire.Phase, acquire.Phase)
        )
        middle = (self.levels - self.levels.mean(), self.grid[1], self.grid[2] - heart.chest.centre_x)
        radii = heart.chest.half_y + 45, heart.chest.half_x + 45
        self.coils = acquire.Coils(self.rng, self.n_coils, middle, radii, 70, shading=0.1)
        self.field_strength = float(self.rng.choice(HEART_FIELD_STRENGTHS_T))
        self.header = {
            "encoded": (2 * n_x, n_y, 1),
            "encoded_fov_mm": (2 * fov[1], fov[0], self.thickness),
            "recon": (n_x, n_y, 1),
            "recon_fov_mm": (fov[1], fov[0], self.thickness),
            "n_slices": self.n_slices,
            "n_frames": self.n_frames,
            "sequence": {
                "TR": f"{heart.cycle.rr_ms / self.n_frames:.2f}",
                "TE": 1.4,
                "TI": 0,
                "flipAngle_deg": 50,
                "sequence_type": "bSSFP",
                "echo_spacing": 2.8,
            },
        }

    @functools.cached_property
    def _steady(self):
        """Banding with the phase of the background (slice, y, x), and the additional phase of moving blood."""
        centred = (self.grid[0] - self.grid[0].mean(), *self.grid[1:])
        in_blood = self.blood_phase(centred)
        return self.banding(centred) * acquire.turned(self.phase(centred)), in_blood - in_blood.mean()

    def _slab(self, slab):
        return np.stack([self._series(s) for s in range(self.n_slices)[slab]])

    def _series(self, s):
        """Complex images (frame, y, x): the beating heart, banding, background phase, phase of moving blood."""
        heart, shift, (steady, in_blood) = self.anatomy, self.breathing.shift, self._steady
        here = [self.grid[0][s : s + 1], *self.grid[1:]]
        # the chest is drawn a few times and interpolated; the heart is drawn in every frame
        stills = [heart.still(breathe(here, shift(s, k / N_STILLS))) for k in range(N_STILLS + 1)]
        images = np.empty((self.n_frames, *self.encoded), np.complex64)
        for n in range(self.n_frames):
            t = n / self.n_frames
            k, rest = divmod(t * N_STILLS, 1)
            still = (1 - rest) * stills[int(k)] + rest * stills[int(k) + 1]
            magnitude, blood = heart.image(breathe(here, shift(s, t)), t, self.thickness, still)
            moving = BLOOD_PHASE * heart.cycle.flow(t) * np.clip(in_blood[s], -1, 1) * blood[0]
            images[n] = magnitude[0] * steady[s] * acquire.turned(moving)
        return images


def cropped(images: Array, shape: Sequence[int]) -> Array:
    """The middle `shape` (y, x) of `images` (..., y, x)."""
    first = [n // 2 - m // 2 for n, m in zip(images.shape[-2:], shape, strict=True)]
    return images[..., first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]


SCANS: dict[str, type[Scan]] = {"knee": KneeScan, "brain": BrainScan, "heart": HeartScan}
