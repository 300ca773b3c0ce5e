"""Pictures of the book: reconstructions, error maps, masks. Each function draws one figure and returns it.

Figures do not use `pyplot`: there is no current figure, none has to be closed, the last line of a cell shows one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
import torch
from torch import Tensor

from gleam.datasets.volume import REAL_ANATOMY
from gleam.files import written_whole
from gleam.metrics import psnr, ssim

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
ERROR_GAIN = 4


class Figure(matplotlib.figure.Figure):
    """A figure that shows itself as PNG in any notebook, and is saved whole or not at all."""

    def png(self, dpi: float = 110) -> bytes:
        """The figure as bytes of a PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()

    def save(self, path: str | Path, dpi: float = 100) -> None:
        """Write the figure as PNG to `path`, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_bytes(self.png(dpi))

    _repr_png_ = png


def compare(
    reconstructions: dict[str, Tensor | np.ndarray],
    target: Tensor | np.ndarray,
    *,
    aspect: float = 1.0,
    label: str = "",
    window: float | None = None,
) -> Figure:
    """Reconstructions of one slice beside the reference, with their error maps on one scale.

    PSNR (dB) and SSIM are written in the corner. Errors are magnified `ERROR_GAIN` times.

    Parameters
    ----------
    reconstructions : dict
        Of method to image, complex, shape (y, x).
    target : array, shape (y, x)
        The reference.
    aspect : float
        Height over width of a pixel.
    label : str
        Written at the foot, such as "phantom".
    window : float, optional
        Magnitude that is shown white, also for the magnified errors. Default: the 99th percentile of the reference.

    Notes
    -----
    Figs. 3 to 5 of the paper.
    """
    columns = {name: torch.as_tensor(image) for name, image in {**reconstructions, "Ground truth": target}.items()}
    target = columns["Ground truth"]
    window = window or float(np.percentile(_magnitude(target), 99))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=_size(target, aspect, len(columns), 2), layout="constrained")
        axes = figure.subplots(2, len(columns))
        for (name, image), top, bottom in zip(columns.items(), *axes, strict=True):
            _image(top, _magnitude(image), window, aspect, title=name)
            if name == "Ground truth":
                bottom.axis("off")
                continue
            _corner(top, f"PSNR {float(psnr(image, target)):.1f} dB\nSSIM {float(ssim(image, target)):.3f}")
            error = np.abs(_magnitude(image) - _magnitude(target))
            shown = bottom.imshow(ERROR_GAIN * error, cmap="inferno", vmin=0, vmax=window, aspect=aspect)
            bottom.set(xticks=[], yticks=[])
        axes[1, 0].set_ylabel(f"|error| x {ERROR_GAIN}")
        bar = figure.colorbar(shown, cax=axes[1, -1].inset_axes([0.05, 0.1, 0.08, 0.8]))
        bar.set_ticks([0, window / 2, window], labels=["0", f"{50 / ERROR_GAIN:g} %", f"{100 / ERROR_GAIN:g} %"])
        bar.set_label("error, in units of\nwhat is shown white", fontsize=8)
        if label:
            figure.supxlabel(label, fontsize=9, color="#555555")
    return figure


def panels(
    images: dict[str, Tensor | np.ndarray],
    *,
    window: float | None = None,
    aspect: float | str = 1.0,
    n_columns: int | None = None,
    cmap: str = "gray",
    label: str = "",
) -> Figure:
    """Magnitudes of images, side by side.

    Parameters
    ----------
    images : dict
        Of title to array, shape (y, x).
    window : float, optional
        Common upper limit. Default: each image has its own 99th percentile.
    aspect : float or "auto"
        Height over width of a pixel; "auto" makes every panel square, whatever its sides are.
    n_columns : int, optional
        Default: all in one row.
    cmap : str
        Colour map of matplotlib.
    label : str
        Written at the foot.
    """
    n_columns = n_columns or len(images)
    n_rows = -(-len(images) // n_columns)
    first = next(iter(images.values()))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=_size(first, aspect, n_columns, n_rows), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for (title, image), axis in zip(images.items(), axes.flat, strict=False):
            magnitude = _magnitude(image)
            _image(axis, magnitude, window or max(np.percentile(magnitude, 99), 1e-12), aspect, title=title, cmap=cmap)
        if label:
            figure.supxlabel(label, fontsize=9, color="#555555")
    return figure


def source(data: Any) -> str:
    """Where the data of a figure come from: phantom, measurement, or real anatomy with simulated coils.

    `data` is anything with `is_phantom` and `acquisition`, such as a :class:`gleam.datasets.Slices`.
    """
    if data.is_phantom:
        return "numerical phantom, not a patient"
    return REAL_ANATOMY if data.acquisition == REAL_ANATOMY else "measured data"


def masks(named: dict[str, np.ndarray], *, aspect: float | str = 1.0) -> Figure:
    """Undersampling masks, a dict of title to boolean array (y, x); measured positions are light grey."""
    return panels({title: np.asarray(mask, float) for title, mask in named.items()}, window=1.2, aspect=aspect)


def kspace_magnitude(kspace: Tensor | np.ndarray) -> np.ndarray:
    """Log magnitude of centred k-space (y, x), for :func:`panels`: log(1 + |k| over its median)."""
    magnitude = _magnitude(kspace)
    return np.log1p(magnitude / max(np.percentile(magnitude, 50), 1e-12))


def _magnitude(image):
    return np.abs(np.asarray(image))


def _size(image, aspect, n_columns, n_rows):
    n_y, n_x = np.asarray(image).shape[-2:]
    height = 1 if aspect == "auto" else n_y * aspect / n_x
    return 2.3 * n_columns, 2.3 * n_rows * height + 0.35 * n_rows


def _image(axis, magnitude, window, aspect, title="", cmap="gray"):
    axis.imshow(magnitude, cmap=cmap, vmin=0, vmax=window, aspect=aspect)
    axis.set(xticks=[], yticks=[], title=title)


def _corner(axis, text):
    axis.text(
        0.03, 0.03, text, transform=axis.transAxes, color="white", fontsize=8, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.55, "lw": 0, "pad": 1.5},
    )  # fmt: skip
