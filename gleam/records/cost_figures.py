"""Figures about cost: predictions beside measurements, memory against time, how deep fits, the roofline."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from gleam.cost.planning import Plan
from gleam.cost.prediction import MAX_ITERATIONS
from gleam.records.canvas import COLORS, Figure, one_axis

CYCLE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#56307a", "#8c8c8c"]  # of other points


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
    with one_axis(4.2) as (figure, axis):
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
    with one_axis(5.0) as (figure, axis):
        _points(axis, points)
        right, top = (1.1 * max(values) for values in zip(*points.values(), strict=True))
        axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, right), ylim=(0, top))
        figure.legend(loc="outside lower center")
    return figure


def depths(plan: Plan, *, xlabel: str = "iterations N") -> Figure:
    """The deepest network that fits, by way of training: `plan` is from :func:`gleam.plan`.

    GLEAM keeps the length of its modules. Where the network's own N fits (dashed line) a line is filled at its end.
    """
    table, own, names = plan.table[::-1], plan.memory.n_iterations, []  # axes count from below
    with one_axis(0.42 * len(table) + 0.9) as (figure, axis):
        axis.axvline(own, color="black", lw=0.8, ls="--")
        for y, (name, row) in enumerate(table.iterrows()):
            method, inside = str(name).split(", M =")[0], ",\nwith checkpoints" * str(name).endswith("checkpoints")
            names.append(method if row.modules == 1 else f"GLEAM, {-(-own // row.modules)} per module{inside}")
            if row.deepest:
                axis.plot([1, row.deepest], [y, y], color=COLORS[method], lw=2)
                face = COLORS[method] if row.fits else "white"
                axis.plot(row.deepest, y, "o", color=COLORS[method], mfc=face, ms=8, zorder=4)
            # the plan looks no deeper than that
            text = f"{'≥ ' * (row.deepest == MAX_ITERATIONS)}{row.deepest or 'none'}"
            _beside(axis, text, (max(1, row.deepest), y), (8, 0), va="center", backgroundcolor="white")
        axis.set_yticks(range(len(table)), names)
        # room for the numbers at the ends of the lines
        axis.set(xscale="log", xlim=(0.8, 14 * MAX_ITERATIONS), ylim=(-0.6, len(table) - 0.4), xlabel=xlabel)
        axis.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
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
    # by number format, such as bf16
    ceilings = {key.split("_")[0]: rate for key, rate in limits.items() if key.endswith("_flops_per_second")}
    places = [rate / bandwidth for rate in ceilings.values()] + [x for x, _ in points.values()]
    left, right = min(places) / 4, max(places) * 8
    with one_axis(5.0) as (figure, axis):
        top = max(ceilings.values()) / bandwidth  # where the slope meets the highest ceiling
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
        color = COLORS.get(name.split(", M =")[0], CYCLE[i % len(CYCLE)])  # one colour for GLEAM with any M
        size = max(8, 12 - i)  # a larger marker behind a smaller one stays visible
        axis.plot(*point, marker, color=color, mec="white", ms=size, label=name)


def _rate(value, unit):
    """Two digits and a prefix, such as 4.1 TB/s."""
    return EngFormatter(unit)(float(f"{value:.2g}"))


def _beside(axis, text, point, offset, **alignment):
    axis.annotate(text, point, offset, textcoords="offset points", **alignment)
