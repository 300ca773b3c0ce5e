"""Data sets ready for training: raw files of a folder, prepared once, as training, validation and test slices."""

import csv
from functools import partial
from pathlib import Path

from gleam import calibration, masks
from gleam.datasets import fastmri, mridata
from gleam.datasets.prepare import prepare
from gleam.datasets.slices import Slices

SPLITS = ("train", "val", "test")
PAPER_LISTS = Path(__file__).parent / "splits"


def knees(data_dir, *, acceleration, cache_dir, n_calibration=20, n_masks=128, seed=0, n_jobs=None):
    """The mridata knees under Poisson-disc masks (Section V-A1): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``mridata/*.h5``; subjects are split as ``data_dir/splits/mridata_knee.csv`` says or, without
    it, as in the paper. Prepared files and masks go to ``cache_dir``. Sensitivity maps: JSENSE with a kernel of 8 on
    the central 20 x 20 of each fully sampled slice. ``n_calibration`` is the width of the mask's full centre. Raises
    FileNotFoundError that names what is missing.
    """
    calibrate = partial(calibration.jsense, kernel_width=8, calibration_width=20)
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    files = files_by_split(data_dir, "mridata", "mridata_knee.csv")
    return _slices(files, mridata.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs)


def brains(data_dir, *, acceleration, cache_dir, center_fraction=0.04, n_masks=128, seed=0, n_jobs=None):
    """The fastMRI T2 brains under random columns (Section V-A2): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``fastmri/multicoil_val/*.h5`` and maybe ``splits/fastmri_brain.csv``. Sensitivity maps: ESPIRiT.
    Raises FileNotFoundError that names what is missing.
    """
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    files = files_by_split(data_dir, "fastmri/multicoil_val", "fastmri_brain.csv")
    return _slices(files, fastmri.read, calibration.espirit, make_mask, cache_dir, n_masks, seed, n_jobs)


def files_by_split(data_dir, folder="mridata", split_list="mridata_knee.csv"):
    """Raw files of each split, as a dict of "train", "val", "test" to paths in ``data_dir/folder``.

    ``split_list``: CSV with columns file and split, in ``data_dir/splits`` or else the paper's own of that name. Raises
    FileNotFoundError if the list or a file in it is missing, ValueError if a split is unknown or empty, or a file
    stands in it twice.
    """
    own = Path(data_dir) / "splits" / split_list
    path = own if own.exists() else PAPER_LISTS / split_list
    rows = _read_split_list(path)
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} lists {next(n for n in names if names.count(n) > 1)} more than once")
    files = {split: [Path(data_dir) / folder / name for name, s in rows if s == split] for split in SPLITS}
    if sum(map(len, files.values())) < len(rows) or not all(files.values()):
        raise ValueError(f"{path} must have files of the splits train, val and test, and of no other")
    missing = [file for paths in files.values() for file in paths if not file.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(rows)} files that {path} lists are missing, such as {missing[0]}"
        )
    return files


def _read_split_list(path):
    try:
        with open(path, newline="") as file:
            return [(row["file"], row["split"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise FileNotFoundError(f"no split list {path}; it has the columns file and split") from None
    except KeyError as error:
        raise ValueError(f"{path} has no column {error}; expected at least file and split") from None


def _slices(files, read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs):
    paths = [path for split in SPLITS for path in files[split]]
    prepared = prepare(paths, read=read, calibrate=calibrate, cache_dir=cache_dir, n_jobs=n_jobs)
    by_path = dict(zip(paths, prepared, strict=True))
    return tuple(
        Slices(split, tuple(by_path[p] for p in files[split]), make_mask, n_masks, 3 * seed + i, Path(cache_dir))
        for i, split in enumerate(SPLITS)
    )
