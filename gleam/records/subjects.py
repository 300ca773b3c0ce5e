"""Results of a cross-validation: the folds' records as one, and differences with intervals over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from gleam.records.storage import Record, half_width
from gleam.records.tables import _DIGITS, _LABEL, METRICS, _signed

OF_A_FOLD = ("seed", "lamda")  # settings that differ between folds


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
            if differing := _differing(record, methods[method]):
                raise ValueError(f"{method} of fold {fold} differs from fold {first} in {', '.join(differing)}")
    together = {}
    for method, record in methods.items():
        scores = [row for found in folds.values() for row in found[method].scores]
        tested = [subject for found in folds.values() for subject in {row["subject"] for row in found[method].scores}]
        if twice := {subject for subject in tested if tested.count(subject) > 1}:
            raise ValueError(f"{method} was tested on subject {min(twice)} in more than one fold")
        together[method] = replace(record, scores=scores)
    return together


def _differing(one, other):
    """Names of the properties in which two records of one method in two folds differ but should not."""
    names = {*one.settings, *other.settings} - set(OF_A_FOLD)
    found = [name for name in sorted(names) if one.settings.get(name) != other.settings.get(name)]
    masks = [record.data.get("test", {}).get("mask") for record in (one, other)]
    found += ["mask"] if masks[0] != masks[1] else []
    return found + [name for name in ("n_parameters", "profile") if getattr(one, name) != getattr(other, name)]


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


def difference_table(runs: dict[str, Record], base: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Mean differences to `base` with their 95 % intervals over subjects, a table of text with a row per method.

    `runs` and the errors raised are those of :func:`paired`.
    """
    rows: dict[str, dict[str, str]] = {}
    for metric in metrics:
        for method, values in paired(runs, base, metric).items():
            mean = values.mean()
            text = f"{mean:+.{_DIGITS[metric]}f} ({_interval(mean, half_width(values), metric)})"
            rows.setdefault(method, {})[_LABEL[metric]] = text.replace("-", "−")
    return pd.DataFrame(rows).T.rename_axis("Method")


def compare_subjects(ours: Record, theirs: Record, metrics: Sequence[str] = METRICS) -> str:
    """One sentence on how the scores of `ours` differ from those of `theirs`, subject by subject.

    A difference is called better or worse only if its 95 % interval over subjects excludes zero, and if it shows in the
    printed digits. Raises ValueError as :func:`paired`.
    """
    words = []
    for metric in metrics:
        values = paired({ours.method: ours, theirs.method: theirs}, theirs.method, metric)[ours.method]
        mean, half = values.mean(), half_width(values)
        is_clear = abs(mean) > half and round(mean, _DIGITS[metric]) != 0
        verdict = "no clear difference" if not is_clear else "better" if (mean > 0) == (metric != "nrmse") else "worse"
        n_higher = int((values > 0).sum())
        words.append(
            f"{_LABEL[metric].removesuffix(' (dB)')} {_signed(mean, metric)} "
            f"({_interval(mean, half, metric)}), {verdict} "
            f"(higher in {n_higher} of {len(values)} subjects)"
        )
    return f"{ours.method} against {theirs.method}: {'; '.join(words)}."


def _interval(mean, half, metric):
    digits = _DIGITS[metric]
    return f"{mean - half:+.{digits}f} to {mean + half:+.{digits}f}".replace("-", "−")
