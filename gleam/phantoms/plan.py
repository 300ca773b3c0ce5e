"""From the arguments of the writers of phantoms to a plan: checked settings of every subject, one "job" each."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from gleam.datasets import cine, fastmri
from gleam.datasets.splits import SPLITS
from gleam.files import whole_number

VERSION = 2  # raise it when the pixels of a phantom change: files of an older version are then written anew
KINDS = ("knee", "brain", "heart")
FOLDERS: dict[str, str | Path] = {"knee": "mridata", "brain": fastmri.FOLDER, "heart": cine.OCMR}
MIN_SIDE = 32  # pixels of an image


def plan(
    kind: str,
    out_dir: str | Path,
    *,
    n_train: int,
    n_val: int,
    n_test: int,
    n_slices: int | dict[str, int],
    matrix: tuple[int, int],
    n_coils: int | tuple[int, int],
    noise: float | tuple[float, float],
    seed: int,
    n_frames: int | None = None,
) -> list[dict]:
    """The subjects of a phantom data set.

    Parameters
    ----------
    kind : str
        One of `KINDS`. The other arguments are those of :func:`gleam.phantoms.knee` and, `n_frames`, of
        :func:`gleam.phantoms.heart`.

    Returns
    -------
    list of dict
        One dictionary ("job") per subject: the `path` of its file, its `split`, and the `settings` that make its
        pixels. Its anatomy depends only on (seed, split, number): a split that grows keeps its files.

    Raises
    ------
    ValueError
        If an argument makes no sense, or there is no subject.
    """
    counts = {
        split: whole_number(n, f"n_{split}", 0) for split, n in zip(SPLITS, (n_train, n_val, n_test), strict=True)
    }
    common: dict[str, Any] = {"version": VERSION, "kind": kind}
    common |= {"n_slices": _slices(n_slices, counts, 4 if kind == "knee" else 1)}
    common |= {"matrix": _matrix(matrix)} | (
        {"n_frames": whole_number(n_frames, "n_frames", 2)} if kind == "heart" else {}
    )
    common |= {"n_coils": _interval("n_coils", n_coils, 1, whole=True), "noise": _interval("noise", noise, 0.0)}
    common |= {"seed": whole_number(seed, "seed", 0)}
    jobs = []
    for code, split in enumerate(SPLITS):
        for number, own_slices in enumerate(common["n_slices"][split]):
            subject = [common["seed"], KINDS.index(kind), code, number]
            settings = {**common, "n_slices": own_slices, "subject": subject}
            path = Path(out_dir) / FOLDERS[kind] / _file_name(subject)
            jobs.append({"path": str(path), "split": split, "settings": settings})
    if not jobs:
        raise ValueError("n_train, n_val and n_test are all 0; ask for at least one subject")
    return jobs


def _file_name(subject):
    seed, kind, split, number = subject
    if KINDS[kind] == "heart":
        return f"fs_{90 + split}{number + 1:02d}_phantom.h5"
    if KINDS[kind] == "brain":
        return f"file_brain_AXT2_phantom_{3000 * split + number + 1:04d}.h5"
    # a UUID, as mridata.org names its files, that is the same each time
    return f"{uuid.uuid5(uuid.NAMESPACE_URL, f'gleam/phantom/knee/{seed}/{split}/{number}')}.h5"


def _slices(n_slices, counts, least):
    """Numbers of slices of the subjects of each split."""
    if not isinstance(n_slices, dict):
        return {split: [whole_number(n_slices, "n_slices", least)] * n for split, n in counts.items()}
    if set(n_slices) != set(SPLITS):
        raise ValueError(f"n_slices must be a whole number or a dict with {', '.join(SPLITS)}, not {n_slices!r}")
    totals = {split: whole_number(n_slices[split], f"n_slices of {split}", least * n) for split, n in counts.items()}
    # the total, as evenly as whole numbers allow
    return {split: [totals[split] // n + (i < totals[split] % n) for i in range(n)] for split, n in counts.items()}


def _matrix(matrix):
    try:
        first, second = matrix
    except (TypeError, ValueError):
        raise ValueError(f"matrix must be two numbers of pixels, such as (128, 96), not {matrix!r}") from None
    sides = [whole_number(side, "each side of matrix", MIN_SIDE) for side in (first, second)]
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
