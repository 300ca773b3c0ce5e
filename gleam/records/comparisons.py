"""Comparisons of methods in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gleam.records.storage import Record
from gleam.records.tables import _DIGITS, _LABEL, METRICS, _signed


def compare(ours: Record, theirs: Record, metrics: Sequence[str] = METRICS, level: float = 0.05) -> str:
    """One sentence on how the scores of one record differ from those of another, slice by slice.

    A difference is called better or worse only if it is clear in two ways: a Wilcoxon signed-rank test of the paired
    slices has p < `level`, and the mean difference of every subject has the same sign. The test alone would not be
    enough, since slices of one subject are not independent and there are few subjects.

    Parameters
    ----------
    ours, theirs : Record
        The sentence is about `ours` against `theirs`.
    metrics : sequence of str
        Scores to compare.
    level : float
        Of the test.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the records were not tested on the same slices, or have no scores.
    """
    for record in (ours, theirs):
        if not record.scores:
            raise ValueError(f"{record.method} of {record.experiment} has no scores to compare")
    a, b = (record.table.set_index(["subject", "slice"]) for record in (ours, theirs))
    if not a.index.equals(b.index):
        raise ValueError(f"{ours.method} and {theirs.method} of {ours.experiment} were not tested on the same slices")
    words = [_verdict(a[metric] - b[metric], metric, level) for metric in metrics]
    return f"{ours.method} against {theirs.method}: {'; '.join(words)}."


def _verdict(difference, metric, level):
    from scipy.stats import wilcoxon

    mean, subjects = difference.mean(), difference.groupby("subject").mean()
    n_agree = int((np.sign(subjects) == np.sign(mean)).sum())
    clear = difference.any() and wilcoxon(difference).pvalue < level and n_agree == len(subjects)
    verdict = "no clear difference" if not clear else "better" if (mean > 0) == (metric != "nrmse") else "worse"
    same_sign = f"same sign in {n_agree} of {len(subjects)} subjects"
    return f"{_LABEL[metric].removesuffix(' (dB)')} {_signed(mean, metric)}, {verdict} ({same_sign})"


def baseline_note(records: dict[str, Record], archived: dict[str, Record] | None = None, baseline: str = "CS") -> str:
    """A note in MyST on the trained methods that compressed sensing beats; empty if it beats none.

    Parameters
    ----------
    records : dict
        Of method to record. The mean PSNR and the mean SSIM of the object are compared.
    archived : dict, optional
        A longer run of the same experiment. The note says after how many steps its end-to-end training passed
        compressed sensing on validation, if its records hold that.
    baseline : str
        Name of compressed sensing in `records`.

    Returns
    -------
    str
    """
    behind = []
    for method, record in records.items():
        if record.n_parameters is None or baseline not in records:
            continue
        values: dict[str, Any] = {m: (record.value(m), records[baseline].value(m)) for m in ("psnr", "ssim_object")}
        pairs = [
            f"{_LABEL[m]} {own:.{_DIGITS[m]}f} against {other:.{_DIGITS[m]}f}"
            for m, (own, other) in values.items()
            if own < other
        ]
        behind += [f"{method} ({', '.join(pairs)})"] if pairs else []
    if not behind:
        return ""
    return (
        ":::{admonition} Compressed sensing is ahead here\n:class: warning\n"
        f"It beats {'; '.join(behind)}. Networks of this size were trained too little here to judge networks by them; "
        f"the order of the training methods is another question. {_crossing(archived or {}, baseline)}\n:::\n"
    )


def _crossing(archived, baseline):
    level = archived[baseline].settings.get("validation_nrmse") if baseline in archived else None
    trained = archived.get("End-to-end")
    if level is None or trained is None:
        return ""
    step = next((row["step"] for row in trained.history if row["nrmse"] < level), None)
    where = f"In the archived run of the profile {trained.profile} end-to-end training"
    return f"{where} passed it after {step:,} steps." if step else f"{where} did not pass it in {trained.progress}."
