"""Zeros in raw k-space, by one rule in all formats: padding, partial Fourier or undersampling. Masks of padded data."""

from functools import partial

import h5py
import numpy as np
import pytest
import torch
from raw_files import coil_images, header, line, noise, raster, relative_maps, write_fastmri, write_ismrmrd, write_mat

from gleam import masks
from gleam.datasets import Resident, Slices, cine, fastmri, mridata, padding
from gleam.datasets.prepare import prepare
from gleam.datasets.volume import Volume
from gleam.physics.fourier import fft2c, fftshift2

N, X, COILS, FRAMES = 24, 8, 3, 2


def write_cmrxrecon(path, lines):
    kspace = noise((2, COILS, FRAMES, N, X)) * lines[:, None]
    return write_mat(path.with_suffix(".mat"), kspace), kspace


def write_ocmr(path, lines):
    kspace = noise((1, COILS, FRAMES, N, X)) * lines[:, None]
    acquisitions = [line(kspace[0, :, t, y], step_1=y, phase=t) for t in range(FRAMES) for y in range(N)]
    return write_ismrmrd(path, header((X, N, 1)), acquisitions), kspace


def write_brain(path, lines):
    kspace = noise((2, COILS, X, N)) * lines
    return write_fastmri(path, kspace), kspace


def write_2d(path, lines):
    kspace = noise((1, COILS, N, X)) * lines[:, None]
    return write_ismrmrd(path, header((X, N, 1)), [line(kspace[0, :, y], step_1=y) for y in range(N)]), kspace


def write_knee(path, lines, axis=2):
    """(readout, coil, y, z), the readout encoded in the file; one of its phase encodings has ``lines``."""
    kspace = noise((4, COILS, N, 6) if axis == 2 else (4, COILS, 6, N))
    kspace *= lines[:, None] if axis == 2 else lines
    encoded = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(kspace, 0), axis=0, norm="ortho"), 0)
    xml = header((4, *kspace.shape[2:]))
    return write_ismrmrd(path, xml, raster(encoded.transpose(1, 0, 2, 3))), kspace


FORMATS = {  # reader, writer, the place of the lines in ``measured``
    "cmrxrecon": (cine.read, write_cmrxrecon, slice(0, 2)),
    "ocmr": (cine.read, write_ocmr, slice(0, 2)),
    "fastmri": (fastmri.read, write_brain, slice(2, 4)),
    "2d": (mridata.read, write_2d, slice(0, 2)),
    "knee y": (mridata.read, write_knee, slice(0, 2)),
    "knee z": (mridata.read, partial(write_knee, axis=3), slice(2, 4)),
}
EVERY_FORMAT = pytest.mark.parametrize("of_format", FORMATS.values(), ids=FORMATS)


def lines_of(*measured):
    lines = np.zeros(N, np.float32)
    for start, stop in measured:
        lines[start:stop] = 1
    return lines


@EVERY_FORMAT
def test_partial_fourier_is_refused_by_name(of_format, tmp_path):
    """24 lines, of which the first 9 are zero in every frame."""
    read, write, _ = of_format
    path, _ = write(tmp_path / "partial.h5", lines_of((9, N)))
    with pytest.raises(ValueError, match=r"partial\.\w+: its lines reach from -3 to 11 about .*\(partial Fourier\)"):
        read(path)


