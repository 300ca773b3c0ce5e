"""The scoreboard: every claim with the paper's number, ours with intervals, and a verdict.

``python -m gleam.records.scoreboard results _work/quick/records`` prints it. The rules are those of `intervals`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gleam.cost.timing import median_ratio
from gleam.records.archive import archived_seeds
from gleam.records.claims import AS_GOOD, BETTER, BEYOND, CLAIMS, COST, VALUE, Claim
from gleam.records.comparisons import spread, with_interval
from gleam.records.intervals import (
    FAILS,
    HOLDS,
    IN_PART,
    UNKNOWN,
    Difference,
    difference,
    is_as_good,
    is_as_large,
    is_better,
    together,
)
from gleam.records.schema import FULL_SCALE
from gleam.records.scores import MISSING, change_text
from gleam.records.seeds import pair_seeds
from gleam.records.storage import Record, load_experiment
from gleam.records.subjects import complete_folds
from gleam.records.summaries import count_inversions
from gleam.records.tables import published

COLUMNS = ("This build", "Standard", "Real anatomy", "Paper size")
N_FOLDS = 5


def scoreboard(
    results: str | Path, build: str | Path, paper: str | Path, claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """All claims as a table of text.

    Parameters
    ----------
    results : path
        Holds a folder of archived records per device and profile, as results/ does.
    build : path
        Records of this build, <experiment>/<method>.json.
    paper : path
        The paper's tables (CSV).
    claims : sequence of Claim

    Returns
    -------
    DataFrame
        Index (claim, case). Columns: Paper; This build, Standard, Real anatomy and Paper size, each a difference with
        its interval, or a ratio; Verdict, of the case; Where, a chapter; Quantity, what the numbers are; Trainings, how
        many of each method the verdict has at least (a dash for costs). Under a claim with several cases the row
        "together" has the verdict on the claim.

    Raises
    ------
    ValueError
        If a file is not a record, or two that would be compared do not belong together; the message names them.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for claim in claims:
        of_cases = [_row(claim, case, Path(results), build, paper) for case in claim.cases]
        rows |= {(claim.text, case.label): row for case, row in zip(claim.cases, of_cases, strict=True)}
        if len(claim.cases) > 1:
            verdict = together(row["Verdict"] for row in of_cases)
            blank = dict.fromkeys(("Paper", *COLUMNS), "")
            known = [row["Trainings"] for row in of_cases if row["Trainings"] != MISSING]
            fewest = min(known, key=int, default=MISSING)
            rows[claim.text, "together"] = of_cases[-1] | blank | {"Verdict": verdict, "Trainings": fewest}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["Claim", "Case"])


def _row(claim, case, results, build, paper):
    """All columns of a case."""
    real: dict[str, list[Record]] = {}
    if case.real:
        folder, experiment = case.real[0].split("/")
        folds = complete_folds(results / folder, experiment, N_FOLDS, case.real[1:])
        once = load_experiment(results / folder, experiment)  # costs are measured once
        folds = folds or ({1: once} if {*case.real[1:]} <= {*once} else {})
        real = {method: [runs[method] for runs in folds.values()] for method in case.real[1:] if folds}
    is_real_only = bool(case.real) and case.real[0].endswith(f"/{case.experiment}")
    found = {
        "This build": {m: [r] for m, r in load_experiment(build, case.experiment).items()},
        "Standard": {} if is_real_only else archived_seeds(results, case.experiment, ("standard", "beyond")),
        "Real anatomy": real,
        "Paper size": archived_seeds(results, case.experiment, (FULL_SCALE,)),
    }
    values = {name: _value(claim, case, runs, is_real=name == "Real anatomy") for name, runs in found.items()}
    of_paper = _published(claim, case, paper)
    text = case.paper or MISSING
    if of_paper is not None:
        text = f"{of_paper:.2f}" if claim.kind == COST else change_text(of_paper, case.name)
    shown = {name: _shown(value, "folds" if name == "Real anatomy" else "seeds") for name, value in values.items()}
    judged = _judged(claim, values)
    fewest = min((len(value.by_seed) for value in judged if isinstance(value, Difference)), default=None)
    about = {"Where": claim.chapter, "Quantity": claim.quantity, "Trainings": str(fewest or MISSING)}
    return {"Paper": text, **shown, "Verdict": _verdict(claim, judged, of_paper), **about}


def in_short(board: pd.DataFrame) -> pd.DataFrame:
    """One row per claim of a :func:`scoreboard`: its verdict, from how many trainings, and where it is tested."""
    return board.groupby(level="Claim", sort=False)[["Verdict", "Trainings", "Where"]].last()


def summary(board: pd.DataFrame) -> dict[str, list[str]]:
    """The paper's claims of a :func:`scoreboard` by verdict; those beyond the paper are left out."""
    short = in_short(board)["Verdict"]
    ours = [claim for claim in short.index if not claim.startswith(BEYOND)]
    return {verdict: [c for c in ours if short[c] == verdict] for verdict in (HOLDS, IN_PART, FAILS, UNKNOWN)}


