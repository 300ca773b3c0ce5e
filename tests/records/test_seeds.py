"""Archived trainings with several seeds, compared pair by pair."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_records import make

from gleam import records
from gleam.records.archive import archived_seeds
from gleam.records.seeds import pair_seeds

PAPER = Path(__file__).parents[2] / "data" / "published" / "tables.csv"
NAME, VALUES = "mridata_pgd_R12", (30.0, 31.0, 34.0, 35.0)


def trained(method, seed, by=0.0, **changes):
    return replace(make(method, [v + by for v in VALUES]), profile="standard", settings={"seed": seed}, **changes)


def test_a_difference_is_over_all_seeds_that_have_both_methods(tmp_path):
    for seed, by in {0: 1.0, 1: 3.0}.items():
        folder = tmp_path / f"cpu-standard{f'-seed{seed}' if seed else ''}"
        records.save(trained("GLEAM", seed, by), folder)
        records.save(trained("End-to-end", seed), folder)
    found = records.seeds_text(tmp_path, NAME, "GLEAM", "End-to-end")
    assert found == "+2.00 dB (+2.00 to +2.00), 2 seeds +1.00 to +3.00"
    records.save(trained("GLEAM", 2), tmp_path / "cpu-standard-seed2")  # its partner is not there yet
    assert records.seeds_text(tmp_path, NAME, "GLEAM", "End-to-end") == found
    records.save(trained("CS", 0), tmp_path / "cpu-standard")
    assert records.seeds_text(tmp_path, NAME, "GLEAM", "CS") == "+1.00 dB (+1.00 to +1.00)"
    assert records.seeds_text(tmp_path, NAME, "GLEAM", "MEL") == records.MISSING
    assert records.seeds_text(tmp_path, "cine_pgd", "GLEAM", "End-to-end") == records.MISSING


def test_seeds_are_paired_by_their_number_and_baselines_by_their_data():
    ours = [trained("GLEAM", seed, data={"test": {"fingerprint": f"of {seed}"}}) for seed in (0, 1, 2)]
    theirs = [trained("End-to-end", seed) for seed in (2, 0)]
    assert [(a.settings["seed"], b.settings["seed"]) for a, b in zip(*pair_seeds(ours, theirs), strict=True)] == [
        (0, 0), (2, 2),
    ]  # fmt: skip
    baseline = replace(make("CS", cost=False), data={"test": {"fingerprint": "of 1"}})
    assert pair_seeds(ours, [baseline]) == ([ours[1]], [baseline])
    not_whole = [replace(theirs[0], scores=[]), replace(theirs[1], n_steps_done=5, settings={"seed": 0, "n_steps": 6})]
    assert pair_seeds(ours, not_whole) == ([], []) == pair_seeds([], theirs)
    with pytest.raises(ValueError, match=rf"{NAME}: GLEAM seeds \[0, 1, 2\] and End-to-end seeds \[3\] do not match"):
        pair_seeds(ours, [trained("End-to-end", 3)])


def test_a_run_at_the_papers_size_counts_when_it_is_whole_and_seeds_are_those_of_its_device(tmp_path):
    def saved(folder, seed, by, date, **changes):
        for method, shift in (("GLEAM", by), ("End-to-end", 0.0)):
            one = trained(method, seed, shift, environment={"device": folder, "date": date})
            records.save(replace(one, **changes), tmp_path / folder)

    saved("cpu-standard", 0, 1.0, "2026-11-29")
    saved("cpu-standard-seed1", 1, 1.0, "2026-12-05")
    saved("gpu-standard", 0, 3.0, "2026-12-01")
    assert records.seeds_text(tmp_path, NAME, "GLEAM", "End-to-end").startswith("+3.00 dB"), "the table's device"
    unfinished = {"n_steps_done": 4, "settings": {"seed": 0, "n_steps": 6}}
    saved("gpu", 0, 5.0, "2026-12-01", profile="paper", **unfinished)
    assert records.archived(tmp_path, NAME)["GLEAM"].profile == "paper"
    assert records.archived(tmp_path, NAME, ["GLEAM", "End-to-end"])["GLEAM"].profile == "standard"
    assert records.seeds_text(tmp_path, NAME, "GLEAM", "End-to-end").startswith("+3.00 dB")
    saved("gpu", 0, 5.0, "2026-12-01", profile="paper", settings={"seed": 0, "n_steps": 6, "n_iterations": 24})
    assert records.seeds_text(tmp_path, NAME, "GLEAM", "End-to-end") == "+5.00 dB (+5.00 to +5.00)"
    saved("cpu-standard-seed2", 2, 1.0, "2026-12-06", results_version=99)
    assert {m: len(seeds) for m, seeds in archived_seeds(tmp_path, NAME, ["standard"]).items()} == {
        "End-to-end": 1, "GLEAM": 1,
    }  # fmt: skip


def test_a_report_compares_archived_seeds_and_says_what_cannot_be_compared(tmp_path):
    build = records.Build(str(tmp_path / "work"), archive=str(tmp_path / "results"), published=str(PAPER))
    experiment = SimpleNamespace(
        name=NAME, table="I", data="knees", acceleration=12, methods={"GLEAM": SimpleNamespace(n_iterations=8)}
    )
    runs = {name: trained(name, 0) for name in ("End-to-end", "GLEAM")}
    runs = {name: replace(run, settings={"precision": "fp32"}) for name, run in runs.items()}
    report = lambda: build.report(experiment, runs, name="tab")  # noqa: E731
    for seed in (0, 1):
        assert "all seeds" not in report()
        folder = tmp_path / "results" / f"cpu-standard{'-seed1' if seed else ''}"
        for method in ("GLEAM", "End-to-end"):
            records.save(trained(method, seed, 1.0 if method == "GLEAM" else 0.0), folder)
    head, line = report().strip().splitlines()[-3::2]
    assert head.startswith("Profile standard, archived: PSNR over all seeds")
    assert line == "- GLEAM minus End-to-end: +1.00 dB (+1.00 to +1.00), 2 seeds +1.00 to +1.00"
    records.save(trained("GLEAM", 2), tmp_path / "results" / "cpu-standard-seed2")
    records.save(trained("End-to-end", 3), tmp_path / "results" / "cpu-standard-seed3")
    assert "- GLEAM and End-to-end are not compared: mridata_pgd_R12: GLEAM seeds [0, 1, 2] and" in report()
