"""Methods compared under several shifts, such as another acceleration: a table of differences, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gleam.records.comparisons import with_interval
from gleam.records.intervals import HOLDS, difference, is_as_good, is_better
from gleam.records.scores import HEADS, MISSING, score_text
from gleam.records.storage import Record

Pairs = Mapping[str, tuple[str, str]]  # of a name to (our method, the one it is compared with)


def shift_scores(
    shifts: Mapping[str, Mapping[str, Record]], methods: Sequence[str], *, base: str, of: str
) -> pd.DataFrame:
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


def shift_table(shifts: Mapping[str, Mapping[str, Record]], pairs: Pairs, metric: str = "psnr") -> pd.DataFrame:
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
    rows: dict[str, dict[str, str]] = {}
    for shift, runs in shifts.items():
        for head, (ours, theirs) in pairs.items():
            rows.setdefault(shift, {})[head] = with_interval(difference(runs[ours], runs[theirs], metric))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Shift")


def shift_verdicts(
    shifts: Mapping[str, Mapping[str, Record]], pair: tuple[str, str], metric: str = "psnr"
) -> dict[str, list[str]]:
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


def shift_words(shifts: Mapping[str, Mapping[str, Record]], pairs: Pairs, metric: str = "psnr") -> str:
    """The verdicts of :func:`shift_verdicts` as a list in MyST, an item per pair."""
    lines = []
    for head, pair in pairs.items():
        verdicts = shift_verdicts(shifts, pair, metric)
        lines.append(f"- {head}: " + "; ".join(f"**{word}**: {', '.join(at)}" for word, at in verdicts.items()) + ".")
    return "\n".join(lines)
