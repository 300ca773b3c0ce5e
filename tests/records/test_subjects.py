"""Cross-validation: records of folds as one, and differences with intervals over subjects."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gleam import records
from gleam.datasets.volume import REAL_ANATOMY

MASK = {"function": "gleam.masks.poisson_disc", "arguments": {"acceleration": 12}}


def fold(number, offsets, **changes):
    """Records of two methods on two subjects of two slices each; ``offsets``: of each method's PSNR."""
    names = [f"knee-{2 * number + i}" for i in range(2)]
    rows = [(name, s, 30.0 + i + s) for i, name in enumerate(names) for s in range(2)]
    data = {"is_phantom": False, "test": {"acquisition": REAL_ANATOMY, "mask": MASK}}
    found = {}
    for method, by_subject in offsets.items():
        scores = [
            {"subject": name, "slice": s, "psnr": psnr + by_subject[names.index(name)], "nrmse": 0.1, "ssim": 0.9}
            for name, s, psnr in rows
        ]
        settings = {"n_steps": 7, "seed": number, "lamda": 0.01 * number} | changes
        found[method] = records.Record(f"fold{number}", method, scores, data, settings=settings, n_parameters=5)
    return found


FOLDS = {
    1: fold(1, {"GLEAM": (-0.5, -0.7), "End-to-end": (0, 0)}),
    2: fold(2, {"GLEAM": (-0.6, -0.2), "End-to-end": (0, 0)}),
}
GAPS = [-0.5, -0.7, -0.6, -0.2]


def test_folds_together_hold_every_subject_once():
    together = records.pooled(FOLDS)
    assert list(together) == ["GLEAM", "End-to-end"]
    assert together["GLEAM"].table["subject"].unique().tolist() == ["knee-2", "knee-3", "knee-4", "knee-5"]
    assert len(together["GLEAM"].scores) == 8 and together["GLEAM"].source == REAL_ANATOMY
    assert together["End-to-end"].value("psnr") == pytest.approx(31)
    assert records.pooled({3: FOLDS[1]}) == FOLDS[1]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"GLEAM": FOLDS[2]["GLEAM"]}, r"fold 2 has records of \['GLEAM'\], fold 1 of \['End-to-end', 'GLEAM'\]"),
        (fold(2, {"GLEAM": (0, 0), "End-to-end": (0, 0)}, n_steps=8), "GLEAM of fold 2 differs from fold 1 in n_steps"),
        (fold(2, {"GLEAM": (0, 0), "End-to-end": (0, 0)}, noise=0.1), "differs from fold 1 in noise"),
        ({m: replace(r, n_parameters=6) for m, r in FOLDS[2].items()}, "differs from fold 1 in n_parameters"),
        ({m: replace(r, data={}) for m, r in FOLDS[2].items()}, "differs from fold 1 in mask"),
        (
            {m: replace(r, network={"function": "pgd", "step_size": 2.0, "seed": 2}) for m, r in FOLDS[2].items()},
            "GLEAM of fold 2 differs from fold 1 in step_size",
        ),
        (FOLDS[1], "GLEAM was tested on subject knee-2 in more than one fold"),
    ],
)
def test_folds_that_do_not_belong_together_make_no_table(other, words):
    with pytest.raises(ValueError, match=words):
        records.pooled({1: made_by_pgd(FOLDS[1], 1), 2: other})


def made_by_pgd(of_fold, seed):
    return {m: replace(r, network={"function": "pgd", "step_size": 1.0, "seed": seed}) for m, r in of_fold.items()}


def test_older_folds_which_do_not_describe_their_networks_go_with_newer_ones():
    for one, other in (
        (FOLDS[1], made_by_pgd(FOLDS[2], 2)),
        (made_by_pgd(FOLDS[1], 1), FOLDS[2]),
        (made_by_pgd(FOLDS[1], 1), made_by_pgd(FOLDS[2], 2)),
    ):
        assert len(records.pooled({1: one, 2: other})["GLEAM"].scores) == 8


def test_half_width_is_that_of_students_t():
    values = [1.0, 2.0, 4.0, 5.0]
    assert records.half_width(values) == pytest.approx(3.1824463 * np.std(values, ddof=1) / 2)
    assert math.isnan(records.half_width([1.0]))
    together = records.pooled(FOLDS)
    expected = records.half_width([30.5, 31.5, 30.5, 31.5])
    assert together["End-to-end"].spread("psnr", "interval") == pytest.approx(expected)
    table = records.table(together, over=["interval"], metrics=["psnr"])
    assert table.loc[(records.THIS_BUILD, "End-to-end"), "PSNR (dB)"] == f"31.00 ({expected:.2f})"


