"""Tables of records, in three blocks: the paper, the archived full-scale run, and this build's own run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gleam.records.schema import FULL_SCALE
from gleam.records.scores import HEADS, METRICS, MISSING, score_text
from gleam.records.storage import Record

PAPER, ARCHIVED, THIS_BUILD = "Paper", "Full scale, archived", "This build"
NONE_ARCHIVED = "none yet: see “make records”"
NOT_RUN = "not run in this build"
_COST = ("Memory", "Time per step", "Parameters")


def published(path: str | Path, **where) -> pd.DataFrame:
    """Rows of the paper's numbers.

    Parameters
    ----------
    path : path
        A CSV with the columns table, dataset, network, acceleration, method, mean and sd of each score, memory_gb,
        seconds_per_step and n_parameters.
    **where
        Values of columns; rows with other values are left out.

    Returns
    -------
    DataFrame

    Raises
    ------
    ValueError
        If no row is left, or if the file is no such table.
    """
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # of pandas and of decoding
        raise ValueError(f"{path} is not a table of the paper's numbers: {str(error).strip()}") from error
    if missing := {"table", "method", *where} - set(table):
        raise ValueError(f"{path} is not a table of the paper's numbers: it has no column {min(missing)}")
    for column, value in where.items():
        table = table[table[column] == value]
    if table.empty:
        raise ValueError(f"{path} has no row with {where}")
    return table


def table(
    records: dict[str, Record],
    paper: pd.DataFrame | None = None,
    archived: dict[str, Record] | None = None,
    over: Sequence[str] = ("slices", "subjects"),
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """A table like the paper's, in up to three blocks.

    Parameters
    ----------
    records : dict
        This build's records, by method.
    paper : DataFrame, optional
        Rows of :func:`published`; None for no such block.
    archived : dict, optional
        What :func:`gleam.records.archived` found; None for no such block.
    over : sequence of str
        Spreads to show in brackets (:meth:`gleam.Record.spread`). By default the standard deviation over slices, as in
        the paper's text, then over the means of subjects, as in its code.
    metrics : sequence of str
        Scores to show.

    Returns
    -------
    DataFrame
        Text, with one row per block and method. A block without any run is one row that says so.
    """
    of_paper = {} if paper is None else {row["method"]: row for _, row in paper.iterrows()}
    order = list({**records, **of_paper})  # one order of the methods in all blocks
    columns = [*(HEADS[m] for m in metrics), *_COST]
    rows = [{"": PAPER, "Method": m, **_paper_cells(of_paper[m], metrics)} for m in order if m in of_paper]
    for block, runs, nothing in ((archive_name(archived), archived, NONE_ARCHIVED), (THIS_BUILD, records, NOT_RUN)):
        if runs is None:
            continue
        methods = sorted(runs, key=lambda method: order.index(method) if method in order else len(order))
        rows += [{"": block, "Method": m, **_our_cells(runs[m], over, metrics)} for m in methods]
        rows += [] if runs else [{"": block, "Method": nothing, **dict.fromkeys(columns, "")}]
    return pd.DataFrame(rows, columns=["", "Method", *columns]).set_index(["", "Method"])


def archive_caption(found: dict[str, Record]) -> str:
    """The caption's part on an archived run: device, dates, data, progress of training, and number formats.

    `found` is what :func:`gleam.records.archived` returned. The text is empty if there is none: the table says so.
    """
    if not found:
        return ""
    steps: dict[str, list[str]] = {}
    for method, run in found.items():
        if run.progress:
            steps.setdefault(run.progress, []).append(method)
    # methods are named only if their progress differs
    done = [text if len(steps) == 1 else f"{text} ({', '.join(methods)})" for text, methods in steps.items()]
    dates = sorted({run.environment.get("date", "") for run in found.values()} - {""})
    parts = [
        " and ".join(sorted({run.environment.get("device", "") for run in found.values()} - {""})),
        " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])),
        " and ".join(sorted({run.source for run in found.values()} - {""})),
        _tested(next(iter(found.values()))),
        "; ".join(done) or "nothing trained yet",
        _formats("trained in", "precision", found),
        _formats("memory and time in", "cost_precision", found),
    ]
    return f"*{archive_name(found)}*: {', '.join(part for part in parts if part)}."


def _tested(run):
    """Acceleration, sizes and number of the test data; empty if nothing was tested."""
    test = run.data.get("test", {})
    axes = next((name for name in test if name.startswith("coil_")), "")
    if not (run.scores and axes):
        return ""
    sizes = " × ".join(str(n) for n in test[axes][0][1:])  # without the coils
    what = "series" if "time" in axes else "slices"
    acceleration = f"R = {test['mask']['arguments']['acceleration']:g}, " if test.get("mask") else ""
    return f"{acceleration}{sizes}, tested on {len(run.scores)} {what} of {run.table['subject'].nunique()} subjects"


def archive_name(found: dict[str, Record] | None) -> str:
    """Heading of the block of archived runs; it names the profile if that is not the paper's."""
    profile = next((run.profile for run in found.values()), FULL_SCALE) if found else FULL_SCALE
    return ARCHIVED if profile == FULL_SCALE else f"Profile {profile}, archived"


