"""The acquisitions of Cartesian ISMRMRD files, what their readers share: which lines are images, and their samples."""

import numpy as np

from gleam.physics.fourier import ifftc

EXPECTED = "an ISMRMRD file (HDF5 with 'dataset/xml' and 'dataset/data')"
LINES_PER_BLOCK = 2048  # about 40 MB of 320 samples and 8 coils at a time, of 1.7 GB
REVERSED = 22
# Noise, calibration alone, navigators, phase correction, feedback, dummies, surface coil correction, phase
# stabilisation. ISMRMRD counts its flags from 1.
NOT_IMAGING = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)


def group(file, path):
    """The group 'dataset' of the opened ``file``. Raises ValueError unless it holds a header and acquisitions."""
    for name in ("dataset", "dataset/xml", "dataset/data"):
        if name not in file:
            raise ValueError(f"{path}: holds no '{name}' but {sorted(file)}; expected {EXPECTED}")
    if "head" not in (file["dataset/data"].dtype.names or ()) or not len(file["dataset/data"]):
        raise ValueError(f"{path}: 'dataset/data' holds no acquisitions; expected {EXPECTED}")
    return file["dataset"]


def check_cartesian(header, path):
    """Raise ValueError if the file's trajectory is not Cartesian."""
    if header.trajectory != "cartesian":
        raise ValueError(f"{path}: the trajectory is {header.trajectory!r}; expected 'cartesian'")


def heads(data):
    """All acquisition headers. Read with their samples, block by block: HDF5 leaks the samples of rows read without."""
    starts = range(0, len(data), LINES_PER_BLOCK)
    return np.concatenate([data[start : start + LINES_PER_BLOCK]["head"].copy() for start in starts])


def kept(heads, path, *, single):
    """Numbers of the image acquisitions; complains about what a reader would get wrong.

    ``single``: the counters that must have one value throughout, e.g. ("contrast", "set"). Raises ValueError.
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


def decoded(data, heads, kept, line, n_x, n_cropped, path):
    """Yield (line numbers, block) until all acquisitions have come: each line is the sum of its blocks.

    ``line``: number of the line of each acquisition in ``kept``; a block (line, coil, x) complex64 is decoded along the
    readout of ``n_x`` samples, cropped about its centre to ``n_cropped`` positions, and divided by the number of
    repeats of its lines. No line comes twice in one block. Raises ValueError for damaged or non-finite samples.
    """
    n_repeats = np.bincount(line)
    n_coils = int(heads["active_channels"][kept[0]])
    number = np.full(len(heads), -1)
    number[kept] = line
    turn = np.zeros(len(heads), int)  # how often the same line came before: within one turn no line comes twice
    turn[kept] = _occurrence(line)
    samples, start_x = data.fields("data"), n_x // 2 - n_cropped // 2
    for start in range(0, len(heads), LINES_PER_BLOCK):
        here = np.arange(start, min(start + LINES_PER_BLOCK, len(heads)))
        here = here[number[here] >= 0]
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
