"""Data sets ready for training: raw files of a folder, prepared once, as training, validation and test slices."""

import csv
from functools import partial
from pathlib import Path

from gleam import calibration, masks
from gleam.datasets import fastmri, mridata
from gleam.datasets.prepare import prepare
from gleam.datasets.slices import Slices

SPLITS = ("train", "val", "test")


def knees(data_dir, *, acceleration, cache_dir, n_calibration=20, n_masks=128, seed=0, n_jobs=None):
    """The mridata knees under Poisson-disc masks (Section V-A1): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``mridata/*.h5`` and ``splits/mridata_knee.csv``; prepared files and masks go to ``cache_dir``.
    Sensitivity maps: JSENSE with a kernel of 8 on the central 20 x 20 of each fully sampled slice. ``n_calibration`` is
    the width of the mask's full centre. Raises FileNotFoundError that names what is missing.
    """
    calibrate = partial(calibration.jsense, kernel_width=8, calibration_width=20)
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    files = files_by_split(Path(data_dir) / "mridata", Path(data_dir) / "splits" / "mridata_knee.csv")
    return _slices(files, mridata.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs)


def brains(data_dir, *, acceleration, cache_dir, center_fraction=0.04, n_masks=128, seed=0, n_jobs=None):
    """The fastMRI T2 brains under random columns (Section V-A2): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``fastmri/multicoil_val/*.h5`` and ``splits/fastmri_brain.csv``. Sensitivity maps: ESPIRiT.
    Raises FileNotFoundError that names what is missing.
    """
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    folder = Path(data_dir) / "fastmri" / "multicoil_val"
    files = files_by_split(folder, Path(data_dir) / "splits" / "fastmri_brain.csv")
    return _slices(files, fastmri.read, calibration.espirit, make_mask, cache_dir, n_masks, seed, n_jobs)


def files_by_split(folder, split_list):
    """Raw files of each split, as a dict of "train", "val", "test" to paths.

    ``split_list`` is a CSV with columns file and split. Raises FileNotFoundError if the list or a file in it is missing
    and ValueError if a split is unknown or empty, or a file stands in it twice.
    """
    try:
        with open(split_list, newline="") as file:
            rows = [(row["file"], row["split"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise FileNotFoundError(f"no split list {split_list}; it names the files of {folder} and their splits") from None
    except KeyError as error:
        raise ValueError(f"{split_list} has no column {error}; expected at least file and split") from None
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"{split_list} lists {next(n for n in names if names.count(n) > 1)} more than once")
    files = {split: [Path(folder) / name for name, s in rows if s == split] for split in SPLITS}
    if sum(map(len, files.values())) < len(rows) or not all(files.values()):
        raise ValueError(f"{split_list} must have files of the splits train, val and test, and of no other")
    missing = [path for paths in files.values() for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(rows)} files in {split_list} are missing, such as {missing[0]}")
    return files


def _slices(files, read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs):
    paths = [path for split in SPLITS for path in files[split]]
    settings = {"calibration": calibrate.func.__name__, **calibrate.keywords} if isinstance(calibrate, partial) else {
        "calibration": calibrate.__name__
    }
    prepared = prepare(paths, read=read, calibrate=calibrate, settings=settings, cache_dir=cache_dir, n_jobs=n_jobs)
    by_path = dict(zip(paths, prepared, strict=True))
    return tuple(
        Slices(split, tuple(by_path[p] for p in files[split]), make_mask, n_masks, 3 * seed + i, Path(cache_dir))
        for i, split in enumerate(SPLITS)
    )
