"""A T2-weighted head, one per random generator, made from the ICBM152 2009 tissue maps that come with nilearn.

The maps are an average over 152 people (V. Fonov et al., NeuroImage 54, 2011). Each phantom deforms them, redraws the
boundaries between grey matter, white matter and fluid, and adds skull, scalp, vessels, iron and lesions. No single
person's scan is in it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gleam.phantoms.fields import Field, box, cover, ellipsoid, paint, shell

INTENSITIES = {
    "csf": 1.0, "grey": 0.52, "white": 0.36, "bone": 0.05, "diploe": 0.30, "fat": 0.62, "skin": 0.40, "muscle": 0.20,
    "lesion": 0.80, "vessel": 0.06,
}  # fmt: skip
TEXTURES = {  # knot distance in mm (z, y, x)
    "shift_z": (50, 50, 50), "shift_y": (50, 50, 50), "shift_x": (50, 50, 50),
    "bend_y": (18, 15, 15), "bend_x": (18, 15, 15),
    "fold_grey": (6, 4.5, 4.5), "fold_white": (7, 5, 5), "fold_csf": (8, 6, 6), "tissue": (25, 22, 22),
    "bone": (20, 16, 16), "scalp": (25, 22, 22), "strand": (5, 2.2, 2.2),
}  # fmt: skip
BOX = (120, 125, 115)  # half sides in mm of the box of the textures
N_SUBSLICES, SLICE_MM = 3, 4.0  # thin slices, whose mean is one of 4 mm


def check_tissue_maps() -> None:
    """Raise ModuleNotFoundError, with a clear message, if nilearn is not installed."""
    if importlib.util.find_spec("nilearn") is None:
        raise ModuleNotFoundError("brain phantoms need nilearn's tissue maps; install it with: pip install nilearn")


@lru_cache(maxsize=1)
def tissue_maps() -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Tissue maps of nilearn, and the distance from the inner skull computed from them.

    Returns
    -------
    maps : list of two arrays, shape (x, y, z)
        Grey and white matter, 0 to 1, at 1 mm.
    origin : array, shape (3,)
        Position in mm of their first voxel.
    distance : array, shape (x, y, z)
        Signed distance in mm from the inner skull, negative inside, at 2 mm.
    distance_origin : array, shape (3,)
        Position in mm of its first voxel.

    Raises
    ------
    ModuleNotFoundError
        If nilearn is not installed.
    """
    check_tissue_maps()
    from nilearn import datasets
    from scipy import ndimage

    grey, white = datasets.load_mni152_gm_template(resolution=1), datasets.load_mni152_wm_template(resolution=1)
    maps = [np.asarray(image.dataobj, np.float32) for image in (grey, white)]
    inside = np.pad((maps[0] + maps[1])[::2, ::2, ::2] > 0.3, 16)  # an outline needs no more than 2 mm
    # A closing by 7 voxels fills ventricles and sulci, so that the outline is that of the inner skull.
    closed = ndimage.distance_transform_edt(~inside) < 7
    closed = ndimage.distance_transform_edt(closed) > 7
    distance = ndimage.distance_transform_edt(~closed) - ndimage.distance_transform_edt(closed)
    distance = ndimage.gaussian_filter(2 * distance.astype(np.float32), 1.2)
    origin = grey.affine[:3, 3]
    return maps, origin, distance, origin - 32.0  # 16 voxels of 2 mm were padded


