"""Phantom data sets: many subjects in parallel, split by subject, written once and reused."""

import inspect
import math
import multiprocessing
import uuid
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from gleam.datasets import cine, fastmri
from gleam.datasets.splits import BRAINS, HEARTS, KNEES, SPLITS
from gleam.files import end_with_parent, n_cores, write_json, written_whole
from gleam.phantoms.subject import settings_text, sizes, write_subject

VERSION = 2  # raise it when the pixels of a phantom change: files made by an older version are then written anew
VOXELS_PER_PROCESS = 2_000_000  # a process takes seconds to start: one is worth it from about 10 s of work
MANIFEST = "phantoms.json"
KINDS = ("knee", "brain", "heart")
FOLDERS = {"knee": "mridata", "brain": fastmri.FOLDER, "heart": cine.OCMR}


def knee(
    out_dir, *, n_train, n_val, n_test, n_slices, matrix=(128, 96), n_coils=8, noise=(0.025, 0.04), seed=0, n_jobs=None
):
    """Write axial proton-density knees as ISMRMRD files and their split list; returns the split list's path.

    ``n_train``, ``n_val``, ``n_test``: subjects, one file each. ``n_slices``: positions along the readout, of each
    subject, or a dict of all in a split, which its subjects share: {"train": 858, "val": 790, "test": 800}. ``matrix``:
    (y, z). ``noise``: standard deviation per real channel of one coil over the 95th percentile of the combined image, a
    number or (low, high) drawn per subject. ``n_jobs``: processes at most, default one per core. A file that exists
    with the same settings is kept. Raises ValueError, with a sentence, on a bad argument.
    """
    jobs = _planned("knee", out_dir, n_train=n_train, n_val=n_val, n_test=n_test, n_slices=n_slices, matrix=matrix,
                    n_coils=n_coils, noise=noise, seed=seed)  # fmt: skip
    return _make(jobs, Path(out_dir), KNEES, ("n_x", "n_y", "n_z", "n_coils"), n_jobs)


def brain(
    out_dir,
    *,
    n_train,
    n_val,
    n_test,
    n_slices,
    matrix=(128, 128),
    n_coils=(4, 20),
    noise=(0.016, 0.020),
    seed=0,
    n_jobs=None,
):
    """Write axial T2-weighted heads as fastMRI multicoil files and their split list; returns the split list's path.

    ``matrix``: the reconstructed (y, x); k-space has twice as many rows (readout oversampling).
    ``n_coils``: a number or (fewest, most) drawn per subject. The other arguments and errors are those of :func:`knee`.
    """
    jobs = _planned("brain", out_dir, n_train=n_train, n_val=n_val, n_test=n_test, n_slices=n_slices, matrix=matrix,
                    n_coils=n_coils, noise=noise, seed=seed)  # fmt: skip
    columns = ("n_slices", "n_coils", "encoded_x", "encoded_y", "recon_x", "recon_y")
    return _make(jobs, Path(out_dir), BRAINS, columns, n_jobs)


def heart(
    out_dir,
    *,
    n_train,
    n_val,
    n_test,
    n_slices,
    matrix=(80, 64),
    n_frames=20,
    n_coils=8,
    noise=(0.02, 0.04),
    seed=0,
    n_jobs=None,
):
    """Write short-axis cine series of beating hearts in OCMR's layout and their split list; returns the list's path.

    ``n_slices``: from the base of the left ventricle to its apex. ``matrix``: the reconstructed (y, x), phase encoding
    and readout, with square pixels; raw readouts are twice as long (oversampling). ``n_frames``: over one heart beat.
    The list holds paths relative to ``out_dir``. The other arguments and errors are those of :func:`knee`.
    """
    jobs = _planned("heart", out_dir, n_train=n_train, n_val=n_val, n_test=n_test, n_slices=n_slices, matrix=matrix,
                    n_coils=n_coils, noise=noise, seed=seed, n_frames=n_frames)  # fmt: skip
    columns = ("n_slices", "n_coils", "n_frames", "n_y", "n_x")
    return _make(jobs, Path(out_dir), HEARTS, columns, n_jobs)


def planned(write, **settings):
    """What ``write(out_dir, **settings)`` would write, without writing: one dictionary ("job") per subject.

    ``write``: :func:`knee`, :func:`brain` or :func:`heart`. Raises ValueError as that does.
    """
    arguments = inspect.signature(write).bind("", **settings)
    arguments.apply_defaults()
    return _planned(write.__name__, **{k: v for k, v in arguments.arguments.items() if k != "n_jobs"})


def _planned(kind, out_dir, *, n_train, n_val, n_test, n_slices, matrix, n_coils, noise, seed, n_frames=None):
    counts = {split: _count(f"n_{split}", n, 0) for split, n in zip(SPLITS, (n_train, n_val, n_test), strict=True)}
    plan = {"kind": kind, "n_slices": _slices(n_slices, counts, 4 if kind == "knee" else 1)}
    plan |= {"matrix": _matrix(matrix, 32)} | ({"n_frames": _count("n_frames", n_frames, 2)} if kind == "heart" else {})
    plan |= {"n_coils": _interval("n_coils", n_coils, 1, whole=True), "noise": _interval("noise", noise, 0.0)}
    return _jobs(plan, Path(out_dir) / FOLDERS[kind], seed)


