import csv

import pytest
import torch

import gleam
from gleam import masks
from gleam.datasets import Slices, files_by_split, phantoms
from gleam.datasets.load import check_no_subject_in_two
from gleam.datasets.splits import PAPER_LISTS


def folder_with(tmp_path, rows, present=None):
    (tmp_path / "raw").mkdir()
    (tmp_path / "splits").mkdir()
    for name, _ in rows if present is None else present:
        (tmp_path / "raw" / name).touch()
    with open(tmp_path / "splits" / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), *rows])
    return tmp_path, "raw", "list.csv"


GOOD = [("a.h5", "train"), ("b.h5", "val"), ("c.h5", "test"), ("d.h5", "train")]


def test_files_come_by_split(tmp_path):
    files = files_by_split(*folder_with(tmp_path, GOOD))
    assert {s: [p.name for p in paths] for s, paths in files.items()} == {
        "train": ["a.h5", "d.h5"],
        "val": ["b.h5"],
        "test": ["c.h5"],
    }


@pytest.mark.parametrize(
    ("rows", "present", "error", "words"),
    [
        (GOOD, GOOD[1:], FileNotFoundError, r"1 of the 4 files that .*list\.csv lists are missing, such as .*a\.h5"),
        (GOOD[:2], None, ValueError, r"list\.csv must have files of the splits train, val and test"),
        ([*GOOD, ("e.h5", "extra")], None, ValueError, "of no other"),
        ([*GOOD, ("a.h5", "test")], GOOD, ValueError, r"lists a\.h5 more than once"),
    ],
)
def test_bad_lists_are_named(rows, present, error, words, tmp_path):
    arguments = folder_with(tmp_path, rows, present)
    with pytest.raises(error, match=words):
        files_by_split(*arguments)


def test_a_missing_list_and_a_list_without_columns_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such list"):
        files_by_split(tmp_path, "raw", "none.csv")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "list.csv").write_text("name,part\na,b\n")
    with pytest.raises(ValueError, match=r"list\.csv: has no column file, split"):
        files_by_split(tmp_path, "raw", "list.csv")


@pytest.mark.parametrize(("name", "counts"), [("mridata_knee", (14, 2, 3)), ("fastmri_brain", (54, 50, 50))])
def test_no_subject_is_in_two_splits_of_the_paper(name, counts):
    with open(PAPER_LISTS / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    by_split = {split: {row["file"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
    assert tuple(map(len, by_split.values())) == counts
    assert len(set.union(*by_split.values())) == len(rows) == sum(counts)


def test_without_a_list_of_its_own_a_folder_is_split_as_in_the_paper(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"19 of the 19 files that .*mridata_knee\.csv lists are missing"):
        files_by_split(tmp_path)


def test_a_subject_in_two_splits_is_refused_whatever_the_files_are_called(splits):
    train, val, test = splits
    check_no_subject_in_two(splits)
    with pytest.raises(ValueError, match="subject train0 is in both train and test"):
        check_no_subject_in_two((train, val, Slices("test", (*test.files, train.files[0]), test.make_mask)))


def test_from_raw_phantoms_to_normalised_batches(tmp_path):
    """Both data sets the whole way: raw files, split list, maps, cache, masks, batches that obey y = A x."""
    counts = {"n_train": 1, "n_val": 1, "n_test": 1, "n_jobs": 1}
    phantoms.knee(tmp_path, n_slices=4, matrix=(48, 40), n_coils=3, **counts)
    phantoms.brain(tmp_path, n_slices=2, matrix=(48, 48), n_coils=4, **counts)
    knees = gleam.datasets.knees(tmp_path, acceleration=4, n_calibration=6, cache_dir=tmp_path / "cache")
    brains = gleam.datasets.brains(tmp_path, acceleration=4, center_fraction=0.1, cache_dir=tmp_path / "cache")
    for train, val, test in (knees, brains):
        assert test.is_phantom and not {*train.subjects} & {*val.subjects}
        batch = train.training_batch(0, 2, seed=0)
        measured = masks.achieved_acceleration(batch.mask[:, 0])
        assert measured == pytest.approx(4, rel=0.05)
        torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled, rtol=1e-3, atol=1e-4)
        scores = gleam.evaluate(gleam.baselines.zero_filled, test)
        assert len(scores) == len(test) and (scores["nrmse"] < 1).all()
    assert {tuple(b.mask.shape[-2:]) for b in (knees[0][0], brains[0][0])} == {(48, 40), (48, 48)}
