"""Results of a cross-validation: the folds' records as one, and differences with intervals over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from gleam.cost.timing import Cost, paired_ratio
from gleam.records.comparisons import in_words, verdict, with_interval
from gleam.records.intervals import difference, differing
from gleam.records.scores import HEADS, METRICS, MISSING, OF_SUBJECTS, change_with_unit, score_name
from gleam.records.storage import Record, load_experiment
from gleam.records.tables import markdown_table, scores_table, table


def cross_validation(
    folder: str | Path, experiment: str, n_folds: int, methods: Sequence[str]
) -> tuple[dict[int, dict[str, Record]], dict[str, Record]]:
    """Load the records of a cross-validation: <experiment>_fold1, ..., and what was measured once, <experiment>_cost.

    Parameters
    ----------
    folder : path
        Holds <experiment>/<method>.json.
    experiment : str
        Name without the fold.
    n_folds : int
        Folds that have no records are left out.
    methods : sequence of str
        Which methods, in which order, the folds together have.

    Returns
    -------
    folds : dict
        Of fold, from 1, to a dict of method to record.
    runs : dict
        Of method to one record for all folds (:func:`pooled`).
    """
    folds = _folds(folder, experiment, n_folds)
    # some methods were only measured, such as checkpointing
    together = pooled(folds) | load_experiment(folder, f"{experiment}_cost") if folds else {}
    return folds, {method: together[method] for method in methods if method in together}


def over_folds(
    folder: str | Path, experiment: str, n_folds: int, methods: Sequence[str] | None = None
) -> dict[str, Record]:
    """Records of `methods`, each over those folds of a cross-validation that have all of them; empty if none has.

    Without `methods`, those that every fold has. The other parameters are those of :func:`cross_validation`, and errors
    raised those of :func:`pooled`.
    """
    whole = complete_folds(folder, experiment, n_folds, methods)
    return pooled(whole) if whole else {}


def complete_folds(
    folder: str | Path, experiment: str, n_folds: int, methods: Sequence[str] | None = None
) -> dict[int, dict[str, Record]]:
    """Records of the folds that have all `methods`, of fold to method to record; the parameters as in `over_folds`."""
    found = _folds(folder, experiment, n_folds)
    if methods is None:
        methods = [m for m in next(iter(found.values()), {}) if all(m in runs for runs in found.values())]
    return {fold: {m: runs[m] for m in methods} for fold, runs in found.items() if set(methods) <= set(runs)}


def _folds(folder, experiment, n_folds):
    """Records of the folds that have some."""
    found = {fold: load_experiment(folder, f"{experiment}_fold{fold}") for fold in range(1, n_folds + 1)}
    return {fold: runs for fold, runs in found.items() if runs}


def pooled(folds: dict[Any, dict[str, Record]]) -> dict[str, Record]:
    """The folds of a cross-validation as one record per method.

    Parameters
    ----------
    folds : dict
        Of fold to a dict of method to record, as :func:`gleam.records.load_experiment` returns it.

    Returns
    -------
    dict
        Of method to :class:`gleam.Record`. Each record holds the scores of all folds; everything else is that of the
        first fold.

    Raises
    ------
    ValueError
        If the folds do not belong together: one of them has other methods or settings, or a subject is tested twice.
    """
    (first, methods), *others = folds.items()
    for fold, found in others:
        if set(found) != set(methods):
            raise ValueError(f"fold {fold} has records of {sorted(found)}, fold {first} of {sorted(methods)}")
        for method, record in found.items():
            if apart := differing(record, methods[method]):
                raise ValueError(f"{method} of fold {fold} differs from fold {first} in {', '.join(apart)}")
    together = {}
    for method, record in methods.items():
        scores = [row for found in folds.values() for row in found[method].scores]
        tested = [subject for found in folds.values() for subject in {row["subject"] for row in found[method].scores}]
        # it would count twice in the interval over subjects
        if twice := {subject for subject in tested if tested.count(subject) > 1}:
            raise ValueError(f"{method} was tested on subject {min(twice)} in more than one fold")
        together[method] = replace(record, scores=scores)
    return together


def paired(runs: dict[str, Record], base: str, metric: str = "psnr") -> pd.DataFrame:
    """Differences of the scores of all other methods to those of a base method.

    Parameters
    ----------
    runs : dict
        Of method to record; those without scores are left out.
    base : str
        The method to compare with.
    metric : str
        Column of the scores.

    Returns
    -------
    DataFrame
        Table (subject, method) of means over slices.

    Raises
    ------
    ValueError
        If two methods were not tested on the same slices.
    """
    scores = {name: run.table.set_index(["subject", "slice"])[metric] for name, run in runs.items() if run.scores}
    for name, values in scores.items():
        if not values.index.sort_values().equals(scores[base].index.sort_values()):
            raise ValueError(f"{name} and {base} of {runs[base].experiment} were not tested on the same slices")
    differences = {name: values - scores[base] for name, values in scores.items() if name != base}
    return pd.DataFrame(differences).groupby("subject").mean()[list(differences)]


def spread_text(values: pd.Series, metric: str = "psnr") -> str:
    """Mean and range of differences by subject (:func:`paired`), such as "−0.1 dB (3 subjects, −0.2 dB to +0.1 dB)"."""
    mean, low, high = (change_with_unit(one, metric) for one in (values.mean(), values.min(), values.max()))
    return f"{mean} ({len(values)} subjects, {low} to {high})"


def difference_table(runs: dict[str, Record], base: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Mean differences to `base` with their 95 % intervals, a table of text with a row per method.

    The intervals are those of :func:`gleam.records.difference`; `runs` and errors raised are those of :func:`paired`.
    """
    rows: dict[str, dict[str, str]] = {}
    for metric in metrics:
        for method in paired(runs, base, metric):
            found = difference(runs[method], runs[base], metric)
            rows.setdefault(method, {})[HEADS[metric]] = with_interval(found)
    return pd.DataFrame(rows).T.rename_axis("Method")


