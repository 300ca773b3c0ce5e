"""Gaps to end-to-end training and what they cost, as tables and sentences of the book."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gleam.records.gaps import gap_table, gap_text, gaps, share_of_activations, share_of_time, times_as_long
from gleam.records.intervals import SMALLEST_RATIO
from gleam.records.scores import MISSING
from gleam.records.storage import Record
from gleam.records.tables import markdown_table


def gap_report(
    runs: dict[str, Record], bases: dict[str, str], costs: dict[str, Record], caption: str, name: str
) -> str:
    """The table of :func:`gap_table` in MyST.

    Parameters
    ----------
    runs, bases, costs : dict
        As for :func:`gap_table`.
    caption : str
        In it `{source}` stands for what the test data were, and `{n_subjects}` for the number of subjects.
    name : str
        Label of the table.

    Returns
    -------
    str
        Empty if no method of `bases` has a record.
    """
    first = next((runs[method] for method in bases if method in runs), None)
    if first is None:
        return ""
    words = {"source": first.source, "n_subjects": first.table["subject"].nunique()}
    return markdown_table(gap_table(runs, bases, costs), caption.format(**words), name)


def goal_text(
    runs: dict[str, Record],
    bases: dict[str, str],
    costs: dict[str, Record],
    *,
    within: float,
    activations: float,
    longest: float = SMALLEST_RATIO,
) -> str:
    """Whether one of several methods reaches a goal, and how near each of them comes, in words (MyST).

    Parameters
    ----------
    runs, bases, costs : dict
        As for :func:`gap_table`; the methods of `bases` are tried, except those that are their own base. Each needs its
        cost.
    within : float
        By how many dB at most a method may be behind its base; the whole interval of the gap counts.
    activations : float
        The share of the base's activations, as measured at the peak of a step, that its step may keep.
    longest : float
        How long its step may take, as a share of that of the base.

    Returns
    -------
    str
    """
    is_reached, words = False, []
    compared = {method: base for method, base in bases.items() if method != base}
    for method, gap in gaps(runs, compared).items():
        own, base = costs[method], costs[bases[method]]
        kept, time = share_of_activations(own, base), share_of_time(own, base)
        is_reached |= gap.low > -within and kept <= activations and time <= longest
        words.append(
            f"{method}: {gap_text(runs[method], runs[bases[method]])}, {kept:.2f} of the activations, {time:.2f} of "
            "the time"
        )
    return f"**{'reached' if is_reached else 'not reached'}**. {'; '.join(words)}."


def step_text(own: Record, base: Record) -> str:
    """What a step costs beside that of a base method, such as "2.1 times less memory, 1.02 times the time"."""
    needs: list[Any] = [record.value("peak_bytes") for record in (base, own)]
    return f"{needs[0] / needs[1]:.1f} times less memory, {share_of_time(own, base):.2f} times the time"


def curve_in_seconds(run: Record, cost: Record, base: Record) -> tuple[list[float], list[float]]:
    """The validation nRMSE of a training against its time.

    Parameters
    ----------
    run : Record
        Of the training.
    cost : Record
        What its step costs.
    base : Record
        What a step costs with which that one is compared (:func:`share_of_time`): the seconds are those of its run.

    Returns
    -------
    seconds, nrmse : list of float
    """
    own: Any = base.cost
    second = own["seconds_per_step"] * share_of_time(cost, base)
    return [row["step"] * second for row in run.history], [row["nrmse"] for row in run.history]


def trainings_report(trainings: Mapping[str, tuple[Record, Record]], base: Record, caption: str, name: str) -> str:
    """Table (MyST) of trainings with what they cost and what they reach.

    Parameters
    ----------
    trainings : dict
        Of label to the record of a training, and the record of what its step costs.
    base : Record
        What the step of a base method costs: times are shares of its own. All records of costs have `peak_bytes`.
    caption, name : str
        Caption and label of the table. In the caption `{peak_mb}` stands for the memory of the base method.
    """
    rows = {}
    for label, (run, cost) in trainings.items():
        rows[label] = {
            "Memory (MB)": _megabytes(cost),
            "Time of a step": f"{share_of_time(cost, base):.2f}",
            "Parameters": f"{run.n_parameters:,}",
            "Steps": f"{run.n_steps_done:,}",
            "PSNR (dB)": f"{run.value('psnr'):.2f}",
        }
    return markdown_table(rows, caption.format(peak_mb=_megabytes(base)), name, index=["Training"])


def checkpointing_times(
    folds: Mapping[int, Mapping[str, Record]], bases: Mapping[str, str], costs: Mapping[str, Record]
) -> dict[str, list[float]]:
    """Of method to when checkpointing has its lowest error in each fold, sorted, as a share of the method's own time.

    The parameters are those of :func:`checkpointing_report`.
    """
    longer = share_of_time(costs["Checkpointing"], costs["End-to-end"])
    found = {}
    for method, base in bases.items():
        both = [runs for runs in folds.values() if {method, base} <= runs.keys()]
        if method != base and both:
            step = longer * share_of_time(costs[base], costs[method])
            found[method] = sorted(times_as_long(runs[base], runs[method], step) for runs in both)
    return found


def checkpointing_report(
    folds: Mapping[int, Mapping[str, Record]],
    bases: Mapping[str, str],
    costs: Mapping[str, Record],
    caption: str,
    name: str,
    *,
    best: str,
) -> str:
    """Table (MyST) of how long checkpointing takes to reach the validation error of greedy training, in every fold.

    Checkpointing takes the steps of end-to-end training, each of them longer, so its learning curve is known.

    Parameters
    ----------
    folds : dict
        Of fold to a dict of method to record, with learning curves. A fold may lack methods.
    bases : dict
        Of method to end-to-end training with the same loss and network. Methods that are their own base are left out.
    costs : dict
        Of method, and of "Checkpointing", to record, with costs measured in one run.
    caption, name : str
        Caption and label of the table. Times are shares of the time in which the method has its lowest error; behind
        them stands in how many folds checkpointing is sooner.
    best : str
        The end-to-end training that is best with checkpoints, whatever the loss and the network of the method.
    """
    alike = checkpointing_times(folds, bases, costs)
    of_best = checkpointing_times(folds, dict.fromkeys(alike, best), costs)
    rows = {
        method: {
            "Memory (MB)": _megabytes(costs[method]),
            "Checkpointing is there after": _times_text(times),
            "The best checkpointing after": _times_text(of_best.get(method, [])),
        }
        for method, times in alike.items()
    }
    memory = _megabytes(costs["Checkpointing"])
    return markdown_table(rows, caption.format(memory=memory), name, index=["Method"]) if rows else ""


def _times_text(times):
    """Times in every fold, and in how many of them they are below 1."""
    each = ", ".join("never" if math.isinf(time) else f"{time:.2f}" for time in times)
    return f"{each} ({sum(time < 1 for time in times)} of {len(times)})" if times else MISSING


def _megabytes(cost):
    return f"{cost.value('peak_bytes') / 1e6:.1f}"