def _count(name, value, least):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def _slices(n_slices, counts, least):
    """Numbers of slices of the subjects of each split."""
    if not isinstance(n_slices, dict):
        return {split: [_count("n_slices", n_slices, least)] * n for split, n in counts.items()}
    if set(n_slices) != set(SPLITS):
        raise ValueError(f"n_slices must be a whole number or a dict with {', '.join(SPLITS)}, not {n_slices!r}")
    totals = {split: _count(f"n_slices of {split}", n_slices[split], least * n) for split, n in counts.items()}
    return {split: [totals[split] // n + (i < totals[split] % n) for i in range(n)] for split, n in counts.items()}


def _matrix(matrix, least):
    try:
        first, second = matrix
    except (TypeError, ValueError):
        raise ValueError(f"matrix must be two numbers of pixels, such as (128, 96), not {matrix!r}") from None
    sides = [_count("each side of matrix", side, least) for side in (first, second)]
    if any(side % 2 for side in sides):
        raise ValueError(f"each side of matrix must be even, as in real scans, not {matrix!r}")
    return sides


def _interval(name, value, least, whole=False):
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    fits = (
        len(pair) == 2
        and all(isinstance(v, (int, float, np.number)) and least <= v < 1e4 for v in pair)
        and pair[0] <= pair[1]
    )
    if not fits or (whole and any(v != int(v) for v in pair)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {kind} of at least {least}, or (low, high) of such, not {value!r}")
    return [int(v) if whole else float(v) for v in pair]


def _jobs(plan, folder, seed):
    """One dictionary per subject; its anatomy depends on (seed, split, number) only, so growing a split keeps files."""
    plan = {"version": VERSION, **plan, "seed": _count("seed", seed, 0)}
    jobs = []
    for code, split in enumerate(SPLITS):
        for number, n_slices in enumerate(plan["n_slices"][split]):
            subject = [plan["seed"], KINDS.index(plan["kind"]), code, number]
            settings = {**plan, "n_slices": n_slices, "subject": subject}
            jobs.append({"path": str(folder / _file_name(subject)), "split": split, "settings": settings})
    if not jobs:
        raise ValueError("n_train, n_val and n_test are all 0; ask for at least one subject")
    return jobs


def _file_name(subject):
    seed, kind, split, number = subject
    if KINDS[kind] == "heart":
        return f"fs_{90 + split}{number + 1:02d}_phantom.h5"
    if KINDS[kind] == "brain":
        return f"file_brain_AXT2_phantom_{3000 * split + number + 1:04d}.h5"
    return f"{uuid.uuid5(uuid.NAMESPACE_URL, f'gleam/phantom/knee/{seed}/{split}/{number}')}.h5"


def _make(jobs, out_dir, list_name, columns, n_jobs):
    n_jobs = n_cores() if n_jobs is None else _count("n_jobs", n_jobs, 1)
    split_list, manifest = out_dir / "splits" / list_name, out_dir / MANIFEST
    if split_list.exists() and not manifest.exists():
        raise ValueError(
            f"{out_dir} holds a split list that is not of phantoms ({list_name}); give phantoms a folder of their own"
        )
    write_json(
        manifest,
        {"what": "synthetic phantoms written by gleam.phantoms; no person's data", "version": VERSION},
    )
    missing = [job for job in jobs if not _is_current(job)]
    with tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc=f"{jobs[0]['settings']['kind']} phantoms", unit="file"
    ) as bar:
        for _ in _run(missing, n_jobs):
            bar.update()
    rows = [
        {"file": _listed_as(job, out_dir), "split": job["split"], **dict(zip(columns, sizes(job), strict=True))}
        for job in jobs
    ]
    with written_whole(split_list) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return split_list


def _listed_as(job, out_dir):
    path = Path(job["path"])
    return path.relative_to(out_dir).as_posix() if job["settings"]["kind"] == "heart" else path.name


def n_worthwhile(jobs, n_jobs):
    """How many processes are worth their start for the subjects ``jobs``, up to ``n_jobs``."""
    n_voxels = sum(
        job["settings"]["n_slices"] * math.prod(job["settings"]["matrix"]) * job["settings"].get("n_frames", 1)
        for job in jobs
    )
    return max(1, min(_count("n_jobs", n_jobs, 1), n_voxels // VOXELS_PER_PROCESS))


def _run(jobs, n_jobs):
    """Do the jobs, in this process if there is little to do; yields as they finish."""
    n_processes = n_worthwhile(jobs, min(n_jobs, max(1, len(jobs))))
    if n_processes <= 1:
        yield from map(write_subject, jobs)
        return
    # Spawned, not forked: the parent may run threads of torch.
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            yield from (done.result() for done in as_completed([pool.submit(write_subject, job) for job in jobs]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _is_current(job):
    """Whether the job's file is there and says that it was made with these very settings."""
    try:
        with h5py.File(job["path"]) as file:
            header = file["dataset/xml"][0] if "dataset" in file else file["ismrmrd_header"][()]
    except (OSError, KeyError):
        return False
    return f"<value>{settings_text(job)}</value>" in header.decode()
