"""Shapes of a right knee: bones and muscles as signed distances in mm.

Coordinates: `s` upwards along the leg (0 is the joint line), `y` towards the back, `x` towards the outside. Outlines
were laid out by hand after textbook cross-sections of an adult knee; every number is then varied per subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gleam.phantoms.fields import cover, ellipse, ellipsoid, merge

# Muscles and their tendons: rows of (s, x, y, half width, half depth, angle in radians).
MUSCLES = {
    "vastus medialis": [
        (75, -36, -8, 29, 30, 0.4),
        (45, -36, -9, 23, 27, 0.3),
        (30, -38, -6, 13, 21, 0.2),
        (17, -39, -2, 3, 12, 0.2),
        (13, -38, 0, 0, 6, 0.2),
    ],
    "vastus lateralis": [
        (75, 36, -14, 27, 30, -0.5),
        (50, 37, -14, 19, 26, -0.4),
        (36, 37, -14, 9, 18, -0.3),
        (25, 37, -12, 0, 8, -0.3),
    ],
    "vastus intermedius": [(75, 3, -26, 26, 14, 0), (54, 3, -26, 20, 8, 0), (42, 2, -26, 0, 3, 0)],
    "sartorius": [
        (75, -49, 24, 8, 15, 0.3),
        (20, -48, 26, 6, 14, 0.3),
        (-10, -44, 28, 4, 10, 0.5),
        (-30, -40, 22, 2, 7, 0.5),
    ],
    "gracilis": [
        (75, -41, 39, 7, 8, 0.6),
        (30, -43, 40, 4, 5, 0.6),
        (5, -43, 39, 2.6, 2.8, 0.6),
        (-25, -40, 28, 1.8, 2.2, 0.6),
    ],
    "semimembranosus": [
        (75, -22, 40, 19, 16, 0.1),
        (40, -26, 40, 18, 13, 0),
        (15, -32, 38, 12, 9, -0.2),
        (2, -35, 33, 6, 6, -0.2),
        (-8, -33, 28, 0, 3, 0),
    ],
    "semitendinosus": [
        (75, -8, 52, 12, 8, 0),
        (40, -20, 53, 7, 4.5, 0),
        (10, -35, 47, 2.6, 2.4, 0),
        (-25, -38, 32, 1.8, 2, 0),
    ],
    "biceps femoris": [
        (75, 25, 43, 19, 16, -0.2),
        (40, 36, 37, 15, 15, -0.4),
        (14, 42, 30, 9, 13, -0.3),
        (-8, 43, 23, 3.5, 7, -0.3),
        (-14, 40, 20, 0, 2, 0),
    ],
    "gastrocnemius medial": [
        (44, -13, 36, 0, 3, 0),
        (30, -15, 42, 13, 10, 0.1),
        (8, -17, 43, 17, 12, 0.1),
        (-10, -20, 42, 19, 13, 0.1),
        (-60, -25, 36, 26, 16, 0.3),
    ],
    "gastrocnemius lateral": [
        (44, 15, 36, 0, 3, 0),
        (30, 16, 42, 12, 10, -0.1),
        (8, 18, 43, 16, 12, -0.1),
        (-10, 20, 42, 18, 13, -0.1),
        (-60, 23, 36, 23, 14, -0.3),
    ],
    "plantaris": [(30, 14, 35, 0, 2, 0), (14, 13, 36, 7, 3.4, 0.1), (-12, 6, 35, 6, 3, 0.2), (-24, -2, 34, 0, 2, 0.2)],
    "popliteus": [
        (2, 24, 28, 0, 2, 0.3),
        (-8, 10, 29, 17, 4.5, -0.2),
        (-28, -3, 25, 20, 7, -0.1),
        (-60, -6, 14, 12, 8, 0),
    ],
    "soleus": [(-12, 30, 30, 0, 3, 0), (-26, 22, 30, 17, 6, -0.2), (-60, 4, 28, 34, 10, -0.1)],
    "tibialis anterior": [(-12, 26, -14, 0, 4, 0), (-28, 27, -12, 13, 15, -0.6), (-60, 25, -12, 16, 19, -0.6)],
    "peroneus": [(-14, 40, 8, 0, 4, 0), (-32, 40, 3, 10, 13, -0.3), (-60, 39, 5, 12, 17, -0.2)],
}


def profile(s: np.ndarray, table: Sequence[Sequence[float]] | np.ndarray) -> list[np.ndarray]:
    """Interpolate rows of (s, values...) at the positions `s` (1D) in mm; returns each value as (s, 1, 1), float32."""
    rows = np.array(table, float)
    rows = rows[np.argsort(rows[:, 0])]  # np.interp wants them to rise
    return [np.interp(s, rows[:, 0], column)[:, None, None].astype(np.float32) for column in rows[:, 1:].T]


def column(values: np.ndarray) -> np.ndarray:
    """Values along s as (s, 1, 1), float32, so that images computed from them stay float32."""
    return np.asarray(values, np.float32)[:, None, None]


def two_nearest(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the second smallest of `distances` (muscle, s, y, x), each (s, y, x)."""
    nearest, second = distances[0].copy(), np.full_like(distances[0], np.inf)
    for one in distances[1:]:
        np.minimum(second, np.maximum(nearest, one), out=second)
        np.minimum(nearest, one, out=nearest)
    return nearest, second


