import csv
import shutil
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from raw_files import coil_images, header, line, write_fastmri, write_ismrmrd

import gleam
from gleam import calibration, masks, phantoms
from gleam.datasets import Slices, cine, fastmri, files_by_split, formats, mridata
from gleam.datasets.load import check_no_subject_in_two
from gleam.datasets.splits import PAPER_LISTS, SPLITS, folds, split_by_subject
from gleam.physics.fourier import fft2c, ifft2c


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
    with pytest.raises(ValueError, match="the prepared files: subject train0 is in both train and test"):
        check_no_subject_in_two((train, val, Slices("test", (*test.source, train.source[0]), test.make_mask)))


def test_from_raw_phantoms_to_normalised_batches(tmp_path):
    """Both data sets the whole way: raw files, split list, maps, cache, masks, batches that obey y = A x."""
    counts = {"n_train": 1, "n_val": 1, "n_test": 1, "n_jobs": 1}
    phantoms.knee(tmp_path, n_slices=4, matrix=(48, 40), n_coils=3, **counts)
    phantoms.brain(tmp_path, n_slices=2, matrix=(48, 48), n_coils=4, **counts)
    knees = gleam.datasets.knees(tmp_path, acceleration=4, n_calibration=6, cache_dir=tmp_path / "cache")
    brains = gleam.datasets.brains(tmp_path, acceleration=4, center_fraction=0.1, cache_dir=tmp_path / "cache")
    for folder, reader in (("mridata", mridata), (fastmri.FOLDER, fastmri)):
        path = next((tmp_path / folder).glob("*.h5"))
        assert np.array_equal(formats.read(path).kspace, reader.read(path).kspace)
    for train, val, test in (knees, brains):
        assert test.is_phantom and not {*train.subjects} & {*val.subjects}
        batch = train.training_batch(0, 2, seed=0)
        measured = masks.achieved_acceleration(batch.mask[:, 0])
        assert measured == pytest.approx(4, rel=0.05)
        torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled, rtol=1e-3, atol=1e-4)
        scores = gleam.evaluate(gleam.baselines.zero_filled, test)
        assert len(scores) == len(test) and (scores["nrmse"] < 1).all()
    # random columns are whole lines along y
    assert [tuple(b.mask.shape[-2:]) for b in (knees[0][0], brains[0][0])] == [(48, 40), (1, 48)]


OWN = {"train": ["a.h5", "b.h5"], "val": ["c.h5"], "test": ["d.h5"]}


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """Slices of one size: two fastMRI files, an ISMRMRD one and one more in another folder."""
    folder = tmp_path_factory.mktemp("own")
    for i, name in enumerate(("a.h5", "b.h5", "sub/d.h5")):
        write_fastmri(folder / name, fft2c(coil_images((32, 28), seed=i))[None])
    kspace = fft2c(coil_images((32, 28), seed=3))  # (coil, y, x)
    lines = [line(kspace[:, y], step_1=y) for y in range(32)]
    write_ismrmrd(folder / "c.h5", header((28, 32, 1)), lines)
    return folder


def own(folder, source, **more):
    return gleam.datasets.files(
        source, masks=partial(masks.poisson_disc, acceleration=3, n_calibration=8), cache_dir=folder / "cache",
        calibrate=partial(calibration.espirit, kernel_width=4, calibration_width=16), n_masks=2, **more,
    )  # fmt: skip


def test_files_of_ones_own_in_any_format_under_any_mask(own_files):
    names = {**OWN, "test": ["sub/d.h5"]}
    by_dict = own(own_files, {split: [own_files / name for name in names[split]] for split in names})
    with open(own_files / "my list.csv", "w", newline="") as file:
        rows = [(name, split) for split, some in names.items() for name in some]
        csv.writer(file).writerows([("file", "split"), *rows])
    by_list = own(own_files, own_files / "my list.csv")
    shutil.copy(own_files / "my list.csv", own_files / "sub" / "elsewhere.csv")
    elsewhere = own(own_files, own_files / "sub" / "elsewhere.csv", data_dir=own_files)
    for splits in zip(by_dict, by_list, elsewhere, strict=True):
        assert len({split.fingerprint for split in splits}) == 1
        assert {tuple(split[0].target.shape) for split in splits} == {(1, 32, 28)}
    train, val, test = by_dict
    assert (len(train), len(val), len(test)) == (2, 1, 1)
    assert gleam.evaluate(gleam.baselines.zero_filled, val)["nrmse"].max() < 0.6  # the ISMRMRD file is read aright


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"test": []}, ValueError, r"expected lists of paths for train, val and test"),
        ({"more": ["a.h5"]}, ValueError, r"given for \['more', 'test', 'train', 'val'\]"),
        ({"test": ["a.h5"]}, ValueError, r"a\.h5 is given more than once"),
        ({"test": ["none.h5"]}, FileNotFoundError, r"1 of the 4 files are missing, such as .*none\.h5"),
    ],
)
def test_files_of_ones_own_that_make_no_splits_are_named(change, error, words, own_files):
    names = {**OWN, "test": ["sub/d.h5"]} | change
    with pytest.raises(error, match=words):
        own(own_files, {split: [own_files / name for name in some] for split, some in names.items()})


