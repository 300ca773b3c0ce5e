"""Methods compared under several shifts, such as another acceleration: a table of differences, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gleam.records.comparisons import with_interval
from gleam.records.conditions import Conditions, Pairs, load_conditions
from gleam.records.intervals import HOLDS, Difference, difference, is_as_good, is_better
from gleam.records.scores import HEADS, MISSING, score_text
from gleam.records.storage import Record
from gleam.records.tables import markdown_table

LESION_SCORES = {  # what benchmarks/lesions.py measures, and the heads of their columns
    **{f"contrast_{d}mm": f"Kept, {d} mm" for d in (4, 8, 16)},
    "contrast_bright": "Kept, bright",
    "contrast_dark": "Kept, dark",
    "nrmse_lesions": "nRMSE in lesions",
    "nrmse_same_place": "nRMSE there, no lesion",
    "nrmse": "nRMSE, image",
}


def load_shifts(
    folder: str | Path, experiment: str, data: Sequence[str], shifts: Mapping[str, str]
) -> dict[str, dict[str, dict[str, Record]]]:
    """Load the records of one experiment on several data under several shifts, <experiment>_<data>_<shift>.

    Parameters
    ----------
    folder : path
        Holds <experiment>_<data>_<shift>/<method>.json.
    experiment : str
        What the names begin with.
    data : sequence of str
        On what methods were tested.
    shifts : dict
        Of shift, as in the name, to its label.

    Returns
    -------
    dict
        Of data to a dict of label to a dict of method to record. Shifts without records are left out.
    """
    return {
        one: load_conditions(folder, {label: f"{experiment}_{one}_{shift}" for shift, label in shifts.items()})
        for one in data
    }


def shift_gaps(shifts: Conditions, pairs: Pairs, metric: str = "psnr") -> dict[str, dict[str, Difference]]:
    """Differences under each shift, of shift to name of the pair to :class:`gleam.records.Difference`.

    The parameters are those of :func:`shift_table`.
    """
    return {
        shift: {name: difference(runs[ours], runs[theirs], metric) for name, (ours, theirs) in pairs.items()}
        for shift, runs in shifts.items()
    }


def shift_scores(shifts: Conditions, methods: Sequence[str], *, base: str, of: str) -> pd.DataFrame:
    """Scores under each shift as a table of text, with the difference in PSNR to one method and its 95 % interval.

    Parameters
    ----------
    shifts : dict
        Of the name of a shift to a dict of method to record.
    methods : sequence of str
        Order of the rows; methods without a record are left out.
    base : str
        The method to compare with.
    of : str
        What the shifts are, for the head of their column.

    Returns
    -------
    DataFrame
        A row per shift and method.
    """
    head = f"PSNR − {base} (dB)"
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for shift, runs in shifts.items():
        for method in (method for method in methods if method in runs):
            values: dict[str, Any] = {m: runs[method].value(m) for m in ("psnr", "ssim_object")}
            scores = {HEADS[m]: score_text(value, m) for m, value in values.items()}
            gap = with_interval(difference(runs[method], runs[base])) if method != base else MISSING
            rows[shift, method] = scores | {head: gap}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis([of, "Method"])


def shift_table(shifts: Conditions, pairs: Pairs, metric: str = "psnr") -> pd.DataFrame:
    """Differences under each shift as a table of text, a row per shift and a column per pair.

    Parameters
    ----------
    shifts : dict
        Of the name of a shift to a dict of method to record.
    pairs : dict
        Of the head of a column to (our method, the one it is compared with).
    metric : str
        Column of the scores.

    Returns
    -------
    DataFrame
        Mean difference (95 % interval), by the rules of :mod:`gleam.records.intervals`.
    """
    gaps = shift_gaps(shifts, pairs, metric)
    rows = {shift: {head: with_interval(one) for head, one in found.items()} for shift, found in gaps.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Shift")


def shift_verdicts(shifts: Conditions, pair: tuple[str, str], metric: str = "psnr") -> dict[str, list[str]]:
    """Under which shifts one method is better than another.

    Parameters
    ----------
    shifts : dict
        As for :func:`shift_table`.
    pair : (str, str)
        Our method, and the one it is compared with.
    metric : str
        Column of the scores.

    Returns
    -------
    dict
        Of a verdict to the names of shifts: "better" or "worse" if the rule for *better* of
        :mod:`gleam.records.intervals` holds for ours or for theirs, "no difference that matters" if each is as good as
        the other, else "cannot be told".
    """
    found: dict[str, list[str]] = {}
    for shift, runs in shifts.items():
        ours, theirs = (runs[method] for method in pair)
        gain, loss = difference(ours, theirs, metric), difference(theirs, ours, metric)
        verdict = "cannot be told"
        if is_better(gain) == HOLDS:
            verdict = "better"
        elif is_better(loss) == HOLDS:
            verdict = "worse"
        elif is_as_good(gain) == is_as_good(loss) == HOLDS:
            verdict = "no difference that matters"
        found.setdefault(verdict, []).append(shift)
    return found


def shift_words(shifts: Conditions, pairs: Pairs, metric: str = "psnr") -> str:
    """The verdicts of :func:`shift_verdicts` as a list in MyST, an item per pair."""
    lines = []
    for head, pair in pairs.items():
        verdicts = shift_verdicts(shifts, pair, metric)
        lines.append(f"- {head}: " + "; ".join(f"**{word}**: {', '.join(at)}" for word, at in verdicts.items()) + ".")
    return "\n".join(lines)


def shift_report(
    shifts: Conditions,
    pairs: Pairs,
    title: str,
    name: str,
    *,
    methods: Sequence[str] = (),
    of: str = "Shift",
    base: str = "CS",
    heading: str = "",
) -> str:
    """Table (MyST) of methods under several shifts, and under it the verdicts on pairs of them.

    Parameters
    ----------
    shifts, pairs : dict
        As for :func:`shift_table`.
    title, name : str
        Caption and label of the table.
    methods : sequence of str
        Methods whose scores the table shows (:func:`shift_scores`, with `base` and `of`). Without any, it shows the
        differences of `pairs` (:func:`shift_table`).
    heading : str
        A line above the verdicts.

    Returns
    -------
    str
    """
    frame = shift_scores(shifts, methods, base=base, of=of) if methods else shift_table(shifts, pairs)
    above = f"{heading}\n\n" if heading else ""
    return f"{markdown_table(frame, title, name)}\n{above}{shift_words(shifts, pairs)}"


def lesion_report(
    runs: Mapping[str, Record], methods: Sequence[str], title: str, name: str, *, base: str = "CS"
) -> str:
    """Table (MyST) of the scores of simulated lesions, and under it the contrast kept, beside that of a base method.

    Parameters
    ----------
    runs : dict
        Of method to record, with the scores of benchmarks/generalisation.py.
    methods : sequence of str
        Order of the rows; methods without a record are left out.
    title, name : str
        Caption and label of the table.
    base : str
        The method to compare with.

    Returns
    -------
    str
    """
    rows = {
        method: {head: f"{runs[method].value(score):.3f}" for score, head in LESION_SCORES.items()}
        for method in methods
        if method in runs
    }
    words = []
    for method, run in runs.items():
        if method != base:
            one = difference(run, runs[base], "contrast")
            how = f"{'clearly' if one.is_clear else 'not clearly'} {'more' if one.mean > 0 else 'less'}"
            words.append(f"- {method}: {one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f}), {how}.")
    sentences = "\n".join(words).replace("-0.", "−0.")  # names of methods keep their hyphens
    what = f"Contrast kept, mean over sizes, minus that of {base} (95 % interval):"
    return f"{markdown_table(rows, title, name)}\n{what}\n\n{sentences}"
