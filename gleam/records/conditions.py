"""Methods compared under several conditions, each an experiment of its own, of which some may lack methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from gleam.records.gaps import gap_text, still_gained
from gleam.records.intervals import Difference, difference
from gleam.records.scores import MISSING, change_text, score_text
from gleam.records.storage import Record, load_experiment
from gleam.records.tables import markdown_table

Conditions = Mapping[str, Mapping[str, Record]]  # of the label of a condition to a dict of method to record
Pairs = Mapping[str, tuple[str, str]]  # of a name to (our method, the one it is compared with)


def load_conditions(
    folder: str | Path, experiments: Mapping[str, str], *, rename: Mapping[str, str] | None = None
) -> dict[str, dict[str, Record]]:
    """Load the records of several experiments.

    Parameters
    ----------
    folder : path
        Holds <experiment>/<method>.json.
    experiments : dict
        Of the label of a condition to the name of its experiment.
    rename : dict, optional
        Of a part of the names of methods to what stands for it in the result.

    Returns
    -------
    dict
        Of label to a dict of method to record. Experiments without records are left out.

    Raises
    ------
    ValueError
        If a file is not a valid record, or if two methods of an experiment get one name.
    """
    found = {}
    for label, experiment in experiments.items():
        runs = load_experiment(folder, experiment)
        named = {_renamed(method, rename or {}): run for method, run in runs.items()}
        if len(named) < len(runs):
            raise ValueError(f"{Path(folder) / experiment}: with rename={rename} two of {sorted(runs)} have one name")
        if named:
            found[label] = named
    return found


def _renamed(method, rename):
    for part, other in rename.items():
        method = method.replace(part, other)
    return method


def condition_gaps(groups: Mapping[str, Conditions], pairs: Pairs) -> dict[str, dict[str, dict[str, Difference]]]:
    """Differences in PSNR under each condition, as :func:`gleam.figures.intervals` draws them.

    Parameters
    ----------
    groups : dict
        Of the heading of a group to its conditions: a dict of label to a dict of method to record.
    pairs : dict
        Of a name to (our method, the one it is compared with).

    Returns
    -------
    dict
        Of heading to a dict of label to a dict of the name of a pair to :class:`gleam.records.Difference`. Pairs,
        conditions and groups without records are left out.
    """
    found = {
        heading: {
            label: {
                name: difference(runs[ours], runs[theirs])
                for name, (ours, theirs) in pairs.items()
                if ours in runs and theirs in runs
            }
            for label, runs in conditions.items()
        }
        for heading, conditions in groups.items()
    }
    found = {heading: {label: one for label, one in rows.items() if one} for heading, rows in found.items()}
    return {heading: rows for heading, rows in found.items() if rows}


def conditions_report(groups: Mapping[str, Conditions], pairs: Pairs, caption: str, name: str) -> str:
    """Table (MyST) of PSNR under each condition, and under it by how much the trainings still gained.

    Parameters
    ----------
    groups, pairs : dict
        As for :func:`condition_gaps`.
    caption, name : str
        Caption and label of the table.

    Returns
    -------
    str
        A row per condition that has a pair: PSNR of compressed sensing and of the methods that are compared with, then
        the differences to them. Empty if no condition has one.
    """
    rows, flat = {}, []
    for heading, conditions in condition_gaps(groups, pairs).items():
        for label, found in conditions.items():
            runs = groups[heading][label]
            rows[f"{heading}, {label}"] = {
                **{m: _psnr(runs.get(m)) for m in ("CS", *(theirs for _, theirs in pairs.values()))},
                **{
                    f"{ours.split(',')[0]}, {pair}": change_text(found[pair].mean, "psnr") if pair in found else MISSING
                    for pair, (ours, _) in pairs.items()
                },
            }
        methods = {method for pair in pairs.values() for method in pair}
        trained = [run for label in conditions for m, run in groups[heading][label].items() if m in methods]
        flat.append(f"{heading[0].lower()}{heading[1:]} {max(map(still_gained, trained)):.2f} dB")
    if not rows:
        return ""
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("Data and change")
    return (
        f"{markdown_table(table, caption, name)}\n\nBy so much at most the validation error of one of these runs still "
        f"fell in the last quarter of its steps: {'; '.join(flat)}."
    )


def _psnr(run):
    return score_text(run.value("psnr"), "psnr") if run else MISSING


def gap_texts(conditions: Conditions, ours: str, theirs: str) -> dict[str, str]:
    """The difference in PSNR under each condition that has both methods, of label to what :func:`gap_text` says."""
    return {
        label: gap_text(runs[ours], runs[theirs]) for label, runs in conditions.items() if {ours, theirs} <= runs.keys()
    }