class Brain:
    """One subject's head. All random numbers are drawn from `rng` here, so any grid shows the same anatomy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.fields = {name: Field(rng, spacing, BOX) for name, spacing in TEXTURES.items()}
        self.value = {name: v * rng.normal(1, 0.06) for name, v in INTENSITIES.items()}
        self.size = rng.uniform(0.89, 0.97) * rng.normal(1, 0.015, 3)
        self.turn = rng.normal(0, 0.06)
        self.tilt = rng.normal(0, 0.06, 2)
        self.centre = rng.normal(0, 2.0, 3)
        self.atrophy = rng.normal(0.1, 0.55)  # added to the log odds of fluid
        self.skull_mm = rng.uniform(5.0, 7.5)
        self.scalp_mm = rng.uniform(4.0, 7.5)
        self.lesions = self._draw_lesions(rng)
        vessels = np.stack([*rng.uniform(-1, 1, (3, 30)), rng.uniform(0.7, 1.3, 30)], -1)
        self.vessels = (vessels * (40, 70, 60, 1) + (15, -20, 0, 0)).tolist()  # (z, y, x, radius) in mm

    def _draw_lesions(self, rng):
        """White-matter hyperintensities in half of the heads, sometimes one large lesion: (z, y, x, radius)."""
        n = rng.poisson(9) if rng.random() < 0.5 else rng.poisson(0.6)
        lesions = [
            (rng.normal(24, 8), rng.normal(-12, 30), float(rng.choice([-1, 1])) * rng.normal(27, 7), rng.gamma(4, 0.7))
            for _ in range(n)
        ]
        if rng.random() < 0.15:
            z, y, side = rng.normal(20, 15), rng.normal(-15, 25), float(rng.choice([-1, 1]))
            lesions.append((z, y, side * rng.normal(32, 6), rng.uniform(8, 15)))
        return lesions

    def image(self, grid: Sequence[np.ndarray]) -> np.ndarray:
        """Magnitude of the head in slices of `SLICE_MM`, each the mean of `N_SUBSLICES` thin ones.

        Parameters
        ----------
        grid : three 1D arrays
            Positions in mm (upwards, backwards, right).

        Returns
        -------
        array, shape (slice, y, x)
            float32; fluid is about 1.
        """
        width = float(np.mean([np.ptp(g) / (len(g) - 1) for g in grid[1:]]))
        (grey, white), origin, distance, distance_origin = tissue_maps()
        thin_slices = []
        for offset in SLICE_MM * ((np.arange(N_SUBSLICES) + 0.5) / N_SUBSLICES - 0.5):
            thin = (np.asarray(grid[0]) + offset, *grid[1:])
            noise = {name: field(thin) for name, field in self.fields.items()}
            z, y, x = self._coordinates(thin, noise)
            outside = _sample(distance, z, y, x, distance_origin, 2.0)
            shares = _sample(grey, z, y, x, origin, 1.0), _sample(white, z, y, x, origin, 1.0)
            tissue = self._tissue(*shares, z, y, x, noise, outside)
            head = self._head(outside, z, y, x, noise, width)
            thin_slices.append(paint(head, cover(outside - 0.5, width), tissue))
        return np.mean(thin_slices, axis=0, dtype=np.float32)  # type: ignore[return-value]  # an array: it has an axis

    def _coordinates(self, grid, noise):
        z, y, x = (
            np.asarray(g, np.float32).reshape(s)
            for g, s in zip(grid, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
        )
        centre, tilt, size = self.centre.tolist(), self.tilt.tolist(), self.size.tolist()
        cos, sin = float(np.cos(self.turn)), float(np.sin(self.turn))  # a NumPy scalar would promote all to float64
        y, x = -(y - centre[1]), x - centre[2]  # the maps' y points forwards
        y, x = cos * y + sin * x, cos * x - sin * y
        z = z + tilt[0] * y + tilt[1] * x
        z = z / size[0] + 2.5 * noise["shift_z"]
        y = y / size[1] + 2.5 * noise["shift_y"] + 0.8 * noise["bend_y"] - 18.0
        return z, y, x / size[2] + 2.5 * noise["shift_x"] + 0.8 * noise["bend_x"]

    def _tissue(self, grey, white, z, y, x, noise, outside):
        """Mix of grey, white and fluid; the power sharpens the blur of the average, the noise moves the folds."""
        fluid = np.clip(1 - grey - white, 0, 1)
        odds = [
            (grey + 0.01) ** 2.2 * np.exp(0.5 * noise["fold_grey"]),
            (white + 0.005) ** 2.2 * np.exp(0.5 * noise["fold_white"]),
            (fluid + 0.01) ** 2.2 * np.exp(0.7 * noise["fold_csf"] + self.atrophy),
        ]
        total = sum(odds)
        value = self.value
        image = (odds[0] * value["grey"] + odds[1] * value["white"] + odds[2] * value["csf"]) / total
        image *= 1 + 0.03 * noise["tissue"] + 0.015 * noise["strand"]
        solid = 1 - odds[2] / total
        side = np.abs(x)
        # Pallidum, red nucleus, putamen: (z, y, distance from the midline, half axes, brightness left by the iron).
        for z_0, y_0, x_0, radii, factor in (
            (-1, -5, 19, (6, 8, 4.5), 0.74),
            (-8, -20, 5, (4, 3.5, 3), 0.8),
            (3, 8, 26, (9, 11, 4), 0.92),
        ):
            # the ellipsoid covers nothing farther from its middle than twice its half axes
            here = box((np.abs(y - y_0) < 2 * radii[1]) & (np.abs(side - x_0) < 2 * radii[2]))
            iron = ellipsoid((z[here] - z_0, radii[0]), (y[here] - y_0, radii[1]), (side[here] - x_0, radii[2]))
            image[here] *= 1 - (1 - factor) * solid[here] * cover(iron, 2.0)
        depth = (odds[1] / total) ** 2
        for z_0, y_0, x_0, radius in self.lesions:
            ball = np.sqrt((z - z_0) ** 2 + (y - y_0) ** 2 + (x - x_0) ** 2) - radius * (1 + 0.2 * noise["fold_csf"])
            here = box(ball < 1.8)
            paint(image[here], depth[here] * cover(ball[here], 1.8), value["lesion"])
        for z_0, y_0, x_0, radius in self.vessels:
            up = z - z_0
            down, right = y - y_0 - 0.2 * up, x - x_0 + 0.3 * up
            here = box((np.abs(down) < radius + 1.2) & (np.abs(right) < radius + 1.2))
            dot = np.hypot(down[here], right[here]) - radius
            fluid = odds[2][here] / total[here]
            paint(image[here], fluid * cover(dot, 1.2) * cover(-20 - outside[here], 4), value["vessel"])
        return image

    def _head(self, outside, z, y, x, noise, width):
        """Everything outside the fluid around the brain: dura, skull with diploe, muscle, fat, skin, air."""
        value = self.value
        skull = 2.2 + self.skull_mm * (1 + 0.09 * noise["bone"] + 0.25 * np.clip(-y / 80 - 0.4, -0.6, 0.6))
        temple = np.clip(1.2 - np.hypot((y - 8) / 34, (z + 8) / 34), 0, 1) * np.clip(np.abs(x) / 20 - 2, 0, 1)
        muscle = skull + 7 * temple
        skin = muscle + self.scalp_mm * (1 + 0.09 * noise["scalp"])
        image = paint(np.zeros_like(outside), cover(outside - skin, width), value["skin"])
        fat = value["fat"] * (1 + 0.08 * noise["scalp"] + 0.08 * noise["strand"])
        paint(image, cover(outside - skin + 1.6, width), fat)
        paint(image, cover(outside - muscle - 0.8, width), value["muscle"] * (1 + 0.12 * noise["strand"]))
        paint(image, cover(outside - skull, width), value["bone"])
        paint(
            image,
            shell(outside, 4.0 + 0.5 * noise["bone"], skull - 1.9, width) * (skull > 6.2),
            value["diploe"] * (1 + 0.2 * noise["strand"]),
        )
        paint(image, cover(outside - 1.6 - 0.3 * noise["scalp"], width), value["csf"] * 0.95)
        # the vein in the midline under the skull
        sinus = np.hypot(np.abs(x) * 1.1, outside - 1.5) - 3.2
        return paint(image, cover(sinus, width) * (y < 20), value["vessel"])


def _sample(volume, z, y, x, origin, step):
    """Linear interpolation of a map stored as (x, y, z), with its edge value beyond it."""
    from scipy import ndimage

    shape = np.broadcast_shapes(z.shape, y.shape, x.shape)
    points = [np.broadcast_to((v - o) / step, shape) for v, o in zip((x, y, z), origin, strict=True)]
    return ndimage.map_coordinates(volume, points, order=1, mode="nearest", prefilter=False)
