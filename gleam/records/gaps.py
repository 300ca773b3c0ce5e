"""How far methods are behind end-to-end training with the same loss, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gleam.cost.timing import Cost, paired_ratio
from gleam.records.comparisons import in_words, spread, with_interval
from gleam.records.intervals import Difference, difference
from gleam.records.scores import MISSING
from gleam.records.storage import Record


def still_gained(record: Record, last: float = 0.25) -> float:
    """By how many dB the validation error still fell in the last part of a training.

    Parameters
    ----------
    record : Record
        Of a method that was trained.
    last : float
        The part of the steps, above 0 and at most 1.

    Returns
    -------
    float
        Of the best weights until then and until the end, so never below 0. Near 0, the learning curve is flat.

    Raises
    ------
    ValueError
        If the record has no validation before that part.
    """
    n_steps = record.history[-1]["step"] if record.history else 0  # those taken: a run may have stopped early
    early = [row["nrmse"] for row in record.history if row["step"] <= (1 - last) * n_steps]
    if not early:
        raise ValueError(
            f"{record.method} of {record.experiment} has no validation before the last {last:.0%} of steps"
        )
    # a ratio of errors in dB, as in PSNR
    return 20 * math.log10(min(early) / min(row["nrmse"] for row in record.history))


def gaps(runs: dict[str, Record], bases: dict[str, str], metric: str = "psnr") -> dict[str, Difference]:
    """Differences of methods, each to a base method of its own.

    Parameters
    ----------
    runs : dict
        Of method to record.
    bases : dict
        Of method to the method it is compared with. Pairs that have no record are left out.
    metric : str
        Column of the scores.

    Returns
    -------
    dict
        Of method to :class:`gleam.records.Difference`.

    Raises
    ------
    ValueError
        If two records do not belong together (:func:`gleam.records.difference`).
    """
    return {
        method: difference(runs[method], runs[base], metric)
        for method, base in bases.items()
        if method in runs and base in runs
    }


def gap_text(ours: Record | Sequence[Record], theirs: Record | Sequence[Record], metric: str = "psnr") -> str:
    """A difference with its interval as text, such as "−0.36 dB (−0.40 to −0.32)"; with several seeds, their range too.

    Parameters and errors are those of :func:`gleam.records.difference`.
    """
    found = difference(ours, theirs, metric)
    mean, interval = in_words(found)
    return ", ".join(filter(None, [f"{mean} ({interval or MISSING})", spread(found)]))


def gap_table(runs: dict[str, Record], bases: dict[str, str], costs: dict[str, Record]) -> pd.DataFrame:
    """Methods beside end-to-end training with the same loss: quality, activations and time. A table of text.

    Parameters
    ----------
    runs : dict
        Of method to record, with scores and learning curves.
    bases : dict
        Of method to the end-to-end training it is compared with, or to itself.
    costs : dict
        Of method to record, with costs measured in one run.

    Returns
    -------
    DataFrame
        A row per method of `bases` that has a record. Activations and time are shares of those of the base method.
    """
    rows = {}
    for method, one in gaps(runs, bases).items():
        own, base = (costs.get(name) for name in (method, bases[method]))
        shares = share_of_activations(own, base), share_of_time(own, base)
        rows[method] = {
            "PSNR (dB)": f"{runs[method].value('psnr'):.2f}",
            "Minus end-to-end (dB)": MISSING if bases[method] == method else with_interval(one),
            **{
                name: MISSING if math.isnan(share) else f"{share:.2f}"
                for name, share in zip(("Activations", "Time of a step"), shares, strict=True)
            },
            "Still gained (dB)": f"{still_gained(runs[method]):.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("Method")


def share_of_activations(own: Record | None, base: Record | None) -> float:
    """Activations at the peak of a step, as a share of those of `base`; NaN without both costs."""
    kept = [record.cost["split"]["activations"] for record in (own, base) if record and record.cost]
    return kept[0] / kept[1] if len(kept) == 2 else math.nan


def share_of_time(own: Record | None, base: Record | None) -> float:
    """Time of a step over that of `base`, the median of paired rounds; NaN without both costs."""
    costs = [Cost(**record.cost) for record in (own, base) if record and record.cost]
    return paired_ratio(*costs) if len(costs) == 2 else math.nan


def times_as_long(theirs: Record, ours: Record, step: float) -> float:
    """How many times as long another training takes to reach the lowest validation error of ours; inf if it never does.

    Parameters
    ----------
    theirs, ours : Record
        With learning curves on the same validation data.
    step : float
        How many times as long a step of theirs takes.
    """
    best = min(ours.history, key=lambda row: row["nrmse"])  # the first of several
    reached = [row["step"] for row in theirs.history if row["nrmse"] <= best["nrmse"]]
    return step * reached[0] / best["step"] if reached else math.inf
