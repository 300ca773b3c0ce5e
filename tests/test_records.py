from pathlib import Path

import numpy as np
import pytest

from gleam import records

PUBLISHED = Path(__file__).parents[1] / "data" / "published" / "tables.csv"


def make(method="GLEAM", psnr=(30.0, 31.0, 34.0, 35.0), cost=True):
    scores = [
        {"subject": f"s{i // 2}", "slice": i % 2, "psnr": p, "ssim": 0.8 + i / 100, "nrmse": 0.1 + i / 100}
        for i, p in enumerate(psnr)
    ]
    return records.Record(
        experiment="mridata_pgd_R12", method=method, scores=scores, data={"name": "mridata", "is_phantom": True},
        cost={"seconds_per_step": 0.25, "peak_bytes": 12_300_000} if cost else None, n_parameters=2_191_216 if cost
        else None,
    )  # fmt: skip


def test_a_record_comes_back_as_it_was(tmp_path):
    record = make()
    path = records.save(record, tmp_path)
    assert path == tmp_path / "mridata_pgd_R12" / "gleam.json"
    assert records.load(path) == record
    records.save(make("End-to-end"), tmp_path)
    assert set(records.load_experiment(tmp_path, "mridata_pgd_R12")) == {"GLEAM", "End-to-end"}
    assert records.load_experiment(tmp_path, "none") == {}


def test_both_readings_of_the_spread():
    record = make()
    assert record.value("psnr") == 32.5
    assert record.spread("psnr") == pytest.approx(np.std([30, 31, 34, 35]))
    assert record.spread("psnr", over="subjects") == 2.0
    assert (record.value("seconds_per_step"), record.value("peak_bytes"), record.value("n_parameters")) == (
        0.25,
        12_300_000,
        2_191_216,
    )
    assert make(cost=False).value("peak_bytes") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "method": "x"}', '{"schema": 1, "surprise": 1}']
)
def test_what_is_no_record_is_named(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is not a record"):
        records.load(tmp_path / "x.json")


def test_tables_put_the_paper_below_ours():
    paper = records.published(PUBLISHED, table="I", acceleration=12)
    table = records.table({m: make(m, cost=m != "CS") for m in ("Zero-filled", "CS", "GLEAM")}, paper=paper)
    assert list(table.index) == [
        ("Zero-filled", "ours"),
        ("CS", "ours"),
        ("CS", "paper"),
        ("GLEAM", "ours"),
        ("GLEAM", "paper"),
    ]
    assert table.loc[("GLEAM", "ours"), "PSNR (dB)"] == "32.50 (2.06\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}2.00)"
    assert records.table({"CS": make()}, over=["slices"]).iloc[0]["PSNR (dB)"] == "32.50 (2.06)"
    assert table.loc[("GLEAM", "paper"), "PSNR (dB)"] == "40.09 (0.34)"
    assert table.loc[("GLEAM", "paper"), "Memory"] == "2 GB" and table.loc[("GLEAM", "ours"), "Memory"] == "12.3 MB"
    assert table.loc[("CS", "ours"), "Time per step"] == records.MISSING
    text = records.markdown_table(table, "Table I", "table-1")
    assert text.startswith(":::{table} Table I\n:name: table-1\n:class: records\n") and "| 40.09 (0.34) |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_published_numbers_are_those_of_the_paper():
    """The text of the paper is not part of the project, so spot checks: the headline differences that its abstract
    states."""
    three, four = (
        {m: records.published(PUBLISHED, table=t, method=m).iloc[0] for m in ("GLEAM", "End-to-end")}
        for t in ("III", "IV")
    )
    assert three["GLEAM"]["psnr"] - three["End-to-end"]["psnr"] == pytest.approx(1.05, abs=0.06)  # "1.1 dB in 2D"
    assert four["GLEAM"]["psnr"] - four["End-to-end"]["psnr"] == pytest.approx(1.8, abs=0.05)  # "1.8 dB in 3D"
    with pytest.raises(ValueError, match="no row with"):
        records.published(PUBLISHED, table="VI")


def test_environment_names_device_and_versions():
    found = records.environment()
    assert found["device"] and found["versions"]["torch"] and found["date"].count("-") == 2


def test_comparison_is_paired_and_says_which_way():
    n = 12
    base = np.linspace(28, 34, n)
    a, b, same = (make(m, psnr=p) for m, p in (("GLEAM", base - 0.5), ("End-to-end", base), ("CS", base[::-1])))
    agree = "same sign in 6 of 6 subjects"
    said = records.compare(a, b)
    assert said.startswith("GLEAM against End-to-end: SSIM +0.000, no clear difference")
    assert f"PSNR −0.50 dB, worse ({agree})" in said
    assert f"PSNR +0.50 dB, better ({agree})" in records.compare(b, a)
    assert "PSNR +0.00 dB, no clear difference (same sign in 0 of 6 subjects)" in records.compare(b, same)
    for row in a.scores:
        row["nrmse"] -= 0.01
    assert f"nRMSE −0.010, better ({agree})" in records.compare(a, b)
    b.scores[0]["psnr"] -= 1.5  # one subject now says otherwise, although the test over slices does not
    assert "PSNR −0.38 dB, no clear difference (same sign in 5 of 6 subjects)" in records.compare(a, b)
    with pytest.raises(ValueError, match="same slices"):
        records.compare(make(), b)


def test_methods_are_picked_in_order(tmp_path):
    for method in ("GLEAM", "CS"):
        records.save(make(method), tmp_path)
    assert list(records.load_experiment(tmp_path, "mridata_pgd_R12", ["CS", "GLEAM"])) == ["CS", "GLEAM"]
    with pytest.raises(ValueError, match="no record of MEL"):
        records.load_experiment(tmp_path, "mridata_pgd_R12", ["MEL"])


def test_a_run_becomes_a_record(splits, tmp_path):
    import gleam

    network = gleam.unrolled.pgd(2, 4)
    fit = gleam.fit(network, *splits[:2], gleam.Greedy(2), n_steps=2, batch_size=2, run_dir=tmp_path)
    cost = gleam.cost.measure({"GLEAM": (network, gleam.Greedy(2))}, splits[0].training_batch(0, 2, 0), n_rounds=1)[
        "GLEAM"
    ]
    record = records.record(
        "x", "GLEAM", gleam.evaluate(network, splits[2]), splits, network=network, fit=fit, cost=cost
    )
    again = records.load(records.save(record, tmp_path))
    assert again.is_phantom and again.data["train"]["n_subjects"] == 3 and len(again.scores) == 6
    assert again.settings["strategy"].startswith("Greedy(n_modules=2") and again.value("peak_bytes") == cost.peak_bytes
    assert again.n_parameters == sum(p.numel() for p in network.parameters())
    table = records.scores_table({("R = 4", "CS"): {"ssim": 0.5, "psnr": 30.123}}, index=["R", "Method"])
    assert table.loc[("R = 4", "CS")].tolist() == ["0.500", "30.12"]


def test_a_score_that_an_older_record_lacks_is_a_dash():
    record = make()  # holds no ssim_object
    assert record.value("ssim_object") is None and record.spread("ssim_object") is None
    table = records.table({"GLEAM": record}, metrics=("psnr", "ssim_object"))
    assert table.loc[("GLEAM", "ours"), "SSIM of the object"] == records.MISSING
