"""A proton-density knee with fat suppression, one per random generator, as a magnitude image on a grid in mm.

Contrast, edges and grain were set so that k-space, sparsity and the errors of zero-filling and compressed sensing are
like those of real knees (`benchmarks/likeness.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gleam.phantoms import knee_shapes as shapes
from gleam.phantoms.fields import Field, box, cover, ellipse, ellipse_box, paint, sheets, shell

INTENSITIES = {
    "skin": 0.50, "fat": 0.45, "marrow": 0.30, "muscle": 0.80, "cartilage": 0.95, "fluid": 1.20,
    "fibrous": 0.14, "cortex": 0.12,
    "meniscus": 0.20, "acl": 0.35, "nerve": 0.60, "artery": 0.08, "vein": 1.10, "hoffa": 0.42,
}  # fmt: skip
EDGE = 1.4  # width of edges in voxels, before the scanner
GRAIN = 0.13  # of the signal: texture smaller than a voxel
TEXTURES = {  # knot distance in mm (s, y, x)
    "shift_y": (40, 38, 38), "shift_x": (40, 38, 38), "ripple_y": (22, 13, 13), "ripple_x": (22, 13, 13),
    "septa": (12, 4.5, 4.5), "septa_wide": (18, 8, 8), "fat": (25, 16, 16), "fascicle": (20, 2.2, 2.2),
    "bundle": (30, 5.5, 5.5), "muscle": (30, 16, 16), "trabecula": (4, 1.7, 1.7), "trabecula_wide": (6, 3.2, 3.2),
    "marrow": (14, 11, 11), "vessel": (14, 10, 10), "edge": (14, 6, 6),
    "grain": (5, 0.8, 0.8),
}  # fmt: skip


class Knee:
    """One subject's knee. All random numbers are drawn from `rng` here, so any grid shows the same anatomy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.fields = {name: Field(rng, spacing) for name, spacing in TEXTURES.items()}
        self.value = {name: v * rng.normal(1, 0.06) for name, v in INTENSITIES.items()}
        self.mirror = float(rng.choice([-1.0, 1.0]))
        self.size = rng.uniform(0.90, 1.04)
        self.squeeze = rng.normal(1, 0.025)
        self.turn = rng.normal(0, 0.10)
        self.centre = rng.normal(0, 2.5, 3) * (2.0, 0.8, 0.6)
        self.tilt = rng.normal(0, 0.05, 2)
        self.fat_mm = rng.uniform(0.4, 1.3)
        # 3 of 10 knees have more fluid than usual
        self.effusion_mm = float(rng.choice([rng.uniform(0.6, 1.6), rng.uniform(3, 6)], p=[0.7, 0.3]))
        self.patella = rng.normal(17, 3)
        self.patella_shift = rng.normal(1, 1.5)
        self.muscularity = rng.uniform(0.92, 1.12)
        self.muscle_gap_mm = rng.uniform(0.5, 1.5)
        self.fatty_muscle = rng.uniform(0.25, 0.9)
        self.trabeculae = rng.uniform(0.05, 0.11)
        self.muscles = {
            name: (*rng.normal(0, 1.2, 2), self.muscularity * rng.normal(1, 0.07), rng.normal(0, 0.1))
            for name in shapes.MUSCLES
        }
        self.muscle_tint = rng.normal(1, 0.05, len(shapes.MUSCLES))
        self.vessels = rng.normal(0, 1.5, (6, 2))
        self.small_vessels = np.stack(
            [rng.uniform(0, 2 * np.pi, 9), rng.uniform(2, 7, 9), rng.uniform(0.7, 1.6, 9)], -1
        )
        self.genicular = np.stack([rng.normal(0, 22, 14), rng.normal(8, 26, 14), rng.uniform(0.6, 1.2, 14)], -1)
        self.lesions = self._draw_lesions(rng)

    def _draw_lesions(self, rng):
        """Some knees have a Baker's cyst, bone bruises or subchondral cysts: (s, y, x, radius, value, softness)."""
        lesions = []
        if rng.random() < 0.25:
            lesions.append(
                (rng.normal(8, 8), 43 + rng.normal(0, 2), -14 + rng.normal(0, 3), rng.uniform(4, 9), 0.85, 0.5)
            )
        for _ in range(rng.poisson(0.5)):
            side = float(rng.choice([-22, 22]))
            lesions.append((rng.normal(14, 8), rng.normal(8, 9), side + rng.normal(0, 4), rng.uniform(4, 9), 0.45, 5.0))
        for _ in range(rng.poisson(0.5)):
            side = float(rng.choice([-22, 22]))
            lesions.append(
                (
                    float(rng.choice([5, -8])) + rng.normal(0, 2),
                    rng.normal(4, 9),
                    side + rng.normal(0, 5),
                    rng.uniform(1.5, 3.5),
                    0.8,
                    0.5,
                )
            )
        return lesions

    def image(self, grid: Sequence[np.ndarray]) -> np.ndarray:
        """Magnitude of the knee.

        Parameters
        ----------
        grid : three 1D arrays
            Positions in mm (up the leg, backwards, right).

        Returns
        -------
        array, shape (s, y, x)
            float32; joint fluid is about 1.2, fat about 0.45.
        """
        width = EDGE * float(np.mean([np.ptp(g) / (len(g) - 1) for g in grid[1:]]))
        image = np.zeros([len(g) for g in grid], np.float32)
        bend = 1.5 * self.fields["vessel"](grid).mean((1, 2), dtype=np.float32)[:, None, None]
        leg = self._leg_box(grid)
        frame = self._frame((grid[0], grid[1][leg[1]], grid[2][leg[2]]))
        parts = shapes.distances(frame, self)
        drawn = self._soft_tissue(frame, parts, width)
        self._joint(drawn, frame, parts, width)
        self._bones(drawn, frame, parts, width)
        self._cords(drawn, frame, parts, width, bend)
        drawn *= 1 + GRAIN * frame["noise"]["grain"]
        np.maximum(drawn, 0, out=image[leg])
        return image

    def _leg_box(self, grid):
        """The part of `grid` outside which there is only air, found on a coarse grid of about 4 mm."""
        steps = [max(1, int(4.0 / abs(g[1] - g[0]))) for g in grid[1:]]
        coarse = (grid[0], *(g[::step] for g, step in zip(grid[1:], steps, strict=True)))
        near = box(shapes.distances(self._frame(coarse), self)["leg"] < 12.0)  # with a margin of three coarse steps
        sides = [slice(side.start * step, side.stop * step) for side, step in zip(near[1:], steps, strict=True)]
        return (slice(None), *sides)

    def _frame(self, grid):
        """Fields on the grid, and the coordinates of the standard knee: mirrored, turned, scaled, bent."""
        noise = {name: field(grid) for name, field in self.fields.items() if name != "vessel"}
        _, y, x = (
            np.asarray(g, np.float32).reshape(shape)
            for g, shape in zip(grid, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
        )
        cos, sin = float(np.cos(self.turn)), float(np.sin(self.turn))  # a NumPy scalar would promote all to float64
        y, x = y - float(self.centre[1]), self.mirror * (x - float(self.centre[2]))
        y, x = cos * y + sin * x, cos * x - sin * y
        y = y / (self.size * self.squeeze) + 1.9 * noise["shift_y"] + 0.45 * noise["ripple_y"]
        x = x / (self.size / self.squeeze) + 1.9 * noise["shift_x"] + 0.45 * noise["ripple_x"]
        along = ((np.asarray(grid[0]) - self.centre[0]) / self.size).astype(np.float32)
        level = along[:, None, None] + float(self.tilt[0]) * y + float(self.tilt[1]) * x
        return {"s": along, "level": level, "y": y, "x": x, "noise": noise, "grid": grid}

    def _soft_tissue(self, frame, parts, width):
        value, noise, grid, leg, fascia = self.value, frame["noise"], frame["grid"], parts["leg"], parts["fascia"]
        fat = value["fat"] * (1 + 0.035 * noise["fat"])
        # sheets of connective tissue between the lobules of fat
        septa = 0.55 * sheets(noise["septa"], grid, 0.35, width) + 0.8 * sheets(noise["septa_wide"], grid, 0.5, width)
        septa = septa * np.clip(0.55 + 0.8 * noise["bundle"], 0, 1)
        fat = fat * (1 - 0.45 * np.minimum(septa, 1))
        image = paint(np.zeros_like(leg), cover(leg, width), value["skin"])
        paint(image, cover(leg + 1.8, width), fat)
        paint(image, shell(fascia, -0.3, 0.3, width), value["fibrous"])
        self._muscles(image, frame, parts, width)
        return image

    def _muscles(self, image, frame, parts, width):
        value, noise, grid = self.value, frame["noise"], frame["grid"]
        distance = shapes.muscle_distances(frame["s"], frame["y"], frame["x"], self.muscles)
        nearest, second = shapes.two_nearest(distance)
        gap = self.muscle_gap_mm * (1 + 0.4 * noise["fat"]) + 0.4  # fat between two muscles
        # muscles stay inside the fascia, and away from bones and joint
        limit = np.maximum(parts["fascia"] + 1.1, 2.2 - np.minimum(parts["bone"], parts["joint"] - parts["fluid"]))
        streaks = np.maximum(noise["bundle"] - 1.1, 0) * self.fatty_muscle
        streaks = np.minimum(streaks + 0.8 * sheets(noise["bundle"], grid, 0.45, width) * self.fatty_muscle, 0.8)
        flesh = value["muscle"] * (1 + 0.05 * noise["muscle"] + 0.09 * noise["fascicle"])
        flesh = flesh + (0.75 * value["fat"] - flesh) * streaks
        for own, tint, name in zip(distance, self.muscle_tint.tolist(), shapes.MUSCLES, strict=True):
            here = box(own < 0.4 + width)
            own, limited = own[here], limit[here]
            # where two muscles would overlap, each ends half a gap before the middle
            other = np.where(own <= nearest[here], second[here], nearest[here])
            inside = np.maximum(np.maximum(own, (own - other) / 2 + gap[here] / 2), limited)
            paint(image[here], cover(inside, width), flesh[here] * tint)
            paint(image[here], 0.5 * shell(inside, -0.1, 0.4, width), value["fibrous"])
            if name in ("gracilis", "semitendinosus", "semimembranosus", "biceps femoris"):
                # they pass the joint as tendons
                tendon = np.clip((18 - frame["s"]) / 16, 0, 1)[:, None, None]
                paint(image[here], tendon * cover(np.maximum(own, limited), width), value["fibrous"])

    def _joint(self, image, frame, parts, width):
        """Capsule, fluid, Hoffa's fat pad, menisci, tendons in front, cruciate and collateral ligaments."""
        value, level, y, x, s = self.value, frame["level"], frame["y"], frame["x"], frame["s"]
        joint, fluid = np.maximum(parts["joint"], parts["fascia"] + 0.5), parts["fluid"]
        paint(image, 0.8 * shell(joint, fluid, fluid + 0.7, width), value["fibrous"])
        between = np.maximum(joint, 6 - parts["femur"] - 0.6 * np.maximum(parts["patella"], 0))
        paint(image, cover(joint - fluid, width), value["fluid"])
        paint(
            image,
            cover(between - fluid, width) * cover(-35 - y, 4),
            value["hoffa"] * (1 + 0.05 * frame["noise"]["fat"]),
        )
        rim = shapes.plateau_distance(np.minimum(s, -3), y, x) - 1.5  # the menisci lie on its edge
        plateau = np.maximum(rim, np.abs(level - 0.5) - 3.0)
        paint(image, cover(plateau, width) * cover(9 - np.abs(x), 4), value["cartilage"])
        paint(
            image,
            cover(np.maximum(plateau, -rim - 10 + 1.5 * np.abs(level - 0.5)), width) * cover(7 - np.abs(x), 3),
            value["meniscus"],
        )
        # the tendon of the quadriceps ends above the patella, and the patellar tendon begins below
        fade = np.clip((s - 34) / 6, 0, 1), np.clip((4 - s) / 6, 0, 1) * np.clip((s + 48) / 6, 0, 1)
        quadriceps = np.interp(s, [30, 75], [-48, -46]), 17, 3.6
        patellar = np.interp(s, [-44, -30, 0], [-32, -39, -47]), 13, 2.6
        for fading, (cy, a, b) in zip(fade, (quadriceps, patellar), strict=True):
            across, down = x - self.patella_shift, y - shapes.column(cy) - 0.006 * x**2
            here = ellipse_box(across, down, a, b, width)
            band = ellipse(across[here], down[here], a, b)
            band = np.maximum(band, parts["fascia"][here] - 1.5)
            streaks = value["fibrous"] * (1 + 1.5 * np.abs(frame["noise"]["fascicle"][here]))
            paint(image[here], fading[:, None, None] * cover(band, width), streaks)
        notch = np.clip((s + 4) / 3, 0, 1) * np.clip((27 - s) / 4, 0, 1)
        # the cruciate ligaments cross between the condyles
        acl_x, pcl_x = np.interp(s, [0, 25], [-1, 7]), np.interp(s, [0, 25], [1, -7])
        acl_y, pcl_y = np.interp(s, [0, 25], [2, 22]), np.interp(s, [0, 20], [27, 14])
        for cx, cy, a, b, kind in ((acl_x, acl_y, 2.6, 6.5, "acl"), (pcl_x, pcl_y, 3.6, 5.5, "fibrous")):
            u, v = x - shapes.column(cx), y - shapes.column(cy)
            here = ellipse_box(u, v, b, b, width)
            cord = np.maximum(ellipse(u[here], v[here], a, b, 0.15), 0.5 - parts["femur"][here])
            paint(image[here], notch[:, None, None] * cover(cord, width), value[kind])
        side = np.clip((30 - s) / 6, 0, 1) * np.clip((s + 36) / 6, 0, 1)  # the collateral ligaments
        around = np.minimum(parts["femur"], parts["tibia"])
        mcl = np.maximum(np.abs(around - 1.9) - np.clip(1.2 - ((y - 6) / 9) ** 2, -1, 1), x + 15)
        lcl = ellipse(x - 43, y - shapes.column(np.interp(s, [-15, 20], [17, 6])), 1.6, 2.6)
        paint(image, side[:, None, None] * np.maximum(cover(mcl, width), cover(lcl, width)), value["fibrous"])
        front = np.maximum(np.maximum(parts["patella"] - 1.6, -parts["patella"]), y + 44)
        paint(image, cover(front, width), value["fibrous"])
        # the iliotibial tract, on the outside
        tract = np.abs(parts["fascia"] + 0.8) - np.clip(0.9 - ((y + 10) / 18) ** 2, 0, 1)
        paint(image, 0.85 * cover(tract, width) * cover(20 - x, 8), value["fibrous"])

    def _bones(self, image, frame, parts, width):
        value, noise, level, y, x = self.value, frame["noise"], frame["level"], frame["y"], frame["x"]
        # cartilage: where the patella glides in front, and where the tibia does behind and below
        front = cover(y + 9, 6) * cover(level - 36, 6) * cover(np.abs(x) - 30, 4)
        back = cover(12 - y, 8) * cover(level - 28, 6) * cover(np.abs(np.abs(x) - 22) - 10, 5)
        glide = np.maximum(np.maximum(front, back), cover(level - 4, 3)) * cover(-3 - level, 2)
        thickness = 2.2 + 0.25 * noise["edge"]
        paint(image, glide * cover(parts["femur"] - thickness, width), value["cartilage"])
        paint(image, cover(-(y + 45), 3) * cover(parts["patella"] - 1.2 * thickness, width), value["cartilage"])
        cap = np.clip(1 - parts["femur"] / 2.2, 0, 1) * glide
        image *= 1 - 0.12 * cap
        # the cortex is thicker along the shafts
        shaft = np.clip((level - 34) / 25, 0, 1) * 3.2 + np.clip((-26 - level) / 20, 0, 1) * 2.8
        bone = parts["bone"]
        paint(image, cover(bone, width), value["cortex"])
        grain = 0.5 * noise["trabecula"] + 0.5 * np.abs(noise["trabecula_wide"]) - 0.4
        red = np.clip(noise["marrow"] - 0.2, 0, 1.5) * np.clip(40 / (np.abs(level - 30) + 1) - 0.6, 0, 1)
        marrow = value["marrow"] * (1 + 0.04 * noise["marrow"] - 0.16 * red)  # red marrow is darker than fatty marrow
        marrow = marrow * (1 - 2.2 * self.trabeculae * min(1.0, 0.9 / width) * np.clip(grain, -0.6, 1))
        for s_0 in (27.0, -17.0):  # the closed growth plates of femur and tibia
            scar = np.abs(level - s_0 - 2.0 * noise["shift_y"] - 0.004 * (x**2 + y**2)) - 0.5
            marrow = marrow * (1 - 0.45 * cover(scar, 1.5))
        inner = bone + 0.6 + shaft + 0.25 * np.maximum(noise["edge"], -1)
        paint(image, cover(inner, width), marrow)
        paint(image, 0.2 * shell(inner, -1.6, 0, width), value["cortex"])
        for s_0, y_0, x_0, radius, brightness, soft in self.lesions:
            ball = np.sqrt((level - s_0) ** 2 + (y - y_0) ** 2 + (x - x_0) ** 2) - radius * (1 + 0.15 * noise["edge"])
            # a Baker's cyst lies behind the bones, other lesions inside
            allowed = cover(bone + 1.5, width) if y_0 < 36 else cover(1.5 - bone, width)
            paint(image, allowed * cover(ball, max(width, soft)), brightness)

    def _cords(self, image, frame, parts, width, bend):
        """Vessels and nerves: the popliteal bundle, the peroneal nerve, superficial and genicular vessels."""
        value, y, x, s = self.value, frame["y"], frame["x"], frame["s"]
        deep = shapes.column(np.interp(s, [-60, -20, 0, 20, 75], [26, 34, 34, 34, 20]))
        bundle = [  # (x, y, radius, kind, darkness of the wall), behind the knee
            (-1, 0, 3.3, "artery", 1.0),
            (2.5, 7.5, 4.2, "vein", 0.9),
            (6, 13.5, 3.2, "nerve", 0.9),
            (-4, 5, 1.5, "vein", 0.4),
        ]
        across = shapes.column(np.interp(s, [-60, 0, 40, 75], [2, 0, -3, -14])) + bend
        free = np.maximum(1.5 - parts["bone"], parts["fascia"] + 1)
        for (dx, dy, r, kind, wall), (jx, jy) in zip(bundle, self.vessels.tolist(), strict=False):
            u, v = x - (across + dx + jx), y - (deep + dy + 0.5 * jy)
            here = ellipse_box(u, v, r, 0.85 * r, 1.2 + width)
            cord, drawn = np.maximum(ellipse(u[here], v[here], r, 0.85 * r), free[here]), image[here]
            paint(drawn, cover(cord - 1.2, width), value["fat"])
            paint(drawn, wall * cover(cord - 0.5, width), 0.2 if kind != "nerve" else value["fibrous"])
            speckle = 1 + (0.35 if kind == "nerve" else 0.05) * frame["noise"]["fascicle"][here]
            paint(drawn, cover(cord + 0.3, width), value[kind] * speckle)
        u = x - shapes.column(np.interp(s, [-30, 0, 75], [45, 40, 14]))
        v = y - shapes.column(np.interp(s, [-30, 0, 75], [10, 36, 33]))
        here = ellipse_box(u, v, 2.6, 1.7, width)
        peroneal = np.maximum(ellipse(u[here], v[here], 2.6, 1.7), free[here])
        paint(image[here], cover(peroneal, width), value["nerve"])
        self._superficial(image, frame, parts, width)
        for x_0, y_0, r in self.genicular.tolist():
            u, v = x - (x_0 + bend), y - (y_0 - 2 * bend)
            here = ellipse_box(u, v, r, r, width)
            dot = np.hypot(u[here], v[here]) - r
            paint(image[here], cover(np.maximum(dot, free[here] + 1.5), width), 0.15)

    def _superficial(self, image, frame, parts, width):
        """Vessels in the fat under the skin, each at its own angle around the leg."""
        for angle, depth, r in self.small_vessels.tolist():
            turn = parts["angle"] - (angle + 0.004 * shapes.column(frame["s"]))  # they wind around the leg
            away = 50 * (turn - 2 * np.pi * np.round(turn / (2 * np.pi)))
            below = parts["leg"] + (1.8 + depth)
            here = ellipse_box(away, below, r, r, width)
            dot = np.hypot(away[here], below[here]) - r
            outside = np.maximum(-parts["fascia"][here], 2.5 - parts["patella"][here])
            paint(image[here], cover(np.maximum(dot, outside), width), 0.12)
