"""Intervals by a hierarchical bootstrap, and what the written rules conclude from them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_records import make

from gleam.records import comparisons, intervals, scores
from gleam.records.intervals import FAILS, HOLDS, IN_PART, UNKNOWN, Difference, bootstrap, difference


def drawn(generator, n_subjects, n_slices, within=0.5):
    """Slices of subjects whose true mean is 0."""
    values = generator.normal(size=(n_subjects, 1)) + within * generator.normal(size=(n_subjects, n_slices))
    index = pd.MultiIndex.from_product([range(n_subjects), range(n_slices)], names=["subject", "slice"])
    return pd.Series(values.ravel(), index)


@pytest.mark.parametrize("n_subjects", [6, 14])
def test_an_interval_covers_the_true_mean_about_as_often_as_it_says(n_subjects):
    generator, covered = np.random.default_rng(0), []
    for _ in range(150):
        low, high = bootstrap(drawn(generator, n_subjects, 6), n_draws=1000)
        covered.append(low < 0 < high)
    assert 0.88 < np.mean(covered) < 1


def test_slices_of_one_subject_do_not_count_as_subjects():
    """More slices of the same subjects say little more about other subjects."""
    few, many = (drawn(np.random.default_rng(1), 8, n, within=0.1) for n in (2, 50))
    widths = [np.diff(bootstrap(values))[0] for values in (few, many)]
    assert widths[1] > 0.85 * widths[0]
    assert np.isnan(bootstrap(few.loc[[0]])).all(), "one subject says nothing about others"


def test_an_interval_is_that_of_the_mean_over_slices():
    """A subject with more slices counts more, as in the tables."""
    sizes = {"a": 1, "b": 9, "c": 9, "d": 9}
    values = pd.Series({(s, i): float(s == "a") for s, n in sizes.items() for i in range(n)})
    values.index.names = ["subject", "slice"]
    low, high = bootstrap(values)
    assert low == 0 and values.mean() < high <= 1
    shifted = bootstrap(values + 3)
    assert shifted == pytest.approx((low + 3, high + 3)) and bootstrap(values) == (low, high)


def test_a_difference_is_paired_and_averaged_over_seeds():
    ours, theirs = make(psnr=(30.5, 31.5, 34.5, 35.5)), make("End-to-end")
    found = difference(ours, theirs)
    assert found.mean == pytest.approx(0.5) and found.low == found.high == pytest.approx(0.5)
    assert found.n_subjects == 2 and found.by_seed == (0.5,)
    seeds = [replace(r, settings={"seed": i}) for i, r in enumerate((ours, make(psnr=(30, 31, 34, 35))))]
    others = [replace(theirs, settings={"seed": i}) for i in range(2)]
    assert difference(seeds, others).by_seed == (0.5, 0.0) and difference(seeds, others).mean == 0.25
    shuffled = replace(theirs, scores=theirs.scores[::-1])
    assert difference(ours, shuffled).mean == pytest.approx(0.5)
    baseline = make("CS", cost=False)
    assert difference(seeds, baseline).by_seed == (0.5, 0.0), "a method without training stands for every seed"


def test_a_seed_with_phantoms_of_its_own_adds_its_subjects():
    def of(seed, method, shift, mine):
        record = replace(make(method, [v + shift for v in (30.0, 31.0, 34.0, 35.0)]), settings={"seed": seed})
        return replace(record, scores=[row | {"subject": f"{row['subject']}{mine}"} for row in record.scores])

    def pairs(subjects):
        return [[of(seed, m, up, mine) for seed, (up, mine) in enumerate(subjects)] for m in ("GLEAM", "End-to-end")]

    (ours, theirs), (_, lower) = pairs([(1.0, " of 0"), (0.0, " of 1")]), pairs([(0.0, " of 0"), (0.0, " of 1")])
    found = difference(ours, lower)
    assert found.n_subjects == 4 and found.mean == 0.5 and found.by_seed == (1.0, 0.0)
    assert found.low < 0.5 < found.high, "subjects of different seeds differ, and the interval shows it"
    same_names = [[replace(r, data={"is_phantom": True, "test": {"fingerprint": str(r.settings["seed"])}})
                   for r in of] for of in pairs([(1.0, ""), (0.0, "")])]  # fmt: skip
    assert difference(*same_names).n_subjects == 4, "phantoms of two seeds that have one name"
    fewer = [replace(record, scores=record.scores[:3]) for record in (ours[0], theirs[0])]
    again = [replace(record, settings={"seed": 1}) for record in (ours[0], theirs[0])]
    with pytest.raises(ValueError, match="another seed was tested on other slices of the same subjects"):
        difference([fewer[0], again[0]], [fewer[1], again[1]])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"profile": "quick"}, "do not belong together: profile is 'quick' and ''"),
        ({"experiment": "cine"}, "experiment is 'cine' and 'mridata_pgd_R12'"),
        ({"results_version": 99}, "results_version is 99 and 1"),
        ({"settings": {"seed": 4}}, r"have seeds \[4, 0\]"),
        ({"scores": []}, "End-to-end of mridata_pgd_R12 has no scores"),
        ({"settings": {"seed": 0, "learning_rate": 1e-3}}, "learning_rate is 0.001 and 0.01"),
        ({"settings": {"seed": 0, "noise": 0.5}}, "noise is 0.5 and 0.03"),
        ({"data": {"test": {"mask": {"arguments": {"acceleration": 4}}}}}, "were tested with masks .*4.* and .*12"),
        ({"settings": {"seed": 0, "n_steps": 100}, "n_steps_done": 60}, "took 60 of 100 steps; expected all"),
    ],
)
def test_records_that_do_not_belong_together_are_never_compared(changed, says):
    settings = {"seed": 0, "learning_rate": 1e-2, "noise": 0.03}
    mask = {"test": {"mask": {"arguments": {"acceleration": 12}}}}
    ours, theirs = (replace(make(method), settings=settings, data=mask) for method in ("GLEAM", "End-to-end"))
    with pytest.raises(ValueError, match=says):
        difference(replace(theirs, **changed), ours)
    with pytest.raises(ValueError, match="2 records cannot be compared with 1"):
        difference([ours, ours], theirs)
    fewer = replace(theirs, scores=theirs.scores[:3])
    with pytest.raises(ValueError, match="not tested on the same slices"):
        difference(ours, fewer)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"settings": {"seed": 1, "n_steps": 9}}, "GLEAM of mridata_pgd_R12: seeds 0 and 1 differ in n_steps"),
        ({"n_parameters": 5}, "differ in n_parameters"),
        ({"network": {"n_features": 5}}, "differ in n_features"),
        ({"settings": {"seed": 0, "n_steps": 100}}, r"GLEAM of mridata_pgd_R12 has seeds \[0, 0\]; expected each once"),
    ],
)
def test_seeds_are_repetitions_of_one_training(changed, says):
    ours, theirs = (
        [replace(make(m), settings={"seed": i, "n_steps": 100}, network={"n_features": 8}) for i in range(2)]
        for m in ("GLEAM", "End-to-end")
    )
    difference(ours, theirs)
    same = {"settings": changed.get("settings", theirs[1].settings)}  # of both, so that the pair itself is right
    with pytest.raises(ValueError, match=says):
        difference([ours[0], replace(ours[1], **changed)], [theirs[0], replace(theirs[1], **same)])


def of(mean, low, high, metric="psnr", by_seed=None):
    return Difference(metric, mean, low, high, by_seed or (mean,), 8)


@pytest.mark.parametrize(
    ("found", "better", "as_good"),
    [
        (of(1.0, 0.5, 1.5), HOLDS, HOLDS),
        (of(0.1, 0.05, 0.15), FAILS, HOLDS),  # sure, and too small to matter
        (of(1.0, -0.1, 2.1), UNKNOWN, HOLDS),
        (of(0.0, -0.3, 0.3), UNKNOWN, UNKNOWN),
        (of(-1.0, -1.5, -0.5), FAILS, FAILS),
        (of(-0.1, -0.15, -0.05), FAILS, HOLDS),
        (of(1.0, 0.5, 1.5, by_seed=(2.1, -0.1)), UNKNOWN, HOLDS),
        (of(-0.11, -0.18, -0.04, by_seed=(-0.24, 0.02)), FAILS, UNKNOWN),  # one seed is not as good
        (of(-0.02, -0.03, -0.01, "nrmse"), HOLDS, HOLDS),
        (of(-0.02, -0.03, -0.01, "nrmse", (-0.05, 0.01)), UNKNOWN, UNKNOWN),
        (of(0.02, 0.01, 0.03, "nrmse"), FAILS, FAILS),
        (of(float("nan"), float("nan"), float("nan")), UNKNOWN, UNKNOWN),
    ],
)
def test_verdicts_follow_the_rules(found, better, as_good):
    assert intervals.is_better(found) == better and intervals.is_as_good(found) == as_good


def test_one_place_says_for_which_scores_lower_is_better(monkeypatch):
    """Not only nRMSE: another score that is named there is judged in the same way."""
    assert scores.LOWER_IS_BETTER == ("nrmse",)
    monkeypatch.setitem(intervals.SMALLEST, "error", 0.01)
    monkeypatch.setitem(scores.DIGITS, "error", 3)
    found = of(-0.02, -0.03, -0.015, "error")
    assert (found.gain, comparisons.verdict(-0.02, "error", is_clear=True)) == ((-0.02, -0.03, -0.015), "worse")
    assert intervals.is_better(found) == intervals.is_as_good(found) == FAILS
    monkeypatch.setattr(scores, "LOWER_IS_BETTER", ("error",))
    assert (found.gain, comparisons.verdict(-0.02, "error", is_clear=True)) == ((0.02, 0.015, 0.03), "better")
    assert intervals.is_better(found) == intervals.is_as_good(found) == HOLDS
    assert intervals.is_better(of(0.02, 0.015, 0.03, "nrmse")) == HOLDS, "no longer named"


def test_verdicts_on_ratios_and_on_several_experiments():
    assert [intervals.is_as_large(r, 5.6) for r in (6.0, 5.2, 3.0, 1.05, 0.5)] == [HOLDS, HOLDS, IN_PART, FAILS, FAILS]
    assert [intervals.is_as_large(r, 1.0) for r in (0.8, 0.95, 1.05, 1.2)] == [FAILS, HOLDS, HOLDS, HOLDS]
    # published as about equal
    assert [intervals.is_as_large(r, 1.09) for r in (0.9, 0.92)] == [FAILS, HOLDS]
    assert [intervals.is_as_large(r, 0.9) for r in (0.8, 0.83)] == [FAILS, HOLDS]
    assert intervals.together([HOLDS, HOLDS]) == HOLDS and intervals.together([]) == UNKNOWN
    assert intervals.together([HOLDS, FAILS]) == IN_PART == intervals.together([HOLDS, UNKNOWN])
    assert intervals.together([FAILS, UNKNOWN]) == FAILS and intervals.together([UNKNOWN] * 2) == UNKNOWN
