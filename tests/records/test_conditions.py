"""Methods compared under several conditions, of which some lack records."""

from dataclasses import replace

import pytest
from made_records import make

from gleam import figures, records

HISTORY = [{"step": step, "loss": 1.0, "nrmse": error, "seconds": 1.0} for step, error in ((300, 0.2), (400, 0.1))]
PAIRS = {
    "paper's loss": ("GLEAM", "End-to-end"),
    "w = 0.9": ("GLEAM, w = 0.9", "End-to-end, w = 0.9"),
    "other": ("GLEAM, other", "End-to-end, other"),
}


@pytest.fixture
def runs():
    """Pairs of methods of which GLEAM is half a dB behind with the one loss, and as good with the other."""
    ahead, behind = (31.0, 32.0, 35.0, 36.0), (30.5, 31.5, 34.5, 35.5)
    made = {"CS": make("CS", cost=False), "End-to-end": make("End-to-end", ahead), "GLEAM": make("GLEAM", behind)}
    made |= {method: make(method, ahead) for method in PAIRS["w = 0.9"]}
    return {method: replace(run, history=HISTORY if method != "CS" else []) for method, run in made.items()}


def test_experiments_are_loaded_by_label_and_methods_get_the_names_of_the_page(runs, tmp_path):
    for method in ("GLEAM, M = 8", "GLEAM, M = 4"):
        records.save(replace(runs["GLEAM"], experiment="made", method=method), tmp_path)
    found = records.load_conditions(
        tmp_path, {"as above": "made", "noise": "not_run"}, rename={"GLEAM, M = 8": "GLEAM", "M = 4": "short"}
    )
    assert {label: set(methods) for label, methods in found.items()} == {"as above": {"GLEAM", "GLEAM, short"}}
    with pytest.raises(ValueError, match=r"made: with rename=.* have one name"):
        records.load_conditions(tmp_path, {"as above": "made"}, rename={"M = 8": "M = 4"})


def test_what_has_no_records_is_left_out(runs):
    groups = {"Knees": {"as above": runs, "noise": {"CS": runs["CS"]}}, "Brains": {"lines": {}}}
    found = records.condition_gaps(groups, PAIRS)
    assert {heading: list(rows) for heading, rows in found.items()} == {"Knees": ["as above"]}
    assert {name: one.mean for name, one in found["Knees"]["as above"].items()} == {"paper's loss": -0.5, "w = 0.9": 0}
    assert figures.intervals(found, xlabel="PSNR (dB)").svg().startswith("<?xml")
    assert records.conditions_report({"Brains": {"lines": {}}}, PAIRS, "Nothing.", "tab-nothing") == ""


def test_a_report_is_the_table_and_what_was_still_gained(runs):
    text = records.conditions_report({"Real knees": {"as above": runs, "noise": {}}}, PAIRS, "All.", "tab-all")
    head = "| Data and change | CS | End-to-end | End-to-end, w = 0.9 | End-to-end, other |"
    assert f"{head} GLEAM, paper's loss | GLEAM, w = 0.9 | GLEAM, other |" in text
    assert "| Real knees, as above | 32.50 | 33.50 | 33.50 | – | −0.50 | +0.00 | – |" in text
    assert text.endswith("fell in the last quarter of its steps: real knees 6.02 dB.")


def test_gaps_as_texts(runs):
    found = records.gap_texts({"as above": runs}, "GLEAM", "End-to-end")
    assert found == {"as above": records.gap_text(runs["GLEAM"], runs["End-to-end"])}


def test_over_folds_takes_the_methods_that_every_fold_has(runs, tmp_path):
    for fold, methods in enumerate((("CS", "GLEAM", "End-to-end"), ("CS", "GLEAM")), start=1):
        for method in methods:
            scores = [row | {"subject": f"{row['subject']} of {fold}"} for row in runs[method].scores]
            records.save(replace(runs[method], experiment=f"made_fold{fold}", scores=scores), tmp_path)
    found = records.over_folds(tmp_path, "made", 5)
    assert set(found) == {"CS", "GLEAM"} and found["GLEAM"].table["subject"].nunique() == 4
    assert records.over_folds(tmp_path, "made", 5, ["End-to-end"])["End-to-end"].table["subject"].nunique() == 2
    assert records.over_folds(tmp_path, "other", 5) == {}
