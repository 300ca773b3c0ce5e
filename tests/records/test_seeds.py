"""Archived trainings with several seeds, compared pair by pair."""

from dataclasses import replace

import pytest
from made_records import make

from gleam import records
from gleam.records.seeds import pair_seeds

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
    assert pair_seeds(ours, [replace(one, scores=[]) for one in theirs]) == ([], []) == pair_seeds([], theirs)
    with pytest.raises(ValueError, match=rf"{NAME}: GLEAM seeds \[0, 1, 2\] and End-to-end seeds \[3\] do not match"):
        pair_seeds(ours, [trained("End-to-end", 3)])
