"""Tables of training steps: their cost, their rates, and number formats."""

from dataclasses import replace

import pandas as pd
import pytest
from made_records import make

from gleam import records
from gleam.cost import Cost
from gleam.cost.roofline import TimedStep, Work

COSTS = {
    "MEL": Cost.measured([0.4, 0.6, 0.8], {"weights": 1_000_000, "activations": 2_000_000}, "cpu"),
    "End-to-end": Cost.measured([0.2, 0.2, 0.2], {"weights": 1_000_000, "activations": 5_000_000}, "cpu"),
}
LIMITS = {"bf16_flops_per_second": 1e15, "fp32_flops_per_second": 1e14, "copy_bytes_per_second": 1e12}


def cells(text, row):
    return next(line for line in text.splitlines() if line.startswith(f"| {row} |")).strip("| ").split(" | ")[1:]


def test_costs_stand_beside_their_ratios_to_the_base():
    text = records.cost_report(COSTS, "A step", "tab-cost")
    assert text.startswith(":::{table} A step. Relative time: over End-to-end") and ":name: tab-cost" in text
    assert cells(text, "MEL") == ["0.600", "3.00", "3.00", "2.0"]
    assert cells(text, "End-to-end") == ["0.200", "1.00", "6.00", "1.0"]
    assert cells(records.cost_report(COSTS, "", "x", base="MEL"), "End-to-end")[1] == "0.33"
    assert cells(records.cost_report(COSTS, "", "x", ratios={"MEL": 7, "End-to-end": 1}), "MEL")[1] == "7.00"


def test_the_papers_ratios_stand_where_it_has_the_method():
    paper = pd.DataFrame({"seconds_per_step": [3.0], "memory_gb": [8.0]}, index=["End-to-end"])
    text = records.cost_report(COSTS, "A step", "tab-cost", paper=paper)
    assert cells(text, "MEL")[4:] == [records.MISSING] * 2 and cells(text, "End-to-end")[4:] == ["1.00", "1.0"]


def test_rates_are_work_over_seconds():
    step = TimedStep(Work(5 * 10**12, 10**11), seconds=0.5, precision="bf16")
    (row,) = records.work_table({"bf16": step}, LIMITS).to_dict("records")
    assert row == {
        "Milliseconds": "500.0", "TFLOP": "5.00", "TB moved": "0.10", "FLOP per byte": "50.0", "TFLOP/s": "10.0",
        "TB/s": "0.20", "Of its limit": "20 %",
    }  # fmt: skip
    small = records.work_table({"small": TimedStep(Work(10**9, 10**8), 0.5), "large": step}, LIMITS)
    assert small["GFLOP"].tolist() == ["1.00", "5000.00"]  # one unit for all
    assert records.work_table({}, LIMITS).empty


@pytest.fixture
def archive(tmp_path):
    """A device with its limits, a step timed on it, and one timed on another device."""
    here, there = ({"device": name, "date": "2026-01-02"} for name in ("GPU a", "GPU b"))
    run = replace(make("bf16"), profile="paper", settings={"precision": "bf16"}, environment=here)
    counted = {"flops_per_step": 4 * 10**12, "bytes_per_step": 10**11}
    for record in (
        replace(run, experiment="limits", method="Device", measures=LIMITS),
        replace(run, experiment="ladder_pgd2d", measures=counted),
        replace(run, experiment="ladder_pgd2d", method="tf32"),  # its work was not counted
        replace(run, experiment="ladder_modl2d", measures=counted, environment=there),
    ):
        records.save(record, tmp_path / "gpu")
    return tmp_path


def test_archived_steps_are_those_with_counted_work_on_the_device_of_the_limits(archive):
    steps, device = records.archived_steps(archive)
    assert steps == {"PGD 2D: bf16": TimedStep(Work(4 * 10**12, 10**11), 0.25, "bf16")}
    assert device.measures == LIMITS
    assert records.archived_steps(archive / "none") == ({}, None)


def test_number_formats_by_seed_with_the_shift_by_bf16(tmp_path):
    for seed, methods in enumerate([("fp32", "bf16"), ("fp32", "tf32")]):
        for method in methods:
            run = replace(make(method), experiment=f"formats_seed{seed}", profile="paper")
            records.save(run, tmp_path / "gpu")
    psnr = {(5, "fp32"): 30.0, (5, "bf16"): 29.75, (5, "tf32"): 30.01}
    table = records.formats_table(psnr, tmp_path, "formats")
    assert table.index.tolist() == [(records.ARCHIVED, 0), (records.THIS_BUILD, 5)]  # seed 1 lacks bf16
    assert table.iloc[0].tolist() == ["32.50", records.MISSING, "32.50", "+0.000"]
    assert table.iloc[1].tolist() == ["30.00", "30.01", "29.75", "−0.250"]
    assert len(records.formats_table(psnr, tmp_path / "none", "formats")) == 1


def test_mean_scores_of_methods_are_a_numbered_table():
    scores = {"CS": pd.DataFrame({"psnr": [30.0, 31.0], "ssim": [0.5, 0.7], "nrmse": [0.1, 0.1]})}
    text = records.scores_report(scores, "Scores.", "tab-scores", ("psnr", "ssim"))
    assert text.startswith(":::{table} Scores.\n:name: tab-scores") and cells(text, "CS") == ["0.600", "30.50"]
