"""Data sets ready for training: raw files of a folder, prepared once, as training, validation and test slices."""

import itertools
from functools import partial
from pathlib import Path

from gleam.datasets import cine, fastmri, formats, mridata
from gleam.datasets.prepare import prepare
from gleam.datasets.resident import on_device
from gleam.datasets.slices import Slices
from gleam.datasets.splits import (
    BRAINS,
    HEARTS,
    KNEES,
    SPLITS,
    files_by_split,
    files_of_list,
    find_list,
    split_by_subject,
)
from gleam.execution import checked_device
from gleam.physics import calibration, masks

HEART_SHARES = (17, 2, 5)  # subjects of the paper's own, private set


def knees(
    data_dir, *, acceleration, cache_dir, n_calibration=20, calibration_width=20, n_masks=128, seed=0, n_jobs=1,
    device="cpu",
):  # fmt: skip
    """The mridata knees under Poisson-disc masks (Section V-A1): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``mridata/*.h5``; subjects are split as ``data_dir/splits/mridata_knee.csv`` says or, without
    it, as in the paper. Prepared files and masks go to ``cache_dir``. Sensitivity maps: JSENSE with a kernel of 8 on
    the central ``calibration_width`` squared of each fully sampled slice. ``n_calibration`` is the width of the mask's
    full centre; ``n_jobs``: files prepared at the same time. ``device``: where training and validation batches are
    made; on a GPU these splits are :class:`gleam.datasets.Resident` there, if any memory holds them. Raises
    FileNotFoundError that names what is missing, ValueError for a file whose slices are smaller than the calibration.
    """
    calibrate = partial(calibration.jsense, kernel_width=8, calibration_width=calibration_width)
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    files = files_by_split(data_dir, "mridata", KNEES)
    return _slices(files, mridata.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device)


def brains(
    data_dir, *, acceleration, cache_dir, center_fraction=0.04, calibration_width=24, acquisition="AXT2",
    field_strength=3.0, n_masks=128, seed=0, n_jobs=1, device="cpu",
):  # fmt: skip
    """The fastMRI T2 brains under random columns (Section V-A2): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``fastmri/multicoil_val/*.h5`` and maybe ``splits/fastmri_brain.csv``. Sensitivity maps: ESPIRiT
    on the central ``calibration_width`` squared of each fully sampled slice; the paper has 12, too few for real scans
    of many coils. The paper's brains are T2-weighted, at 3 T: a listed file that states another ``acquisition`` or
    ``field_strength`` (tesla) is refused, for leaving it out would change the split behind its list's back; one that
    does not say is taken. None: any will do. Raises ValueError for such a file and for one whose slices are smaller
    than the calibration, FileNotFoundError that names what is missing.
    """
    calibrate = partial(calibration.espirit, calibration_width=calibration_width)
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    files = files_by_split(data_dir, fastmri.FOLDER, BRAINS)
    _check_stated([path for split in SPLITS for path in files[split]], acquisition, field_strength)
    return _slices(files, fastmri.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device)


def hearts(
    data_dir, *, acceleration, cache_dir, n_center=4, calibration_width=24, n_masks=128, seed=0, n_jobs=1,
    device="cpu",
):  # fmt: skip
    """Cardiac cine series under k-t variable-density masks (Section V-A3): (train, val, test), each :class:`Slices`.

    ``data_dir`` holds ``ocmr/*.h5`` or ``cmrxrecon/**/cine_*.mat`` or both; a slice here is a series (coil, time, y,
    x). The paper's 24 subjects are private, so no list of theirs exists: without a ``splits/cine_heart.csv`` (columns
    file, relative to ``data_dir``, and split) the files of :func:`gleam.datasets.cine.find` are split by subject in its
    proportions, 17 / 2 / 5, each of the two sets on its own and in the order of names. OCMR does not publish which of
    its files show one volunteer; neighbouring numbers may, and this order keeps most of them together.

    Sensitivity maps: ESPIRiT, the custom for cine, with the paper's kernel of 8 on the central
    ``calibration_width`` squared of each series averaged over time: that mean is fully sampled and nearly free of
    noise, and with 24 x 24 ESPIRiT explains the coil images better than JSENSE does. ``n_center``: lines that every
    frame measures. Raises FileNotFoundError that names what is missing, ValueError if there are fewer than three
    subjects, one is in two splits, or a file's frames are smaller than the calibration.
    """
    calibrate = partial(calibration.espirit, kernel_width=8, calibration_width=calibration_width)
    make_mask = partial(masks.kt_variable_density, acceleration=acceleration, n_center=n_center)
    return _slices(
        _hearts_by_split(data_dir), cine.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device
    )