def muscle_distances(s: np.ndarray, y: np.ndarray, x: np.ndarray, vary: dict[str, Sequence[float]]) -> np.ndarray:
    """Signed distances in mm to all muscles.

    Parameters
    ----------
    s : array, shape (s,)
        Positions along the leg in mm.
    y, x : arrays, shape (s, y, x)
        Positions in mm.
    vary : dict
        Of a muscle's name to its shift along x and y in mm, its scale and its turn in radians.

    Returns
    -------
    array, shape (muscle, s, y, x)
        float32. Large (outside) beyond a muscle's ends and where it has no width.
    """
    out = np.full((len(MUSCLES), *y.shape), 1e3, np.float32)  # far outside
    for k, (name, rows) in enumerate(MUSCLES.items()):
        rows = np.array(rows)
        # a muscle that has a width in its first or last row goes on beyond it
        present = np.flatnonzero(
            (s > rows[:, 0].min() - 20 * (rows[-1, 3] > 0)) & (s < rows[:, 0].max() + 20 * (rows[0, 3] > 0))
        )
        if not len(present):
            continue
        cx, cy, a, b, angle = profile(s[present], rows)
        dx, dy, scale, turn = map(float, vary[name])
        a, b = np.maximum(a * scale, 0.2), np.maximum(b * scale, 0.2)
        out[k, present] = ellipse(x[present] - cx - dx, y[present] - cy - dy, a, b, angle + turn)
    return out


