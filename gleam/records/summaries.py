"""What chapters say in words: of data, methods, costs, failed inversions, and methods compared in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gleam.cost.timing import Cost, paired_ratio
from gleam.datasets.slices import Slices
from gleam.records.comparisons import compare
from gleam.records.conditions import Conditions
from gleam.records.intervals import SMALLEST, difference
from gleam.records.scores import METRICS, score_name
from gleam.records.tables import markdown_table, scores_table
from gleam.training.experiments import Experiment


def splits_text(data: tuple[Slices, Slices, Slices]) -> str:
    """Slices (or series) and subjects of (train, val, test), such as "80 slices of 8 subjects to train on, ..."."""
    train, val, test = ((len(split), len(set(split.subjects))) for split in data)
    kind = "series" if len(data[0].shapes[0]) == 5 else "slices"
    return (
        f"{train[0]} {kind} of {train[1]} subjects to train on, {val[0]} of {val[1]} to validate, "
        f"{test[0]} of {test[1]} to test"
    )


def methods_text(experiment: Experiment) -> str:
    """The trained methods of an experiment as a list (Markdown): strategy, number of steps, and depth if it differs."""
    methods = experiment.methods
    is_deeper = len({method.n_iterations for method in methods.values()}) > 1
    return "\n".join(
        f"- {name}: `{method.strategy}`, {f'{method.n_iterations} iterations, ' if is_deeper else ''}"
        f"{method.n_steps:,} steps"
        for name, method in methods.items()
    )


def cost_text(costs: Mapping[str, Cost], paper: pd.DataFrame, *, base: str = "End-to-end") -> str:
    """Memory and time of a step relative to one method, for each of the others.

    Parameters
    ----------
    costs : dict
        Of method to cost, from one call of :func:`gleam.cost.measure`.
    paper : DataFrame
        The paper's seconds_per_step and memory_gb, with the method as index (:meth:`gleam.records.Build.paper`). Each
        number is followed by the paper's, where it has the method.
    base : str
        The method to compare with.

    Returns
    -------
    str
        Such as "GLEAM 3.1 times less memory (the paper: 3.0), 1.05 times as long (the paper: 1.01)".
    """
    words = []
    for name, cost in costs.items():
        if name == base:
            continue
        memory, time = costs[base].peak_bytes / cost.peak_bytes, paired_ratio(cost, costs[base])
        of_paper = ["", ""]
        if name in paper.index:
            gb, seconds = paper["memory_gb"], paper["seconds_per_step"]
            ratios = f"{gb[base] / gb[name]:.1f}", f"{seconds[name] / seconds[base]:.2f}"
            of_paper = [f" (the paper: {ratio})" for ratio in ratios]
        words.append(f"{name} {memory:.1f} times less memory{of_paper[0]}, {time:.2f} times as long{of_paper[1]}")
    return "; ".join(words)


def inversions_text(history: Sequence[dict]) -> str:
    """How many inversions of memory-efficient learning (MEL) were replaced, from the history of its fit, in words."""
    n_replaced, n = count_inversions(history)
    if not n:
        return "MEL inverted nothing in training"
    return f"{n_replaced} of {n} inversions of MEL were replaced in training"


def count_inversions(history: Sequence[dict]) -> tuple[int, int]:
    """How many inversions were replaced in training, and how many there were; (0, 0) for other methods."""
    n_replaced, n = (sum(row.get(key, 0) for row in history) for key in ("n_fallbacks", "n_inversions"))
    return n_replaced, n


def compare_groups(
    groups: Conditions,
    ours: str = "GLEAM",
    theirs: str = "End-to-end",
    metrics: Sequence[str] = METRICS,
) -> str:
    """Two methods compared in words in several groups, as a list (Markdown).

    Parameters
    ----------
    groups : dict
        Of the name of a group to a dict of method to record.
    ours, theirs : str
        The sentences are about `ours` against `theirs`.
    metrics : sequence of str
        Scores to compare.

    Returns
    -------
    str
        A line per group, from :func:`gleam.records.compare`.

    Raises
    ------
    ValueError
        As :func:`gleam.records.compare`.
    """
    return "\n".join(f"- {group}: {compare(runs[ours], runs[theirs], metrics)}" for group, runs in groups.items())


def count_changes(groups: Conditions, metric: str, ours: str = "GLEAM", theirs: str = "End-to-end") -> str:
    """In how many groups a score changes by more than the smallest difference that matters, as a sentence.

    The groups are those of :func:`compare_groups`, the smallest difference is that of :data:`gleam.records.SMALLEST`.
    """
    changes = [difference(runs[ours], runs[theirs], metric).mean for runs in groups.values()]
    n_lower, n_higher = (sum(sign * change > SMALLEST[metric] for change in changes) for sign in (-1, 1))
    return (
        f"By more than the smallest difference that matters, the {score_name(metric)} is lower with {ours} in "
        f"{n_lower} of {len(changes)} comparisons and higher in {n_higher}."
    )


def comparison_report(
    groups: Conditions,
    caption: str,
    name: str,
    *,
    of: str,
    metrics: Sequence[str] = METRICS,
    ours: str = "GLEAM",
    theirs: str = "End-to-end",
) -> str:
    """Table (MyST) of mean scores of all methods in several groups, and two methods compared in words under it.

    Parameters
    ----------
    groups, ours, theirs, metrics
        As in :func:`compare_groups`.
    caption, name : str
        Caption and label of the table.
    of : str
        What the groups are, for the head of their column.
    """
    scores: Any = {
        (group, method): {metric: run.value(metric) for metric in metrics}
        for group, runs in groups.items()
        for method, run in runs.items()
    }
    table = markdown_table(scores_table(scores, [of, "Method"]), caption, name)
    return f"{table}\n{compare_groups(groups, ours, theirs, metrics)}"
