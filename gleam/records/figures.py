"""Every plot of the book. Each function draws one figure and returns it; nothing here computes a result.

Figures do not go through ``pyplot``: nothing is current, nothing has to be closed, the last line of a cell shows one.
"""

import io
import itertools
from contextlib import contextmanager

import matplotlib
import matplotlib.figure
import numpy as np
import torch
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from gleam.datasets.volume import REAL_ANATOMY
from gleam.files import written_whole
from gleam.metrics import psnr, ssim
from gleam.records import half_width

STYLE = {
    "font.size": 10, "axes.titlesize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "legend.frameon": False,
}  # fmt: skip
COLORS = {
    "Zero-filled": "#8c8c8c", "CS": "#56b4e9", "End-to-end": "#0072b2", "Checkpointing": "#009e73", "MEL": "#cc79a7",
    "GLEAM": "#d55e00", "End-to-end, equal compute": "#56307a",
    "P-GLEAM, in turn": "#e69f00", "P-GLEAM, pipelined": "#a6341b", "Offloading": "black",
}  # fmt: skip
ERROR_GAIN = 4


class Figure(matplotlib.figure.Figure):
    """A figure that shows itself as PNG in any notebook and is saved whole."""

    def png(self, dpi=110):
        """The figure as bytes of a PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()

    def save(self, path, dpi=100):
        """Write the figure as PNG to ``path``, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_bytes(self.png(dpi))

    _repr_png_ = png


def compare(reconstructions, target, *, aspect=1.0, label="", window=None):
    """Reconstructions of one slice beside the reference, and their error maps on one scale, as in the paper's Figs.
    3-5.

    ``reconstructions``: dict of method to image (y, x), complex; ``target``: the reference (y, x); ``aspect``: height
    over width of a pixel; ``label``: written at the foot, such as "phantom". PSNR (dB) and SSIM stand in the corner.
    Images are shown up to ``window``, by default the reference's 99th percentile, errors magnified ``ERROR_GAIN`` times
    on the same scale.
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


def panels(images, *, window=None, aspect=1.0, n_columns=None, cmap="gray", label=""):
    """Magnitudes of ``images``, a dict of title to array (y, x), side by side; each up to its own 99th percentile.

    ``window`` sets one common upper limit instead; ``aspect`` "auto" makes every panel square, whatever its sides are.
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


def source(data):
    """What a figure has to say of ``data`` by its ``is_phantom`` and ``acquisition``: phantom, measurement, or real
    anatomy that was measured by simulated coils."""
    if data.is_phantom:
        return "numerical phantom, not a patient"
    return REAL_ANATOMY if data.acquisition == REAL_ANATOMY else "measured data"


def masks(named, *, aspect=1.0):
    """Undersampling masks, a dict of title to boolean array (y, x); what is measured is light, but not paper white."""
    return panels({title: np.asarray(mask, float) for title, mask in named.items()}, window=1.2, aspect=aspect)


def kspace_magnitude(kspace):
    """Log magnitude of centred k-space (y, x) for :func:`panels`, zero for the smallest value worth showing."""
    magnitude = _magnitude(kspace)
    return np.log1p(magnitude / max(np.percentile(magnitude, 50), 1e-12))


def learning_curves(fits, levels=None):
    """Validation nRMSE against the step, for a dict of method to :class:`gleam.Fit`; rings mark what was kept.

    ``levels``: dict of a method without training, such as CS, to its nRMSE there, drawn as a dashed line.
    """
    with _axis(6, 3.2) as (figure, axis):
        for i, (name, fit) in enumerate(fits.items()):
            steps, values = ([row[key] for row in fit.history] for key in ("step", "nrmse"))
            axis.plot(steps, values, color=COLORS.get(name), label=name, lw=1.8)
            axis.plot(fit.best_step, fit.best_nrmse, "o", color=COLORS.get(name), mfc="none", ms=6 + 4 * i)
        for name, level in (levels or {}).items():
            axis.axhline(level, color=COLORS.get(name, "black"), ls="--", lw=1.2, label=name)
        axis.set(xlabel="training step", ylabel="validation nRMSE")
        axis.legend()
    return figure


