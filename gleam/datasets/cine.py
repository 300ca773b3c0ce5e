"""Cardiac cine series: OCMR's fully sampled ISMRMRD files, and CMRxRecon's `.mat` files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from gleam.datasets import hdf5, ismrmrd_lines, padding
from gleam.datasets.splits import HEARTS, SPLITS, check_disjoint, files_by_split, find_list, split_by_subject, visible
from gleam.datasets.volume import Volume
from gleam.physics.fourier import fftc

OCMR, CMRXRECON = "ocmr", "cmrxrecon"
FULL = ("kspace_full", "kspace")  # name of the variable in 2023 and 2024, and in 2025
EXPECTED_MAT = f"a CMRxRecon file (MATLAB v7.3, which is HDF5, with '{FULL[0]}')"
SHARES = (17, 2, 5)  # subjects in the splits of the paper's private set
FULL_FOLDER = "FullSample"  # CMRxRecon's, with a folder for each subject
NOT_FULL = ("accfactor", "undersample", "singlecoil")  # in names of folders whose series are no reference


def read(path: str | Path) -> Volume:
    """Read one cine file of OCMR or CMRxRecon.

    Parameters
    ----------
    path : path
        `.mat` is read as CMRxRecon's, anything else as OCMR's.

    Returns
    -------
    gleam.datasets.volume.Volume
        Of series (slice, coil, time, y, x); y is the phase encoding and x the readout.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is not HDF5, or truncated.
    ValueError
        If it has other keys, is an older MATLAB file, holds NaN, is not fully sampled, has partial Fourier or one
        frame, or its slices have different numbers of frames. Each message names the file.

    Notes
    -----
    Lines y of zeros at both ends, the same in every frame, are padding (:mod:`gleam.datasets.padding`): they stay, and
    `measured` leaves them out.

    OCMR (ISMRMRD): the counter `phase` is the cardiac frame, `slice` the slice, encoding step 1 the line. Averages and
    repetitions are averaged; noise scans and other lines that are not image data are left out. Readout oversampling is
    cropped in image space, to the header's recon matrix or field of view, whichever is smaller. Samples of an
    asymmetric echo keep their place, the rest is zero. The reader pads nothing along y: the acquired lines make the
    matrix, so its pixel is the header's field of view over their number.

    CMRxRecon: MATLAB's (x, y, coil, slice, time), which HDF5 shows in reverse order; without the slice axis it is one
    slice. These files state neither readout oversampling nor field of view: nothing is cropped, and `aspect` is 1.
    """
    return _read(Path(path), undersampled=False)


def read_measured(path: str | Path) -> Volume:
    """Same as :func:`read`, but an undersampled series is taken as well."""
    return _read(Path(path), undersampled=True)


def _read(path, undersampled):
    return (_read_mat if path.suffix.lower() == ".mat" else _read_ismrmrd)(path, undersampled)


def find(data_dir: str | Path) -> list[Path]:
    """Sorted paths of the fully sampled series in a data folder, by their names.

    Parameters
    ----------
    data_dir : path
        Searched for `ocmr/*.h5`, without the undersampled `us_*`, and for `cmrxrecon/**/cine_*.mat`, without masks and
        without single-coil and undersampled folders.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    data_dir = Path(data_dir)
    there = [*visible(data_dir / OCMR, "*.h5"), *visible(data_dir / CMRXRECON, "**/cine_*.mat")]
    found = [path for path in there if looks_full(path.relative_to(data_dir))]
    if not found:
        raise FileNotFoundError(
            f"{data_dir}: no cine series; expected fully sampled ones, {OCMR}/*.h5 or {CMRXRECON}/**/cine_*.mat"
        )
    return found


def looks_full(path: str | Path) -> bool:
    """Whether a file, by its name and folders below the data folder, is a fully sampled series of several coils.

    Names of undersampled and of single-coil series, and of masks, say what they are.
    """
    path = Path(path)
    if path.suffix.lower() != ".mat":
        return not path.name.startswith("us_")
    folders = [part.lower() for part in path.parts[:-1]]
    return not path.stem.endswith("_mask") and not any(word in part for part in folders for word in NOT_FULL)


