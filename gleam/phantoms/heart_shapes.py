"""Outlines of the ventricles as functions of the height over the base and of the cardiac phase.

Lengths in mm, angles in radians in the image plane (x right, y down). The height `u` runs from 0 at the base to 1 at
the apex of the cavity and moves with the wall; the base descends in systole while the apex stays.
"""

from __future__ import annotations

import numpy as np

from gleam.phantoms.fields import ellipse
from gleam.phantoms.heart_motion import Cycle

SHORTENING = 0.14  # of the long axis in systole
APEX_MM = 0.09  # thickness of the wall at the apex, over the length of the cavity
RV_WIDTH = ((-0.2, 0.0, 0.15, 0.40, 0.65, 0.85, 1.0), (38, 38, 37, 31, 20, 7, -8))  # mm beyond the septum


class Ventricles:
    """One subject's two ventricles; all random numbers are drawn from `rng` here, `cycle` says how they beat."""

    def __init__(self, rng: np.random.Generator, cycle: Cycle) -> None:
        self.cycle = cycle
        self.radius, self.length = rng.uniform(22.5, 27), rng.uniform(80, 94)
        self.wall = rng.uniform(7.5, 10.5)
        self.centre = np.array([rng.normal(-13, 3), rng.normal(13, 3)])  # y, x
        self.axis = rng.normal(0, 0.05, 2)  # drift of the centre along the long axis, mm per mm
        self.towards_rv = np.pi + rng.normal(0.22, 0.1)
        self.rv_scale, self.rv_wall = rng.uniform(0.85, 1.1), rng.uniform(2.2, 3.4)
        self.rv_ejection = rng.uniform(0.30, 0.42)
        self.twist = rng.uniform(0.10, 0.24)
        self.bulk = rng.normal((-1.0, -1.5), 1.2)
        self.lumps = rng.normal(0, 1, (3, 2)) * np.array([0.035, 0.02, 0.012])[:, None]
        self.muscles = [
            (self.towards_rv + a + rng.normal(0, 0.12), rng.uniform(3.6, 5.4), rng.uniform(0.50, 0.60))
            for a in (2.35, -2.0)
        ]

    def levels(self, n_slices: int) -> tuple[np.ndarray, float]:
        """Centres (mm from the end-diastolic base) of `n_slices` slices from base to apex, and their distance in mm."""
        first, last = 0.19 * self.length, 0.95 * self.length
        spacing = min((last - first) / max(n_slices - 1, 1), 22.0)
        middle = (first + last) / 2 if n_slices > 1 else 0.45 * self.length
        return middle + spacing * (np.arange(n_slices) - (n_slices - 1) / 2), spacing

    def lv_radii(
        self, level: np.ndarray, t: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Radii of the left ventricle at the time `t` and at end diastole.

        The volume of the cavity follows :class:`.heart_motion.Cycle`. Every disc of the wall keeps its volume, so the
        wall is thicker when the heart is shorter.

        Parameters
        ----------
        level : array, shape (n,)
            Heights in mm from the end-diastolic base.
        t : float
            Time in cycles.

        Returns
        -------
        inner, outer, inner_0, outer_0, u : arrays, shape (n,)
            Inner and outer radius in mm at `t`, both at end diastole, and the relative height.
        """
        ejected = self.cycle.ejected(t)
        shorter = 1 - SHORTENING * ejected
        u = 1 - (self.length - np.asarray(level, float)) / (self.length * shorter)
        cone = np.sqrt(np.clip(1 - (np.maximum(u - 0.25, 0) / 0.75) ** 2, 0, 1)) - 0.9 * np.maximum(0.25 - u, 0) ** 2
        inner_0 = self.radius * np.maximum(cone, 0.02)
        wall = self.wall * (1 - 0.25 * np.clip(u, 0, 1))
        cap = np.sqrt(np.clip(1 - np.maximum(u - 1, 0) / APEX_MM, 0, 1))
        area_0 = (2 * inner_0 * wall + wall**2) * cap  # of the ring at end diastole
        inner = inner_0 * np.sqrt(self.cycle.volume(t) / shorter)
        return inner, np.sqrt(inner**2 + area_0 / shorter), inner_0, np.sqrt(inner_0**2 + area_0), u

    def frame(self, level: np.ndarray, y: np.ndarray, x: np.ndarray, t: float) -> dict:
        """The heart's own coordinates at given points.

        Parameters
        ----------
        level : array, shape (s,)
            Heights in mm from the end-diastolic base.
        y, x : arrays
            Points in mm.
        t : float
            Time in cycles.

        Returns
        -------
        dict
            Arrays that broadcast to (s, y, x): `r` and `angle` around the left ventricle, its `inner` and `outer`
            radius, the height `u`, `across` and `along` the septum. `material`: levels (1D), y and x of the same piece
            of tissue at end diastole, for textures. `ejected`: fraction of the stroke volume.
        """
        ejected = self.cycle.ejected(t)
        inner, outer, inner_0, outer_0, u = (v[:, None, None].astype(np.float32) for v in self.lv_radii(level, t))
        tilt = (np.asarray(level, np.float32) - self.length / 2)[:, None, None]
        y = y - self.centre[0] - self.bulk[0] * ejected - self.axis[0] * tilt
        x = x - self.centre[1] - self.bulk[1] * ejected - self.axis[1] * tilt
        y, x = y.astype(np.float32), x.astype(np.float32)
        r, angle = np.hypot(y, x), np.arctan2(y, x) - self.twist * ejected * (u - 0.3)
        outside = r - outer + outer_0
        wall = np.sqrt(
            np.maximum(inner_0**2 + (r**2 - inner**2) * (outer_0**2 - inner_0**2) / (outer**2 - inner**2 + 1e-3), 0)
        )
        # the cavity is stretched, the wall keeps its volume, and what is outside moves along
        r_0 = np.where(r < inner, r * inner_0 / inner, np.where(r < outer, wall, outside))
        material = u.ravel() * self.length - self.length / 2, r_0 * np.sin(angle), r_0 * np.cos(angle)
        cos, sin = float(np.cos(self.towards_rv)), float(np.sin(self.towards_rv))
        across, along = cos * x + sin * y, sin * x - cos * y
        return {
            "r": r,
            "angle": angle,
            "inner": inner,
            "outer": outer,
            "u": u,
            "across": across,
            "along": along,
            "material": material,
            "ejected": ejected,
        }

    def lv_distances(self, frame: dict) -> tuple[np.ndarray, np.ndarray]:
        """Signed distances to the cavity and to the outer surface of the left ventricle, without fine structure."""
        turn = [k * frame["angle"] for k in (2, 3, 4)]
        lumps = sum(a * np.cos(p) + b * np.sin(p) for (a, b), p in zip(self.lumps.tolist(), turn, strict=True))
        return frame["r"] - frame["inner"] * (1 + lumps), frame["r"] - frame["outer"] * (1 + 0.6 * lumps)

    def papillary_distance(self, frame: dict) -> np.ndarray:
        """Signed distance to the two papillary muscles, which stand on the wall and thicken in systole."""
        distance = np.full_like(frame["r"], 1e3)
        for angle, radius, middle in self.muscles:
            fade = np.sqrt(np.clip(1 - ((frame["u"] - middle) / 0.30) ** 2, 0, 1))
            radius = radius * fade * (1 + 0.15 * frame["ejected"])
            centre = np.maximum(frame["inner"] - 0.9 * radius - 1.0, 0)
            u = frame["r"] * np.cos(frame["angle"] - angle) - centre
            v = frame["r"] * np.sin(frame["angle"] - angle)
            standing = ellipse(u, v, 1.25 * radius + 1e-2, radius + 1e-2)
            distance = np.minimum(distance, np.where(fade > 0, standing, 1e3))
        return distance

    def rv_distance(self, frame: dict) -> np.ndarray:
        """Signed distance to the outline of the right ventricle; its cavity is the part outside the left ventricle."""
        ejected = frame["ejected"]
        width = self.rv_scale * np.interp(frame["u"], *RV_WIDTH).astype(np.float32) * (1 - self.rv_ejection * ejected)
        far, near = 0.97 * frame["outer"] + width, -0.15 * frame["outer"]
        half = np.maximum((far - near) / 2, 0.5)
        tall = np.maximum(0.94 * frame["outer"] + 0.18 * np.maximum(width, 0), 0.5)
        bent = frame["across"] + 0.004 * np.maximum(width, 0) / 30 * frame["along"] ** 2
        outline = ellipse(bent - (far + near) / 2, frame["along"] + 0.08 * width, half, tall)
        return (outline + 60 * np.clip(frame["u"] - 0.86, 0, 1)).astype(np.float32)
