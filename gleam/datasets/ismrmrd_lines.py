"""The acquisitions of Cartesian ISMRMRD files, shared by their readers: which lines are images, and their samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from gleam.datasets import hdf5
from gleam.datasets.headers import Header, parse
from gleam.physics.fourier import ifftc

EXPECTED = "an ISMRMRD file (HDF5 with 'dataset/xml' and 'dataset/data')"
LINES_PER_BLOCK = 2048  # about 40 MB at a time for 320 samples and 8 coils, of 1.7 GB in all
REVERSED = 22  # flag of readouts in the other direction
# Noise, calibration alone, navigators, phase correction, feedback, dummies, surface coil correction, phase
# stabilisation. ISMRMRD counts its flags from 1.
NOT_IMAGING = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)


def header(file: h5py.File, path: str | Path) -> Header:
    """The header of the opened `file`; ValueError if it has none or its trajectory is not Cartesian."""
    hdf5.check_heaps(path)
    found = parse(hdf5.first(hdf5.dataset(file, "dataset/xml", path, EXPECTED)), path)
    if found.trajectory != "cartesian":
        raise ValueError(f"{path}: the trajectory is {found.trajectory!r}; expected 'cartesian'")
    return found


def acquisitions(file: h5py.File, path: str | Path) -> h5py.Dataset:
    """The acquisitions of the opened `file`, not yet read; ValueError if it has none."""
    hdf5.check_heaps(path)
    data = hdf5.dataset(file, "dataset/data", path, EXPECTED)
    if data.ndim != 1 or not len(data) or not {"head", "data"} <= set(data.dtype.names or ()):
        raise ValueError(f"{path}: 'dataset/data' holds no acquisitions; expected {EXPECTED}")
    return data


def heads(data: h5py.Dataset | np.ndarray) -> np.ndarray:
    """All acquisition headers, as a structured array.

    Rows are read whole, block by block, because HDF5 leaks the samples of rows whose header alone is read.
    """
    starts = range(0, len(data), LINES_PER_BLOCK)
    return np.concatenate([data[start : start + LINES_PER_BLOCK]["head"].copy() for start in starts])


def kept(heads: np.ndarray, path: str | Path, *, single: Sequence[str]) -> np.ndarray:
    """Numbers of the image acquisitions.

    Parameters
    ----------
    heads : structured array
        From :func:`heads`.
    path : path
        The file, for messages.
    single : sequence of str
        Counters that must have one value throughout, such as ("contrast", "set").

    Raises
    ------
    ValueError
        If there are none, or they have properties that the readers do not support.
    """
    numbers = np.flatnonzero(~_flagged(heads, NOT_IMAGING) & (heads["encoding_space_ref"] == 0))
    if not len(numbers):
        raise ValueError(f"{path}: none of its {len(heads)} acquisitions is image data; expected a fully sampled scan")
    heads = heads[numbers]
    if _flagged(heads, [REVERSED]).any():
        raise ValueError(f"{path}: some readouts are reversed (EPI), which is not supported")
    for counter in single:
        if (n := len(np.unique(heads["idx"][counter]))) > 1:
            raise ValueError(f"{path}: holds {n} values of '{counter}'; expected one, save each to its own file")
    for field in ("number_of_samples", "active_channels", "center_sample", "discard_pre", "discard_post"):
        if (n := len(np.unique(heads[field]))) > 1:
            raise ValueError(f"{path}: '{field}' takes {n} values among the image acquisitions; expected one")
    return numbers


def check_sizes(
    data: h5py.Dataset,
    heads: np.ndarray,
    kept: np.ndarray,
    n_lines: int,
    n_cropped: int,
    header: Header,
    path: str | Path,
) -> None:
    """Raise ValueError if counters, header and samples contradict each other, before memory is taken for k-space.

    Parameters
    ----------
    data, heads, kept, path
        As in :func:`decoded`.
    n_lines, n_cropped : int
        Size of k-space: lines in all, and positions along the readout.
    header : Header
    """
    head, n_x = heads[kept[0]], header.encoded[0]
    n, n_coils, pre, post = (
        int(head[name]) for name in ("number_of_samples", "active_channels", "discard_pre", "discard_post")
    )
    if (used := n - pre - post) <= 0:
        raise ValueError(f"{path}: discard_pre {pre} and discard_post {post} leave none of the {n} samples of a line")
    if (found := len(data[int(kept[0])]["data"])) != 2 * n * n_coils or not n_coils:
        raise ValueError(
            f"{path}: a line holds {found // 2} samples, not its {n_coils} coils x {n} samples; the file is damaged"
        )
    n_steps = len(np.unique(heads["idx"]["kspace_encode_step_1"][kept]))
    if (used < n_x and n_steps > header.encoded[1]) or 2 * used < n_x:
        raise ValueError(
            f"{path}: holds {n_steps} lines of {used} samples, and the header's matrix has {header.encoded[1]} lines "
            f"of {n_x} samples; expected the same readout and phase encoding in both"
        )
    hdf5.check_size(8 * n_lines * n_coils * n_cropped, path, f"k-space of {n_lines} lines")


def decoded(
    data: h5py.Dataset,
    heads: np.ndarray,
    kept: np.ndarray,
    line: np.ndarray,
    n_x: int,
    n_cropped: int,
    path: str | Path,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all image acquisitions, decoded along the readout, block by block.

    A line that was acquired several times comes in several blocks, each divided by the number of repeats: the sum of
    its blocks is the average. No line comes twice in one block.

    Parameters
    ----------
    data : h5py.Dataset
        'dataset/data' of the opened file.
    heads : structured array
        From :func:`heads`.
    kept : int array
        From :func:`kept`.
    line : int array
        Number of the line of each acquisition in `kept`.
    n_x, n_cropped : int
        Samples of the readout, and positions to keep around its centre.
    path : path
        The file, for messages.

    Yields
    ------
    numbers : int array, shape (line,)
        Line numbers.
    block : array, shape (line, coil, x)
        complex64.

    Raises
    ------
    ValueError
        For damaged or non-finite samples.
    """
    n_repeats = np.bincount(line)
    n_coils = int(heads["active_channels"][kept[0]])
    number = np.full(len(heads), -1)
    number[kept] = line
    turn = np.zeros(len(heads), int)  # no line comes twice within one turn
    turn[kept] = _occurrence(line)
    samples, start_x = data.fields("data"), n_x // 2 - n_cropped // 2
    for start in range(0, len(heads), LINES_PER_BLOCK):
        here = np.arange(start, min(start + LINES_PER_BLOCK, len(heads)))
        here = here[number[here] >= 0]  # the image acquisitions of this block
        if not len(here):
            continue
        rows = samples[start : start + LINES_PER_BLOCK]
        block = _readouts([rows[i - start] for i in here], heads[here[0]], n_coils, n_x, path)
        block = ifftc(block, (-1,))[..., start_x : start_x + n_cropped]
        block = block / n_repeats[number[here]].astype(np.float32)[:, None, None]
        for t in np.unique(turn[here]):
            yield number[here][turn[here] == t], block[turn[here] == t]


