"""Data sets ready for training: raw files of a folder, prepared once, as training, validation and test slices."""

import itertools
from functools import partial
from pathlib import Path

from gleam import calibration, masks
from gleam.datasets import fastmri, mridata
from gleam.datasets.prepare import prepare
from gleam.datasets.slices import Slices
from gleam.datasets.splits import BRAINS, KNEES, SPLITS, files_by_split


def knees(data_dir, *, acceleration, cache_dir, n_calibration=20, n_masks=128, seed=0, n_jobs=1):
    """The mridata knees under Poisson-disc masks (Section V-A1): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``mridata/*.h5``; subjects are split as ``data_dir/splits/mridata_knee.csv`` says or, without
    it, as in the paper. Prepared files and masks go to ``cache_dir``. Sensitivity maps: JSENSE with a kernel of 8 on
    the central 20 x 20 of each fully sampled slice. ``n_calibration`` is the width of the mask's full centre;
    ``n_jobs``: files prepared at the same time. Raises FileNotFoundError that names what is missing.
    """
    calibrate = partial(calibration.jsense, kernel_width=8, calibration_width=20)
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    files = files_by_split(data_dir, "mridata", KNEES)
    return _slices(files, mridata.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs)


def brains(data_dir, *, acceleration, cache_dir, center_fraction=0.04, n_masks=128, seed=0, n_jobs=1):
    """The fastMRI T2 brains under random columns (Section V-A2): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``fastmri/multicoil_val/*.h5`` and maybe ``splits/fastmri_brain.csv``. Sensitivity maps: ESPIRiT.
    Raises FileNotFoundError that names what is missing.
    """
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    files = files_by_split(data_dir, fastmri.FOLDER, BRAINS)
    return _slices(files, fastmri.read, calibration.espirit, make_mask, cache_dir, n_masks, seed, n_jobs)


def _slices(files, read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs):
    paths = [path for split in SPLITS for path in files[split]]
    prepared = prepare(paths, read=read, calibrate=calibrate, cache_dir=cache_dir, n_jobs=n_jobs)
    by_path = dict(zip(paths, prepared, strict=True))
    splits = tuple(
        Slices(split, tuple(by_path[p] for p in files[split]), make_mask, n_masks, 3 * seed + i, Path(cache_dir))
        for i, split in enumerate(SPLITS)
    )
    check_no_subject_in_two(splits)
    return splits


def check_no_subject_in_two(splits):
    """Raise ValueError if a subject, by what its files say and not by their names, is in two of ``splits``."""
    for one, other in itertools.combinations(splits, 2):
        if shared := set(one.subjects) & set(other.subjects):
            raise ValueError(f"subject {min(shared)} is in both {one.name} and {other.name}; split by subject")
