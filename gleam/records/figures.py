"""All figures of the book: curves and bars, drawn here, those about cost, and pictures.

Each function draws one figure and returns it; nothing here computes a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from gleam.records import Record, half_width
from gleam.records.canvas import COLORS, STYLE, Figure, name_ticks, one_axis
from gleam.records.cost_figures import CYCLE, depths, predictions, roofline, tradeoff
from gleam.records.intervals import SMALLEST, Difference
from gleam.records.pictures import (
    ERROR_GAIN,
    compare,
    compare_methods,
    kspace_magnitude,
    masks,
    panels,
    saved,
    source,
)
from gleam.records.scores import minus
from gleam.training import Fit

__all__ = [
    "COLORS", "ERROR_GAIN", "STYLE", "Figure", "compare", "compare_methods", "curves", "depths",
    "differences", "intervals", "kspace_magnitude", "learning_curves", "masks", "panels", "per_slice", "predictions",
    "roofline", "saved", "source", "stacked", "step_memory", "traces", "tradeoff",
]  # fmt: skip


def learning_curves(fits: dict[str, Fit], levels: dict[str, float] | None = None) -> Figure:
    """Validation nRMSE against the training step; rings mark the weights that were kept.

    Parameters
    ----------
    fits : dict
        Of method to :class:`gleam.Fit`.
    levels : dict, optional
        Of a method without training, such as CS, to its nRMSE, drawn as a dashed line.
    """
    with one_axis(3.0) as (figure, axis):
        for i, (name, fit) in enumerate(fits.items()):
            steps, values = ([row[key] for row in fit.history] for key in ("step", "nrmse"))
            axis.plot(steps, values, color=COLORS.get(name), label=name, lw=1.8)
            # wider rings for later methods, which may have the same best step
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
    with one_axis(3.1) as (figure, axis):
        for (name, (x, y)), marker in zip(lines.items(), itertools.cycle("os^Dv")):
            curve = np.atleast_2d(np.asarray(y, float))  # one line is one sample
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
        if "x" not in log:  # no ticks between whole steps or iterations
            axis.xaxis.set_major_locator(
                MaxNLocator(integer=all(float(v).is_integer() for x, _ in lines.values() for v in x))
            )
        if len(lines) > 4:  # a legend that long would cover the curves
            figure.legend(loc="outside lower center")
            figure.set_figheight(3.1 + 0.2 * len(lines))
        else:
            axis.legend()
    return figure


def traces(lines: dict[str, Sequence[float]], *, xlabel: str, ylabel: str, top: float | None = None) -> Figure:
    """Thin lines of many points, each against the number of the point.

    Parameters
    ----------
    lines : dict
        Of label to values.
    xlabel, ylabel : str
        Of the axes.
    top : float, optional
        A value that the y axis reaches at least, so that figures can be compared.
    """
    with one_axis(3.0) as (figure, axis):
        for name, values in lines.items():
            axis.plot(values, lw=1.4, label=name, color=COLORS.get(name))
        highest = max([top or 0, *(value for values in lines.values() for value in values)])
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, 1.05 * highest))
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
    # a dict keeps the order and drops repetitions
    parts = list(dict.fromkeys(part for heights in bars.values() for part in heights))
    with one_axis(3.6, **{"axes.grid.axis": "y", "axes.axisbelow": True}) as (figure, axis):
        bottom = np.zeros(len(bars))
        for part, color in zip(parts, itertools.cycle(["#0072b2", "#e69f00", "#8c8c8c", "#009e73", "#cc79a7"])):
            heights = np.array([heights.get(part, 0.0) for heights in bars.values()])
            axis.bar(range(len(bars)), heights, 0.65, bottom=bottom, label=part, color=color)
            bottom += heights
        for i, total in enumerate(bottom):
            axis.text(i, total, f"{total:.2f}", ha="center", va="bottom")
        name_ticks(axis, bars)
        axis.set(ylabel=ylabel, ylim=(0, 1.1 * bottom.max()))
        figure.legend(loc="outside upper center", ncols=min(3, len(parts)))
    return figure


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
    by_slice = [records[name].table.set_index(["subject", "slice"])[metric] for name in names]
    values = pd.concat(by_slice, axis=1, join="inner").to_numpy().T  # a line joins scores of one slice
    with one_axis(3.0) as (figure, axis):
        axis.plot(range(len(names)), values, color="#bbbbbb", lw=0.6, zorder=1)
        for i, name in enumerate(names):
            axis.plot(i, values[i].mean(), "o", ms=9, color=COLORS.get(name, "black"), zorder=2)
        name_ticks(axis, names)
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
    with one_axis(3.1) as (figure, axis):
        places = range(by_subject.shape[1])
        axis.axhline(0, color="black", lw=0.8, ls="--")
        axis.plot(places, by_subject.to_numpy().T, color="#bbbbbb", lw=0.6, marker=".", ms=5, zorder=1)
        for i, (name, values) in enumerate(by_subject.items()):
            color = COLORS.get(name.split(", M =")[0], "black")  # one colour for GLEAM with any M
            # a little beside the dots of the subjects
            axis.errorbar(i + 0.08, values.mean(), half_width(values), fmt="o", ms=8, capsize=5, color=color, zorder=2)
        name_ticks(axis, by_subject)
        axis.set_ylabel(ylabel)
        axis.margins(x=0.15)
    return figure


def intervals(
    groups: dict[str, dict[str, dict[str, Difference]]], *, xlabel: str, linear: float | None = None
) -> Figure:
    """Differences with their 95 % intervals, a line for each condition and a colour for each method.

    The grey band holds the differences that do not matter (:data:`gleam.records.SMALLEST`).

    Parameters
    ----------
    groups : dict
        Of heading ("" for none) to a dict of condition to a dict of method to :class:`gleam.records.Difference`, all
        of one score.
    xlabel : str
        Of the axis.
    linear : float, optional
        The axis is linear up to plus and minus this value and logarithmic beyond.
    """
    lines = [
        line for heading, rows in groups.items() for line in ([(heading, None)] if heading else []) + [*rows.items()]
    ]
    methods = list(dict.fromkeys(method for _, found in lines for method in found or ()))
    with one_axis(0.32 * len(lines) + 1.2, **{"axes.grid.axis": "x"}) as (figure, axis):
        smallest = SMALLEST[next(one.metric for _, found in lines for one in (found or {}).values())]
        axis.axvspan(-smallest, smallest, color="#eeeeee", lw=0)
        axis.axvline(0, color="black", lw=0.8, ls="--")
        for i, (method, marker) in enumerate(zip(methods, itertools.cycle("osD^"))):
            has = [(y, found[method]) for y, (_, found) in enumerate(lines) if found and method in found]
            places = [y + 0.3 * (i - (len(methods) - 1) / 2) for y, _ in has]  # methods stand apart within a line
            means, ends = [one.mean for _, one in has], [[one.low, one.high] for _, one in has]
            spans = np.nan_to_num(np.abs(np.array(ends).T - means))  # one subject has no interval
            color = COLORS.get(method, CYCLE[i])
            axis.errorbar(means, places, xerr=spans, fmt=marker, ms=5, lw=1.4, label=method, color=color)
        for y, (heading, found) in enumerate(lines):
            if found is None:
                axis.text(0.01, y, heading, transform=axis.get_yaxis_transform(), va="center", weight="bold")
        if linear is not None:
            axis.set_xscale("symlog", linthresh=linear, linscale=1.5)
            marks = [x for x in (-5, -2, -1, 0, 1, 2, 5) if axis.get_xlim()[0] <= x <= axis.get_xlim()[1]]
            axis.set_xticks(marks, [minus(f"{x}") for x in marks], minor=False)
        axis.set_yticks(range(len(lines)), [line if found else "" for line, found in lines])
        axis.tick_params(axis="y", length=0)
        axis.set(xlabel=xlabel, ylim=(len(lines) - 0.4, -0.6))  # the first line is at the top
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def step_memory(bytes_held: dict[str, Sequence[float]], *, top: float | None = None) -> Figure:
    """Bytes that a step holds after each of its operations, drawn in MB by :func:`traces`.

    Parameters
    ----------
    bytes_held : dict
        Of label to what :meth:`gleam.cost.Step.trace` returned.
    top : float, optional
        Bytes that the y axis reaches at least.
    """
    lines: dict[str, Sequence[float]] = {name: [n / 1e6 for n in trace] for name, trace in bytes_held.items()}
    top = None if top is None else top / 1e6
    return traces(lines, xlabel="operations of the step", ylabel="memory of the step (MB)", top=top)
