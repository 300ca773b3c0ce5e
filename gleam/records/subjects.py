"""Results of a cross-validation: the folds' records as one, and differences with intervals over subjects."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from gleam.records.tables import _DIGITS, _LABEL, METRICS, _signed

OF_A_FOLD = ("seed", "lamda")  # settings that each fold has for itself


def pooled(folds):
    """The folds of a cross-validation as one record per method, a dict of method to :class:`gleam.Record`.

    Parameters
    ----------
    folds : dict
        Of fold to a dict of method to record, as :func:`gleam.records.load_experiment` returns it.

    Returns
    -------
    dict
        Each record holds the scores of all folds; everything else is that of the first fold.

    Raises
    ------
    ValueError
        If the folds do not belong together: other methods or settings in one of them, or a subject tested twice.
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
    """Names of what two records of one method in two folds do not share."""
    names = {*one.settings, *other.settings} - set(OF_A_FOLD)
    found = [name for name in sorted(names) if one.settings.get(name) != other.settings.get(name)]
    masks = [record.data.get("test", {}).get("mask") for record in (one, other)]
    found += ["mask"] if masks[0] != masks[1] else []
    return found + [name for name in ("n_parameters", "profile") if getattr(one, name) != getattr(other, name)]


def half_width(values, level=0.95):
    """Half the width of the interval of the mean of ``values`` by Student's t; NaN of fewer than two."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def paired(runs, base, metric="psnr"):
    """Differences of the other methods to the method ``base``, a table (subject, method) of means over slices.

    ``runs``: dict of method to record; those without scores are left out. Raises ValueError if they are not of the same
    slices.
    """
    scores = {name: run.table.set_index(["subject", "slice"])[metric] for name, run in runs.items() if run.scores}
    for name, values in scores.items():
        if not values.index.sort_values().equals(scores[base].index.sort_values()):
            raise ValueError(f"{name} and {base} of {runs[base].experiment} were not tested on the same slices")
    differences = {name: values - scores[base] for name, values in scores.items() if name != base}
    return pd.DataFrame(differences).groupby("subject").mean()[list(differences)]


def difference_table(runs, base, metrics=METRICS):
    """Mean differences to ``base`` with their 95 % intervals over subjects, a table of text with a row per method."""
    rows = {}
    for metric in metrics:
        for method, values in paired(runs, base, metric).items():
            rows.setdefault(method, {})[_LABEL[metric]] = _with_interval(values, metric)
    return pd.DataFrame(rows).T.rename_axis("Method")


def compare_subjects(ours, theirs, metrics=METRICS):
    """One sentence on how the first record's scores differ from the second's, subject by subject.

    A difference is called better or worse only if its 95 % interval over subjects leaves out zero, and it shows in the
    digits that are printed. Raises ValueError as :func:`paired`.
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


def _with_interval(values, metric):
    mean = values.mean()
    return f"{mean:+.{_DIGITS[metric]}f} ({_interval(mean, half_width(values), metric)})".replace("-", "−")


def _interval(mean, half, metric):
    digits = _DIGITS[metric]
    return f"{mean - half:+.{digits}f} to {mean + half:+.{digits}f}".replace("-", "−")
