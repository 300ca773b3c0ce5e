"""The scoreboard: every claim with the paper's number, ours with intervals, and a verdict.

``python -m gleam.records.scoreboard results _work/quick/records`` prints it. The rules are those of `intervals`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gleam.cost.timing import median_ratio
from gleam.records.claims import AS_GOOD, BETTER, BEYOND, CLAIMS, COST, VALUE, Claim
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
from gleam.records.storage import Record, load_experiment
from gleam.records.subjects import complete_folds
from gleam.records.tables import published

Runs = dict[str, list[Record]]  # of method to its records, one per seed
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
        its interval, or a ratio; Verdict, of the case; Where, a chapter; Quantity, what the numbers are. Under a claim
        with several cases the row "together" has the verdict on the claim.

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
            rows[claim.text, "together"] = of_cases[-1] | blank | {"Verdict": verdict}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["Claim", "Case"])


def _row(claim, case, results, build, paper):
    """All columns of a case."""
    real: Runs = {}
    if case.real:
        folder, experiment = case.real[0].split("/")
        folds = complete_folds(results / folder, experiment, N_FOLDS, case.real[1:])
        once = load_experiment(results / folder, experiment)  # costs are measured once
        folds = folds or ({1: once} if {*case.real[1:]} <= {*once} else {})
        real = {method: [runs[method] for runs in folds.values()] for method in case.real[1:] if folds}
    found = {
        "This build": {m: [r] for m, r in load_experiment(build, case.experiment).items()},
        "Standard": of_seeds(results, case.experiment, "standard", "beyond"),
        "Real anatomy": real,
        "Paper size": of_seeds(results, case.experiment, FULL_SCALE),
    }
    values = {name: _value(claim, case, runs, is_real=name == "Real anatomy") for name, runs in found.items()}
    of_paper = _published(claim, case, paper)
    text = case.paper or MISSING
    if of_paper is not None:
        text = f"{of_paper:.2f}" if claim.kind == COST else change_text(of_paper, case.name)
    shown = {name: _shown(value, "folds" if name == "Real anatomy" else "seeds") for name, value in values.items()}
    verdict = _verdict(claim, values, of_paper)
    return {"Paper": text, **shown, "Verdict": verdict, "Where": claim.chapter, "Quantity": claim.quantity}


def in_short(board: pd.DataFrame) -> pd.DataFrame:
    """One row per claim of a :func:`scoreboard`: its verdict and where it is tested."""
    return board.groupby(level="Claim", sort=False)[["Verdict", "Where"]].last()


def summary(board: pd.DataFrame) -> dict[str, list[str]]:
    """The paper's claims of a :func:`scoreboard` by verdict; those beyond the paper are left out."""
    short = in_short(board)["Verdict"]
    ours = [claim for claim in short.index if not claim.startswith(BEYOND)]
    return {verdict: [c for c in ours if short[c] == verdict] for verdict in (HOLDS, IN_PART, FAILS, UNKNOWN)}


def of_seeds(results: Path, experiment: str, *profiles: str) -> Runs:
    """Archived records of an experiment and of profiles, of method to one record per seed; empty if there are none.

    All are of one device: the one whose records are newest.
    """
    devices: dict[str, list[Path]] = {}
    for folder in sorted(path.parent for path in results.glob(f"*/{experiment}") if path.is_dir()):
        # folders of one device and profile differ in the seed
        devices.setdefault(re.sub(r"-seed\d+$", "", folder.name), []).append(folder)
    found: list[tuple[str, Runs]] = []
    for folders in devices.values():
        loaded = [load_experiment(folder, experiment) for folder in folders]
        runs: Runs = {}
        for of_seed in loaded:
            for method, record in of_seed.items():
                runs.setdefault(method, []).extend([record] if record.profile in profiles else [])
        dates = [record.environment.get("date", "") for of_seed in loaded for record in of_seed.values()]
        found.append((max(dates, default=""), {m: r for m, r in runs.items() if r}))
    return max(filter(lambda one: one[1], found), key=lambda one: one[0], default=("", {}))[1]


def _value(claim, case, runs, *, is_real):
    """The difference, ratio or measure of a case; None if a record is missing."""
    ours, theirs = case.real[1:] if is_real and case.real else (case.ours, case.theirs)
    if claim.kind in (BETTER, AS_GOOD):
        others = runs.get(theirs, [])
        _check_seeds(runs.get(ours, []), others)
        # folds are complete and in one order; of seeds some may lack a method
        partners = others if is_real else [_partner(one, others) for one in runs.get(ours, [])]
        pairs = [*zip(runs.get(ours, []), partners, strict=True)]
        pairs = [(one, other) for one, other in pairs if other and one.scores and other.scores]
        return difference([one for one, _ in pairs], [other for _, other in pairs], case.name) if pairs else None
    one = runs[ours][0] if ours in runs else None
    if case.theirs:
        return _ratio(one, runs[theirs][0] if theirs in runs else None, case.name)
    if case.name == "share_of_fallbacks":
        rows = [row for row in one.history if row.get("n_inversions")] if one else []
        return sum(row["n_fallbacks"] for row in rows) / sum(row["n_inversions"] for row in rows) if rows else None
    return one.value(case.name) if one else None


def _check_seeds(ours, theirs):
    """Raise ValueError if each of two trained methods has a seed that the other lacks."""
    trained = [[record for record in records if record.n_parameters is not None] for records in (ours, theirs)]
    seeds = [{record.settings.get("seed") for record in records} for records in trained]
    if all(trained) and not (seeds[0] <= seeds[1] or seeds[1] <= seeds[0]):
        names = " and ".join(f"{r[0].method} seeds {sorted(s, key=str)}" for r, s in zip(trained, seeds, strict=True))
        raise ValueError(f"{ours[0].experiment}: {names} do not match; expected one to have all of the other's")


def _partner(ours, candidates):
    """The run that a run is compared with: trained with its seed; without training, tested on its data. Or None."""
    seed, data = ours.settings.get("seed"), ours.data.get("test", {}).get("fingerprint")
    for one in candidates:
        if one.n_parameters is None and one.data.get("test", {}).get("fingerprint") == data:
            return one
        if one.n_parameters is not None and one.settings.get("seed") == seed:
            return one
    return None


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


def _verdict(claim, values, of_paper):
    """The verdict on a case from the largest evidence (the last of `RULES`)."""
    larger = (
        [values["Paper size"]] if values["Paper size"] is not None else [values["Standard"], values["Real anatomy"]]
    )
    judged = [value for value in larger if value is not None]
    if not judged and claim.kind not in (BETTER, AS_GOOD) and values["This build"] is not None:
        judged = [values["This build"]]
    if claim.only_paper_size and values["Paper size"] is None:  # about several GPUs, which no other run has
        judged = []
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
    mean, low, high = (change_text(number, value.metric) for number in (value.mean, value.low, value.high))
    if len(value.by_seed) < 2:
        return f"{mean} ({low} to {high})"
    least, most = (change_text(one(value.by_seed), value.metric) for one in (min, max))
    return f"{mean} ({low} to {high}); {len(value.by_seed)} {of} {least} to {most}"


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