def _value(claim, case, runs, *, is_real):
    """The difference, ratio or measure of a case; None if a record is missing."""
    ours, theirs = case.real[1:] if is_real and case.real else (case.ours, case.theirs)
    if claim.kind in (BETTER, AS_GOOD):
        pairs = pair_seeds(runs.get(ours, []), runs.get(theirs, []))
        return difference(*pairs, case.name) if pairs[0] else None
    one = runs[ours][0] if ours in runs else None
    if case.theirs:
        return _ratio(one, runs[theirs][0] if theirs in runs else None, case.name)
    if case.name == "share_of_fallbacks":
        n_replaced, n = count_inversions(one.history if one else [])
        return n_replaced / n if n else None
    return one.value(case.name) if one else None


def _ratio(ours, theirs, name):
    """Cost of theirs over ours; times count only if one run measured both."""
    if ours is None or theirs is None or not ours.cost or not theirs.cost:
        return None
    a, b = theirs.cost.get(name), ours.cost.get(name)
    if not a or not b:
        return None
    if isinstance(a, list):  # seconds of every round
        # the same commit, day and device: one run
        run, other = ({k: r.environment.get(k) for k in ("commit", "date", "device")} for r in (ours, theirs))
        return median_ratio(a, b) if run == other else None
    return a / b


def _judged(claim, values):
    """The largest evidence on a case (the last of `RULES`)."""
    larger = (
        [values["Paper size"]] if values["Paper size"] is not None else [values["Standard"], values["Real anatomy"]]
    )
    judged = [value for value in larger if value is not None]
    if not judged and claim.kind not in (BETTER, AS_GOOD) and values["This build"] is not None:
        judged = [values["This build"]]
    if claim.only_paper_size and values["Paper size"] is None:  # about several GPUs, which no other run has
        judged = []
    return judged


def _verdict(claim, judged, of_paper):
    """The verdict on a case."""
    rules: dict[str, Any] = {
        BETTER: is_better,
        AS_GOOD: is_as_good,
        COST: lambda ratio: is_as_large(ratio, of_paper),
        VALUE: claim.judge,
    }
    return together(rules[claim.kind](value) for value in judged)


def _published(claim, case, paper):
    """The paper's own difference or ratio; None if it has none."""
    if "/" not in case.paper:
        return float(case.paper) if claim.kind == COST and case.paper else None
    table, acceleration = case.paper.split("/")
    rows = published(paper, table=table, acceleration=int(acceleration))
    # units cancel in a ratio
    name = {"peak_bytes": "memory_gb", "step_seconds": "seconds_per_step"}.get(case.name, case.name)
    where = f"{paper}: table {table}, R = {acceleration}"
    ours, theirs = (_only_number(rows, method, name, where) for method in (case.ours, case.theirs))
    return theirs / ours if claim.kind == COST else ours - theirs


def _only_number(rows, method, name, where):
    cells = rows.loc[rows["method"] == method, name] if name in rows else pd.Series(dtype=float)
    found = pd.to_numeric(cells, errors="coerce").dropna()
    if len(found) != 1:
        raise ValueError(f"{where}, method {method}: {len(found)} numbers in column {name}; expected one")
    return found.item()


def _shown(value, of):
    if value is None:
        return MISSING
    if not isinstance(value, Difference):
        return f"{value:.2f}"
    return "; ".join(filter(None, [with_interval(value), spread(value, of)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scoreboard and return the exit status: 2, with one sentence, if a folder or a record is not right."""
    parser = argparse.ArgumentParser(
        prog="python -m gleam.records.scoreboard", description="The paper's claims and ours."
    )
    parser.add_argument("results", type=Path, help="holds a folder of archived records for each device")
    parser.add_argument("build", type=Path, help="holds the records of this build, <experiment>/<method>.json")
    parser.add_argument("--paper", type=Path, default=Path("data/published/tables.csv"), help="the paper's tables")
    given = parser.parse_args(arguments)
    try:
        if not given.results.is_dir():
            raise FileNotFoundError(f"{given.results} is not a folder; expected archived records, such as results/")
        board = scoreboard(given.results, given.build, given.paper)
        if _is_empty(board, *COLUMNS[1:]):
            raise ValueError(f"no records under {given.results} that judge a claim; expected archived ones: results/")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if _is_empty(board, COLUMNS[0]):
        print(f"no records under {given.build} that a claim is about; run make reproduce", file=sys.stderr)
    try:
        _print(board)
    except BrokenPipeError:  # the reader, such as head, has what it wants; the rest, written at exit, goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _is_empty(board, *columns):
    return board[[*columns]].isin(["", MISSING]).all(axis=None)


def _print(board):
    for claim, rows in board.groupby(level="Claim", sort=False):
        print(f"\n{claim}: {rows['Verdict'].iloc[-1].upper()} ({rows['Quantity'].iloc[-1]})")
        print(rows.loc[:, "Paper":"Verdict"].droplevel("Claim").drop(index="together", errors="ignore").to_string())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
