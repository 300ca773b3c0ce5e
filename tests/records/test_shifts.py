"""Comparisons under several shifts: the table, the verdicts by the fixed rules, and the figure."""

import pytest

from gleam import records


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
