"""ISMRMRD files of mridata.org: the Stanford fully sampled 3D FSE knees, and other Cartesian ISMRMRD HDF5 files."""

from pathlib import Path

import numpy as np

from gleam.datasets import headers
from gleam.datasets.volume import Volume
from gleam.fourier import fftc, ifftc

EXPECTED = "an ISMRMRD file (HDF5 with 'dataset/xml' and 'dataset/data')"
LINES_PER_BLOCK = 2048  # about 40 MB of 320 samples and 8 coils at a time, of 1.7 GB
REVERSED = 22
# Noise, calibration alone, navigators, phase correction, feedback, dummies, surface coil correction, phase
# stabilisation. ISMRMRD counts its flags from 1.
NOT_IMAGING = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)


def read(path):
    """Read one Cartesian ISMRMRD file as a :class:`gleam.datasets.volume.Volume` of slices (slice, coil, y, x).

    - 3D, lines counted by encoding steps 1 and 2: a centred orthonormal inverse FFT along the readout makes its
      positions the slices, and (y, x) are steps 1 and 2.
    - 3D, lines counted by step 1 and *slice*, as published converters of mridata.org's knees read them: the second
      phase encoding is already decoded. An FFT over the slices undoes that, then as above, so 320 x 320 x 256 gives 320
      slices of 320 x 256. Those slices alternate in sign, which puts the centre of k-space at the edge; it is moved to
      the middle where it is found at the edge.
    - 2D (one step 2, one slice): one slice, with (y, x) = (step 1, readout).

    The readout is cropped to the header's recon matrix in image space, never padded. Repetitions and averages are
    averaged. Where lines (or samples) do not fill the matrix as they are numbered, the header's centre goes to matrix
    // 2. Coils are scaled to equal noise if the file holds ``rec_std``, their noise. Lines that are no image data
    (noise and so on) are left out.

    Raises FileNotFoundError, OSError (no HDF5, truncated) or ValueError (no ISMRMRD, not Cartesian, NaN, missing lines,
    several contrasts, phases or sets), each naming the file.
    """
    path = Path(path)
    with headers.opened(path, expected=EXPECTED) as file:
        group = _group(file, path)
        header = headers.parse(group["xml"][0], path)
        if header.trajectory != "cartesian":
            raise ValueError(f"{path}: the trajectory is {header.trajectory!r}; expected 'cartesian'")
        heads = _heads(group["data"])
        kept = _kept(heads, path)
        line, shape, by_slice = _line_numbers(heads[kept], header, path)
        kspace = _hybrid(group["data"], heads, kept, line, np.prod(shape), header, path)
        kspace *= _coil_scales(group, kspace.shape[1])[:, None]
    kspace = kspace.reshape(*kspace.shape[:2], *shape)
    return Volume(
        kspace=_undecoded(kspace) if by_slice else _as_2d(kspace) if shape[1] == 1 else kspace,
        subject=path.stem,
        is_phantom=header.is_phantom,
        acquisition=header.protocol or ("2D" if shape[1] == 1 else "3D FSE"),
        field_strength=header.field_strength,
        aspect=header.spacing[1] / header.spacing[0 if shape[1] == 1 and not by_slice else 2],
    )


def _group(file, path):
    for name in ("dataset", "dataset/xml", "dataset/data"):
        if name not in file:
            raise ValueError(f"{path}: holds no '{name}' but {sorted(file)}; expected {EXPECTED}")
    if "head" not in (file["dataset/data"].dtype.names or ()) or not len(file["dataset/data"]):
        raise ValueError(f"{path}: 'dataset/data' holds no acquisitions; expected {EXPECTED}")
    return file["dataset"]


def _heads(data):
    """All acquisition headers. Read with their samples, block by block: HDF5 leaks the samples of rows read without."""
    starts = range(0, len(data), LINES_PER_BLOCK)
    return np.concatenate([data[start : start + LINES_PER_BLOCK]["head"].copy() for start in starts])


def _flagged(heads, flags):
    return (heads["flags"] & np.uint64(sum(1 << (flag - 1) for flag in flags))) != 0


def _kept(heads, path):
    """Numbers of the image acquisitions; complains about what this reader would get wrong."""
    kept = np.flatnonzero(~_flagged(heads, NOT_IMAGING) & (heads["encoding_space_ref"] == 0))
    if not len(kept):
        raise ValueError(f"{path}: none of its {len(heads)} acquisitions is image data; expected a fully sampled scan")
    heads = heads[kept]
    if _flagged(heads, [REVERSED]).any():
        raise ValueError(f"{path}: some readouts are reversed (EPI), which is not supported")
    for counter in ("contrast", "phase", "set"):
        if (n := len(np.unique(heads["idx"][counter]))) > 1:
            raise ValueError(f"{path}: holds {n} values of '{counter}'; expected one, save each to its own file")
    for field in ("number_of_samples", "active_channels", "center_sample", "discard_pre", "discard_post"):
        if (n := len(np.unique(heads[field]))) > 1:
            raise ValueError(f"{path}: '{field}' takes {n} values among the image acquisitions; expected one")
    return kept