def femur_distance(s: np.ndarray, level: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance to the femur: shaft and metaphysis, two condyles, the two ridges of the trochlea."""
    a, b, cy = profile(
        s, [(80, 14, 14, -6), (55, 16, 15, -6), (42, 21, 16, -6), (32, 29, 18, -5), (22, 33, 17, -4), (8, 31, 13, -2)]
    )
    shaft = np.maximum(ellipse(x, y - cy, a, b), 10 - level)
    medial = ellipsoid((level - 19, 19), (y - 13, 23), (x + 22.5, 14))
    lateral = ellipsoid((level - 19, 18.5), (y - 11, 23), (x - 22, 15))
    ridge_lateral = ellipsoid((level - 25, 21), (y + 12, 16), (x - 17, 16))
    ridge_medial = ellipsoid((level - 23, 19), (y + 9, 14), (x + 17, 16))
    condyles = merge(merge(medial, ridge_medial, 4), merge(lateral, ridge_lateral, 4), 2.5)
    return merge(condyles, shaft, 6)


def plateau_distance(s: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance, across the leg only, to the tibia: plateau with its posterior notch, three-sided shaft."""
    a, b, cy = profile(
        s,
        [
            (0, 37, 22, 5),
            (-8, 37.5, 24, 4),
            (-16, 35, 23.5, 2),
            (-28, 25, 20, -1),
            (-42, 18, 18, -4),
            (-65, 14, 16, -7),
        ],
    )
    body = ellipse(x + 2 - 0.06 * (y + 20), y - cy, a, b)
    notch = ellipse(x, y - 36, 12, 14 - np.clip(-s - 8, 0, 12)[:, None, None])
    return -merge(-body, notch, 5)


def tibia_distance(s: np.ndarray, level: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance to the tibia: plateau, intercondylar eminence, shaft, tuberosity."""
    front = column(np.interp(s, [-62, -46, -34, -24], [-26, -26, -25, -18]))
    tuberosity = ellipsoid((level + 40, 18), (y - front - 8, 8.5), (x - 3, 9))
    spine = ellipsoid((level + 3, 8), (y - 3, 9), (x, 6))
    return merge(np.maximum(merge(plateau_distance(s, y, x), tuberosity, 6), 3 * (level + 2.5)), spine, 3)


def fibula_distance(s: np.ndarray, level: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance to the fibula, its head just below the joint on the outside."""
    r, cx = profile(s, [(-10, 6, 36), (-16, 8.5, 36), (-24, 8.5, 36), (-36, 6.5, 35), (-65, 6, 33)])
    return np.maximum(ellipse(x - cx, y - 19, r, r * 1.1), level + 11)


def patella_distance(level: np.ndarray, y: np.ndarray, x: np.ndarray, level_0: float) -> np.ndarray:
    """Signed distance to the patella: wide, flat in front, a ridge behind that fits the trochlear groove.

    `level_0` is the height of its centre in mm.
    """
    behind = np.sqrt(x**2 + 9)
    return ellipsoid((level - level_0, 22), (y + 43 + 0.27 * (behind - 8), 9.6), (x - 1, 22.5))


LEG = [(75, 65, 66, 5), (45, 61, 63, 4), (15, 54.5, 59, 4), (-10, 51.5, 56, 4), (-35, 52, 55, 4), (-65, 55, 56, 5)]


def distances(frame: dict, knee: Any) -> dict[str, np.ndarray]:
    """Signed distances in mm to the skin, fascia, bones and joint capsule of one knee.

    Parameters
    ----------
    frame : dict
        Coordinates `s`, `level`, `y`, `x` in mm and the fields `noise` on the grid.
    knee : gleam.phantoms.knee_anatomy.Knee
        The subject.

    Returns
    -------
    dict
        Arrays (s, y, x) by name. Besides the distances: `angle` around the leg, and `fluid`, the thickness in mm of
        the fluid inside the capsule, which gathers in the recesses in front.
    """
    s, level, y, x, noise = (frame[k] for k in ("s", "level", "y", "x", "noise"))
    half_x, half_y, cy = profile(s, LEG)
    angle = np.arctan2(y - cy, x)
    fat = 5.5 + 2.5 * np.sin(angle) - 2.2 * np.cos(angle) - 1.2 * np.cos(2 * angle) + 0.9 * noise["shift_x"]
    edge = 0.35 * noise["edge"]
    out = {"angle": angle, "femur": femur_distance(s, level, y, x) + edge}
    # room for cartilage is left between the two
    out["tibia"] = np.maximum(tibia_distance(s, level, y, x) + edge, 2.5 - out["femur"])
    out["patella"] = patella_distance(level, y, x - knee.patella_shift, knee.patella) + edge
    out["fibula"] = fibula_distance(s, level, y, x) + edge
    out["bone"] = np.minimum.reduce([out[name] for name in ("femur", "tibia", "patella", "fibula")])
    # the patella shows under the skin
    out["leg"] = merge(ellipse(x, y - cy, half_x, half_y) + 0.8 * noise["ripple_x"], out["patella"] - 4.0, 14)
    out["fascia"] = out["leg"] + 1.8 + knee.fat_mm * np.maximum(fat, 2.5)
    # the capsule: around femur and patella, from 3 mm below the joint to 46 mm above
    joint = np.maximum(merge(out["femur"], out["patella"], 14), np.maximum(level - 46, -3 - level))
    out["joint"] = -merge(-joint, y + 40, 5)
    out["fluid"] = 0.5 + knee.effusion_mm * cover(y + 6, 14) * cover(np.abs(level - 22) - 24, 14)
    return out
