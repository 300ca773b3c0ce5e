"""Comparisons under several shifts: the table, the verdicts by the fixed rules, and the figure."""

from dataclasses import replace

import pytest

from gleam import records
from gleam.records.shifts import LESION_SCORES


def made(method, values):
    scores = [{"subject": f"s{i}", "slice": 0, "psnr": v, "ssim_object": 0.8} for i, v in enumerate(values)]
    return records.Record("made", method, scores, {})


@pytest.fixture
def shifts():
    """Two methods that differ by so much (dB) in each of three subjects."""
    gaps = {"up": (1.0, 1.1, 0.9), "down": (-1.0, -1.1, -0.9), "even": (0.05, -0.05, 0.0), "mixed": (1.0, -1.0, 0.5)}
    base = (30.0, 31.0, 32.0)
    return {
        name: {"CS": made("CS", base), "GLEAM": made("GLEAM", [b + g for b, g in zip(base, gap, strict=True)])}
        for name, gap in gaps.items()
    }


def test_verdicts_follow_the_rules(shifts):
    assert records.shift_verdicts(shifts, ("GLEAM", "CS")) == {
        "better": ["up"], "worse": ["down"], "no difference that matters": ["even"], "cannot be told": ["mixed"],
    }  # fmt: skip
    words = records.shift_words(shifts, {"GLEAM − CS": ("GLEAM", "CS")})
    assert words.startswith("- GLEAM − CS: **better**: up; **worse**: down")


def test_tables_hold_means_and_intervals(shifts):
    table = records.shift_table(shifts, {"gain": ("GLEAM", "CS"), "loss": ("CS", "GLEAM")})
    assert table.loc["up", "gain"].startswith("+1.00 (+") and table.loc["up", "loss"].startswith("−1.00 (−")
    scores = records.shift_scores(shifts, ["Zero-filled", "CS", "GLEAM"], base="CS", of="Shift")
    assert scores.index.tolist()[:2] == [("up", "CS"), ("up", "GLEAM")]
    assert scores.iloc[0, 2] == records.MISSING and scores.iloc[1, 2] == table.loc["up", "gain"]


def test_a_report_is_the_table_and_under_it_the_verdicts(shifts):
    pairs = {"GLEAM − CS": ("GLEAM", "CS")}
    scores = records.shift_report(
        shifts, pairs, "Both.", "tab-both", methods=["CS", "GLEAM"], of="Change", heading="PSNR:"
    )
    assert "{table} Both.\n:name: tab-both" in scores and "| Change | Method | PSNR (dB) |" in scores
    assert scores.endswith("PSNR:\n\n" + records.shift_words(shifts, pairs))
    differences = records.shift_report(shifts, pairs, "Both.", "tab-both")
    assert "| Shift | GLEAM − CS |" in differences and differences.endswith(records.shift_words(shifts, pairs))
    assert records.shift_gaps(shifts, pairs)["up"]["GLEAM − CS"].mean == pytest.approx(1)


def test_records_are_loaded_by_data_and_label(shifts, tmp_path):
    for method, one in shifts["up"].items():
        records.save(replace(one, experiment="made_knees_R_4", method=method), tmp_path)
    found = records.load_shifts(tmp_path, "made", ["knees", "brains"], {"R_4": "R = 4", "R_8": "R = 8"})
    assert list(found["knees"]) == ["R = 4"] and set(found["knees"]["R = 4"]) == {"CS", "GLEAM"}
    assert found["brains"] == {}


def test_lesions_are_compared_by_the_contrast_that_is_kept():
    scores = {score: 0.5 for score in LESION_SCORES} | {"psnr": 30.0}
    rows = {"CS": (0.7, 0.6, 0.65), "GLEAM": (0.8, 0.7, 0.75)}
    runs = {
        method: records.Record(
            "made", method, [scores | {"subject": f"s{i}", "slice": 0, "contrast": c} for i, c in enumerate(kept)], {}
        )
        for method, kept in rows.items()
    }
    text = records.lesion_report(runs, ["Zero-filled", "CS", "GLEAM"], "Lesions.", "tab-lesions")
    assert "| Method | Kept, 4 mm |" in text and "| CS | 0.500 |" in text and "Zero-filled" not in text
    assert text.endswith("- GLEAM: +0.100 (+0.100 to +0.100), clearly more.")
