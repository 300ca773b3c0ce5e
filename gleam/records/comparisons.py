"""Comparisons of methods in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gleam.records.intervals import SMALLEST, Difference, difference
from gleam.records.scores import DIGITS, METRICS, MISSING, change_text, change_with_unit, gained, score_name, score_text
from gleam.records.storage import Record

FEW_SUBJECTS = 5  # with fewer of them, a sentence is about these subjects alone


def compare(ours: Record, theirs: Record, metrics: Sequence[str] = METRICS) -> str:
    """One sentence on how the scores of one record differ from those of another, slice by slice, with intervals.

    A mean difference below `SMALLEST` does not matter. A larger one is called better or worse only if its 95 %
    interval (:func:`gleam.records.difference`) leaves out zero; else it is not clear. With fewer than `FEW_SUBJECTS`
    the mean differences of all subjects must have the same sign as well.

    Parameters
    ----------
    ours, theirs : Record
        The sentence is about `ours` against `theirs`.
    metrics : sequence of str
        Scores to compare.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the records were not tested on the same slices, or have no scores.
    """
    found: dict[str, list[str]] = {}
    for metric in metrics:
        one = difference(ours, theirs, metric)
        means, others = (record.table.groupby("subject")[metric].mean() for record in (ours, theirs))
        all_agree = abs(np.sign(means - others).sum()) == len(means)  # all signs alike, and none zero
        is_clear = one.is_clear and (one.n_subjects >= FEW_SUBJECTS or all_agree)
        text = f"{score_name(metric)} ({', '.join(filter(None, in_words(one)))})"
        # scores with one verdict share a part of the sentence
        found.setdefault(verdict(one.mean, metric, is_clear=is_clear), []).append(text)
    n_subjects, n_trained = one.n_subjects, sum(r.n_parameters is not None for r in (ours, theirs))
    where = f" in these {n_subjects} subjects" if n_subjects < FEW_SUBJECTS else ""
    words = "; ".join(f"{word} in {', '.join(scores)}" for word, scores in found.items())
    trained = ("", " One training run.", " One training run each.")[n_trained]
    return f"{ours.method} against {theirs.method}{where}: {words}.{trained}"


def in_words(found: Difference) -> tuple[str, str]:
    """A difference and its interval as text, such as ("−0.36 dB", "−0.39 to −0.32"); "" if there is no interval."""
    metric, ends = found.metric, (found.low, found.high)
    interval = "" if math.isnan(found.low) else " to ".join(change_text(end, metric) for end in ends)
    return change_with_unit(found.mean, metric), interval


def with_interval(found: Difference) -> str:
    """A difference and its interval as one text without a unit, such as "−0.36 (−0.39 to −0.32)"."""
    mean, interval = in_words(found)
    return f"{mean.removesuffix(' dB')} ({interval or MISSING})"  # the unit is in the head of the column


def spread(found: Difference, of: str = "seeds") -> str:
    """The range over several trainings as text, such as "3 seeds −0.15 to −0.12"; empty for a single one."""
    if len(found.by_seed) < 2:
        return ""
    least, most = (change_text(end(found.by_seed), found.metric) for end in (min, max))
    return f"{len(found.by_seed)} {of} {least} to {most}"


def verdict(mean: float, metric: str, *, is_clear: bool) -> str:
    """What a mean difference of a score, as it is printed, is called: better, worse, not clear, or none that matters.

    `is_clear`: whether the difference is more than chance.
    """
    if abs(round(mean, DIGITS[metric])) < SMALLEST[metric]:
        return "no difference that matters"
    if not is_clear:
        return "not clear"
    return "better" if gained(mean, metric) > 0 else "worse"


def baseline_note(records: dict[str, Record], archived: dict[str, Record] | None = None, baseline: str = "CS") -> str:
    """A note in MyST on the trained methods that are behind compressed sensing; empty if there are none.

    Parameters
    ----------
    records : dict
        Of method to record. The mean PSNR and the mean SSIM of the object are compared; differences below `SMALLEST`
        do not count.
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
            f"{score_name(m)} {score_text(own, m)} against {score_text(other, m)}"
            for m, (own, other) in values.items()
            if verdict(own - other, m, is_clear=True) == "worse"
        ]
        behind += [f"{method} ({', '.join(pairs)})"] if pairs else []
    if not behind:
        return ""
    return (
        ":::{admonition} Compressed sensing is ahead here\n:class: warning\n"
        f"In mean PSNR or mean SSIM of the object these are behind it: {'; '.join(behind)}. The networks are small and "
        f"were trained briefly on few subjects; more of each may change this. {_crossing(archived or {}, baseline)}\n"
        ":::\n"
    )


def _crossing(archived, baseline):
    level = archived[baseline].settings.get("validation_nrmse") if baseline in archived else None
    trained = archived.get("End-to-end")
    if level is None or trained is None:
        return ""
    step = next((row["step"] for row in trained.history if row["nrmse"] < level), None)
    where = f"In the archived run of the profile {trained.profile} the validation nRMSE of end-to-end training"
    if step is None:
        return f"{where} stayed above that of compressed sensing in {trained.progress}."
    return f"{where} was below that of compressed sensing after {step:,} steps."
