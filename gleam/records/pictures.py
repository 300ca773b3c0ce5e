"""Pictures of the book: reconstructions, error maps, masks. Each function draws one figure and returns it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from gleam.datasets.volume import REAL_ANATOMY
from gleam.metrics import psnr, ssim
from gleam.records.canvas import STYLE, Figure
from gleam.training.evaluation import reconstruct

PICTURES_WIDTH, N_COLUMNS = 5.4, 4  # of a row of pictures, and how many of them there are at most
PANELS: dict[Any, Any] = STYLE | {"font.size": 12.5, "axes.titlesize": 12.5, "axes.grid": False}
BEHIND_SCORES = {"facecolor": "black", "alpha": 0.55, "lw": 0, "pad": 1.5}  # legible on a bright image, too
ERROR_GAIN = 4


def compare(
    reconstructions: Mapping[str, Tensor | np.ndarray],
    target: Tensor | np.ndarray,
    *,
    aspect: float = 1.0,
    label: str = "",
    window: float | None = None,
) -> Figure:
    """Reconstructions of one slice beside the reference, with their error maps on one scale.

    PSNR (dB) and SSIM are written in the corner. The error map is below its image, magnified `ERROR_GAIN` times; its
    colour bar says how large errors are, in units of what is shown white.

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
    shown = {name: torch.as_tensor(image) for name, image in {**reconstructions, "Ground truth": target}.items()}
    target = shown["Ground truth"]
    window = window or float(np.percentile(_magnitude(target), 99))
    n_rows, n_columns = _grid(len(shown))
    with matplotlib.rc_context(PANELS):
        figure = Figure(figsize=_size(target, aspect, n_columns, 2 * n_rows), layout="constrained")
        axes = figure.subplots(2 * n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        # images and errors in alternate rows; the last row may not be full
        for (name, image), top, bottom in zip(shown.items(), axes[::2].flat, axes[1::2].flat, strict=False):
            _image(top, _magnitude(image), window, aspect, title=name)
            if name == "Ground truth":  # the last, without an error
                break
            score = f"{float(psnr(image, target)):.1f} dB\n{float(ssim(image, target)):.3f}"
            top.text(0.03, 0.03, score, transform=top.transAxes, color="white", va="bottom", bbox=BEHIND_SCORES)
            error = ERROR_GAIN * np.abs(_magnitude(image) - _magnitude(target))
            _image(bottom, error, window, aspect, cmap="inferno")
        # in the empty place below the ground truth
        bar = figure.colorbar(axes[1, 0].images[0], cax=bottom.inset_axes([0.05, 0.05, 0.12, 0.9]))
        bar.set_ticks([0, window / 2, window], labels=["0", f"{50 / ERROR_GAIN:g} %", f"{100 / ERROR_GAIN:g} %"])
        bar.set_label("error")
        if label:
            figure.supxlabel(textwrap.fill(label, 40), color="#555555")
    return figure


def compare_methods(
    methods: Mapping[str, Callable], data: Any, index: int = 0, *, label: str = "", device: str | torch.device = "cpu"
) -> Figure:
    """One slice of a data set, reconstructed by several methods and drawn by :func:`compare`.

    Parameters
    ----------
    methods : dict
        Of name to a network, or to one of :mod:`gleam.baselines`.
    data : Slices
        The data set; the foot says where it comes from (:func:`source`).
    index : int
        Number of the slice.
    label : str
        Written at the foot before that, such as "R = 12".
    device : str or device
        Where to reconstruct.
    """
    example = data[index].to(device)
    images = {name: reconstruct(method, example)[0].cpu() for name, method in methods.items()}
    return compare(images, example.target[0].cpu(), aspect=data.aspect, label=f"{label}, {source(data)}")


def saved(path: str | Path, missing: str) -> Any:
    """A saved picture (PNG) for the last line of a cell, or the text `missing` (MyST) if there is no such file."""
    from IPython.display import Image, Markdown

    return Image(Path(path).read_bytes()) if Path(path).is_file() else Markdown(missing)


def panels(
    images: dict[str, Tensor | np.ndarray],
    *,
    window: float | None = None,
    aspect: float | str = 1.0,
    cmap: str = "gray",
    label: str = "",
) -> Figure:
    """Magnitudes of images, at most four in a row.

    Parameters
    ----------
    images : dict
        Of title to array, shape (y, x).
    window : float, optional
        Common upper limit. Default: each image has its own 99th percentile.
    aspect : float or "auto"
        Height over width of a pixel; "auto" makes every panel square, whatever its sides are.
    cmap : str
        Colour map of matplotlib.
    label : str
        Written at the foot.
    """
    n_rows, n_columns = _grid(len(images))
    first = next(iter(images.values()))
    with matplotlib.rc_context(PANELS):
        figure = Figure(figsize=_size(first, aspect, n_columns, n_rows), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for (title, image), axis in zip(images.items(), axes.flat, strict=False):
            magnitude = _magnitude(image)
            # 1e-12: an empty image has no percentile above 0
            _image(axis, magnitude, window or max(np.percentile(magnitude, 99), 1e-12), aspect, title=title, cmap=cmap)
        if label:
            figure.supxlabel(textwrap.fill(label, 40 if n_columns > 1 else 20), color="#555555")
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
    """Log magnitude of centred k-space (y, x), for :func:`panels`: log(1 + magnitude / its median)."""
    magnitude = _magnitude(kspace)
    return np.log1p(magnitude / max(np.percentile(magnitude, 50), 1e-12))


def _magnitude(image):
    return np.abs(np.asarray(image))


def _grid(n):
    """Rows and columns for `n` pictures: rows of equal length, as far as possible."""
    n_rows = -(-n // N_COLUMNS)
    return n_rows, -(-n // n_rows)  # such as 3 + 2 for five, not 4 + 1


def _size(image, aspect, n_columns, n_rows):
    n_y, n_x = np.asarray(image).shape[-2:]
    height = 1 if aspect == "auto" else n_y * aspect / n_x
    width = PICTURES_WIDTH / max(2, n_columns)  # one picture alone takes half the width
    return width * n_columns, (width * height + 0.25) * n_rows


def _image(axis, magnitude, window, aspect, title="", cmap="gray"):
    axis.imshow(magnitude, cmap=cmap, vmin=0, vmax=window, aspect=aspect)
    axis.set_title(textwrap.fill(title, int(54 / axis.get_gridspec().ncols)))  # 54 letters fit the width