def _flagged(heads, flags):
    return (heads["flags"] & np.uint64(sum(1 << (flag - 1) for flag in flags))) != 0


def _occurrence(values):
    """How often the same value came before, for each of `values`."""
    # equal values become neighbours, and a rank is the distance from the first of them
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    position = np.arange(len(values))
    rank = np.empty(len(values), int)
    rank[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return rank


def _readouts(rows, head, n_coils, n_x, path):
    """Samples (line, coil, x) complex64 of `rows`, the centre sample at n_x // 2, zero where nothing was sampled."""
    n = int(head["number_of_samples"])
    if any(len(row) != 2 * n * n_coils for row in rows):
        raise ValueError(f"{path}: a line does not hold its {n_coils} coils x {n} samples; the file is damaged")
    values = np.concatenate(rows)
    hdf5.check_values(values, path, "")
    block = values.astype(np.float32, copy=False).view(np.complex64).reshape(len(rows), n_coils, n)
    pre, post = int(head["discard_pre"]), int(head["discard_post"])
    block = block[..., pre : n - post]
    if block.shape[-1] == n_x:
        return block
    # an asymmetric echo does not have its centre in the middle of its samples
    start = n_x // 2 - (int(head["center_sample"]) - pre)
    if start < 0 or start + block.shape[-1] > n_x:
        raise ValueError(f"{path}: {block.shape[-1]} samples do not fit the header's matrix of {n_x} along the readout")
    padded = np.zeros((len(rows), n_coils, n_x), np.complex64)
    padded[..., start : start + block.shape[-1]] = block
    return padded