def _line_numbers(heads, header, path):
    """Number of each acquisition's line in ``shape`` = (step 1, step 2), that shape, and whether slices are step 2."""
    counters = heads["idx"]
    step_1, step_2 = (counters[f"kspace_encode_step_{axis}"].astype(int) for axis in (1, 2))
    number = counters["slice"].astype(int)
    by_slice = number.max() > 0
    if by_slice and step_2.max() > 0:
        raise ValueError(f"{path}: counts lines by encoding step 2 and by slice (several slabs); expected one of them")
    shape = header.encoded[1], int(number.max()) + 1 if by_slice else header.encoded[2]
    y = _centred(step_1, shape[0], header.centers[0])
    z = number if by_slice else _centred(step_2, shape[1], header.centers[1])
    outside = (y < 0) | (y >= shape[0]) | (z < 0) | (z >= shape[1])
    if outside.any():
        raise ValueError(f"{path}: {outside.sum()} lines lie outside the header's {shape[0]} x {shape[1]} lines")
    line, n_lines = y * shape[1] + z, shape[0] * shape[1]
    if (n_missing := n_lines - len(np.unique(line))) > 0:
        raise ValueError(f"{path}: not fully sampled, {n_missing} of {n_lines} lines are missing; expected all of them")
    return line, shape, bool(by_slice)


def _centred(step, n, center):
    """A full raster is taken as it is numbered; otherwise line ``center`` moves to n // 2."""
    return step if center is None or np.array_equal(np.unique(step), np.arange(n)) else step + n // 2 - center


def _hybrid(data, heads, kept, line, n_lines, header, path):
    """Sum the acquisitions into (readout position, coil, line), decoded along the readout, and divide by their number.

    Block by block, straight into the final layout: beside the result only one block is in memory.
    """
    n_repeats = np.bincount(line, minlength=n_lines)
    n_coils, n_x = int(heads["active_channels"][kept[0]]), header.encoded[0]
    n_slices = min(header.recon[0], n_x)
    kspace = np.zeros((n_slices, n_coils, n_lines), np.complex64)
    number = np.full(len(heads), -1)
    number[kept] = line
    turn = np.zeros(len(heads), int)  # how often the same line came before: within one turn no line comes twice
    turn[kept] = _occurrence(line)
    samples = data.fields("data")
    for start in range(0, len(heads), LINES_PER_BLOCK):
        here = np.arange(start, min(start + LINES_PER_BLOCK, len(heads)))
        here = here[number[here] >= 0]
        if not len(here):
            continue
        rows = samples[start : start + LINES_PER_BLOCK]
        block = _readouts([rows[i - start] for i in here], heads[here[0]], n_coils, n_x, path)
        start_x = n_x // 2 - n_slices // 2
        block = np.ascontiguousarray(ifftc(block, (-1,))[..., start_x : start_x + n_slices].transpose(2, 1, 0))
        block /= n_repeats[number[here]].astype(np.float32)
        for t in np.unique(turn[here]):
            kspace[:, :, number[here][turn[here] == t]] += block[:, :, turn[here] == t]
    return kspace


def _occurrence(values):
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    position = np.arange(len(values))
    rank = np.empty(len(values), int)
    rank[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return rank


def _readouts(rows, head, n_coils, n_x, path):
    """Samples (line, coil, x) complex64 of ``rows``, the centre sample at n_x // 2, zero where nothing was sampled."""
    n = int(head["number_of_samples"])
    if any(len(row) != 2 * n * n_coils for row in rows):
        raise ValueError(f"{path}: a line does not hold its {n_coils} coils x {n} samples; the file is damaged")
    values = np.concatenate(rows)
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: its k-space holds NaN or infinite values; expected finite ones")
    block = values.astype(np.float32, copy=False).view(np.complex64).reshape(len(rows), n_coils, n)
    pre, post = int(head["discard_pre"]), int(head["discard_post"])
    block = block[..., pre : n - post]
    if block.shape[-1] == n_x:
        return block
    start = n_x // 2 - (int(head["center_sample"]) - pre)
    if start < 0 or start + block.shape[-1] > n_x:
        raise ValueError(f"{path}: {block.shape[-1]} samples do not fit the header's matrix of {n_x} along the readout")
    padded = np.zeros((len(rows), n_coils, n_x), np.complex64)
    padded[..., start : start + block.shape[-1]] = block
    return padded


def _coil_scales(group, n_coils):
    """One factor per coil that makes the noise equal, of mean square 1."""
    noise = np.asarray(group["rec_std"], np.float32).ravel() if "rec_std" in group else np.ones(n_coils, np.float32)
    if len(noise) != n_coils or not (np.isfinite(noise) & (noise > 0)).all():
        return np.ones(n_coils, np.float32)
    return (1 / noise / np.sqrt(np.mean(1 / noise**2))).astype(np.float32)


def _undecoded(kspace):
    """(slice, coil, y, z position) to (slice, coil, y, kz), centred. In place, a slice at a time."""
    n, energy = kspace.shape[-1], np.zeros(kspace.shape[-1])
    for one in kspace:
        one[...] = fftc(one, (-1,))
        energy += np.sum(np.abs(one) ** 2, axis=(0, 1))
    near = np.arange(-(n // 8), n // 8 + 1)
    if energy[near].sum() > energy[n // 2 + near].sum():  # index 0, the edge, outweighs the centre
        for one in kspace:
            one[...] = np.roll(one, n // 2, axis=-1)
    return kspace


def _as_2d(kspace):
    """(x, coil, y, 1) to (1, coil, y, kx)."""
    return np.ascontiguousarray(fftc(kspace.transpose(3, 1, 2, 0), (-1,)))