def curves(lines, *, xlabel, ylabel, log="", reference=None):
    """Lines with markers: ``lines`` is a dict of label to (x, y); y of (sample, x) gives the mean, with its standard
    deviation as a band.

    ``log``: axes to scale logarithmically, "x", "y" or "xy"; ``reference``: a value of y to mark by a dashed line.
    """
    with _axis(6, 3.4) as (figure, axis):
        for (name, (x, y)), marker in zip(lines.items(), itertools.cycle("os^Dv")):
            y = np.atleast_2d(np.asarray(y, float))
            mean, spread = y.mean(0), y.std(0)
            if "y" in log:
                mean = np.where(mean > 0, mean, np.nan)  # an exact zero has no place on this axis
            (line,) = axis.plot(x, mean, marker=marker, ms=4, lw=1.6, label=name, color=COLORS.get(name))
            if len(y) > 1:
                axis.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, lw=0)
        if reference is not None:
            axis.axhline(reference, color="black", lw=0.8, ls="--")
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.set(**{f"{side}scale": "log" for side in log})
        if "x" not in log:
            axis.xaxis.set_major_locator(
                MaxNLocator(integer=all(float(v).is_integer() for x, _ in lines.values() for v in x))
            )
        if len(lines) > 4:
            figure.legend(loc="outside right upper", fontsize=9)
            figure.set_figwidth(8)
        else:
            axis.legend()
    return figure


def stacked(bars, *, ylabel):
    """One bar per method, stacked from its parts: ``bars`` is a dict of label to a dict of part to height.

    Parts have the same colour in every bar, in the order in which they first occur.
    """
    parts = list(dict.fromkeys(part for heights in bars.values() for part in heights))
    with _axis(7, 3.4, **{"axes.grid.axis": "y", "axes.axisbelow": True}) as (figure, axis):
        bottom = np.zeros(len(bars))
        for part, color in zip(parts, itertools.cycle(["#0072b2", "#e69f00", "#8c8c8c", "#009e73", "#cc79a7"])):
            heights = np.array([heights.get(part, 0.0) for heights in bars.values()])
            axis.bar(range(len(bars)), heights, 0.65, bottom=bottom, label=part, color=color)
            bottom += heights
        for i, total in enumerate(bottom):
            axis.text(i, total, f"{total:.2f}", ha="center", va="bottom", fontsize=9)
        axis.set_xticks(range(len(bars)), [name.replace(", ", ",\n") for name in bars])
        axis.set(ylabel=ylabel, ylim=(0, 1.1 * bottom.max()))
        figure.legend(loc="outside upper center", ncols=len(parts), fontsize=9)
    return figure


def predictions(measured, predicted, *, xlabel, ylabel, at_points=False, ideal=None):
    """Measured points as filled markers, and what a model says of the same things in the same colour.

    ``measured`` and ``predicted``: dicts of label to (x, y). Predictions are lines without markers or, with
    ``at_points``, open markers joined by dashes. ``ideal``: (x, y) of a dotted line for comparison. Both axes start at
    zero, so that heights can be compared.
    """
    names = list(dict.fromkeys([*predicted, *measured]))
    with _axis(8, 3.4) as (figure, axis):
        if ideal is not None:
            axis.plot(*ideal, color="black", lw=0.8, ls=":", label="ideal")
        for i, (name, marker) in enumerate(zip(names, itertools.cycle("os^Dv"))):
            color = COLORS.get(name, f"C{i}")
            if name in predicted:
                style = {"ls": "--", "marker": marker, "mfc": "white", "ms": 8} if at_points else {}
                label = f"{name}: {'simulated' if at_points else 'model'}"
                axis.plot(*predicted[name], color=color, lw=1.4, label=label, **style)
            if name in measured:
                axis.plot(*measured[name], marker, color=color, ms=6, label=f"{name}: measured", zorder=3)
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside right upper", fontsize=9)
    return figure