def _formats(words, key, found):
    formats = sorted({run.settings[key] for run in found.values() if run.settings.get(key)})
    return f"{words} {' and '.join(formats)}" if formats else ""


def scores_table(rows: Mapping[tuple, Mapping[str, float]], index: Sequence[str]) -> pd.DataFrame:
    """Scores as a table of text.

    Parameters
    ----------
    rows : dict
        Of the key of a row, a tuple, to a dict of score to value.
    index : sequence of str
        Names of the parts of a key.

    Returns
    -------
    DataFrame
        With `index` as index, and a column for each score.
    """
    lines = [
        dict(zip(index, key, strict=True)) | {HEADS[m]: score_text(scores[m], m) for m in HEADS if m in scores}
        for key, scores in rows.items()
    ]
    return pd.DataFrame(lines).set_index(list(index))


def table_rows(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of text, as lists.

    If the first level of the index has no name, as the blocks of :func:`table`, it is not a column. Instead each block
    has a row above it with only its name, unless there is only one block. A row without values has one cell.
    """
    blocks = frame.index.names[0] == ""
    rows, above = [], None
    one_block = len(set(frame.index.get_level_values(0))) == 1
    for index, values in zip(frame.index, frame.to_numpy(), strict=True):
        parts = list(index) if isinstance(index, tuple) else [index]
        if blocks:
            rows += [] if one_block or parts[0] == above else [[parts[0]]]
            above = parts.pop(0)
        rows.append([str(cell) for cell in (*parts, *values)] if any(values) else [str(parts[0])])
    return [str(name) for name in (*frame.index.names[blocks:], *frame.columns)], rows


def markdown_table(
    frame: pd.DataFrame | Mapping, caption: str, name: str, *, index: Sequence[str] = ("Method",)
) -> str:
    """A numbered table in MyST, for a cell whose `mystnb.markdown_format` is `myst`.

    Parameters
    ----------
    frame : DataFrame or dict
        Text; a dict is of the key of a row, a str or a tuple, to a dict of column to cell.
    caption, name : str
        Caption and label of the table.
    index : sequence of str
        Names of the parts of a key, if `frame` is a dict.

    Returns
    -------
    str
    """
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame.from_dict(frame, orient="index").rename_axis(list(index))
    header, rows = table_rows(frame)
    # the name of a block, over the whole row
    rows = [row if len(row) > 1 else [f"**{row[0]}**"] + [""] * (len(header) - 1) for row in rows]
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)
    return f":::{{table}} {caption}\n:name: {name}\n:class: records\n\n{body}\n:::\n"


def scores_report(
    scores: Mapping[str, pd.DataFrame], caption: str, name: str, metrics: Sequence[str] = tuple(HEADS)
) -> str:
    """Mean scores of methods as a numbered table in MyST.

    Parameters
    ----------
    scores : dict
        Of method to its table from :func:`gleam.evaluate`.
    caption, name : str
        Caption and label of the table.
    metrics : sequence of str
        Scores to show.
    """
    rows = {(method,): {m: one[m].mean() for m in metrics} for method, one in scores.items()}
    return markdown_table(scores_table(rows, index=["Method"]), caption, name)


def _our_cells(record, over, metrics):
    memory, seconds = record.value("peak_bytes"), record.value("seconds_per_step")
    unit, prefix = (1e9, "G") if memory and memory >= 1e9 else (1e6, "M")
    return {
        **{HEADS[m]: _with_spread(m, record.value(m), *(record.spread(m, o) for o in over)) for m in metrics},
        "Memory": MISSING if memory is None else f"{memory / unit:.1f} {prefix}B",
        "Time per step": MISSING if seconds is None else f"{seconds:.{3 if seconds >= 0.1 else 4}f} s",
        "Parameters": _millions(record.n_parameters),
    }


def _paper_cells(row, metrics):
    return {
        **{HEADS[m]: _with_spread(m, row.get(m, np.nan), row.get(f"{m}_sd")) for m in metrics},
        "Memory": MISSING if pd.isna(row["memory_gb"]) else f"{row['memory_gb']:g} GB",
        "Time per step": MISSING if pd.isna(row["seconds_per_step"]) else f"{row['seconds_per_step']:g} s",
        "Parameters": _millions(row["n_parameters"]),
    }


def _with_spread(metric, mean, *spreads):
    if pd.isna(mean):
        return MISSING
    # the brackets stay on one line
    inside = "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}".join(score_text(spread, metric) for spread in spreads)
    return f"{score_text(mean, metric)} ({inside})"


def _millions(n):
    return MISSING if n is None or pd.isna(n) else f"{n / 1e6:.2f} M"