def by_split(data_dir: str | Path) -> dict[str, list[Path]]:
    """Files of each split by the list of a data folder or, without it, in the paper's proportions of subjects.

    Raises
    ------
    FileNotFoundError
        If there is no file, or a listed one is missing.
    ValueError
        If a subject is in two splits of the list, or there are fewer than three.
    """
    if (listed := find_list(data_dir, HEARTS)).is_file():
        files = files_by_split(data_dir, "", HEARTS)
        check_disjoint({split: set(map(subject, paths)) for split, paths in files.items()}, listed)
        return files
    sets: dict[str, list[Path]] = {}
    for path in find(data_dir):
        sets.setdefault(path.suffix, []).append(path)  # OCMR and CMRxRecon each on its own
    parts = [split_by_subject(files, subject, SHARES) for files in sets.values()]
    return {split: [path for part in parts for path in part[split]] for split in SPLITS}


def subject(path: str | Path) -> str:
    """The subject of the file `path`, by its name alone.

    OCMR's files do not state it, so each counts as its own subject. For CMRxRecon: the folders below FullSample (such
    as P001), or the file's own folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".mat" or path.parent.name == CMRXRECON:
        return path.stem
    folders = path.parent.parts
    if FULL_FOLDER in folders[:-1]:
        # all of them: the same P003 may be in the folders of several scanners
        return "/".join(folders[len(folders) - folders[::-1].index(FULL_FOLDER) :])
    return path.parent.name


def _read_ismrmrd(path, undersampled):
    with hdf5.opened(path, expected=ismrmrd_lines.EXPECTED) as file:
        header, data = ismrmrd_lines.header(file, path), ismrmrd_lines.acquisitions(file, path)
        heads = ismrmrd_lines.heads(data)
        kept = ismrmrd_lines.kept(heads, path, single=("contrast", "set", "kspace_encode_step_2"))
        line, shape = _line_numbers(heads[kept], header, path, undersampled)
        kspace = _series(data, heads, kept, line, shape, header, path)
    lines = kspace.any(axis=(1, 4))  # (slice, frame, line)
    is_full = not undersampled or padding.is_full(lines)
    spacing = header.spacing[2], header.spacing[1] * header.encoded[1] / shape[2], header.spacing[0]
    return Volume(
        kspace=kspace,
        subject=subject(path),
        is_phantom=header.is_phantom,
        acquisition=header.protocol or "cine",
        field_strength=header.field_strength,
        aspect=spacing[1] / spacing[2],
        measured=(*(padding.measured_lines(lines, path) if is_full else (0, shape[2])), 0, kspace.shape[-1]),
        spacing=spacing,
        is_full=is_full,
    )


def _line_numbers(heads, header, path, undersampled):
    """Line number of each acquisition in `shape` = (slice, frame, step 1), and that shape."""
    (slices, s), (frames, t) = (np.unique(heads["idx"][name], return_inverse=True) for name in ("slice", "phase"))
    _check_frames(np.unique(np.stack([s, t]), axis=1), len(slices), len(frames), path)
    step = heads["idx"]["kspace_encode_step_1"].astype(int)
    n_complete = len(slices) * len(frames) * (int(np.ptp(step)) + 1)
    # lines that were measured several times count once
    if undersampled and np.unique(np.stack([s, t, step]), axis=1).shape[1] < n_complete:
        n_y = header.encoded[1]  # with lines missing, only the header says how many there are, and which is the centre
        y = step + (0 if header.centers[0] is None else n_y // 2 - header.centers[0])
        if y.min() < 0 or y.max() >= n_y:
            raise ValueError(f"{path}: lines {y.min()} to {y.max()} lie outside the header's {n_y} lines")
        shape = len(slices), len(frames), n_y
        return np.ravel_multi_index((s, t, y), shape), shape
    y, n_y = _lines_from_zero(step, header, path)
    shape = len(slices), len(frames), n_y
    line = np.ravel_multi_index((s, t, y), shape)
    if (n_missing := np.prod(shape) - len(np.unique(line))) > 0:
        raise ValueError(
            f"{path}: is undersampled, {n_missing} of the {np.prod(shape)} lines of its {len(slices)} x {len(frames)} "
            "frames are missing; expected a fully sampled series (OCMR's fs_ files)"
        )
    return line, shape


def _check_frames(pairs, n_slices, n_frames, path):
    """Raise ValueError unless the (slice, frame) `pairs` found are complete, with at least two frames."""
    if n_frames == 1:
        raise ValueError(f"{path}: is a series with one frame; expected at least 2")
    if pairs.shape[1] < n_slices * n_frames:
        counts = np.bincount(pairs[0])
        raise ValueError(
            f"{path}: its slices do not have the same frames, {counts.min()} to {counts.max()} of {n_frames}; expected "
            "all of them in every slice"
        )


def _lines_from_zero(step, header, path):
    """Encoding steps 1 counted from the lowest acquired one, the centre of k-space at n // 2, and their number n.

    Steps that fill the header's matrix are taken as they are numbered, as :mod:`gleam.datasets.mridata` does.
    """
    low, n, center = int(step.min()), int(np.ptp(step)) + 1, header.centers[0]
    as_numbered = center is None or (low == 0 and n == header.encoded[1])
    if not as_numbered:
        padding.check_symmetric(low, low + n, 2 * center, path)
    return step - low, n


def _series(data, heads, kept, line, shape, header, path):
    """K-space (slice, coil, time, y, x), the readout cropped; one block of lines at a time is in memory besides."""
    n_coils, n_x = int(heads["active_channels"][kept[0]]), header.encoded[0]
    n_cropped = min(n_x, header.recon[0], round(n_x / header.oversampling))
    ismrmrd_lines.check_sizes(data, heads, kept, math.prod(shape), n_cropped, header, path)
    kspace = np.zeros((shape[0], n_coils, *shape[1:], n_cropped), np.complex64)
    for numbers, block in ismrmrd_lines.decoded(data, heads, kept, line, n_x, n_cropped, path):
        s, t, y = np.unravel_index(numbers, shape)
        # a repeated line comes in several blocks, each its share of the average
        kspace[s, :, t, y] += fftc(block, (-1,))
    return kspace


def _read_mat(path, undersampled):
    _check_matlab_version(path)
    with hdf5.opened(path, expected=EXPECTED_MAT) as file:
        raw = _checked_mat(file, path)
        raw_shape = raw.shape if raw.ndim == 5 else (raw.shape[0], 1, *raw.shape[1:])
        kspace = np.empty((raw_shape[1], raw_shape[2], raw_shape[0], *raw_shape[3:]), np.complex64)
        lines = np.empty((len(kspace), *kspace.shape[2:4]), bool)
        for s in range(len(kspace)):  # one slice at a time: 12 slices of 12 frames and 10 coils take 1 GB
            values = raw[:, s] if raw.ndim == 5 else raw[:]  # (time, coil, y, x): MATLAB counts axes from the other end
            kspace[s].real, kspace[s].imag = (values[part].swapaxes(0, 1) for part in ("real", "imag"))
            hdf5.check_values(kspace[s], path, f" of slice {s}")
            lines[s] = kspace[s].any(axis=(0, 3))
    is_full = not undersampled or padding.is_full(lines)
    return Volume(
        kspace=kspace,
        subject=subject(path),
        is_phantom=False,
        acquisition=path.stem,
        field_strength=None,
        measured=(*(padding.measured_lines(lines, path) if is_full else (0, lines.shape[-1])), 0, kspace.shape[-1]),
        is_full=is_full,
    )


def _check_matlab_version(path):
    if path.is_file():
        with open(path, "rb") as file:
            # versions before 7.3 are a format of their own, not HDF5
            if file.read(10) == b"MATLAB 5.0":
                raise ValueError(f"{path}: is a MATLAB file older than v7.3; save it again with '-v7.3'")


def _checked_mat(file, path):
    """The k-space data set, checked but not yet read."""
    name = next((name for name in FULL if name in file), None)
    if name is None:
        raise ValueError(f"{path}: holds no '{FULL[0]}' but {sorted(file)}; expected full k-space of several coils")
    raw = hdf5.dataset(file, name, path, EXPECTED_MAT)
    if {"real", "imag"} - set(raw.dtype.names or ()) or raw.ndim not in (4, 5) or 0 in raw.shape:
        raise ValueError(
            f"{path}: '{name}' is {raw.dtype} {raw.shape}; expected fields real and imag, and in MATLAB (x, y, coil, "
            "[slice,] time)"
        )
    if len(raw) == 1:
        raise ValueError(f"{path}: is a series with one frame; expected at least 2")
    return raw
