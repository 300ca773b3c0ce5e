"""Gaps to end-to-end training and what they cost, as tables and sentences."""

from dataclasses import replace

import pytest
from made_records import make

from gleam import records

COST = {"seconds_per_step": 1.0, "peak_bytes": 8_000_000, "memory_kind": "", "device": "CPU",
        "step_seconds": [1.0, 2.0, 4.0], "split": {"activations": 80}}  # fmt: skip
LESS = COST | {"seconds_per_step": 3.0, "peak_bytes": 2_000_000, "step_seconds": [1.05, 2.1, 40.0],
               "split": {"activations": 20}}  # fmt: skip
HISTORY = [{"step": step, "loss": 1.0, "nrmse": error, "seconds": 1.0} for step, error in ((100, 0.4), (200, 0.3))]
BASES = {"End-to-end": "End-to-end", "GLEAM": "End-to-end", "Look-ahead": "End-to-end"}


@pytest.fixture
def runs():
    """End-to-end training and GLEAM, which is 0.5 dB behind and needs a quarter of the memory."""
    psnr, costs = {"End-to-end": (31.0, 32.0, 35.0, 36.0), "GLEAM": (30.5, 31.5, 34.5, 35.5)}, (COST, LESS)
    made = {method: make(method, values) for method, values in psnr.items()}
    return {
        method: replace(run, cost=cost, history=HISTORY, n_steps_done=200)
        for (method, run), cost in zip(made.items(), costs, strict=True)
    }


def test_the_caption_tells_data_and_subjects(runs):
    text = records.gap_report(runs, BASES, runs, "Tested on {source}, {n_subjects} subjects.", "tab-gap")
    assert text.startswith(":::{table} Tested on phantoms, 2 subjects.\n:name: tab-gap")
    assert "| GLEAM | 33.00 | −0.50 (" in text and "Look-ahead" not in text


def test_a_goal_asks_for_the_whole_interval_for_activations_and_for_time(runs):
    bases, goal = {"GLEAM": "End-to-end"}, {"within": 0.6, "activations": 0.25}
    text = records.goal_text(runs, bases, runs, **goal)
    assert text.startswith("**reached**. GLEAM: −0.50 dB (")
    assert text.endswith("0.25 of the activations, 1.05 of the time.")
    for harder in ({"within": 0.4}, {"activations": 0.2}, {"longest": 1.0}):
        assert records.goal_text(runs, bases, runs, **goal | harder).startswith("**not reached**. ")


def test_checkpointing_is_timed_along_the_curve_of_end_to_end_training(runs):
    """Its steps are twice as long. It reaches the error of one fold sooner, the other never, at its best later."""
    longer = replace(runs["End-to-end"], cost=COST | {"step_seconds": [2.0, 4.0, 8.0], "peak_bytes": 3_000_000})
    worse = replace(runs["GLEAM"], history=[{**row, "nrmse": row["nrmse"] + 0.2} for row in HISTORY])
    better = replace(worse, history=[{**row, "nrmse": row["nrmse"] - 0.1} for row in HISTORY])
    best = replace(runs["End-to-end"], history=[{**row, "nrmse": row["nrmse"] - 0.2} for row in HISTORY])
    folds = {k: runs | {"GLEAM": gleam, "Other": best} for k, gleam in enumerate((worse, better), 1)}
    costs = runs | {"Checkpointing": longer, "Other": runs["End-to-end"]}
    caption = "Checkpointing needs {memory} MB."
    text = records.checkpointing_report(folds, BASES, costs, caption, "tab-when", best="Other")
    assert "Checkpointing needs 3.0 MB." in text
    # 2 / 1.05 times half of the steps, or all of them
    assert "| GLEAM | 2.0 | 0.95, never (1 of 2) | 0.95, 1.90 (1 of 2) |" in text, text
    assert "| End-to-end |" not in text and "Look-ahead" not in text


def test_a_cost_is_told_beside_that_of_the_base(runs):
    text = records.step_text(runs["GLEAM"], runs["End-to-end"])
    assert text == "4.0 times less memory, 1.05 times the time"


def test_curves_in_seconds_are_those_of_the_run_that_measured_the_base(runs):
    seconds, errors = records.curve_in_seconds(runs["GLEAM"], runs["GLEAM"], runs["End-to-end"])
    assert seconds == pytest.approx([105, 210]) and errors == [0.4, 0.3]


def test_trainings_with_costs_and_scores(runs):
    arms = {"Short modules": (runs["GLEAM"], runs["GLEAM"])}
    text = records.trainings_report(arms, runs["End-to-end"], "The base needs {peak_mb} MB.", "tab-arms")
    assert "The base needs 8.0 MB." in text and "| Training | Memory (MB) | Time of a step |" in text
    assert "| Short modules | 2.0 | 1.05 | 2,191,216 | 200 | 33.00 |" in text
