import shutil
import subprocess

import h5py
import ismrmrd
import numpy as np
import pytest
from raw_files import header, line, noise, raster, write_ismrmrd

from gleam.datasets import ismrmrd_lines, mridata
from gleam.physics.fourier import ifft2c

SIZES = (10, 6, 4)  # readout, step 1, step 2


def centred(function, x, axes):
    return np.fft.fftshift(function(np.fft.ifftshift(x, axes=axes), axes=axes, norm="ortho"), axes=axes)


@pytest.fixture
def volume():
    """Complex coil images (coil, x, y, z)."""
    return noise((3, *SIZES))


@pytest.fixture
def kspace(volume):
    return centred(np.fft.fftn, volume, (1, 2, 3)).astype(np.complex64)


def write(tmp_path, lines, xml=None):
    return write_ismrmrd(tmp_path / "knee.h5", xml or header(SIZES), lines)


def assert_holds(read, volume):
    """Its slices, decoded, are the readout positions of the images ``volume`` (coil, x, y, z)."""
    assert read.kspace.dtype == np.complex64
    np.testing.assert_allclose(ifft2c(read.kspace), volume.transpose(1, 0, 2, 3), atol=1e-5)


def test_slices_of_a_3d_file_are_its_readout_positions(tmp_path, kspace, volume):
    read = mridata.read(write(tmp_path, raster(kspace), header(SIZES, tesla=3.0, protocol="3D FSE knee")))
    assert_holds(read, volume)
    assert (read.subject, read.is_phantom, read.acquisition, read.field_strength) == ("knee", False, "3D FSE knee", 3.0)


def test_order_of_lines_and_blocks_do_not_matter(tmp_path, kspace, volume, monkeypatch):
    lines = raster(kspace)
    np.random.default_rng(0).shuffle(lines)
    path = write(tmp_path, lines)
    monkeypatch.setattr(ismrmrd_lines, "LINES_PER_BLOCK", 5)
    assert_holds(mridata.read(path), volume)


def test_repeated_lines_are_averaged(tmp_path, kspace, volume):
    lines = raster(kspace * 0.5) + raster(kspace, average=1)[:3] + raster(kspace * 1.5, repetition=1)
    assert_holds(mridata.read(write(tmp_path, lines)), volume)


