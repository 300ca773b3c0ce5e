"""A beating heart in its chest, one per random generator, as a balanced steady-state image in short-axis slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gleam.phantoms.chest_anatomy import Chest
from gleam.phantoms.fields import Field, cover, merge, paint
from gleam.phantoms.heart_motion import Cycle
from gleam.phantoms.heart_shapes import Ventricles

INTENSITIES = {"blood": 1.0, "rv_blood": 1.02, "wall": 0.40, "papillary": 0.38, "fat": -0.33, "coronary": 0.8}
TEXTURES = {  # knot distance in mm (s, y, x), of the heart at end diastole
    "trabecula": (9, 3.6, 3.6), "edge": (12, 7, 7), "flesh": (8, 2.4, 2.4), "patch": (20, 12, 12),
    "swirl": (14, 7, 7), "stream": (22, 13, 13), "pad": (25, 16, 16),
}  # fmt: skip
BOX = (95, 90, 110)  # half sides in mm of the box of the textures
REACH_MM = (66.0, 78.0)  # half height and half width of the window that the heart is drawn in
WINDOW_MM = np.array([-7.0, -22.0])  # its middle, from that of the left ventricle
THICKNESS_MM, N_SUBSLICES = 8.0, 2
SHOWN = 0.87  # of the depth of the chest; the rest is saturated, as in scans with a small field of view
BLUR = 2.6  # width of edges in pixels: the heart beats while a frame is measured


class Heart:
    """One subject's heart. All random numbers are drawn from `rng` here: any grid and time shows the same anatomy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.cycle = Cycle(rng)
        self.ventricles = Ventricles(rng, self.cycle)
        self.chest = Chest(rng)
        self.fields = {name: Field(rng, spacing, BOX) for name, spacing in TEXTURES.items()}
        self.value = {name: v * rng.normal(1, 0.05) for name, v in INTENSITIES.items()}
        self.trabecula_mm = rng.uniform(0.8, 1.8)
        self.fat_mm = rng.uniform(1.0, 4.5)
        self.band = rng.uniform(0.55, 0.7), rng.normal(4, 6), rng.normal(0.25, 0.1)
        self.coronaries = rng.normal((-1.0, 0.95, 2.6), 0.08), rng.uniform(1.3, 2.0, 3)
        self.swirl_start = rng.uniform(0, 2 * np.pi)
        self.unsteady = rng.uniform(0.8, 1.6)

    def field_of_view(self, matrix: Sequence[int]) -> tuple[float, float]:
        """Height and width in mm of an image of `matrix` (y, x) square pixels that shows most of the chest's depth."""
        height = 2 * SHOWN * self.chest.half_y
        return height, height * matrix[1] / matrix[0]

    def still(self, grid: Sequence[np.ndarray]) -> np.ndarray:
        """The chest without the heart, for :meth:`image`; `grid` as there.

        The chest between two positions close to each other is well approximated by the mean of the two results.
        """
        middle = np.asarray(grid[0], float) - self.ventricles.length / 2  # where the chest has its level 0
        return self.chest.still((middle, *grid[1:]), edge_width(grid))

    def image(
        self,
        grid: Sequence[np.ndarray],
        t: float,
        thickness: float = THICKNESS_MM,
        still: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Magnitude and blood fraction at one time of the cardiac cycle.

        Parameters
        ----------
        grid : three 1D arrays
            Positions in mm: from the base of the heart to its apex, to the back, to the left.
        t : float
            Time in cycles.
        thickness : float
            Thickness of a slice in mm; the heart in each is the mean of `N_SUBSLICES` thin slices.
        still : array, optional
            The chest from :meth:`still`; default: drawn on `grid`.

        Returns
        -------
        image, blood : arrays, shape (s, y, x)
            float32; blood has a magnitude of about 1.
        """
        width = edge_width(grid)
        still = self.still(grid) if still is None else still
        image = self.chest.with_pulse(still, self.cycle.flow(t) * (t % 1.0 < self.cycle.systole), width)
        blood = np.zeros_like(image)
        rows, columns = (
            np.flatnonzero(np.abs(g - c) <= reach)
            for g, c, reach in zip(grid[1:], self.ventricles.centre + WINDOW_MM, REACH_MM, strict=True)
        )
        window = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        offsets = thickness * ((np.arange(N_SUBSLICES) + 0.5) / N_SUBSLICES - 0.5)
        levels = (np.asarray(grid[0])[:, None] + offsets).ravel()
        thin = np.repeat(image[window], N_SUBSLICES, axis=0)
        chest = np.repeat(still[1][window], N_SUBSLICES, axis=0)
        parts = self._draw(thin, (levels, np.asarray(grid[1])[rows], np.asarray(grid[2])[columns]), t, width, chest)
        image[window], blood[window] = (
            np.mean(a.reshape(-1, N_SUBSLICES, *a.shape[1:]), axis=1)
            for a in (thin, np.maximum(parts["lv_blood"], parts["rv_blood"]))
        )
        return np.abs(image), blood  # only now: water and fat of one voxel cancel

    def parts(self, grid: Sequence[np.ndarray], t: float) -> dict[str, np.ndarray]:
        """Coverage (0 to 1; s, y, x) of lv_blood, rv_blood and lv_wall (with papillary muscles) in thin slices."""
        blank = np.zeros([len(g) for g in grid], np.float32)
        return self._draw(blank, grid, t, edge_width(grid), np.float32(-100))

    def _draw(self, image, grid, t, width, chest):
        """Draw the heart over `image` in place, `chest` mm inside its walls; returns coverages as :meth:`parts`."""
        y, x = np.asarray(grid[1], np.float32)[:, None], np.asarray(grid[2], np.float32)
        frame = self.ventricles.frame(grid[0], y, x, t)
        noise = {
            name: self.fields[name].at(*frame["material"]) for name in ("trabecula", "edge", "flesh", "patch", "pad")
        }
        cavity, outer = self.ventricles.lv_distances(frame)
        near_apex = np.clip(frame["u"] - 0.45, 0, 0.4) * 2
        cavity = cavity + self.trabecula_mm * (0.45 + near_apex) * noise["trabecula"] + 0.4 * noise["edge"]
        outer = outer + 0.5 * noise["edge"]
        rv = self.ventricles.rv_distance(frame) + 1.0 * noise["edge"]
        # each covers those before: fat, right ventricle, the wall between the two, left ventricle
        self._fat(image, frame, outer, rv, noise, width, y, chest)
        flesh = self.value["wall"] * (1 + 0.06 * noise["patch"] + 0.09 * noise["flesh"])
        flow = self._flow(frame, t)
        rv_blood = self._right(image, frame, outer, rv, noise, flesh, flow, width)
        wall = cover(outer, width)
        paint(image, wall, flesh)
        lv_blood = self._left(image, frame, cavity, noise, flow, width)
        return {"lv_blood": lv_blood, "rv_blood": rv_blood * (1 - wall), "lv_wall": wall - lv_blood}

    def _fat(self, image, frame, outer, rv, noise, width, y, chest):
        """Fat on the heart, most over the grooves and the right ventricle and in front, with the coronaries in it."""
        right = np.clip(frame["across"] / 40, 0, 1)
        base = np.clip(0.5 - frame["u"], 0, 0.5)
        depth = np.clip(self.fat_mm * (0.1 + 1.5 * right + 1.4 * base) + 2.6 * noise["pad"], -0.8, 14)
        depth = depth - 9 * np.clip(frame["u"] - 0.6, 0, 0.5)
        heart = merge(outer, rv - self.ventricles.rv_wall, 12)
        front = np.clip(0.3 - (y - self.ventricles.centre[0]) / 60 + 0.25 * noise["pad"], 0.05, 1.4)
        sac = merge(heart - depth, -chest, 2 + 9 * self.fat_mm**0.5 * front * (1 + right))
        sac = np.maximum(sac, chest)  # fat fills the corner between heart and chest wall, not the wall
        paint(image, cover(sac - 1.2, width), 0.8 * self.value["wall"])  # the pericardium
        strands = 0.72 + 0.28 * np.clip(np.abs(noise["trabecula"]) + 0.6 * np.abs(noise["patch"]), 0, 1.3)
        paint(image, cover(sac, width), self.value["fat"] * strands)
        for angle, radius in zip(*self.coronaries, strict=True):
            angle = self.ventricles.towards_rv - angle
            around = frame["outer"] + 3.2
            dot = (
                np.hypot(
                    frame["r"] * np.cos(frame["angle"] - angle) - around, frame["r"] * np.sin(frame["angle"] - angle)
                )
                - radius
            )
            paint(image, cover(dot, width) * cover(sac, width), self.value["coronary"])

    def _right(self, image, frame, outer, rv, noise, flesh, flow, width):
        """Right ventricle: thin wall, blood, trabeculae under the wall, the moderator band. Returns its blood."""
        shape = self.ventricles
        wall = shape.rv_wall * (1 + 0.45 * frame["ejected"])
        paint(image, cover(rv - wall / 2, width), flesh)
        ridges = np.clip(0.55 + 0.9 * noise["trabecula"], 0, 1) * cover(-rv - 7 - 3 * frame["ejected"], 6.0)
        height, along, slope = self.band
        band = np.abs(frame["along"] - along + slope * (frame["across"] - 40)) - 1.3
        ridges = np.maximum(ridges, 0.8 * cover(band, width) * cover(np.abs(frame["u"] - height) - 0.06, 0.05))
        blood = cover(-merge(-(rv + wall / 2), outer, 4), width) * (1 - 0.85 * ridges)
        paint(image, blood, self.value["rv_blood"] * np.maximum(1.3 * flow - 0.3, 0.2))
        return blood

    def _left(self, image, frame, cavity, noise, flow, width):
        """Left ventricle: blood with the papillary muscles left out, and trabeculae that fill the apex."""
        mesh = (
            np.clip(0.25 + 0.8 * noise["trabecula"], 0, 1) * cover(-cavity - 3, 4.0) * np.clip(frame["u"] - 0.3, 0, 0.6)
        )
        papillary = cover(self.ventricles.papillary_distance(frame) + 0.4 * noise["edge"], width)
        blood = cover(cavity, width) * (1 - np.maximum(papillary, mesh))
        paint(image, cover(cavity, width) * papillary, self.value["papillary"] * (1 + 0.06 * noise["flesh"]))
        paint(image, blood, self.value["blood"] * flow)
        return blood

    def _flow(self, frame, t):
        """Brightness of blood: fresh blood is brighter, and fast or turbulent blood loses signal in streaks."""
        s, y, x = frame["material"]
        turn = 2 * np.pi * t + self.swirl_start
        moved = s + 11 * np.cos(turn), y + 9 * np.sin(turn), x + 7 * np.cos(turn + 1)
        stream, swirl = self.fields["stream"].at(*moved), self.fields["swirl"].at(*moved)
        flow = self.cycle.flow(t)
        streaks = np.clip(0.7 * swirl + 0.5 * stream - 0.5, 0, 1.2)
        brightness = 1 + 0.05 * (flow - 0.3) + self.unsteady * (0.05 * stream + 0.035 * swirl)
        return brightness - self.unsteady * (0.05 + 0.28 * flow) * streaks


def edge_width(grid: Sequence[np.ndarray]) -> float:
    """Width in mm of an edge between tissues on `grid`."""
    return BLUR * float(np.mean([np.ptp(g) / (len(g) - 1) for g in grid[1:]]))
