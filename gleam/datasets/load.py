"""Data sets ready for training: raw files of a folder, prepared once, as training, validation and test slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from gleam.datasets import cine, fastmri, formats, mridata
from gleam.datasets.prepare import prepare
from gleam.datasets.resident import on_device
from gleam.datasets.slices import Slices
from gleam.datasets.splits import BRAINS, KNEES, SPLITS, check_disjoint, check_exist, files_by_split, files_of_list
from gleam.execution import checked_device
from gleam.physics import calibration, masks


def knees(
    data_dir: str | Path,
    *,
    acceleration: float,
    cache_dir: str | Path,
    n_calibration: int = 20,
    calibration_width: int = 20,
    n_masks: int = 128,
    seed: int = 0,
    n_jobs: int = 1,
    device: str | torch.device = "cpu",
) -> tuple[Slices, Slices, Slices]:
    """The mridata knees under Poisson-disc masks.

    Parameters
    ----------
    data_dir : path
        Holds `mridata/*.h5`. Subjects are split as `data_dir/splits/mridata_knee.csv` says or, without it, as in the
        paper.
    acceleration : float
        Of the masks.
    cache_dir : path
        For prepared files and masks.
    n_calibration : int
        Width of the fully measured centre of the masks, in samples.
    calibration_width : int
        Width of the centre of each fully sampled slice that its sensitivity maps are computed from: JSENSE with a
        kernel of 8.
    n_masks : int
        Masks in the bank of the training split.
    seed : int
        Of the masks.
    n_jobs : int
        Files prepared at the same time.
    device : str or torch.device
        Where training and validation batches are made. On a GPU these splits are kept in its memory
        (:func:`gleam.datasets.resident.resident`) if the memory of the device or its host is large enough.

    Returns
    -------
    train, val, test : gleam.datasets.Slices

    Raises
    ------
    FileNotFoundError
        If a file or list is missing.
    ValueError
        If the slices of a file are smaller than the calibration, or a subject is in two splits.

    Notes
    -----
    Section V-A1 of the paper.
    """
    calibrate = partial(calibration.jsense, kernel_width=8, calibration_width=calibration_width)
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    files = files_by_split(data_dir, "mridata", KNEES)
    return _slices(files, mridata.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device)


def brains(
    data_dir: str | Path,
    *,
    acceleration: float,
    cache_dir: str | Path,
    center_fraction: float = 0.04,
    calibration_width: int = 24,
    acquisition: str | None = "AXT2",
    field_strength: float | None = 3.0,
    n_masks: int = 128,
    seed: int = 0,
    n_jobs: int = 1,
    device: str | torch.device = "cpu",
) -> tuple[Slices, Slices, Slices]:
    """The fastMRI T2 brains under masks of random columns.

    Parameters
    ----------
    data_dir : path
        Holds `fastmri/multicoil_val/*.h5` and possibly `splits/fastmri_brain.csv`.
    acceleration : float
        Of the masks.
    cache_dir : path
        For prepared files and masks.
    center_fraction : float
        Fraction of the columns that is always measured.
    calibration_width : int
        Width of the centre of each fully sampled slice that its sensitivity maps are computed from, by ESPIRiT. The
        paper has 12, too few for real scans of many coils.
    acquisition : str or None
        The paper's brains are T2-weighted. A listed file that states another acquisition is refused: leaving it out
        would silently change the split. A file that does not state it is taken. None: any is taken.
    field_strength : float or None
        The same for the field strength in tesla; the paper's is 3 T.
    n_masks, seed, n_jobs, device
        As in :func:`knees`.

    Returns
    -------
    train, val, test : gleam.datasets.Slices

    Raises
    ------
    FileNotFoundError
        If a file or list is missing.
    ValueError
        If a file states another acquisition or field strength, its slices are smaller than the calibration, or a
        subject is in two splits.

    Notes
    -----
    Section V-A2 of the paper.
    """
    calibrate = partial(calibration.espirit, calibration_width=calibration_width)
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    files = files_by_split(data_dir, fastmri.FOLDER, BRAINS)
    fastmri.check_stated([path for split in SPLITS for path in files[split]], acquisition, field_strength)
    return _slices(files, fastmri.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device)


def hearts(
    data_dir: str | Path,
    *,
    acceleration: float,
    cache_dir: str | Path,
    n_center: int = 4,
    calibration_width: int = 24,
    n_masks: int = 128,
    seed: int = 0,
    n_jobs: int = 1,
    device: str | torch.device = "cpu",
) -> tuple[Slices, Slices, Slices]:
    """Cardiac cine series under k-t variable-density masks; a slice here is a series (coil, time, y, x).

    Parameters
    ----------
    data_dir : path
        Holds `ocmr/*.h5` or `cmrxrecon/**/cine_*.mat` or both, and possibly `splits/cine_heart.csv` (columns file,
        relative to `data_dir`, and split).
    acceleration : float
        Of the masks.
    cache_dir : path
        For prepared files and masks.
    n_center : int
        Lines at the centre that every frame measures.
    calibration_width : int
        Width of the centre of each series, averaged over time, that its sensitivity maps are computed from.
    n_masks, seed, n_jobs, device
        As in :func:`knees`.

    Returns
    -------
    train, val, test : gleam.datasets.Slices

    Raises
    ------
    FileNotFoundError
        If a file or list is missing.
    ValueError
        If there are fewer than three subjects, a subject is in two splits, or the frames of a file are smaller than the
        calibration.

    Notes
    -----
    Section V-A3 of the paper.

    The paper's 24 subjects are private, so there is no list of theirs. Without a list of yours, the files found by
    :func:`gleam.datasets.cine.find` are split by subject in the paper's proportions, 17 / 2 / 5, in the order of names,
    OCMR and CMRxRecon each on its own. OCMR does not publish which of its files show the same volunteer. Files with
    neighbouring numbers may, and this order keeps most of them together.

    Sensitivity maps: ESPIRiT, the custom for cine, with the paper's kernel of 8. The temporal mean is fully sampled and
    nearly free of noise. With 24 x 24, ESPIRiT explains the coil images better than JSENSE does.
    """
    calibrate = partial(calibration.espirit, kernel_width=8, calibration_width=calibration_width)
    make_mask = partial(masks.kt_variable_density, acceleration=acceleration, n_center=n_center)
    return _slices(cine.by_split(data_dir), cine.read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device)


def files(
    source: dict[str, Iterable[str | Path]] | str | Path,
    *,
    masks: Callable[..., np.ndarray],
    cache_dir: str | Path,
    data_dir: str | Path | None = None,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    n_masks: int = 128,
    seed: int = 0,
    n_jobs: int = 1,
    device: str | torch.device = "cpu",
) -> tuple[Slices, Slices, Slices]:
    """Your own fully sampled raw files, under any mask. Formats may be mixed (:mod:`gleam.datasets.formats`).

    Parameters
    ----------
    source : dict or path
        A dict of "train", "val" and "test" to lists of paths, or the path of a CSV, of any name, with the columns file
        and split.
    masks : callable
        A generator of :mod:`gleam.masks` with its arguments except shape and seed, such as
        `functools.partial(gleam.masks.poisson_disc, acceleration=8)`; for series, one that makes masks of series.
    cache_dir : path
        For prepared files and masks.
    data_dir : path, optional
        Where the files of a CSV are; default: the folder of the list.
    calibrate : callable, optional
        Centred k-space (coil, y, x) to sensitivity maps, such as
        `functools.partial(gleam.calibration.jsense, kernel_width=6)`; default: ESPIRiT as in :func:`brains`.
    n_masks, seed, n_jobs, device
        As in :func:`knees`.

    Returns
    -------
    train, val, test : gleam.datasets.Slices

    Raises
    ------
    FileNotFoundError
        If the list or a file is missing.
    ValueError
        If a split is missing or empty, a file is in two of them, or a subject is in two splits.
    """
    if isinstance(source, dict):
        by_split = {split: [Path(path) for path in source.get(split, ())] for split in SPLITS}
        paths = [path for split in SPLITS for path in by_split[split]]
        if set(source) != set(SPLITS) or not all(by_split.values()):
            raise ValueError(f"files were given for {sorted(source)}; expected lists of paths for train, val and test")
        if len(set(paths)) < len(paths):
            raise ValueError(f"{next(p for p in paths if paths.count(p) > 1)} is given more than once")
        check_exist(paths)
    else:
        by_split = files_of_list(source, Path(source).parent if data_dir is None else data_dir)
    calibrate = calibrate or calibration.espirit
    return _slices(by_split, formats.read, calibrate, masks, cache_dir, n_masks, seed, n_jobs, device)


def _slices(files, read, calibrate, make_mask, cache_dir, n_masks, seed, n_jobs, device="cpu"):
    checked_device(device)  # an error should come before hours of calibration
    paths = [path for split in SPLITS for path in files[split]]
    prepared = prepare(paths, read=read, calibrate=calibrate, cache_dir=cache_dir, n_jobs=n_jobs)
    by_path = dict(zip(paths, prepared, strict=True))
    _check_no_scan_in_two(files, by_path)
    # 3 seeds for each: no split has the masks of another, nor of one under another seed (0: 0 to 2, 1: 3 to 5, ...)
    splits = tuple(
        Slices(split, tuple(by_path[p] for p in files[split]), make_mask, n_masks, 3 * seed + i, Path(cache_dir))
        for i, split in enumerate(SPLITS)
    )
    check_no_subject_in_two(splits)  # only now: reading the raw files told the subjects
    train, val, test = splits
    return on_device(train, device), on_device(val, device), test


def _check_no_scan_in_two(files, prepared):
    """Raise ValueError if files of two splits, whatever their names, have the same content."""
    seen: dict[str, tuple[str, Path]] = {}
    for split in SPLITS:
        for path in files[split]:
            with h5py.File(prepared[path]) as file:
                before, first = seen.setdefault(file.attrs["source_sha256"], (split, path))
            if before != split:
                raise ValueError(
                    f"{path}: is the same scan as {first}, and they are in {split} and {before}; leave one out"
                )


def check_no_subject_in_two(splits: Iterable[Slices]) -> None:
    """Raise ValueError if a subject, as its files state it (not by their names), is in two of `splits`."""
    check_disjoint({slices.name: set(slices.subjects) for slices in splits}, "the prepared files")
