"""Comparisons of methods in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gleam.records.storage import Record
from gleam.records.tables import _DIGITS, _LABEL, METRICS, _signed

# The smallest differences that matter, by convention: every score here comes from one training, and until several seeds
# of an experiment are archived nobody knows how far another seed would move it.
SMALLEST = {"ssim": 0.005, "ssim_object": 0.005, "nrmse": 0.003, "psnr": 0.2}
FEW_SUBJECTS = 5  # with fewer of them, a sentence is about these subjects alone


def compare(ours: Record, theirs: Record, metrics: Sequence[str] = METRICS, level: float = 0.05) -> str:
    """One sentence on how the scores of one record differ from those of another, slice by slice.

    A mean difference below `SMALLEST` does not matter. A larger one is called better or worse only if a Wilcoxon
    signed-rank test of the paired slices has p < `level` and the mean difference of every subject has the same sign;
    else it is not clear. The test alone would not be enough, since slices of one subject are not independent.

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
    found: dict[str, list[str]] = {}
    for metric in metrics:
        difference = a[metric] - b[metric]
        text = f"{_LABEL[metric].removesuffix(' (dB)')} ({_signed(difference.mean(), metric)})"
        found.setdefault(verdict(difference.mean(), metric, is_clear=_is_clear(difference, level)), []).append(text)
    n_subjects, n_trained = a.index.unique("subject").size, sum(r.n_parameters is not None for r in (ours, theirs))
    where = f" in these {n_subjects} subjects" if n_subjects < FEW_SUBJECTS else ""
    words = "; ".join(f"{word} in {', '.join(scores)}" for word, scores in found.items())
    trained = ("", " One training run.", " One training run each.")[n_trained]
    return f"{ours.method} against {theirs.method}{where}: {words}.{trained}"


def verdict(mean: float, metric: str, *, is_clear: bool) -> str:
    """What a mean difference of a score, as it is printed, is called: better, worse, not clear, or none that matters.

    `is_clear` is the outcome of a test of whether the difference is more than chance.
    """
    if abs(round(mean, _DIGITS[metric])) < SMALLEST[metric]:
        return "no difference that matters"
    if not is_clear:
        return "not clear"
    return "better" if (mean > 0) == (metric != "nrmse") else "worse"


def _is_clear(difference, level):
    """Whether a Wilcoxon test of slices has p < `level`, and the means of all subjects have the same sign."""
    from scipy.stats import wilcoxon

    signs = np.sign(difference.groupby("subject").mean())
    return difference.any() and wilcoxon(difference).pvalue < level and (signs == np.sign(difference.mean())).all()


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
            f"{_LABEL[m].removesuffix(' (dB)')} {own:.{_DIGITS[m]}f} against {other:.{_DIGITS[m]}f}"
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