def files(
    source, *, masks, cache_dir, data_dir=None, calibrate=None, n_masks=128, seed=0, n_jobs=1, device="cpu"
):  # fmt: skip
    """Your own fully sampled raw files, under any mask: (train, val, test), each :class:`Slices`.

    ``source``: a dict of "train", "val" and "test" to lists of paths, or the path of a CSV, of any name, with the
    columns file and split; its files lie in ``data_dir``, by default the folder of the list. Formats may be mixed
    (:mod:`gleam.datasets.formats`). ``masks``: a generator of :mod:`gleam.masks` with its arguments but shape and seed,
    such as ``functools.partial(gleam.masks.poisson_disc, acceleration=8)``; series need one of series. ``calibrate``:
    centred k-space (coil, y, x) to sensitivity maps, such as ``functools.partial(gleam.calibration.jsense,
    kernel_width=6)``; by default ESPIRiT as for :func:`brains`. The other arguments are those of :func:`knees`.

    Raises FileNotFoundError that names the list or the file that is missing, ValueError if a split is missing or empty,
    a file stands in two of them, or a subject is in two splits.
    """
    if isinstance(source, dict):
        by_split = {split: [Path(path) for path in source.get(split, ())] for split in SPLITS}
        _check_own(source, by_split)
    else:
        by_split = files_of_list(source, Path(source).parent if data_dir is None else data_dir)
    calibrate = calibrate or calibration.espirit
    return _slices(by_split, formats.read, calibrate, masks, cache_dir, n_masks, seed, n_jobs, device)


def _check_own(source, by_split):
    paths = [path for split in SPLITS for path in by_split[split]]
    if set(source) != set(SPLITS) or not all(by_split.values()):
        raise ValueError(f"files were given for {sorted(source)}; expected lists of paths for train, val and test")
    if len(set(paths)) < len(paths):
        raise ValueError(f"{next(p for p in paths if paths.count(p) > 1)} is given more than once")
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of the {len(paths)} files are missing, such as {missing[0]}")


def _hearts_by_split(data_dir):
    if (listed := find_list(data_dir, HEARTS)).is_file():
        files = files_by_split(data_dir, "", HEARTS)
        _check_no_subject_in_two({split: set(map(cine.subject, paths)) for split, paths in files.items()}, listed)
        return files
    sets = {}
    for path in cine.find(data_dir):
        sets.setdefault(path.suffix, []).append(path)
    parts = [split_by_subject(files, cine.subject, HEART_SHARES) for files in sets.values()]
    return {split: [path for part in parts for path in part[split]] for split in SPLITS}


def _check_stated(paths, acquisition, field_strength):
    """Raise ValueError if a file says that it is not of this acquisition or field strength; None: any will do."""
    if (acquisition, field_strength) == (None, None):
        return
    for path in paths:
        found, tesla = fastmri.stated(path)
        if acquisition is not None and found not in (None, acquisition):
            raise ValueError(f"{path}: is {found}, not {acquisition}; take it off the split list")
        if field_strength is not None and tesla is not None and not fastmri.is_near(tesla, field_strength):
            raise ValueError(f"{path}: was measured at {tesla} T, not {field_strength} T; take it off the split list")


def _slices(files, read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device="cpu"):
    checked_device(device)  # before hours of calibration
    paths = [path for split in SPLITS for path in files[split]]
    prepared = prepare(paths, read=read, calibrate=calibrate, cache_dir=cache_dir, n_jobs=n_jobs)
    by_path = dict(zip(paths, prepared, strict=True))
    splits = tuple(
        Slices(split, tuple(by_path[p] for p in files[split]), make_mask, n_masks, 3 * seed + i, Path(cache_dir))
        for i, split in enumerate(SPLITS)
    )
    check_no_subject_in_two(splits)
    train, val, test = splits
    return on_device(train, device), on_device(val, device), test


def check_no_subject_in_two(splits):
    """Raise ValueError if a subject, by what its files say and not by their names, is in two of ``splits``."""
    _check_no_subject_in_two({slices.name: set(slices.subjects) for slices in splits}, "the prepared files")


def _check_no_subject_in_two(subjects, source):
    for (one, first), (other, second) in itertools.combinations(subjects.items(), 2):
        if shared := first & second:
            raise ValueError(f"{source}: subject {min(shared)} is in both {one} and {other}; split by subject")
