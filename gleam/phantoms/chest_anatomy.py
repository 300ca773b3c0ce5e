"""The surroundings of the heart in a short-axis slice: chest wall, lungs, spine, aorta, liver.

Coordinates in mm: `s` towards the apex of the heart, `y` to the back and feet, `x` to the subject's left; the field of
view is centred at 0. Fat counts as negative until the heart is drawn: at the echo time of a balanced sequence its
signal opposes that of water, and a voxel that holds both is dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gleam.phantoms.fields import Field, cover, ellipse, ellipsoid, merge, paint, sheets, shell

INTENSITIES = {
    "skin": 0.45, "fat": -0.33, "muscle": 0.25, "cortex": 0.04, "marrow": -0.20, "cartilage": 0.38, "lung": 0.035,
    "lung_vessel": 0.10, "aorta": 0.95, "vein": 0.85, "esophagus": 0.33, "csf": 1.0, "cord": 0.5, "disc": 0.3,
    "liver": 0.36, "liver_vessel": 0.62, "stomach": 0.30, "gas": 0.02,
}  # fmt: skip
TEXTURES = {  # knot distance in mm (s, y, x)
    "shift_y": (50, 45, 45), "shift_x": (50, 45, 45), "ripple": (25, 15, 15), "fat": (30, 20, 20),
    "septa": (14, 7, 7), "fascicle": (18, 2.6, 2.6), "bundle": (25, 6, 6), "marrow": (6, 3, 3),
    "twig": (5, 2.8, 2.8), "branch": (12, 5.5, 5.5), "lung": (25, 18, 18), "organ": (16, 9, 9), "grain": (6, 2.4, 2.4),
}  # fmt: skip
BOX = (100, 150, 250)  # half sides in mm of the box of the textures


class Chest:
    """One subject's chest. All random numbers are drawn from `rng` here, so any grid shows the same anatomy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.fields = {name: Field(rng, spacing, BOX) for name, spacing in TEXTURES.items()}
        self.value = {name: v * rng.normal(1, 0.06) for name, v in INTENSITIES.items()}
        self.half_y, self.half_x = rng.uniform(96, 110), rng.uniform(148, 168)
        self.centre_x = rng.normal(-45, 5)  # the field of view is centred on the heart, left of the middle
        self.fat_mm = rng.uniform(4, 15)
        self.wall_mm = rng.uniform(21, 26)
        # how many around the chest, how they turn with the level, and where the first one is
        self.ribs, self.rib_slope, self.rib_start = rng.integers(9, 13), rng.normal(0, 0.012), rng.uniform(0, 1)
        self.aorta = np.array([rng.normal(26, 3), rng.normal(-20, 3), rng.uniform(9.5, 12.5)])  # from the vertebra
        self.liver = np.array([rng.uniform(40, 90), rng.normal(14, 7), rng.normal(-18, 8)])
        self.stomach = np.array([rng.uniform(38, 95), rng.normal(40, 7), rng.normal(36, 10)])
        self.gas = rng.uniform(-0.8, 0.8)  # where its border lies in the stomach
        self.haze = rng.uniform(0.4, 1.2)

    def still(self, grid: Sequence[np.ndarray], width: float) -> np.ndarray:
        """The parts of the chest that do not beat.

        Parameters
        ----------
        grid : three 1D arrays
            Positions (s, y, x) in mm.
        width : float
            Width of an edge in mm.

        Returns
        -------
        array, shape (3, s, y, x)
            float32: the signal with water positive, and the signed distances in mm to the cavity of the chest and to
            the aorta.
        """
        noise: dict[str, Any] = {name: field(grid) for name, field in self.fields.items()}
        s, y, x = (
            np.asarray(g, np.float32).reshape(shape)
            for g, shape in zip(grid, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
        )
        y = y + 2.5 * noise["shift_y"] + 0.5 * noise["ripple"]
        x = x - self.centre_x + 2.5 * noise["shift_x"]
        parts = self._distances(s, y, x, noise)
        image = self._wall(parts, noise, grid, width)
        self._lungs(image, parts, noise, width)
        self._organs(image, parts, noise, s, y, x, width)
        self._spine(image, parts, noise, y, x, width)
        aorta = self._middle(image, parts, noise, y, x, width)
        return np.stack([image, parts["cavity"], aorta]).astype(np.float32)

    def with_pulse(self, still: np.ndarray, pulse: float, width: float) -> np.ndarray:
        """The signal (s, y, x) of :meth:`still` with the aorta widened by `pulse`, 0 to 1; `width` as there."""
        image, _, aorta = still
        return paint(image.copy(), cover(aorta - 0.8 * pulse, width), self.value["aorta"] * (1 + 0.08 * pulse))

    def _distances(self, s, y, x, noise):
        back = self.half_y - 5 - 0.0004 * x**2 - 4 * np.exp(-((x / 12) ** 2))  # flat, with the furrow of the spine
        power = 2.35  # of a rounded box; 2 would be an ellipse
        k = ((np.abs(x) / self.half_x) ** power + (np.abs(y) / self.half_y) ** power) ** (1 / power) + 1e-6
        slope_x = np.abs(x / k / self.half_x) ** (power - 1) / self.half_x
        slope = np.hypot(slope_x, np.abs(y / k / self.half_y) ** (power - 1) / self.half_y)
        body = -merge(-(k - 1) / (slope + 1e-4), back - y, 25)
        angle = np.arctan2(y, x)
        front = np.clip(-np.sin(angle), 0, 1)
        fat = self.fat_mm * (1 + 0.35 * np.cos(2 * angle) + 0.12 * noise["fat"]) + 2.0
        spine = self.half_y - 45
        wall = self.wall_mm - 4 * front + 12 * np.clip(np.sin(angle), 0, 1) + 1.2 * noise["ripple"]
        cavity = body + fat + wall
        vertebra = ellipse(x, y - spine, 19, 15.5)
        cavity = np.maximum(cavity, -merge(vertebra - 5, ellipse(x, y - spine - 30, 42, 24), 15))
        return {
            "body": body,
            "fascia": body + fat,
            "cavity": cavity,
            "angle": angle,
            "vertebra": vertebra,
            "spine": spine,
            "level": s,
        }

    def _wall(self, parts, noise, grid, width):
        """Skin, fat with its septa, muscle in layers, ribs, costal cartilage."""
        value, body, fascia, cavity = self.value, parts["body"], parts["fascia"], parts["cavity"]
        image = paint(np.zeros_like(body), cover(body, width), value["skin"])
        septa = np.minimum(0.7 * sheets(noise["septa"], grid, 0.5, width), 1)
        paint(image, cover(body + 1.8, width), value["fat"] * (1 + 0.07 * noise["fat"]) * (1 - 0.4 * septa))
        flesh = value["muscle"] * (1 + 0.12 * noise["fascicle"] + 0.06 * noise["fat"])
        paint(image, cover(fascia, width), flesh)
        layers = np.maximum(sheets(noise["bundle"], grid, 0.6, width) * np.clip(0.6 + noise["fat"], 0, 1), 0.0)
        depth = shell(fascia, -self.wall_mm, -1.5, width)
        paint(image, 0.75 * np.minimum(layers, 1) * depth, value["fat"])
        between = np.abs(cavity - 12.5 - noise["ripple"]) - 0.7  # fat between the ribs and the muscles on them
        paint(image, 0.8 * cover(between, width), value["fat"])
        turn = parts["angle"] * self.ribs / (2 * np.pi) + self.rib_start + self.rib_slope * parts["level"]
        along = (turn - np.round(turn)) * 2 * np.pi / self.ribs * np.hypot(self.half_x, self.half_y) / 1.45
        rib = ellipse(along, cavity - 6.5, 13, 4.6) + 0.3 * noise["ripple"]
        paint(image, cover(rib, width), value["cortex"])
        front = np.abs(parts["angle"] + np.pi / 2)
        gristle = cover(front - 0.75, 0.2)
        core = value["marrow"] * (1 + 0.2 * noise["marrow"]) * (1 - gristle) + value["cartilage"] * gristle
        paint(image, cover(rib + 1.1, width), core)
        breastbone = ellipse(parts["angle"] + np.pi / 2, (cavity - 6.5) / 90, 0.2, 0.062) * 90
        paint(image, cover(breastbone, width), value["cortex"])
        paint(image, cover(breastbone + 1.3, width), value["marrow"] * (1 + 0.2 * noise["marrow"]))
        paint(image, 0.7 * shell(cavity, -0.5, 1.6, width), value["fat"])
        return image

    def _lungs(self, image, parts, noise, width):
        value = self.value
        tissue = value["lung"] * (1 + 0.4 * noise["lung"] * self.haze + 0.25 * noise["grain"])
        paint(image, cover(parts["cavity"], width), np.maximum(tissue, 0.01))
        deep = cover(parts["cavity"] + 5, 8.0)  # no vessels next to the wall
        twigs = np.clip(noise["twig"] - 1.75, 0, 0.8) * np.clip(0.8 + 0.5 * noise["lung"], 0.2, 1.5)
        branches = np.clip(noise["branch"] - 1.8, 0, 0.5) * 1.6
        paint(image, deep * np.minimum(twigs + branches, 0.9), value["lung_vessel"])

    def _organs(self, image, parts, noise, s, y, x, width):
        """Liver on the right and stomach on the left, under the diaphragm; they reach the lower slices only."""
        value, cavity = self.value, parts["cavity"] + 1.5
        liver = np.maximum(
            ellipsoid((s - self.liver[0], 90), (y - self.liver[1] - 22, 66), (x - self.liver[2], 96))
            + 1.5 * noise["ripple"],
            cavity,
        )
        paint(image, shell(liver, -0.3, 2.0, width), 0.8 * value["fat"])
        flesh = value["liver"] * (1 + 0.05 * noise["organ"] + 0.06 * noise["grain"])
        paint(image, cover(liver, width), flesh)
        veins = np.clip(1.6 * (noise["branch"] - 1.15), 0, 1) * cover(liver + 6, 4.0)
        paint(image, veins, value["liver_vessel"])
        bag = ellipsoid((s - self.stomach[0], 75), (y - self.stomach[1], 40), (x - self.stomach[2] - 33, 48))
        bag = np.maximum(np.maximum(bag + 1.5 * noise["ripple"], cavity), 3 - liver)
        paint(image, shell(bag, 0.0, 3.0, width), 0.8 * value["fat"])
        paint(image, cover(bag, width), value["muscle"] * 1.2)
        content = value["stomach"] * (1 + 0.35 * noise["organ"] + 0.15 * noise["grain"])
        # gas gathers in front, since the subject lies on the back
        content = content + (value["gas"] - content) * cover(noise["shift_y"] - self.gas + 0.02 * (y - 50), 0.3)
        paint(image, cover(bag + 4, width), content)

    def _spine(self, image, parts, noise, y, x, width):
        value, vertebra, y = self.value, parts["vertebra"], y - parts["spine"]
        arch = merge(ellipse(np.abs(x) - 17, y - 19, 12, 4.5, 0.5), ellipse(x, y - 36, 3.5, 13), 5)
        # the vertebra last: it covers the ends of its arch
        for bone in (np.maximum(arch, parts["fascia"] + 4), vertebra):
            paint(image, cover(bone, width), value["cortex"])
            paint(image, cover(bone + 1.3, width), value["marrow"] * (1 + 0.18 * noise["marrow"]))
        canal = ellipse(x, y - 23, 9.5, 8)
        paint(image, cover(canal - 1.5, width), value["cortex"])
        paint(image, cover(canal, width), value["csf"] * (1 + 0.1 * noise["grain"]))
        paint(image, cover(ellipse(x, y - 23, 5, 4), width), value["cord"])

    def _middle(self, image, parts, noise, y, x, width):
        """Fat in front of the spine with aorta, oesophagus, azygos vein; returns the distance to the aorta."""
        value = self.value
        y, rising = y - parts["spine"], np.clip(0.7 - parts["level"] / 60, 0.2, 1)
        fat = merge(ellipse(x - 10, y + 20, 27, 11), ellipse(x - 16, y + 34, 13, 22 * rising), 12) + noise["ripple"]
        paint(image, cover(fat, width), 0.85 * value["fat"] * (1 + 0.1 * noise["fat"]))
        across, down, radius = self.aorta
        vessel = np.hypot(x - across, y - down) - radius + 0.15 * noise["organ"]
        paint(image, cover(vessel - 1.2, width), value["muscle"])
        paint(image, cover(ellipse(x - 7, y + 33, 8, 5, 0.4), width), value["esophagus"] * (1 + 0.2 * noise["grain"]))
        paint(image, cover(np.hypot(x + 7, y + 19) - 3.2, width), value["vein"])
        return vessel
