"""Phantoms straight into memory: the subjects of :mod:`gleam.phantoms` without raw and prepared files.

The anatomy, coils, noise and splits are those that the raw files hold, so the k-space samples are the same to
rounding. Files of the paper's sizes take more than 100 GB of disk and hours of calibration; this takes neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gleam import phantoms
from gleam.datasets.resident import hold, resident
from gleam.datasets.slices import Slices
from gleam.datasets.splits import SPLITS
from gleam.execution import numbered_device
from gleam.files import n_cores
from gleam.phantoms.brain_anatomy import check_tissue_maps
from gleam.phantoms.generate import planned
from gleam.phantoms.phantom_scans import PhantomScans
from gleam.physics import masks


def knees(
    *,
    acceleration: float,
    n_calibration: int = 20,
    n_masks: int = 128,
    mask_seed: int = 0,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    device: str | torch.device = "cpu",
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    **subjects: Any,
) -> tuple[Slices, Slices, Slices]:
    """Knee phantoms in memory.

    Parameters
    ----------
    acceleration, n_calibration, n_masks
        As for :func:`gleam.datasets.knees`.
    mask_seed : int
        The `seed` of :func:`gleam.datasets.knees`.
    calibrate : callable, optional
        Centred k-space (coil, y, x) to sensitivity maps, as for :func:`gleam.datasets.prepare.prepare`; it runs slice
        by slice in this process. None: no calibration, the maps are the phantom's own sensitivities divided by their
        root sum of squares.
    device : str or torch.device
        Where the arrays are kept and batches are made.
    n_jobs : int, optional
        Processes that draw; default: one per core.
    cache_dir : path, optional
        Where banks of masks are kept; None: in memory.
    **subjects
        Arguments of :func:`gleam.phantoms.knee` except `out_dir` and `n_jobs`: n_train, n_val, n_test, n_slices,
        matrix, n_coils, noise, seed.

    Returns
    -------
    train, val, test : gleam.datasets.Slices
        In memory. A split without subjects is empty.

    Raises
    ------
    ValueError
        For a bad argument, if the memory of the device and its host is too small, or if `calibrate` leaves no map of a
        slice.
    """
    make_mask = partial(masks.poisson_disc, acceleration=acceleration, n_calibration=n_calibration)
    return _splits(phantoms.knee, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir)


def brains(
    *,
    acceleration: float,
    center_fraction: float = 0.04,
    n_masks: int = 128,
    mask_seed: int = 0,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    device: str | torch.device = "cpu",
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    **subjects: Any,
) -> tuple[Slices, Slices, Slices]:
    """Brain phantoms in memory.

    Same as :func:`knees`, with the subjects of :func:`gleam.phantoms.brain` and the masks of
    :func:`gleam.datasets.brains`. Raises ModuleNotFoundError, at once, without nilearn's tissue maps.
    """
    check_tissue_maps()
    make_mask = partial(masks.random_columns, acceleration=acceleration, center_fraction=center_fraction)
    return _splits(phantoms.brain, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir)


def hearts(
    *,
    acceleration: float,
    n_center: int = 4,
    n_masks: int = 128,
    mask_seed: int = 0,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    device: str | torch.device = "cpu",
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    **subjects: Any,
) -> tuple[Slices, Slices, Slices]:
    """Series of beating hearts in memory.

    Same as :func:`knees`, with the subjects of :func:`gleam.phantoms.heart` and the masks of
    :func:`gleam.datasets.hearts`.
    """
    make_mask = partial(masks.kt_variable_density, acceleration=acceleration, n_center=n_center)
    return _splits(phantoms.heart, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir)


def _splits(write, subjects, make_mask, n_masks, mask_seed, calibrate, device, n_jobs, cache_dir):
    device, jobs = numbered_device(device), planned(write, **subjects)
    scans = PhantomScans(jobs, calibrate, device, n_cores() if n_jobs is None else n_jobs)
    everything = Slices(f"{write.__name__} phantoms", scans, make_mask, n_masks, mask_seed, cache_dir)
    for size in {shape[2:] for shape in scans.shapes}:
        make_mask(size, seed=0)  # raises before anything is drawn
    volumes, splits = iter(hold(scans, device, name=everything.name)), []
    for i, split in enumerate(SPLITS):
        own = replace(scans, jobs=[job for job in jobs if job["split"] == split])
        # the seeds of gleam.datasets.knees, so that the masks are the same
        slices = replace(everything, name=split, source=own, seed=3 * mask_seed + i)
        splits.append(resident(slices, device, volumes=[next(volumes) for _ in own.jobs]))
    return tuple(splits)