def test_a_list_that_is_not_there_and_a_file_of_no_format_are_named(own_files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such list"):
        own(own_files, own_files / "nowhere.csv")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["something"] = 1
    with pytest.raises(ValueError, match=r"other\.h5: holds \['something'\]; expected fastMRI's .* ISMRMRD file"):
        formats.read(tmp_path / "other.h5")


COUNTS = {"train": 3, "val": 1, "test": 1}


def write_list(folder, name, rows):
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    with open(folder / "splits" / name, "w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), *rows])


@pytest.fixture
def brain_dir(tmp_path):
    """Five files of one slice of a T2-weighted brain at 3 T, and their list."""
    rows = [(f"{split}{k}.h5", split) for split, n in COUNTS.items() for k in range(n)]
    for k, (name, _) in enumerate(rows):
        write_brain(tmp_path, name, seed=k)
    write_list(tmp_path, "fastmri_brain.csv", rows)
    return tmp_path


def write_brain(folder, name, *, tesla=2.8936, seed=0, **attributes):
    attributes = {"acquisition": "AXT2", "patient_id": name} | attributes
    kspace = fft2c(coil_images((32, 28), 3, seed=seed))[None]
    return write_fastmri(folder / "fastmri" / "multicoil_val" / name, kspace, header((32, 28, 1), tesla=tesla),
                         **{key: value for key, value in attributes.items() if value})  # fmt: skip


def brains(folder, acceleration=3, **more):
    return gleam.datasets.brains(
        folder, acceleration=acceleration, center_fraction=0.1, cache_dir=folder / "cache", n_masks=4, **more
    )


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"acquisition": "AXT1"}, r"val0\.h5: is AXT1, not AXT2; take it off the split list"),
        ({"tesla": 1.5}, r"val0\.h5: was measured at 1\.5 T, not 3\.0 T; take it off"),
    ],
)
def test_brains_of_another_contrast_or_field_are_refused_before_any_is_prepared(brain_dir, stated, words):
    write_brain(brain_dir, "val0.h5", **stated)
    with pytest.raises(ValueError, match=words):
        brains(brain_dir)
    assert not (brain_dir / "cache").exists()
    _, val, _ = brains(brain_dir, acquisition=None, field_strength=None)
    assert len(val) == 1


def test_a_brain_that_does_not_say_what_it_is_is_taken(brain_dir):
    write_brain(brain_dir, "val0.h5", acquisition=None, tesla="")
    assert [len(slices) for slices in brains(brain_dir)] == list(COUNTS.values())


@pytest.mark.parametrize("width", [12, 24])
def test_the_calibration_width_is_that_of_the_maps(brain_dir, width):
    train, *_ = brains(brain_dir, **({} if width == 24 else {"calibration_width": width}))  # 24: the default
    kspace = fastmri.read(brain_dir / "fastmri" / "multicoil_val" / "train0.h5").kspace[0]
    with h5py.File(train.source[0]) as file:
        maps = file["sens_maps"][0]
    np.testing.assert_array_equal(maps, calibration.espirit(kspace, calibration_width=width))
    other = calibration.espirit(kspace, calibration_width=36 - width)
    assert np.linalg.norm(maps - other) > 1e-3 * np.linalg.norm(maps)


def test_slices_smaller_than_the_calibration_are_named(brain_dir, heart_dir):
    with pytest.raises(ValueError, match=r"\w+\.h5.*calibration_width 30 do not fit a slice of 32 x 28"):
        brains(brain_dir, calibration_width=30)
    with pytest.raises(ValueError, match=r"fs_000\d\.h5.*calibration_width 30 do not fit a slice of 32 x 28"):
        hearts(heart_dir, calibration_width=30)