def test_partial_fourier_is_refused_where_lines_are_left_out(tmp_path):
    kspace = noise((COILS, FRAMES, N, X))
    acquisitions = [line(kspace[:, t, y], step_1=y, phase=t) for t in range(FRAMES) for y in range(9, N)]
    path = write_ismrmrd(tmp_path / "fs.h5", header((X, N, 1), centers=(N // 2, None)), acquisitions)
    with pytest.raises(ValueError, match=r"fs\.h5: its lines reach from -3 to 11 about .*\(partial Fourier\)"):
        cine.read(path)


@EVERY_FORMAT
def test_lines_missing_between_measured_ones_are_refused_by_name(of_format, tmp_path):
    read, write, _ = of_format
    path, _ = write(tmp_path / "gap.h5", lines_of((2, 10), (12, 22)))
    with pytest.raises(ValueError, match=r"gap\.\w+: is undersampled, \d of the \d+ lines of slice 0 are zero"):
        read(path)


@EVERY_FORMAT
@pytest.mark.parametrize("measured", [(4, 20), (4, 19), (3, 20), (0, N)])
def test_padding_is_read_and_stays(of_format, measured, tmp_path):
    read, write, place = of_format
    path, kspace = write(tmp_path / "padded.h5", lines_of(measured))
    volume = read(path)
    assert volume.kspace.shape == kspace.shape
    np.testing.assert_allclose(volume.kspace, kspace, atol=1e-5)
    (y, x), expected = kspace.shape[-2:], [0, 0, 0, 0]
    expected[1::2] = y, x
    expected[place] = measured
    assert volume.measured == tuple(expected)


@pytest.mark.parametrize("n", [N, N + 1])
@pytest.mark.parametrize(("before", "after", "is_padding"), [(2, 0, True), (0, 2, True), (3, 0, False), (5, 8, False)])
def test_the_ends_may_differ_by_two_lines(n, before, after, is_padding):
    lines = np.zeros((1, n), bool)
    lines[:, before : n - after] = True
    if is_padding:
        assert padding.measured_lines(lines, "a.h5") == (before, n - after)
    else:
        with pytest.raises(ValueError, match=r"a\.h5: .*partial Fourier"):
            padding.measured_lines(lines, "a.h5")


def test_slices_and_frames_have_the_same_lines_and_empty_slices_none():
    lines = np.zeros((3, FRAMES, N), bool)
    assert padding.measured_lines(lines, "a.h5") == (0, N)  # of a scan of zeros nothing is known
    lines[1:, :, 4:20] = True
    assert padding.measured_lines(lines, "a.h5") == (4, 20)
    lines[2, 1, 3] = lines[2, 1, 20] = True
    with pytest.raises(ValueError, match=r"a\.h5: is undersampled, 4 of the 36 lines of slice 1 are zero"):
        padding.measured_lines(lines, "a.h5")


def test_a_crop_of_the_image_keeps_the_measured_frequencies(tmp_path):
    full = fft2c(coil_images((16, 48), COILS))
    full[..., :12] = full[..., 36:] = 0
    volume = fastmri.read(write_fastmri(tmp_path / "a.h5", full[None], header((16, 48, 1), (8, 32, 1))))
    assert volume.kspace.shape[-2:] == (8, 32) and volume.measured == (0, 8, 8, 24)
    y0, y1, x0, x1 = volume.measured
    assert np.linalg.norm(volume.kspace[..., y0:y1, x0:x1]) > 0.99 * np.linalg.norm(volume.kspace)
    for n in range(2, 40):
        assert padding.cropped(3, n - 1, n, n) == (3, n - 1)
        assert all(padding.cropped(0, n, n, cut) == (0, cut) for cut in range(1, n + 1))


SHAPE = 48, 36
# a third of the columns; and of both axes, with a line more at one end
PADDED = {"none": (0, 48, 0, 36), "columns": (0, 48, 6, 30), "both": (8, 40, 6, 29)}
GENERATORS = {
    "columns": partial(masks.random_columns, acceleration=4, center_fraction=0.1),
    "discs": partial(masks.poisson_disc, acceleration=4, n_calibration=6),
    "lines": partial(masks.kt_variable_density, acceleration=4, n_center=2),
}


def read_padded(path):
    """A small volume whose padding its name says; a series if the name says so, too."""
    y0, y1, x0, x1 = measured = PADDED[path.stem.split("-")[0]]
    kspace = np.zeros((3, COILS, *SHAPE), np.complex64)
    for s in range(3):
        kspace[s, :, y0:y1, x0:x1] = fft2c(coil_images(SHAPE, COILS, seed=s))[:, y0:y1, x0:x1]
    if "series" in path.stem:
        kspace = np.stack([kspace] * 4, axis=2)
    return Volume(kspace, path.stem, False, "test", None, measured=measured)


def prepared(folder, names):
    for name in names:
        (folder / f"{name}.h5").write_text(name)
    paths = [folder / f"{name}.h5" for name in names]
    cache = folder / "cache"
    return tuple(prepare(paths, read=read_padded, calibrate=relative_maps, cache_dir=cache, n_jobs=1, progress=False))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("padded"), PADDED)


@pytest.mark.parametrize("measured", PADDED.values(), ids=PADDED)
@pytest.mark.parametrize("kind", GENERATORS)
def test_the_acceleration_is_over_measured_positions_and_padding_is_never_measured(kind, measured):
    size = (4, *SHAPE) if kind == "lines" else SHAPE
    slices = Slices("train", (), GENERATORS[kind], n_masks=16, seed=1)
    bank = slices.masks(size, 16, measured)
    bank = fftshift2(np.broadcast_to(bank, (16, *size)))
    axes = masks.SERIES if kind == "lines" else masks.SPACE
    np.testing.assert_allclose(masks.achieved_acceleration(bank, axes, measured=measured), 4, rtol=0.05)
    y0, y1, x0, x1 = measured
    assert bank.sum() == bank[..., y0:y1, x0:x1].sum()
    assert bank[..., SHAPE[0] // 2, SHAPE[1] // 2].all()  # the centre of k-space is that of the matrix
    if measured == PADDED["none"]:
        np.testing.assert_array_equal(bank, fftshift2(np.broadcast_to(slices.masks(size, 16), bank.shape)))


def test_the_readout_stays_whole(files):
    columns = Slices("train", files, GENERATORS["columns"])
    assert columns.measured == list(PADDED.values())
    assert [columns[i].mask.shape[-2] for i in (0, 3, 6)] == [1, 1, SHAPE[0]]  # it is padded itself in the last


@pytest.mark.parametrize("kind", ["columns", "discs"])
def test_batches_of_padded_and_other_files(files, kind):
    """Neither mixes with the other; what is measured is the file's, at R of its measured part, and the rest zero."""
    slices = Slices("train", files, GENERATORS[kind], n_masks=4, seed=2)
    held = Resident(slices, "cpu")
    batches = list(slices.batches(2))
    assert [[slices.index[i] for i in indices] for indices, _ in batches] == [
        [(f, s) for s in some] for f in range(3) for some in ((0, 1), (2,))
    ]
    for indices, batch in batches:
        f, _ = slices.index[indices[0]]
        with h5py.File(files[f]) as file:
            kspace = torch.from_numpy(file["kspace"][:][[slices.index[i][1] for i in indices]])
        mask = batch.mask.expand(len(indices), 1, *SHAPE)
        torch.testing.assert_close(batch.kspace * batch.scale[:, None, None, None], kspace * mask)
        torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled, rtol=1e-3, atol=1e-4)
        assert (batch.kspace.abs().sum(1)[mask[:, 0] > 0] > 0).all()  # nothing counts as measured that is padding
        achieved = masks.achieved_acceleration(fftshift2(mask[:, 0]), measured=slices.measured[f])
        np.testing.assert_allclose(achieved, 4, rtol=0.05)
    for step in range(2 * slices._n_batches(2)):
        batch = slices.training_batch(step, 2, seed=3)
        assert torch.equal(batch.kspace, held.training_batch(step, 2, seed=3).kspace)
        assert (batch.kspace.abs().sum(1)[batch.mask[:, 0].expand(-1, *SHAPE) > 0] > 0).all()
    seen = [i for step in range(slices._n_batches(2)) for i in slices._epoch(0, 2, 3)[step]]
    assert sorted(seen) == list(range(9)) and slices._n_batches(2) == 6


def test_batches_of_padded_series(tmp_path):
    files = prepared(tmp_path, ["none-series", "both-series"])
    series = Slices("test", files, GENERATORS["lines"], n_masks=2)
    for i in (0, 3):
        batch, measured = series[i], series.measured[i // 3]
        mask = fftshift2(batch.mask[0, 0].expand(4, *SHAPE))
        assert masks.achieved_acceleration(mask, masks.SERIES, measured=measured) == pytest.approx(4, rel=0.05)
        torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled, rtol=1e-3, atol=1e-4)
