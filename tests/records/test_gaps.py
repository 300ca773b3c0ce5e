"""How far methods are behind end-to-end training, and what they cost."""

from dataclasses import replace

import pytest
from made_records import make

from gleam import figures
from gleam.records import gap_table, gaps, share_of_activations, share_of_time, still_gained, times_as_long

RUNS = {"End-to-end": make("End-to-end", psnr=(31.0, 32.0, 35.0, 36.0)), "GLEAM": make(psnr=(30.5, 31.5, 34.5, 35.5))}
COST = {"seconds_per_step": 1.0, "peak_bytes": 100, "memory_kind": "", "device": "CPU", "step_seconds": [1.0, 2.0, 4.0]}
HISTORY = [{"step": step, "loss": 1.0, "nrmse": error, "seconds": 1.0} for step, error in
           ((100, 0.4), (200, 0.3), (300, 0.2), (400, 0.1))]  # fmt: skip


def test_each_method_is_compared_with_a_base_of_its_own():
    better = replace(RUNS["End-to-end"], method="End-to-end, w = 0.9")
    runs = RUNS | {"End-to-end, w = 0.9": better, "GLEAM, w = 0.9": replace(better, method="GLEAM, w = 0.9")}
    found = gaps(runs, {"GLEAM": "End-to-end", "GLEAM, w = 0.9": "End-to-end, w = 0.9", "Look-ahead": "End-to-end"})
    assert {method: one.mean for method, one in found.items()} == {"GLEAM": -0.5, "GLEAM, w = 0.9": 0.0}


def test_runs_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="do not belong together: experiment is"):
        gaps(RUNS | {"GLEAM": replace(RUNS["GLEAM"], experiment="other")}, {"GLEAM": "End-to-end"})


def test_what_a_training_still_gained_is_measured_between_its_best_weights():
    record = replace(RUNS["GLEAM"], history=HISTORY)
    assert still_gained(record) == pytest.approx(6.0206, abs=1e-3)  # the error halves in the last quarter
    worse = [*HISTORY[:3], HISTORY[3] | {"nrmse": 0.5}]
    assert still_gained(replace(record, history=worse)) == 0
    with pytest.raises(ValueError, match=r"GLEAM of .* has no validation before the last 25%"):
        still_gained(replace(record, history=HISTORY[3:]))


def test_another_training_is_timed_until_it_has_our_lowest_error():
    ours = replace(RUNS["GLEAM"], history=HISTORY)
    assert times_as_long(ours, ours, 1.0) == 1 and times_as_long(ours, ours, 1.5) == 1.5
    fast = [row | {"nrmse": row["nrmse"] / 4} for row in HISTORY]
    assert times_as_long(replace(ours, history=fast), ours, 2.0) == 2 * 100 / 400
    assert times_as_long(ours, replace(ours, history=fast), 2.0) == float("inf")


def test_costs_are_shares_of_those_of_the_base_and_a_dash_where_none_were_measured():
    costs = {
        "End-to-end": replace(RUNS["End-to-end"], cost=COST | {"split": {"activations": 80}}),
        "GLEAM": replace(RUNS["GLEAM"], cost=COST | {"split": {"activations": 20}, "step_seconds": [1.1, 2.2, 40.0]}),
    }
    assert share_of_activations(costs["GLEAM"], costs["End-to-end"]) == 0.25
    assert share_of_time(costs["GLEAM"], costs["End-to-end"]) == pytest.approx(1.1)  # of paired rounds, not of totals
    runs = {method: replace(record, history=HISTORY) for method, record in RUNS.items()}
    bases = {"End-to-end": "End-to-end", "GLEAM": "End-to-end"}
    table = gap_table(runs, bases, costs)
    assert table.loc["GLEAM", ["PSNR (dB)", "Activations", "Time of a step"]].tolist() == ["33.00", "0.25", "1.10"]
    assert table.loc["GLEAM", "Minus end-to-end (dB)"].startswith("−0.50 (")
    assert table.loc["End-to-end", "Minus end-to-end (dB)"] == "–"
    assert gap_table(runs, bases, {}).loc["GLEAM", "Activations"] == "–"


def test_intervals_are_drawn_where_they_are():
    found = gaps(RUNS, {"GLEAM": "End-to-end"})
    figure = figures.intervals({"": {"R = 4": found}, "Noise": {"twice": found}}, xlabel="PSNR (dB)")
    (axis,) = figure.axes
    (container,) = axis.containers
    assert list(container.lines[0].get_xdata()) == [-0.5, -0.5]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["R = 4", "", "twice"]
    assert [text.get_text() for text in axis.texts] == ["Noise"] and figure.svg().startswith("<?xml")