def test_all_methods_and_accelerations_of_a_table_share_one_split(brain_dir, tmp_path):
    """Records of different strategies tell the same data and masks; another R has other masks on the same files."""
    records = {}
    for name, strategy in {"End-to-end": gleam.EndToEnd(), "GLEAM": gleam.Greedy(n_modules=2)}.items():
        data = brains(brain_dir)  # loaded anew for each method, as two notebooks would
        network = gleam.unrolled.pgd(n_iterations=2, n_features=4, seed=0)
        fit = gleam.fit(network, *data[:2], strategy, n_steps=2, batch_size=2, run_dir=tmp_path / name)
        table = gleam.evaluate(network, data[2])
        records[name] = gleam.records.record("brain", name, table, data, network=network, fit=fit)
    classical = gleam.evaluate(gleam.baselines.zero_filled, data[2])
    records["zero-filled"] = gleam.records.record("brain", "zero-filled", classical, data)
    for split in SPLITS:
        assert len({record.data[split]["fingerprint"] for record in records.values()}) == 1
        assert {record.data[split]["n_slices"] for record in records.values()} == {COUNTS[split]}
    scored = [list(zip(record.table["subject"], record.table["slice"], strict=True)) for record in records.values()]
    assert scored[0] == scored[1] == scored[2]
    for one, other in zip(data, brains(brain_dir, acceleration=4), strict=True):
        assert one.source == other.source and one.fingerprint != other.fingerprint
        torch.testing.assert_close(one[0].target * one[0].scale, other[0].target * other[0].scale)
    for one, other in zip(data, brains(brain_dir, seed=1), strict=True):
        assert one.source == other.source and one.fingerprint != other.fingerprint


def test_folds_test_every_subject_once():
    for n_subjects, n_folds, n_val in ((14, 5, 2), (3, 3, 1), (7, 2, 2)):
        found = folds(n_subjects, n_folds, n_val=n_val, seed=1)
        assert sorted(i for fold in found for i in fold["test"]) == list(range(n_subjects))
        for fold in found:
            assert sorted(i for split in SPLITS for i in fold[split]) == list(range(n_subjects))
            assert len(fold["val"]) == n_val and fold["train"]
    assert folds(14, 5) == folds(14, 5) != folds(14, 5, seed=1)
    for n_subjects, n_folds, n_val in ((14, 1, 1), (4, 5, 1), (4, 2, 2), (4, 2, 0)):
        with pytest.raises(ValueError, match=f"{n_subjects} subjects cannot make {n_folds} folds"):
            folds(n_subjects, n_folds, n_val=n_val)


def test_a_split_without_a_list_is_by_subject_in_the_papers_proportions():
    files = [f"P{i:03}/cine_{view}.mat" for i in range(24) for view in ("lax", "sax")]
    split = split_by_subject(files, lambda file: file[:4], cine.SHARES)
    assert [len(split[s]) for s in SPLITS] == [34, 4, 10]
    assert split["train"] + split["val"] + split["test"] == files
    for n in range(3, 30):
        some = split_by_subject(range(n), lambda i: i, cine.SHARES)
        assert all(some.values()) and sum(map(len, some.values())) == n and len(some["train"]) >= len(some["test"])
    with pytest.raises(ValueError, match=r"P000/cine_lax\.mat and 3 more files show 2 subjects; expected 3"):
        split_by_subject(files[:4], lambda file: file[:4], cine.SHARES)