def test_differences_are_taken_subject_by_subject():
    together = records.pooled(FOLDS)
    together["Checkpointing"] = replace(together["GLEAM"], method="Checkpointing", scores=[])
    differences = records.paired(together, "End-to-end")
    assert list(differences) == ["GLEAM"] and differences["GLEAM"].tolist() == pytest.approx(GAPS)
    found = records.difference(together["GLEAM"], together["End-to-end"])
    text = f"−0.50 (−{-found.low:.2f} to −{-found.high:.2f})"
    table = records.difference_table(together, "End-to-end", ("psnr", "nrmse"))
    assert table.index.tolist() == ["GLEAM"] and table.loc["GLEAM", "PSNR (dB)"] == text
    header, (row,) = records.table_rows(table)
    assert header == ["Method", "PSNR (dB)", "nRMSE"] and row[2] == "+0.000 (+0.000 to +0.000)"
    short = replace(together["GLEAM"], scores=together["GLEAM"].scores[:-1])
    with pytest.raises(ValueError, match="GLEAM and End-to-end of fold1 were not tested on the same slices"):
        records.paired({"GLEAM": short, "End-to-end": together["End-to-end"]}, "End-to-end")


def test_a_sentence_calls_a_difference_clear_only_if_its_interval_leaves_out_zero():
    together = records.pooled(FOLDS)
    one, other = together["GLEAM"], together["End-to-end"]
    said = records.compare_subjects(one, other, ("psnr", "nrmse"))
    assert said.startswith(
        "GLEAM against End-to-end: PSNR −0.50 dB (−0.70 to −0.20), worse (higher in 0 of 4 subjects)"
    )
    assert said.endswith("nRMSE +0.000 (+0.000 to +0.000), no difference that matters (higher in 0 of 4 subjects).")
    assert "better (higher in 4 of 4" in records.compare_subjects(other, one, ["psnr"])
    wide = records.pooled({1: fold(1, {"GLEAM": (-2, 1), "End-to-end": (0, 0)})})
    assert "not clear (higher in 1 of 2" in records.compare_subjects(*wide.values(), ["psnr"])


def test_differences_come_with_the_memory_that_they_buy():
    order = ("End-to-end", "CS", "GLEAM, M = 8", "GLEAM, M = 2")
    runs = fold(1, dict.fromkeys(order, (0, 0)))
    runs = {m: replace(run, scores=[row | {"ssim_object": 0.8} for row in run.scores]) for m, run in runs.items()}
    assert "memory" not in records.differences_report(runs, "PGD", "tab-x")
    peaks = {"End-to-end": 9e6, "GLEAM, M = 8": 2e6, "GLEAM, M = 2": 5e6}
    costly = {m: replace(run, cost={"peak_bytes": peaks[m]} if m in peaks else None) for m, run in runs.items()}
    text = records.differences_report(costly, "PGD", "tab-x")
    assert "- PGD: peak memory of end-to-end training over that of GLEAM: 4.5 (M = 8), 1.8 (M = 2)." in text


def test_a_cross_validation_is_loaded_by_fold_and_together(tmp_path):
    for number, runs in FOLDS.items():
        for run in runs.values():
            records.save(replace(run, experiment=f"knees_fold{number}"), tmp_path)
    records.save(replace(FOLDS[1]["GLEAM"], experiment="knees_cost", method="Checkpointing"), tmp_path)
    folds, runs = records.cross_validation(tmp_path, "knees", 3, ["End-to-end", "Checkpointing", "CS", "GLEAM"])
    assert list(folds) == [1, 2] and list(runs) == ["End-to-end", "Checkpointing", "GLEAM"]
    assert len(runs["GLEAM"].scores) == 8 and len(runs["Checkpointing"].scores) == 4
    assert list(records.cross_validation(tmp_path, "knees", 1, ["GLEAM"])[0]) == [1]
    assert records.cross_validation(tmp_path, "brains", 3, ["GLEAM"]) == ({}, {})


def test_records_of_subjects_hold_their_own_slices():
    alone = records.by_subject(FOLDS[1])
    assert list(alone) == ["knee-2", "knee-3"] and list(alone["knee-3"]) == ["GLEAM", "End-to-end"]
    assert alone["knee-3"]["GLEAM"].value("psnr") == pytest.approx(31.5 - 0.7)
    assert [row["subject"] for row in alone["knee-2"]["GLEAM"].scores] == ["knee-2"] * 2
    assert records.by_subject({}) == {}


def test_groups_are_compared_with_the_base_in_each():
    groups = {"a": FOLDS[1], "b": FOLDS[2] | {"CS": FOLDS[2]["GLEAM"]}}
    order = ["End-to-end", "CS", "GLEAM"]  # not all groups have CS
    text = records.groups_report(groups, order, "Title", "tab-x", of="Fold", base="End-to-end")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| Fold | Method | SSIM | nRMSE | PSNR (dB) |"
    assert [row.split(" | ")[:2] for row in rows[2:]] == [[f"| {g}", m] for g in "ab" for m in ("End-to-end", "GLEAM")]
    assert "- Fold a: PSNR minus that of End-to-end: GLEAM −0.60 dB. The highest PSNR is that of End-to-end." in text
    assert "- Fold b: PSNR minus that of End-to-end: GLEAM −0.40 dB." in text


def test_a_record_says_what_its_data_were():
    record = FOLDS[1]["GLEAM"]
    assert record.source == REAL_ANATOMY == "real anatomy, simulated coils and noise"
    assert [replace(record, data=data).source for data in ({"is_phantom": True}, {"is_phantom": False}, {})] == [
        "phantoms", "scans", "",
    ]  # fmt: skip
    assert REAL_ANATOMY in records.archive_caption({"GLEAM": record})
