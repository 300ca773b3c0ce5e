"""All figures of the book: the curves, bars and points drawn here, and the pictures of :mod:`.pictures`.

Each function draws one figure and returns it; nothing here computes a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from gleam.records import Record, half_width
from gleam.records.pictures import (
    ERROR_GAIN,
    STYLE,
    WIDTH,
    Figure,
    compare,
    kspace_magnitude,
    masks,
    panels,
    source,
)
from gleam.training import Fit

__all__ = [
    "COLORS", "ERROR_GAIN", "STYLE", "Figure", "compare", "curves", "differences", "kspace_magnitude",
    "learning_curves", "masks", "panels", "per_slice", "predictions", "roofline", "source", "stacked", "traces",
    "tradeoff",
]  # fmt: skip

COLORS = {
    "Zero-filled": "#8c8c8c", "CS": "#56b4e9", "End-to-end": "#0072b2", "Checkpointing": "#009e73", "MEL": "#cc79a7",
    "GLEAM": "#d55e00", "End-to-end, equal compute": "#56307a",
    "P-GLEAM, in turn": "#e69f00", "P-GLEAM, pipelined": "#a6341b", "Offloading": "black",
}  # fmt: skip
_CYCLE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#56307a", "#8c8c8c"]  # of other points


def learning_curves(fits: dict[str, Fit], levels: dict[str, float] | None = None) -> Figure:
    """Validation nRMSE against the training step; rings mark the weights that were kept.

    Parameters
    ----------
    fits : dict
        Of method to :class:`gleam.Fit`.
    levels : dict, optional
        Of a method without training, such as CS, to its nRMSE, drawn as a dashed line.
    """
    with _axis(3.0) as (figure, axis):
        for i, (name, fit) in enumerate(fits.items()):
            steps, values = ([row[key] for row in fit.history] for key in ("step", "nrmse"))
            axis.plot(steps, values, color=COLORS.get(name), label=name, lw=1.8)
            axis.plot(fit.best_step, fit.best_nrmse, "o", color=COLORS.get(name), mfc="none", ms=6 + 4 * i)
        for name, level in (levels or {}).items():
            axis.axhline(level, color=COLORS.get(name, "black"), ls="--", lw=1.2, label=name)
        axis.set(xlabel="training step", ylabel="validation nRMSE")
        axis.legend()
    return figure


def curves(
    lines: dict[str, tuple[Sequence[float], Sequence]],
    *,
    xlabel: str,
    ylabel: str,
    log: str = "",
    reference: float | None = None,
) -> Figure:
    """Lines with markers.

    Parameters
    ----------
    lines : dict
        Of label to (x, y). For y of shape (sample, x) the mean is drawn, with its standard deviation as a band.
    xlabel, ylabel : str
        Of the axes.
    log : str
        Axes to scale logarithmically: "x", "y" or "xy".
    reference : float, optional
        A value of y to mark by a dashed line.
    """
    with _axis(3.1) as (figure, axis):
        for (name, (x, y)), marker in zip(lines.items(), itertools.cycle("os^Dv")):
            curve = np.atleast_2d(np.asarray(y, float))
            mean, spread = curve.mean(0), curve.std(0)
            if "y" in log:
                mean = np.where(mean > 0, mean, np.nan)  # an exact zero has no place on this axis
            (line,) = axis.plot(x, mean, marker=marker, ms=4, lw=1.6, label=name, color=COLORS.get(name))
            if len(curve) > 1:
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
            figure.legend(loc="outside lower center")
            figure.set_figheight(3.1 + 0.2 * len(lines))
        else:
            axis.legend()
    return figure


def traces(lines: dict[str, Sequence[float]], *, xlabel: str, ylabel: str) -> Figure:
    """Thin lines of many points, each against the number of the point: `lines` is a dict of label to values."""
    with _axis(3.0) as (figure, axis):
        for name, values in lines.items():
            axis.plot(values, lw=1.4, label=name, color=COLORS.get(name))
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
        axis.legend()
    return figure


def stacked(bars: dict[str, dict[str, float]], *, ylabel: str) -> Figure:
    """One bar per method, stacked from its parts.

    Parameters
    ----------
    bars : dict
        Of label to a dict of part to height. A part has the same colour in every bar; parts are stacked in the order in
        which they first occur.
    ylabel : str
        Of the axis.
    """
    parts = list(dict.fromkeys(part for heights in bars.values() for part in heights))
    with _axis(3.6, **{"axes.grid.axis": "y", "axes.axisbelow": True}) as (figure, axis):
        bottom = np.zeros(len(bars))
        for part, color in zip(parts, itertools.cycle(["#0072b2", "#e69f00", "#8c8c8c", "#009e73", "#cc79a7"])):
            heights = np.array([heights.get(part, 0.0) for heights in bars.values()])
            axis.bar(range(len(bars)), heights, 0.65, bottom=bottom, label=part, color=color)
            bottom += heights
        for i, total in enumerate(bottom):
            axis.text(i, total, f"{total:.2f}", ha="center", va="bottom")
        _name_ticks(axis, bars)
        axis.set(ylabel=ylabel, ylim=(0, 1.1 * bottom.max()))
        figure.legend(loc="outside upper center", ncols=min(3, len(parts)))
    return figure


def predictions(
    measured: dict[str, tuple[Sequence[float], Sequence[float]]],
    predicted: dict[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    at_points: bool = False,
    ideal: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Figure:
    """Measured points as filled markers, and the predictions of a model in the same colour.

    Both axes start at zero, so that heights can be compared.

    Parameters
    ----------
    measured, predicted : dict
        Of label to (x, y).
    xlabel, ylabel : str
        Of the axes.
    at_points : bool
        Draw predictions as open markers joined by dashes; otherwise as lines without markers.
    ideal : (x, y), optional
        A dotted line for comparison.
    """
    names = list(dict.fromkeys([*predicted, *measured]))
    with _axis(4.2) as (figure, axis):
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
        figure.legend(loc="outside lower center")
    return figure


def tradeoff(points: dict[str, tuple[float, float]], *, xlabel: str, ylabel: str) -> Figure:
    """One point per method, named in the legend: `points` is a dict of label to (x, y). Both axes start at zero."""
    with _axis(5.0) as (figure, axis):
        _points(axis, points)
        right, top = (1.1 * max(values) for values in zip(*points.values(), strict=True))
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, right), ylim=(0, top))
        figure.legend(loc="outside lower center")
    return figure


def roofline(points: dict[str, tuple[float, float]], limits: dict[str, float], *, label: str = "") -> Figure:
    """Achieved rates of steps under the limits of their device: FLOP per second against FLOP per byte, both by decades.

    Parameters
    ----------
    points : dict
        Of label to (intensity in FLOP per byte, FLOP/s).
    limits : dict
        From :func:`gleam.cost.roofline.limits`: "copy_bytes_per_second" is the slanted line, every
        "..._flops_per_second" a level one.
    label : str
        Title of the legend at the foot, such as the name of the device.
    """
    bandwidth = limits["copy_bytes_per_second"]
    ceilings = {key.split("_")[0]: rate for key, rate in limits.items() if key.endswith("_flops_per_second")}
    places = [rate / bandwidth for rate in ceilings.values()] + [x for x, _ in points.values()]
    left, right = min(places) / 4, max(places) * 8
    with _axis(5.0) as (figure, axis):
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
        figure.legend(loc="outside lower center", title=label or None)
    return figure


def _points(axis, points):
    for i, ((name, point), marker) in enumerate(zip(points.items(), itertools.cycle("os^Dv<>"))):
        color = COLORS.get(name.split(", M =")[0], _CYCLE[i % len(_CYCLE)])
        size = max(8, 12 - i)  # a larger marker behind a smaller one stays visible
        axis.plot(*point, marker, color=color, mec="white", ms=size, label=name)


def _rate(value, unit):
    """Two digits and a prefix, such as 4.1 TB/s."""
    return EngFormatter(unit)(float(f"{value:.2g}"))


def _beside(axis, text, point, offset, **alignment):
    axis.annotate(text, point, offset, textcoords="offset points", **alignment)


def per_slice(records: dict[str, Record], metric: str = "psnr", unit: str = "dB") -> Figure:
    """Mean score of each method, and a line for each test slice that joins its scores, so that shifts can be seen.

    Parameters
    ----------
    records : dict
        Of method to :class:`gleam.Record`.
    metric : str
        Column of the scores.
    unit : str
        Of the metric; "" if it has none.
    """
    names = list(records)
    values = np.array([records[name].table[metric] for name in names])
    with _axis(3.0) as (figure, axis):
        axis.plot(range(len(names)), values, color="#bbbbbb", lw=0.6, zorder=1)
        for i, name in enumerate(names):
            axis.plot(i, values[i].mean(), "o", ms=9, color=COLORS.get(name, "black"), zorder=2)
        _name_ticks(axis, names)
        axis.set_ylabel(f"{metric.upper()} ({unit})" if unit else metric)
    return figure


def differences(by_subject: pd.DataFrame, ylabel: str) -> Figure:
    """Differences of methods to a base method, subject by subject, with the 95 % interval of their mean.

    A grey line joins the values of a subject; the dashed line is the base method. The interval is over subjects.

    Parameters
    ----------
    by_subject : DataFrame
        Table (subject, method) from :func:`gleam.records.paired`.
    ylabel : str
        Of the axis.
    """
    with _axis(3.1) as (figure, axis):
        places = range(by_subject.shape[1])
        axis.axhline(0, color="black", lw=0.8, ls="--")
        axis.plot(places, by_subject.to_numpy().T, color="#bbbbbb", lw=0.6, marker=".", ms=5, zorder=1)
        for i, (name, values) in enumerate(by_subject.items()):
            color = COLORS.get(name.split(", M =")[0], "black")
            axis.errorbar(i + 0.08, values.mean(), half_width(values), fmt="o", ms=8, capsize=5, color=color, zorder=2)
        _name_ticks(axis, by_subject)
        axis.set_ylabel(ylabel)
        axis.margins(x=0.15)
    return figure


def _name_ticks(axis, names):
    """Names of methods below an axis, slanted if there are many."""
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(list(names)) > 4 else {}
    axis.set_xticks(range(len(list(names))), [name.replace(", ", ",\n") for name in names], **slanted)


@contextmanager
def _axis(height, **style):
    """A figure of that height in inches, and its only axis, in the book's style."""
    with matplotlib.rc_context(STYLE | style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()