def compare_subjects(ours: Record, theirs: Record, metrics: Sequence[str] = METRICS) -> str:
    """One sentence on how the scores of `ours` differ from those of `theirs`, subject by subject.

    A mean difference below :data:`gleam.records.SMALLEST` does not matter. A larger one is called better or worse if
    its 95 % interval (:func:`gleam.records.difference`) leaves out zero, else not clear. Raises ValueError as
    :func:`paired`.
    """
    words = []
    for metric in metrics:
        values = paired({ours.method: ours, theirs.method: theirs}, theirs.method, metric)[ours.method]
        found = difference(ours, theirs, metric)
        mean, interval = in_words(found)
        words.append(
            f"{score_name(metric)} {mean} ({interval or MISSING}), "
            f"{verdict(found.mean, metric, is_clear=found.is_clear)} "
            f"(higher in {int((values > 0).sum())} of {len(values)} subjects)"
        )
    return f"{ours.method} against {theirs.method}: {'; '.join(words)}."


def folds_report(folds: dict[int, dict[str, Record]], runs: dict[str, Record], title: str, name: str) -> str:
    """Table (MyST) of a cross-validation, what :func:`cross_validation` returned, whose caption begins with `title`."""
    run: Any = runs["End-to-end"]
    seconds = [record.history[-1]["seconds"] for found in folds.values() for record in found.values() if record.history]
    lamdas = ", ".join(f"{found['CS'].settings['lamda']:g}" for found in folds.values())
    ((_, *size),) = run.data["test"]["coil_y_x"]  # one size for all subjects
    caption = (
        f"{title} at R = {run.data['test']['mask']['arguments']['acceleration']}: mean (half the width of its 95 % "
        f"interval) over {run.table['subject'].nunique()} subjects, tested in {len(folds)} folds. "
        f"{run.source.capitalize()}: {size[0]} × {size[1]}, noise whose standard deviation, in the real and in the "
        f"imaginary part of each coil, is {run.settings['noise']:g} of the image's 95th percentile. "
        f"{run.settings['n_steps']:,} steps in {run.settings['precision']}, "
        f"{sum(seconds) / 3600:.1f} hours for all networks ({run.environment['device']}, {run.environment['date']}); "
        f"cost of a step measured once. Weight of CS by fold: {lamdas}."
    )
    return markdown_table(table(runs, over=["interval"], metrics=OF_SUBJECTS), caption, name)


