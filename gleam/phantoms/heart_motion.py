"""Motion of the heart phantom: volume of the left ventricle over the cardiac cycle, and drift of held breath."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Fraction of the stroke volume ejected, at times in units of the end of systole (first rows) and of the cycle.
SYSTOLE = ((0.0, 0.0), (0.12, 0.01), (0.33, 0.30), (0.56, 0.67), (0.78, 0.91), (1.0, 1.0))
DIASTOLE = ((0.05, 0.98), (0.12, 0.70), (0.20, 0.37), (0.27, 0.26))  # after the end of systole: relaxation, filling
ATRIAL = ((0.82, 0.20), (0.91, 0.09), (0.98, 0.0))  # before the end of the cycle: slow filling, then the atrium's kick
N_CURVE = 400


class Cycle:
    """One subject's cardiac cycle; times `t` in cycles, 0 at the R wave, 1 at the next one.

    Attributes
    ----------
    ejection_fraction : float
        Drawn from 0.50 to 0.65.
    systole : float
        Fraction of the cycle, drawn from 0.35 to 0.40.
    rr_ms : float
        Duration of the cycle in ms, drawn from 750 to 1050.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        from scipy.interpolate import PchipInterpolator

        self.ejection_fraction = rng.uniform(0.50, 0.65)
        self.systole = rng.uniform(0.35, 0.40)
        self.rr_ms = rng.uniform(750, 1050)
        rows = [(self.systole * t, e) for t, e in SYSTOLE]
        rows += [(self.systole + t, e * rng.uniform(0.92, 1.0)) for t, e in DIASTOLE]
        rows += ATRIAL
        knots = np.array([(t + turn, e) for turn in (-1, 0, 1) for t, e in rows])
        self._curve = PchipInterpolator(*knots.T)
        speed = np.abs(self._curve.derivative()(np.linspace(0, 1, N_CURVE)))
        self._fastest = float(speed.max())

    def ejected(self, t: float) -> float:
        """Fraction of the stroke volume that has left the ventricle, 0 at end diastole to 1 at end systole."""
        return float(self._curve(t % 1.0))

    def volume(self, t: float) -> float:
        """Volume of the left ventricle over its end-diastolic volume."""
        return 1 - self.ejection_fraction * self.ejected(t)

    def flow(self, t: float) -> float:
        """Speed of filling or emptying, 0 to 1."""
        return float(abs(self._curve.derivative()(t % 1.0)) / self._fastest)


class Breathing:
    """Drift of the body in mm. Each slice is measured in its own held breath, and no breath is held perfectly."""

    def __init__(self, rng: np.random.Generator, n_slices: int) -> None:
        scale = rng.uniform(0.4, 1.6)
        self.held = rng.normal(0, 1.2, (n_slices, 3)) * (1.2, 0.8, 0.4)
        self.slope = scale * rng.normal(0, 1, (n_slices, 3)) * (1.6, 1.1, 0.4)
        self.swing = scale * rng.normal(0, 1, (n_slices, 3)) * (0.5, 0.35, 0.15)
        self.turns, self.start = rng.uniform(0.3, 1.2, n_slices), rng.uniform(0, 2 * np.pi, n_slices)

    def shift(self, index: int, progress: float) -> np.ndarray:
        """Shift (s, y, x) in mm of slice `index` when the fraction `progress` (0 to 1) of its series is measured."""
        wave = np.sin(2 * np.pi * self.turns[index] * progress + self.start[index])
        return self.held[index] + self.slope[index] * (progress - 0.5) + self.swing[index] * wave


def breathe(grid: Sequence[np.ndarray], shift: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `grid` (s, y, x) in coordinates of the body when its front has moved by `shift` mm; the back lies still."""
    s, y, x = grid
    ramp = np.clip((70.0 - y) / 130.0, 0, 1)
    return s - shift[0], y - shift[1] * ramp * ramp * (3 - 2 * ramp), x - shift[2]