def test_noise_and_other_encodings_are_left_out(tmp_path, kspace, volume):
    extra = line(noise((3, 64)), flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    other = line(noise((3, 10)))
    other.encoding_space_ref = 1
    last = raster(kspace)
    last[-1].set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    assert_holds(mridata.read(write(tmp_path, [extra, other, *last])), volume)


@pytest.mark.parametrize("sign", [1, -1])
def test_knees_of_mridata_count_the_second_step_by_slice(tmp_path, kspace, volume, sign):
    """Decoded along slices, which alternate in sign or do not: the same k-space comes out, DC in the middle."""
    lowpass = np.exp(-0.5 * np.add.outer(np.arange(-3, 3) ** 2, np.arange(-4, 4) ** 2))
    kspace = noise((3, 10, 6, 8)) * lowpass
    hybrid = centred(np.fft.ifftn, kspace, (3,)) * np.array([1, sign] * 4)
    lines = [line(hybrid[:, :, i, s], step_1=i, slice=s) for s in range(8) for i in range(6)]
    read = mridata.read(write(tmp_path, lines, header((10, 6, 1), (16, 16, 8), centers=(3, 0))))
    np.testing.assert_allclose(read.kspace, centred(np.fft.ifftn, kspace, (1,)).transpose(1, 0, 2, 3), atol=1e-5)


def test_2d_file_is_one_slice_of_step_1_by_readout(tmp_path):
    kspace = noise((3, 10, 6, 1))
    read = mridata.read(write(tmp_path, raster(kspace), header((10, 6, 1))))
    np.testing.assert_allclose(read.kspace, kspace.transpose(3, 0, 2, 1), atol=1e-5)


def test_a_stack_of_2d_slices_stays_one(tmp_path):
    """One counter stands for slices and for a second phase encoding that is decoded already: the header decides."""
    kspace = noise((5, 3, 10, 6))  # (slice, coil, readout, line)
    lines = [line(kspace[s, :, :, i], step_1=i, slice=s) for s in range(5) for i in range(6)]
    read = mridata.read(write(tmp_path, lines, header((10, 6, 1))))
    np.testing.assert_allclose(read.kspace, kspace.transpose(0, 1, 3, 2), atol=1e-5)
    assert read.acquisition == "2D" and read.measured == (0, 6, 0, 10)
    (tmp_path / "knee.h5").unlink()
    with pytest.raises(ValueError, match=r"count 5 slices, and the header's matrices have z = 1 and 8; expected one"):
        mridata.read(write(tmp_path, lines, header((10, 6, 1), (10, 6, 8))))


def test_oversampled_readout_is_cropped_about_its_centre_and_never_padded(tmp_path, kspace, volume):
    path = write(tmp_path, raster(kspace), header(SIZES, (6, 6, 4)))
    assert_holds(mridata.read(path), volume[:, 2:8])
    path.unlink()
    path = write(tmp_path, raster(kspace), header(SIZES, (64, 64, 64)))
    assert_holds(mridata.read(path), volume)


def test_partial_readout_keeps_its_centre(tmp_path, kspace):
    whole = kspace.copy()
    whole[:, :2] = 0
    lines = raster(whole[:, 2:], center_sample=3)
    np.testing.assert_allclose(
        mridata.read(write(tmp_path, lines)).kspace, centred(np.fft.ifftn, whole, (1,)).transpose(1, 0, 2, 3), atol=1e-5
    )


def test_numbering_that_does_not_start_at_zero_is_centred(tmp_path, kspace, volume):
    lines = [line(kspace[:, :, i, j], step_1=i + 7, step_2=j) for i in range(6) for j in range(4)]
    assert_holds(mridata.read(write(tmp_path, lines, header(SIZES, centers=(10, None)))), volume)


def test_a_full_raster_stays_as_it_is_numbered_whatever_the_centre(tmp_path, kspace, volume):
    assert_holds(mridata.read(write(tmp_path, raster(kspace), header(SIZES, centers=(2, 0)))), volume)


def test_coils_are_scaled_to_equal_noise(tmp_path, kspace, volume):
    path = write(tmp_path, raster(kspace))
    plain = mridata.read(path).kspace
    with h5py.File(path, "a") as file:
        file["dataset/rec_std"] = np.array([[1.0, 2.0, 4.0]], np.float32)
    ratio = mridata.read(path).kspace / plain
    np.testing.assert_allclose(ratio[:, 0], 2 * ratio[:, 1], rtol=1e-4)
    np.testing.assert_allclose(ratio[:, 0], 4 * ratio[:, 2], rtol=1e-4)
    np.testing.assert_allclose(np.mean(np.abs(ratio) ** 2), 1, rtol=1e-4)


def test_phantom_is_told_by_its_vendor(tmp_path, kspace):
    assert mridata.read(write(tmp_path, raster(kspace), header(SIZES, vendor="GLEAM phantom"))).is_phantom


@pytest.mark.parametrize("options", [[], ["-r", "2"], ["-a", "2", "-r", "2"], ["-C"], ["-k"]], ids=" ".join)
def test_file_of_the_ismrmrd_tools(tmp_path, options):
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    if tool is None:
        pytest.skip("ismrmrd_generate_cartesian_shepp_logan is not installed (Debian: ismrmrd-tools)")
    path = tmp_path / "shepp_logan.h5"
    command = [tool, "-m", "32", "-c", "4", "-n", "0.001", "-o", str(path), *options]
    subprocess.run(command, check=True, capture_output=True)
    read = mridata.read(path)
    assert read.kspace.shape == (1, 4, 32, 32)
    with h5py.File(path) as file:
        phantom = file["dataset/phantom"][0].view(np.complex64).reshape(32, 32)
        maps = file["dataset/csm"][0].view(np.complex64).reshape(4, 32, 32)
    expected, images = maps * phantom, ifft2c(read.kspace[0])
    scale = np.vdot(expected, images) / np.vdot(expected, expected)
    assert np.linalg.norm(images - scale * expected) < 0.05 * np.linalg.norm(images)


def not_a_number(kspace):
    kspace[1, 2, 3, 1] = np.nan
    return raster(kspace)


BAD_LINES = {
    "not fully sampled, 2 of 24 lines are missing": lambda k: raster(k)[2:],
    "NaN or infinite": not_a_number,
    "2 values of 'contrast'": lambda k: raster(k) + raster(k, contrast=1),
    "'number_of_samples' takes 2 values": lambda k: raster(k) + raster(k[:, 1:9]),
    "18 lines lie outside the header's 6 x 4 lines": lambda k: raster(np.concatenate([k, k], 2))[:36],
    "do not fit the header's matrix of 10": lambda k: raster(np.concatenate([k, k], 1)),
    "reversed": lambda k: raster(k, flags=[ismrmrd.ACQ_IS_REVERSE]),
    "none of its 24 acquisitions is image data": lambda k: raster(k, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT]),
    "by encoding step 2 and by slice": lambda k: raster(k) + raster(k, slice=1),
}


@pytest.mark.parametrize("sentence", BAD_LINES)
def test_bad_lines_are_named(tmp_path, kspace, sentence):
    path = write(tmp_path, BAD_LINES[sentence](kspace))
    with pytest.raises(ValueError, match=sentence) as error:
        mridata.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        (header(SIZES, trajectory="radial"), "trajectory is 'radial'; expected 'cartesian'"),
        ("<hello/>", "header cannot be read"),
        ("no xml", "header cannot be read"),
        (header(("ten", 6, 4)), "header cannot be read"),
    ],
)
def test_bad_header_is_named(tmp_path, kspace, xml, sentence):
    path = write(tmp_path, raster(kspace)[:1], xml)
    with pytest.raises(ValueError, match=sentence) as error:
        mridata.read(path)
    assert str(path) in str(error.value)


def test_missing_wrong_truncated_and_empty_files_are_named(tmp_path, kspace):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5: no such file; expected an ISMRMRD file"):
        mridata.read(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(OSError, match=r"text\.h5: is not an HDF5 file"):
        mridata.read(tmp_path / "text.h5")
    whole = write(tmp_path, raster(kspace)).read_bytes()
    for fraction in (0.3, 0.6, 0.95):
        (tmp_path / "cut.h5").write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(OSError, match=r"cut\.h5: is truncated or damaged"):
            mridata.read(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = 1
    with pytest.raises(ValueError, match=r"other\.h5: holds no 'dataset' but \['kspace'\]"):
        mridata.read(tmp_path / "other.h5")