def write_heart(path, kspace):
    """OCMR's layout from (coil, time, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    lines = [line(kspace[:, t, y], step_1=y, phase=t) for t in range(kspace.shape[1]) for y in range(kspace.shape[2])]
    return write_ismrmrd(path, header((kspace.shape[3], kspace.shape[2], 1)), lines)


@pytest.fixture(scope="module")
def written_hearts(tmp_path_factory):
    """Four series of OCMR, of different lengths, in which a shadow moves; one of an undersampled name."""
    folder = tmp_path_factory.mktemp("hearts")
    for i in range(4):
        images = coil_images((32, 28), 4, seed=i)
        beat = 1 + 0.3 * np.sin(np.arange(4 + i % 2))[:, None, None] * np.linspace(-1, 1, 28)
        write_heart(folder / "ocmr" / f"fs_000{i}.h5", fft2c(images[:, None] * beat).astype(np.complex64))
    (folder / "ocmr" / "us_0001.h5").touch()
    return folder


@pytest.fixture
def heart_dir(written_hearts, tmp_path):
    return shutil.copytree(written_hearts, tmp_path / "hearts")


def hearts(folder, **more):
    return gleam.datasets.hearts(folder, acceleration=4, cache_dir=folder / "cache", n_center=2, n_masks=3, **more)


def test_hearts_without_a_list_become_batches_of_series(heart_dir):
    train, val, test = splits = hearts(heart_dir)
    assert [slices.subjects for slices in splits] == [["fs_0000", "fs_0001"], ["fs_0002"], ["fs_0003"]]
    for step, slices in enumerate((train, train, val, test)):
        batch = slices.training_batch(step, 2, seed=0)
        assert batch.kspace.ndim == 5 and batch.sens_maps.shape[2] == 1 and len(batch) == 1
        assert 1 / batch.mask.mean() == pytest.approx(4, rel=0.05)
        assert (batch.mask == batch.mask[..., :1]).all()
        torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled, rtol=1e-3, atol=1e-4)
    assert {tuple(train[i].target.shape) for i in range(2)} == {(1, 4, 32, 28), (1, 5, 32, 28)}
    scores = gleam.evaluate(gleam.baselines.zero_filled, test)
    assert len(scores) == 1 and 0 < scores["nrmse"][0] < 1


def test_series_of_ones_own_are_read_as_series(heart_dir):
    (heart_dir / "ocmr" / "us_0001.h5").unlink()
    paths = sorted((heart_dir / "ocmr").glob("*.h5"))
    train, _, test = gleam.datasets.files(
        {"train": paths[:2], "val": paths[2:3], "test": paths[3:]}, cache_dir=heart_dir / "cache", n_masks=2,
        masks=partial(masks.kt_variable_density, acceleration=4, n_center=2),
    )  # fmt: skip
    assert {tuple(train[i].target.shape) for i in range(2)} == {(1, 4, 32, 28), (1, 5, 32, 28)}
    assert test[0].mask.shape == (1, 1, 5, 32, 1)
    for path in paths:
        assert np.array_equal(formats.read(path).kspace, cine.read(path).kspace)


def test_maps_of_hearts_explain_their_coil_images(heart_dir):
    """ESPIRiT on the temporal mean, and no worse than JSENSE, which is why."""
    kspace = cine.read(heart_dir / "ocmr" / "fs_0000.h5").kspace[0]
    prepared = hearts(heart_dir)[0].source[0]
    with h5py.File(prepared) as file:
        maps = file["sens_maps"][0]
    np.testing.assert_allclose(
        maps[:, 0], calibration.espirit(kspace.mean(1), kernel_width=8, calibration_width=24), atol=1e-5
    )
    images, errors = ifft2c(kspace), []
    for one in (maps, calibration.jsense(kspace.mean(1))[:, None]):
        errors.append(np.linalg.norm(images - one * (one.conj() * images).sum(0)) / np.linalg.norm(images))
    assert errors[0] < errors[1] and errors[0] < 0.2


def test_hearts_follow_a_list_and_refuse_a_subject_in_two_splits(heart_dir):
    rows = [(f"ocmr/fs_000{i}.h5", split) for i, split in enumerate(("test", "val", "train"))]
    write_list(heart_dir, "cine_heart.csv", rows)
    assert [slices.subjects for slices in hearts(heart_dir)] == [["fs_0002"], ["fs_0001"], ["fs_0000"]]
    folder = heart_dir / "cmrxrecon" / "FullSample" / "P001"
    folder.mkdir(parents=True)
    views = [(f"cmrxrecon/FullSample/P001/cine_{view}.mat", split) for view, split in (("lax", "val"), ("sax", "test"))]
    for name, _ in views:
        (heart_dir / name).touch()
    write_list(heart_dir, "cine_heart.csv", [*rows, *views])
    with pytest.raises(ValueError, match=r"cine_heart\.csv: subject P001 is in both val and test; split by subject"):
        hearts(heart_dir)


def test_hearts_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no cine series; expected fully sampled ones, ocmr/\*\.h5 or cmrx"):
        hearts(tmp_path)


def test_a_heart_without_signal_does_not_stop_the_others(heart_dir):
    write_heart(heart_dir / "ocmr" / "fs_0001.h5", np.zeros((4, 4, 32, 28), np.complex64))
    with pytest.raises(ValueError, match=r"fs_0001\.h5: none of its 1 slices can be prepared"):
        hearts(heart_dir)
    prepared = sorted(path.name[:7] for path in Path(heart_dir / "cache").glob("*.h5"))
    assert prepared == ["fs_0000", "fs_0002", "fs_0003"]


def test_subjects_that_train_do_so_with_all_their_versions():
    paths = [[Path(f"{subject}_v{version}.h5") for version in range(2)] for subject in range(3)]
    found = gleam.datasets.fold_files(paths, {"train": [2, 0], "val": [1], "test": [1]})
    assert found == {"train": [*paths[2], *paths[0]], "val": paths[1][:1], "test": paths[1][:1]}
