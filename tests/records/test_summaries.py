"""What chapters say in words, and figures of the memory of a step."""

from types import SimpleNamespace

import pandas as pd
import pytest
from made_records import make

from gleam import experiments, figures, records
from gleam.cost import Cost
from gleam.records import Untrained

COSTS = {
    "End-to-end": Cost.measured([0.2, 0.2, 0.2], {"weights": 1_000_000, "activations": 5_000_000}, "cpu"),
    "MEL": Cost.measured([0.4, 0.6, 0.8], {"weights": 1_000_000, "activations": 2_000_000}, "cpu"),
    "GLEAM": Cost.measured([0.2, 0.3, 0.2], {"weights": 1_000_000, "activations": 1_000_000}, "cpu"),
}
SIZES = {"n_iterations": 4, "n_features": 4, "n_modules": 2, "step_size": 1.0, "n_steps": 1000}


class Split(SimpleNamespace):
    def __len__(self):
        return sum(shape[0] for shape in self.shapes)


@pytest.fixture
def groups():
    base = make("End-to-end")
    return {
        "R = 4": {"End-to-end": base, "GLEAM": make("GLEAM", psnr=(31.0, 32.0, 35.0, 36.0))},
        "R = 8": {"End-to-end": base, "GLEAM": make("GLEAM", psnr=(30.1, 31.1, 34.1, 35.1))},
    }


def test_replaced_inversions_are_counted_over_the_whole_history():
    history = [{"n_fallbacks": 0, "n_inversions": 5}, {"n_fallbacks": 3, "n_inversions": 4}]
    assert records.inversions_text(history) == "3 of 9 inversions of MEL were replaced in training"
    assert records.inversions_text([{"n_fallbacks": 0, "n_inversions": 0}]) == "MEL inverted nothing in training"


@pytest.mark.parametrize(("size", "kind"), [((8, 32, 32), "slices"), ((8, 20, 32, 32), "series")])
def test_splits_are_counted_and_a_subject_with_two_scans_counts_once(size, kind):
    splits = [Split(shapes=[(3, *size)] * len(s), subjects=s) for s in (["a", "a", "b"], ["c"], ["d", "e"])]
    expected = f"9 {kind} of 2 subjects to train on, 3 of 1 to validate, 6 of 2 to test"
    assert records.splits_text(splits) == expected


def test_methods_name_their_depth_where_it_differs():
    same, deeper = (make_one(4, **SIZES) for make_one in (experiments.knees_pgd, experiments.hearts_pgd))
    greedy = same.methods["GLEAM"].strategy
    assert records.methods_text(same) == f"- End-to-end: `EndToEnd()`, 1,000 steps\n- GLEAM: `{greedy}`, 1,000 steps"
    lines = records.methods_text(deeper).splitlines()
    assert lines[0] == "- End-to-end: `EndToEnd()`, 4 iterations, 1,000 steps"
    assert lines[1] == f"- GLEAM: `{greedy}`, 8 iterations, 1,000 steps"
    assert lines[2] == "- End-to-end, equal compute: `EndToEnd()`, 4 iterations, 2,000 steps"


def test_costs_are_said_relative_to_the_base_and_beside_the_papers():
    paper = pd.DataFrame({"seconds_per_step": [2.0, 5.0], "memory_gb": [8.0, 4.0]}, index=["End-to-end", "MEL"])
    assert records.cost_text(COSTS, paper) == (
        "MEL 2.0 times less memory (the paper: 2.0), 3.00 times as long (the paper: 2.50); "
        "GLEAM 3.0 times less memory, 1.00 times as long"
    )
    assert records.cost_text(COSTS, paper, base="MEL").startswith("End-to-end 0.5 times less memory (the paper: 0.5)")


def test_groups_are_compared_in_a_list_and_in_a_table_with_the_list_under_it(groups):
    words = records.compare_groups(groups, metrics=["psnr"])
    own = [records.compare(runs["GLEAM"], runs["End-to-end"], ["psnr"]) for runs in groups.values()]
    assert words == f"- R = 4: {own[0]}\n- R = 8: {own[1]}"
    report = records.comparison_report(groups, "Scores", "tab-x", of="Acceleration", metrics=["psnr"])
    assert report.startswith(":::{table} Scores\n:name: tab-x") and report.endswith(words)
    assert "| Acceleration | Method | PSNR (dB) |" in report and "| R = 4 | GLEAM | 33.50 |" in report


def test_only_changes_that_matter_are_counted(groups):
    text = "By more than the smallest difference that matters, the PSNR is {} in {} of 2 comparisons and higher in {}."
    assert records.count_changes(groups, "psnr") == text.format("lower with GLEAM", 0, 1)
    assert records.count_changes(groups, "psnr", "End-to-end", "GLEAM") == text.format("lower with End-to-end", 1, 0)


def test_weights_that_were_tried_are_said_and_of_several_those_beside_the_best():
    one = Untrained({}, 0.02, {0.02: 0.1, 0.01: 0.12}, 0.1)
    assert one.tried_text == "0.01 (0.1200), 0.02 (0.1000)"
    tried = {(0.0, 0.002, 0.01): 0.1, (0.0, 0.006, 0.03): 0.3, (0.0, 0.006, 0.01): 0.2}
    assert Untrained({}, (0.0, 0.002, 0.01), tried, 0.1).tried_text == "0, 0.006, 0.01 (0.2000)"


def test_memory_of_a_step_is_drawn_in_megabytes():
    (axis,) = figures.step_memory({"GLEAM": [0, 2_000_000]}, top=4_000_000).axes
    assert list(axis.lines[0].get_ydata()) == [0, 2] and axis.get_ylim()[1] == pytest.approx(4.2)
    assert axis.get_ylabel() == "memory of the step (MB)"