def tradeoff(points, *, xlabel, ylabel):
    """One point per method, named in the legend: ``points`` is a dict of label to (x, y). Both axes start at zero."""
    with _axis(6, 4.8) as (figure, axis):
        _points(axis, points)
        right, top = (1.1 * max(values) for values in zip(*points.values(), strict=True))
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, right), ylim=(0, top))
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def roofline(points, limits, *, label=""):
    """Achieved rates of steps under the limits of their device: FLOP per second against FLOP per byte, both by decades.

    ``points``: dict of label to (intensity, FLOP/s); ``limits``: what :func:`gleam.cost.roofline.limits` returned, of
    which "copy_bytes_per_second" makes the slanted line and every "..._flops_per_second" a level one; ``label``:
    written at the foot, such as the name of the device.
    """
    bandwidth = limits["copy_bytes_per_second"]
    ceilings = {key.split("_")[0]: rate for key, rate in limits.items() if key.endswith("_flops_per_second")}
    places = [rate / bandwidth for rate in ceilings.values()] + [x for x, _ in points.values()]
    left, right = min(places) / 4, max(places) * 8
    with _axis(6, 4.8) as (figure, axis):
        top = max(ceilings.values()) / bandwidth
        axis.plot([left, top], [left * bandwidth, top * bandwidth], color="black", lw=1.2)
        _beside(axis, f"memory: {_rate(bandwidth, 'B/s')}", (left, left * bandwidth), (8, -2), va="center")
        for name, rate in ceilings.items():
            axis.plot([rate / bandwidth, right], [rate, rate], color="black", lw=1.2)
            _beside(axis, f"{name}: {_rate(rate, 'FLOP/s')}", (right, rate), (-2, 3), ha="right")
        _points(axis, points)
        axis.set(xscale="log", yscale="log", xlabel="intensity (FLOP per byte)", ylabel="achieved (FLOP/s)")
        labels = {"major_formatter": EngFormatter(), "minor_formatter": EngFormatter()}  # one notation in all decades
        axis.yaxis.set(minor_locator=LogLocator(subs=(2, 5)), **labels)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9, title=label or None)
    return figure


_CYCLE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#56307a", "#8c8c8c"]


def _points(axis, points):
    for i, ((name, point), marker) in enumerate(zip(points.items(), itertools.cycle("os^Dv<>"))):
        color = COLORS.get(name.split(", M =")[0], _CYCLE[i % len(_CYCLE)])
        axis.plot(*point, marker, color=color, mec="white", ms=max(8, 12 - i), label=name)  # one behind another shows


def _rate(value, unit):
    """Two digits and a prefix, such as 4.1 TB/s."""
    return EngFormatter(unit)(float(f"{value:.2g}"))


def _beside(axis, text, point, offset, **alignment):
    axis.annotate(text, point, offset, textcoords="offset points", fontsize=9, **alignment)


def per_slice(records, metric="psnr", unit="dB"):
    """Each method's score on every test slice; a line joins the scores of a slice, so that shifts can be seen."""
    names = list(records)
    values = np.array([records[name].table[metric] for name in names])
    with _axis(6, 3.2) as (figure, axis):
        axis.plot(range(len(names)), values, color="#bbbbbb", lw=0.6, zorder=1)
        for i, name in enumerate(names):
            axis.plot(i, values[i].mean(), "o", ms=9, color=COLORS.get(name, "black"), zorder=2)
        axis.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
        axis.set_ylabel(f"{metric.upper()} ({unit})" if unit else metric)
    return figure


def differences(by_subject, ylabel):
    """Differences of methods to one of them, subject by subject, with the mean's 95 % interval over subjects.

    ``by_subject``: table (subject, method), as :func:`gleam.records.paired` returns it. A grey line joins the values of
    a subject; the dashed line is the method that all are compared with.
    """
    with _axis(6, 3.4) as (figure, axis):
        places = range(by_subject.shape[1])
        axis.axhline(0, color="black", lw=0.8, ls="--")
        axis.plot(places, by_subject.to_numpy().T, color="#bbbbbb", lw=0.6, marker=".", ms=5, zorder=1)
        for i, (name, values) in enumerate(by_subject.items()):
            color = COLORS.get(name.split(", M =")[0], "black")
            axis.errorbar(i + 0.08, values.mean(), half_width(values), fmt="o", ms=8, capsize=5, color=color, zorder=2)
        axis.set_xticks(places, [name.replace(", ", ",\n") for name in by_subject])
        axis.set_ylabel(ylabel)
        axis.margins(x=0.15)
    return figure


@contextmanager
def _axis(width, height, **style):
    """A figure of that size in inches and its only axis, in the book's style."""
    with matplotlib.rc_context(STYLE | style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


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
