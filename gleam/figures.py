"""Every plot of the book. Each function draws one figure and returns it; nothing here computes a result."""

import matplotlib.pyplot as plt
import numpy as np

from gleam.metrics import psnr, ssim

STYLE = {
    "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 10, "axes.titlesize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
}  # fmt: skip
COLORS = {
    "Zero-filled": "#8c8c8c", "CS": "#56b4e9", "End-to-end": "#0072b2", "Checkpointing": "#009e73", "MEL": "#cc79a7",
    "GLEAM": "#d55e00",
}  # fmt: skip
ERROR_GAIN = 4


def compare(reconstructions, target, *, aspect=1.0, label=""):
    """Reconstructions of one slice beside the reference, and their error maps on one scale, as in the paper's Figs. 3-5.

    ``reconstructions``: dict of method to image (y, x), complex; ``target``: the reference (y, x); ``aspect``: height over
    width of a pixel; ``label``: written at the foot, such as "phantom". PSNR (dB) and SSIM stand in the corner. Images are
    shown up to the reference's 99th percentile, errors magnified ``ERROR_GAIN`` times on the same scale.
    """
    columns = {**reconstructions, "Ground truth": target}
    window = float(np.percentile(_magnitude(target), 99))
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(2, len(columns), figsize=_size(target, aspect, len(columns), 2), layout="constrained")
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
        bar = figure.colorbar(shown, ax=axes[1, -1], location="left", fraction=0.9, aspect=12)
        bar.set_ticks([0, window / 2, window], labels=["0", f"{50 / ERROR_GAIN:g} %", f"{100 / ERROR_GAIN:g} %"])
        bar.set_label("error, of the 99th percentile")
        if label:
            figure.supxlabel(label, fontsize=9, color="#555555")
    return figure


def panels(images, *, window=None, aspect=1.0, n_columns=None, cmap="gray", label=""):
    """Magnitudes of ``images``, a dict of title to array (y, x), side by side; each up to its own 99th percentile.

    ``window`` sets one common upper limit instead.
    """
    n_columns = n_columns or len(images)
    n_rows = -(-len(images) // n_columns)
    first = next(iter(images.values()))
    with plt.rc_context({**STYLE, "axes.grid": False}):
        size = _size(first, aspect, n_columns, n_rows)
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for (title, image), axis in zip(images.items(), axes.flat, strict=False):
            magnitude = _magnitude(image)
            _image(axis, magnitude, window or max(np.percentile(magnitude, 99), 1e-12), aspect, title=title, cmap=cmap)
        if label:
            figure.supxlabel(label, fontsize=9, color="#555555")
    return figure


def masks(named, *, aspect=1.0):
    """Undersampling masks, a dict of title to boolean array (y, x); white is measured."""
    return panels({title: np.asarray(mask, float) for title, mask in named.items()}, window=1.0, aspect=aspect)


def kspace_magnitude(kspace):
    """Log magnitude of centred k-space (y, x) for :func:`panels`, zero for the smallest value worth showing."""
    magnitude = _magnitude(kspace)
    return np.log1p(magnitude / max(np.percentile(magnitude, 50), 1e-12))


def learning_curves(fits):
    """Validation nRMSE against the step, for a dict of method to :class:`gleam.training.Fit`; the kept one is marked."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
        for name, fit in fits.items():
            steps, values = ([row[key] for row in fit.history] for key in ("step", "nrmse"))
            axis.plot(steps, values, color=COLORS.get(name), label=name, lw=1.8)
            axis.plot(fit.best_step, fit.best_nrmse, "o", color=COLORS.get(name))
        axis.set(xlabel="training step", ylabel="validation nRMSE")
        axis.legend()
    return figure


def per_slice(records, metric="psnr", unit="dB"):
    """Each method's score on every test slice, one line per slice joining the methods: paired, so shifts can be seen."""
    names = list(records)
    values = np.array([records[name].table[metric] for name in names])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
        axis.plot(range(len(names)), values, color="#bbbbbb", lw=0.6, zorder=1)
        for i, name in enumerate(names):
            axis.plot(i, values[i].mean(), "o", ms=9, color=COLORS.get(name, "black"), zorder=2)
        axis.set_xticks(range(len(names)), names)
        axis.set_ylabel(f"{metric.upper()} ({unit})" if unit else metric)
    return figure


def save_png(figure, path):
    """Write ``figure`` as PNG, whole or not at all."""
    from gleam.files import written_whole

    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _magnitude(image):
    return np.abs(np.asarray(image))


def _size(image, aspect, n_columns, n_rows):
    n_y, n_x = np.asarray(image).shape[-2:]
    return 2.3 * n_columns, 2.3 * n_rows * (n_y * aspect / n_x) + 0.35 * n_rows


def _image(axis, magnitude, window, aspect, title="", cmap="gray"):
    axis.imshow(magnitude, cmap=cmap, vmin=0, vmax=window, aspect=aspect)
    axis.set(xticks=[], yticks=[], title=title)


def _corner(axis, text):
    axis.text(
        0.03, 0.03, text, transform=axis.transAxes, color="white", fontsize=8, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.55, "lw": 0, "pad": 1.5},
    )  # fmt: skip