def differences_report(runs: dict[str, Record], title: str, name: str) -> str:
    """Table (MyST) of the differences to end-to-end training over subjects, and comparisons in words under it.

    `runs` are those of one cross-validation (:func:`cross_validation`); caption and sentences begin with `title`.
    """
    gleam = [method for method in runs if method.startswith("GLEAM")]
    pairs = [*((method, "End-to-end") for method in gleam), ("End-to-end", "CS"), *((method, "CS") for method in gleam)]
    words = [compare_subjects(runs[one], runs[other], ("psnr", "ssim_object")) for one, other in pairs]
    base: Any = runs["End-to-end"]
    needs = {method: runs[method].value("peak_bytes") for method in gleam}
    # no number where costs were not measured
    less = [f"{base.value('peak_bytes') / n:.1f} ({m.removeprefix('GLEAM, ')})" for m, n in needs.items() if n]
    words += [f"peak memory of end-to-end training over that of GLEAM: {', '.join(less)}."] if less else []
    again: Any = runs.get("Checkpointing")
    if again:
        ratio = paired_ratio(Cost(**again.cost), Cost(**base.cost))
        words.append(
            "the gradients of checkpointing and of end-to-end training differ by "
            f"{again.value('gradient_difference'):.1g} of their norm. A step with checkpoints takes {ratio:.2f} times "
            f"as long and needs {base.value('peak_bytes') / again.value('peak_bytes'):.1f} times less memory."
        )
    what = f"difference to end-to-end training, mean over subjects (95 % interval). {base.source.capitalize()}."
    rows = markdown_table(difference_table(runs, "End-to-end", OF_SUBJECTS), f"{title}: {what}", name)
    return "\n".join([rows, *(f"- {title}: {sentence}" for sentence in words)])


def by_subject(runs: dict[str, Record]) -> dict[str, dict[str, Record]]:
    """Records of each test subject alone, of subject to method to record."""
    subjects = sorted({row["subject"] for run in runs.values() for row in run.scores})
    return {
        subject: {
            method: replace(run, scores=[row for row in run.scores if row["subject"] == subject])
            for method, run in runs.items()
        }
        for subject in subjects
    }


def groups_report(
    groups: dict[str, dict[str, Record]], methods: Sequence[str], title: str, name: str, *, of: str, base: str
) -> str:
    """Table (MyST) of scores in several groups, and under it the PSNR of each group as differences to one method.

    Parameters
    ----------
    groups : dict
        Of the name of a group to a dict of method to record.
    methods : sequence of str
        Order of the rows. Methods that a group lacks are left out.
    title, name : str
        Caption and label of the table.
    of : str
        What the groups are, for the head of their column.
    base : str
        The method to compare with.

    Returns
    -------
    str
    """
    shared = [method for method in methods if all(method in runs for runs in groups.values())]
    scores: Any = {
        (group, method): {s: runs[method].value(s) for s in OF_SUBJECTS if s in runs[method].table}
        for group, runs in groups.items()
        for method in shared
    }
    lines = [markdown_table(scores_table(scores, [of, "Method"]), title, name)]
    for group in groups:
        psnr = {method: scores[group, method]["psnr"] for method in shared}
        gaps = [
            f"{method} {change_with_unit(psnr[method] - psnr[base], 'psnr')}" for method in shared if method != base
        ]
        best = max(psnr, key=psnr.__getitem__)
        lines.append(
            f"- {of} {group}: PSNR minus that of {base}: {', '.join(gaps)}. The highest PSNR is that of {best}."
        )
    return "\n".join(lines)
