"""Phantom data sets: many subjects in parallel, split by subject, written once and reused."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from gleam.datasets.splits import BRAINS, HEARTS, KNEES
from gleam.files import n_cores, whole_number, written_whole
from gleam.phantoms.plan import VERSION, plan
from gleam.phantoms.subject import settings_text, sizes, write_subject
from gleam.phantoms.write import is_current
from gleam.processes.pool import in_processes

VOXELS_PER_PROCESS = 2_000_000  # about 10 s of work; a process takes seconds to start
MANIFEST = "phantoms.json"


def knee(
    out_dir: str | Path,
    *,
    n_train: int,
    n_val: int,
    n_test: int,
    n_slices: int | dict[str, int],
    matrix: tuple[int, int] = (128, 96),
    n_coils: int | tuple[int, int] = 8,
    noise: float | tuple[float, float] = (0.025, 0.04),
    seed: int = 0,
    n_jobs: int | None = None,
) -> Path:
    """Write axial proton-density knees as ISMRMRD files, and their split list.

    A file that exists with the same settings is kept.

    Parameters
    ----------
    out_dir : path
        Folder of the data set; the files go to `out_dir/mridata`.
    n_train, n_val, n_test : int
        Subjects of each split, one file each.
    n_slices : int or dict
        Positions along the readout of each subject, at least 4, or a dict of split to the number that all its subjects
        share: `{"train": 858, "val": 790, "test": 800}`.
    matrix : (int, int)
        Size (y, z), even and at least 32.
    n_coils : int or (int, int)
        Coils, or (fewest, most) to draw from for each subject.
    noise : float or (float, float)
        Standard deviation per real channel of one coil over the 95th percentile of the combined image, or (low, high)
        to draw from for each subject.
    seed : int
        Of all random numbers.
    n_jobs : int, optional
        Processes at most; default: one per core.

    Returns
    -------
    Path
        The split list.

    Raises
    ------
    ValueError
        If an argument makes no sense, or `out_dir` holds a split list that is not of phantoms.
    """
    jobs = plan(
        "knee", out_dir, n_train=n_train, n_val=n_val, n_test=n_test, n_slices=n_slices, matrix=matrix,
        n_coils=n_coils, noise=noise, seed=seed,
    )  # fmt: skip
    return _make(jobs, Path(out_dir), KNEES, ("n_x", "n_y", "n_z", "n_coils"), n_jobs)


def brain(
    out_dir: str | Path,
    *,
    n_train: int,
    n_val: int,
    n_test: int,
    n_slices: int | dict[str, int],
    matrix: tuple[int, int] = (128, 128),
    n_coils: int | tuple[int, int] = (4, 20),
    noise: float | tuple[float, float] = (0.016, 0.020),
    seed: int = 0,
    n_jobs: int | None = None,
) -> Path:
    """Write axial T2-weighted heads as fastMRI multicoil files, and their split list.

    Parameters
    ----------
    matrix : (int, int)
        Size (y, x) of the reconstructed image; k-space has twice as many rows (readout oversampling).

    Returns
    -------
    Path
        The split list.

    Raises
    ------
    ValueError
        As :func:`knee`.
    ModuleNotFoundError
        If nilearn, which has the tissue maps, is not installed.

    Notes
    -----
    The other arguments are those of :func:`knee`; a subject has one slice or more.
    """
    jobs = plan(
        "brain", out_dir, n_train=n_train, n_val=n_val, n_test=n_test, n_slices=n_slices, matrix=matrix,
        n_coils=n_coils, noise=noise, seed=seed,
    )  # fmt: skip
    columns = ("n_slices", "n_coils", "encoded_x", "encoded_y", "recon_x", "recon_y")
    return _make(jobs, Path(out_dir), BRAINS, columns, n_jobs)


def heart(
    out_dir: str | Path,
    *,
    n_train: int,
    n_val: int,
    n_test: int,
    n_slices: int | dict[str, int],
    matrix: tuple[int, int] = (80, 64),
    n_frames: int = 20,
    n_coils: int | tuple[int, int] = 8,
    noise: float | tuple[float, float] = (0.02, 0.04),
    seed: int = 0,
    n_jobs: int | None = None,
) -> Path:
    """Write short-axis cine series of beating hearts in OCMR's layout, and their split list.

    Parameters
    ----------
    n_slices : int or dict
        Slices from the base of the left ventricle to its apex, otherwise as in :func:`knee`.
    matrix : (int, int)
        Size (y, x) of the reconstructed image, phase encoding and readout, with square pixels; raw readouts are twice
        as long (oversampling).
    n_frames : int
        Frames over one heart beat.

    Returns
    -------
    Path
        The split list; its paths are relative to `out_dir`.

    Raises
    ------
    ValueError
        As :func:`knee`.

    Notes
    -----
    The other arguments are those of :func:`knee`.
    """
    jobs = plan(
        "heart", out_dir, n_train=n_train, n_val=n_val, n_test=n_test, n_slices=n_slices, matrix=matrix,
        n_coils=n_coils, noise=noise, seed=seed, n_frames=n_frames,
    )  # fmt: skip
    columns = ("n_slices", "n_coils", "n_frames", "n_y", "n_x")
    return _make(jobs, Path(out_dir), HEARTS, columns, n_jobs)


def planned(write: Callable[..., Path], **settings: Any) -> list[dict]:
    """The plan of `write(out_dir, **settings)`, without writing anything.

    Parameters
    ----------
    write : function
        :func:`knee`, :func:`brain` or :func:`heart`.

    Returns
    -------
    list of dict
        One dictionary ("job") per subject, with its `path`, `split` and `settings`.

    Raises
    ------
    ValueError
        As `write`.
    """
    arguments = inspect.signature(write).bind("", **settings)
    arguments.apply_defaults()
    return plan(write.__name__, **{k: v for k, v in arguments.arguments.items() if k != "n_jobs"})


def _make(jobs, out_dir, list_name, columns, n_jobs):
    n_jobs = n_cores() if n_jobs is None else whole_number(n_jobs, "n_jobs", 1)
    split_list, manifest = out_dir / "splits" / list_name, out_dir / MANIFEST
    if split_list.exists() and not manifest.exists():
        raise ValueError(
            f"{out_dir} holds a split list that is not of phantoms ({list_name}); give phantoms a folder of their own"
        )
    what = "synthetic phantoms written by gleam.phantoms; no person's data"
    _write(manifest, json.dumps({"what": what, "version": VERSION}, indent=1) + "\n")
    missing = [job for job in jobs if not is_current(job["path"], f"<value>{settings_text(job)}</value>")]
    with tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc=f"{jobs[0]['settings']['kind']} phantoms", unit="file"
    ) as bar:
        n_processes = n_worthwhile(missing, n_jobs)
        for _, written in in_processes(write_subject, dict(enumerate(missing)), n_processes, work="drawing phantoms"):
            written.result()  # raises what stopped the process
            bar.update()
    rows = []
    for job in jobs:
        path = Path(job["path"])
        # hearts may lie in two folders, so their list has paths
        listed = path.relative_to(out_dir).as_posix() if job["settings"]["kind"] == "heart" else path.name
        rows.append({"file": listed, "split": job["split"], **dict(zip(columns, sizes(job), strict=True))})
    _write(split_list, pd.DataFrame(rows).to_csv(index=False))
    return split_list


def _write(path, text):
    """Write a text, unless it is there: a folder of finished phantoms may be read-only."""
    if not path.is_file() or path.read_bytes() != text.encode():
        with written_whole(path) as temporary:
            temporary.write_bytes(text.encode())


def n_worthwhile(jobs: Sequence[dict], n_jobs: int) -> int:
    """Number of processes, at most `n_jobs`, that save more time on the subjects `jobs` than they take to start."""
    n_voxels = sum(
        job["settings"]["n_slices"] * math.prod(job["settings"]["matrix"]) * job["settings"].get("n_frames", 1)
        for job in jobs
    )
    return max(1, min(whole_number(n_jobs, "n_jobs", 1), n_voxels // VOXELS_PER_PROCESS))
