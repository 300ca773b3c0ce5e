"""ISMRMRD files of mridata.org: the Stanford fully sampled 3D FSE knees, and other Cartesian ISMRMRD HDF5 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gleam.datasets import hdf5, ismrmrd_lines, padding
from gleam.datasets.volume import Volume
from gleam.physics.fourier import fftc


def read(path: str | Path) -> Volume:
    """Read one Cartesian ISMRMRD file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    gleam.datasets.volume.Volume
        Of slices (slice, coil, y, x).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is not HDF5, or truncated.
    ValueError
        If it is not ISMRMRD, not Cartesian, holds NaN, lacks lines, has partial Fourier, or several contrasts, phases
        or sets. Each message names the file.

    Notes
    -----
    Three layouts are known:

    - 3D, lines counted by encoding steps 1 and 2: a centred orthonormal inverse FFT along the readout makes its
      positions the slices, and (y, x) are steps 1 and 2.
    - 3D, lines counted by step 1 and *slice*, as published converters of mridata.org's knees read them: the second
      phase encoding is already decoded. An FFT over the slices undoes that, then as above, so 320 x 320 x 256 gives 320
      slices of 320 x 256. Those slices alternate in sign, which puts the centre of k-space at the edge. It is moved to
      the middle if it is found at the edge.
    - 2D (the header's matrices have z = 1): the counter *slice* numbers slices, each (y, x) = (step 1, readout).

    The readout is cropped in image space to the header's recon matrix, never padded. Repetitions and averages are
    averaged. Lines (or samples) that do not fill the matrix as they are numbered are shifted: the header's centre goes
    to matrix // 2. Coils are scaled to equal noise if the file holds `rec_std`, their noise. Lines that are not image
    data (such as noise scans) are left out. Zeros at both ends of a phase encoding are padding
    (:mod:`gleam.datasets.padding`): they stay, and `measured` leaves them out. Along an encoding that is already
    decoded they cannot be seen.
    """
    return _read(Path(path), undersampled=False)


def read_measured(path: str | Path) -> Volume:
    """Same as :func:`read`, but a scan with missing lines is taken as well, unless it was decoded along slices."""
    return _read(Path(path), undersampled=True)


def _read(path, undersampled):
    with hdf5.opened(path, expected=ismrmrd_lines.EXPECTED) as file:
        header, data = ismrmrd_lines.header(file, path), ismrmrd_lines.acquisitions(file, path)
        heads = ismrmrd_lines.heads(data)
        kept = ismrmrd_lines.kept(heads, path, single=("contrast", "phase", "set"))
        line, shape, by_slice, n_missing = _line_numbers(heads[kept], header, path)
        if n_missing and (by_slice or not undersampled):
            raise ValueError(
                f"{path}: not fully sampled, {n_missing} of {np.prod(shape)} lines are missing; expected all of them"
            )
        kspace = _hybrid(data, heads, kept, line, shape[0] * shape[1], header, path)
        kspace *= _coil_scales(file, path, kspace.shape[1])[:, None]
    kspace = kspace.reshape(*kspace.shape[:2], *shape)
    lines = kspace.any(axis=(0, 1))  # (step 1, step 2 or slice)
    is_2d = not by_slice and header.encoded[2] == 1
    along_y, along_x = lines.T if is_2d else lines.any(axis=1)[None], lines.any(axis=0)[None]
    is_full = not undersampled or (n_missing == 0 and padding.is_full(along_y) and (is_2d or padding.is_full(along_x)))
    if by_slice:
        kspace = _undecoded(kspace)
    elif is_2d:
        kspace = np.ascontiguousarray(fftc(kspace.transpose(3, 1, 2, 0), (-1,)))  # (slice, coil, y, kx)
    x_has_no_padding = by_slice or is_2d or not is_full  # it is the readout, or was decoded in the file
    x = (0, kspace.shape[-1]) if x_has_no_padding else padding.measured_lines(along_x, path)
    y = padding.measured_lines(along_y, path) if is_full else (0, kspace.shape[-2])
    read, first, second = header.spacing
    return Volume(
        kspace=kspace,
        subject=path.stem,
        is_phantom=header.is_phantom,
        acquisition=header.protocol or ("2D" if is_2d else "3D FSE"),
        field_strength=header.field_strength,
        aspect=header.spacing[1] / header.spacing[0 if is_2d else 2],
        measured=(*y, *x),
        spacing=(second, first, read) if is_2d else (read, first, second),
        readout="x" if is_2d else "slice",
        is_full=is_full,
    )


def _line_numbers(heads, header, path):
    """Numbers of lines in `shape` = (step 1, step 2 or slice), that shape, whether slices are a decoded step 2, and how
    many lines are missing.
    """
    counters = heads["idx"]
    step_1, step_2 = (counters[f"kspace_encode_step_{axis}"].astype(int) for axis in (1, 2))
    number = counters["slice"].astype(int)
    several, depths = number.max() > 0, {header.encoded[2], header.recon[2]}
    by_slice = several and depths != {1}  # a stack of 2D slices has z = 1
    if several and step_2.max() > 0:
        raise ValueError(f"{path}: counts lines by encoding step 2 and by slice (several slabs); expected one of them")
    shape = header.encoded[1], int(number.max()) + 1 if several else header.encoded[2]
    if by_slice and shape[1] not in depths:
        raise ValueError(
            f"{path}: its lines count {shape[1]} slices, and the header's matrices have z = {min(depths)} and "
            f"{max(depths)}; expected one of these, or 1 for a stack of 2D slices"
        )
    y = _centred(step_1, shape[0], header.centers[0])
    z = number if several else _centred(step_2, shape[1], header.centers[1])
    outside = (y < 0) | (y >= shape[0]) | (z < 0) | (z >= shape[1])
    if outside.any():
        raise ValueError(f"{path}: {outside.sum()} lines lie outside the header's {shape[0]} x {shape[1]} lines")
    line = y * shape[1] + z
    return line, shape, bool(by_slice), shape[0] * shape[1] - len(np.unique(line))


def _centred(step, n, center):
    """A complete set of lines is taken as it is numbered; otherwise line `center` moves to n // 2."""
    return step if center is None or np.array_equal(np.unique(step), np.arange(n)) else step + n // 2 - center


def _hybrid(data, heads, kept, line, n_lines, header, path):
    """The lines (readout position, coil, line), decoded along the readout; one block at a time is in memory besides."""
    n_coils, n_x = int(heads["active_channels"][kept[0]]), header.encoded[0]
    n_slices = min(header.recon[0], n_x)
    ismrmrd_lines.check_sizes(data, heads, kept, n_lines, n_slices, header, path)
    kspace = np.zeros((n_slices, n_coils, n_lines), np.complex64)
    for numbers, block in ismrmrd_lines.decoded(data, heads, kept, line, n_x, n_slices, path):
        kspace[:, :, numbers] += np.ascontiguousarray(block.transpose(2, 1, 0))  # a sum: see `decoded`
    return kspace


def _coil_scales(file, path, n_coils):
    """One factor per coil that makes the noise equal, of mean square 1."""
    if "dataset/rec_std" not in file:
        return np.ones(n_coils, np.float32)
    noise = np.asarray(hdf5.dataset(file, "dataset/rec_std", path, "one number per coil"), np.float32).ravel()
    # without usable noise the coils stay as they are
    if len(noise) != n_coils or not (np.isfinite(noise) & (noise > 0)).all():
        return np.ones(n_coils, np.float32)
    return (1 / noise / np.sqrt(np.mean(1 / noise**2))).astype(np.float32)


def _undecoded(kspace):
    """(slice, coil, y, z position) to (slice, coil, y, kz), centred. In place, a slice at a time."""
    n, energy = kspace.shape[-1], np.zeros(kspace.shape[-1])
    for one in kspace:
        one[...] = fftc(one, (-1,))
        energy += np.sum(np.abs(one) ** 2, axis=(0, 1))
    near = np.arange(-(n // 8), n // 8 + 1)  # a quarter of the lines, around index 0
    if energy[near].sum() > energy[n // 2 + near].sum():  # more energy at the edge, index 0, than at the centre
        for one in kspace:
            one[...] = np.roll(one, n // 2, axis=-1)
    return kspace
