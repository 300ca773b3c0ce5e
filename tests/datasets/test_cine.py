import h5py
import ismrmrd
import numpy as np
import pytest
from raw_files import header, line, noise, write_ismrmrd, write_mat

from gleam.datasets import cine
from gleam.physics.fourier import ifft2c

SLICES, COILS, FRAMES, Y, X = 2, 3, 4, 6, 10  # X: the readout, oversampled
WIDER = ("<fieldOfView_mm><x>200</x>", "<fieldOfView_mm><x>400</x>", 1)  # of the encoded space, which comes first


@pytest.fixture
def kspace():
    """Centred k-space (slice, coil, time, y, x)."""
    return noise((SLICES, COILS, FRAMES, Y, X))


def lines(kspace, *, first_step=0, keep=lambda s, t, y: True, **more):
    """One acquisition per (slice, frame, step 1), frames fastest, as a segmented scan comes."""
    n_slices, _, n_frames, n_y, _ = kspace.shape
    return [
        line(kspace[s, :, t, y], step_1=y + first_step, slice=s, phase=t, **more)
        for s in range(n_slices) for y in range(n_y) for t in range(n_frames) if keep(s, t, y)
    ]  # fmt: skip


def write(tmp_path, acquisitions, xml=None, name="fs_0001_1_5T.h5"):
    return write_ismrmrd(tmp_path / name, xml or header((X, Y, 1)), acquisitions)


def cropped(kspace, n):
    """The readout cut to ``n`` positions in image space."""
    start = kspace.shape[-1] // 2 - n // 2
    images = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, -1), norm="ortho"), -1)[..., start : start + n]
    return np.fft.fftshift(np.fft.fft(np.fft.ifftshift(images, -1), norm="ortho"), -1)


def test_counters_become_axes(tmp_path, kspace):
    xml = header((X, Y, 1), tesla=1.5, protocol="cine_sax")
    read = cine.read(write(tmp_path, lines(kspace), xml))
    assert read.kspace.dtype == np.complex64 and read.kspace.flags.c_contiguous
    np.testing.assert_allclose(read.kspace, kspace, atol=1e-5)
    assert (read.subject, read.acquisition, read.field_strength) == ("fs_0001_1_5T", "cine_sax", 1.5)
    assert not read.is_phantom


def test_order_of_lines_and_blocks_do_not_matter(tmp_path, kspace, monkeypatch):
    acquisitions = lines(kspace)
    np.random.default_rng(0).shuffle(acquisitions)
    monkeypatch.setattr(cine.ismrmrd_lines, "LINES_PER_BLOCK", 7)
    np.testing.assert_allclose(cine.read(write(tmp_path, acquisitions)).kspace, kspace, atol=1e-5)


def test_phantom_is_told_by_its_vendor(tmp_path, kspace):
    assert cine.read(write(tmp_path, lines(kspace), header((X, Y, 1), vendor="GLEAM phantom"))).is_phantom


def test_averages_and_repetitions_are_averaged(tmp_path, kspace):
    acquisitions = lines(0.5 * kspace) + lines(kspace, average=1)[:5] + lines(1.5 * kspace, repetition=1)
    np.testing.assert_allclose(cine.read(write(tmp_path, acquisitions)).kspace, kspace, atol=1e-5)


def test_noise_and_navigators_are_left_out(tmp_path, kspace):
    noise_scan = line(noise((COILS, 32)), flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    navigator = line(noise((COILS, X)), step_1=3, flags=[ismrmrd.ACQ_IS_NAVIGATION_DATA])
    path = write(tmp_path, [noise_scan, navigator, *lines(kspace)])
    np.testing.assert_allclose(cine.read(path).kspace, kspace, atol=1e-5)


def test_oversampled_readout_is_cropped_in_image_space(tmp_path, kspace):
    by_matrix = header((X, Y, 1), (X // 2, Y, 1))
    by_field_of_view = header((X, Y, 1)).replace(*WIDER)
    for i, xml in enumerate([by_matrix, by_field_of_view]):
        read = cine.read(write(tmp_path, lines(kspace), xml, f"{i}.h5"))
        np.testing.assert_allclose(read.kspace, cropped(kspace, X // 2), atol=1e-5)
    read = cine.read(write(tmp_path, lines(kspace), header((X, Y, 1), (64, 64, 1)), "2.h5"))
    assert read.kspace.shape[-1] == X


def test_asymmetric_echo_keeps_its_centre(tmp_path, kspace):
    partial = kspace.copy()
    partial[..., :3] = 0
    path = write(tmp_path, lines(partial[..., 3:], center_sample=2))
    np.testing.assert_allclose(cine.read(path).kspace, partial, atol=1e-5)


def test_fewer_lines_than_the_matrix_are_not_padded_and_make_higher_pixels(tmp_path, kspace):
    whole = cine.read(write(tmp_path, lines(kspace), header((X, Y, 1)), "whole.h5"))
    path = write(tmp_path, lines(kspace, first_step=4), header((X, 2 * Y, 1), centers=(4 + Y // 2, None)))
    read = cine.read(path)
    np.testing.assert_allclose(read.kspace, kspace, atol=1e-5)
    assert whole.aspect == pytest.approx((200 / Y) / (200 / X)) == pytest.approx(read.aspect)


@pytest.mark.parametrize("center", [None, Y // 2, Y // 2 - 1])
def test_lines_are_counted_from_the_first(tmp_path, kspace, center):
    xml = header((X, 2 * Y, 1), centers=(center, None))
    np.testing.assert_allclose(cine.read(write(tmp_path, lines(kspace), xml)).kspace, kspace, atol=1e-5)


def one_in_two(s, t, y):
    return (y + t) % 2 == 0


def drop_one(s, t, y):
    return (s, t, y) != (1, 2, 3)


@pytest.mark.parametrize(
    ("acquisitions", "xml", "words"),
    [
        (lambda k: lines(k, keep=one_in_two), None, "is undersampled, 24 of the 48 lines of its 2 x 4 frames"),
        (lambda k: lines(k, keep=lambda s, t, y: y % 2 == 0), None, "is undersampled, 16 of the 40 lines"),
        (lambda k: lines(k, keep=drop_one), None, "is undersampled, 1 of the 48 lines"),
        (lambda k: lines(k, keep=lambda s, t, y: s or t), None, "do not have the same frames, 3 to 4 of 4"),
        (lambda k: lines(k[:, :, :1]), None, "is a series with one frame; expected at least 2"),
        (lambda k: lines(k), header((X, 2 * Y, 1), centers=(1, None)), r"from -1 to 4 .* \(partial Fourier\)"),
        (lambda k: lines(k) + lines(k, set=1), None, "holds 2 values of 'set'"),
        (lambda k: lines(k) + lines(k, step_2=1), None, "holds 2 values of 'kspace_encode_step_2'"),
        (lambda k: lines(k) + lines(k, contrast=1), None, "holds 2 values of 'contrast'"),
        (lambda k: lines(np.where(np.arange(X) == 2, np.nan, k)), None, "holds NaN or infinite values"),
        (lambda k: lines(k), header((X, Y, 1), trajectory="radial"), "the trajectory is 'radial'"),
    ],
)
def test_bad_series_are_named(tmp_path, kspace, acquisitions, xml, words):
    path = write(tmp_path, acquisitions(kspace), xml)
    with pytest.raises(ValueError, match=rf"fs_0001_1_5T\.h5: .*{words}"):
        cine.read(path)


@pytest.mark.parametrize("name", ["kspace_full", "kspace"])
def test_matlab_file_of_several_slices(tmp_path, kspace, name):
    read = cine.read(write_mat(tmp_path / "P007" / "cine_sax.mat", kspace, name))
    np.testing.assert_array_equal(read.kspace, kspace)
    assert (read.subject, read.acquisition, read.field_strength, read.aspect) == ("P007", "cine_sax", None, 1.0)


def test_matlab_file_of_one_slice(tmp_path, kspace):
    read = cine.read(write_mat(tmp_path / "cine_sax.mat", kspace[1]))
    np.testing.assert_array_equal(read.kspace, kspace[1:])


def test_both_formats_give_the_same_images(tmp_path, kspace):
    """y is the phase encoding and x the readout, whatever the file."""
    images = [
        ifft2c(cine.read(path).kspace)
        for path in (write(tmp_path, lines(kspace)), write_mat(tmp_path / "cine_sax.mat", kspace))
    ]
    np.testing.assert_allclose(*images, atol=1e-5)


def test_zero_padding_at_the_edges_of_k_space_is_no_undersampling(tmp_path, kspace):
    kspace[..., [0, -1], :] = 0
    np.testing.assert_array_equal(cine.read(write_mat(tmp_path / "cine_sax.mat", kspace)).kspace, kspace)


def every_other_line_is_zero(kspace):
    kspace[..., 1::2, :] = 0


def a_line_of_a_frame_is_zero(kspace):
    kspace[1, :, 2, 3] = 0


def one_sample_is_nan(kspace):
    kspace[1, 0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (every_other_line_is_zero, "is undersampled, 8 of the 20 lines of slice 0 are zero"),
        (a_line_of_a_frame_is_zero, "is undersampled, 1 of the 24 lines of slice 1 are zero"),
        (one_sample_is_nan, "the k-space of slice 1 holds NaN"),
    ],
)
def test_bad_matlab_series_are_named(tmp_path, kspace, damage, words):
    damage(kspace)
    with pytest.raises(ValueError, match=rf"cine_sax\.mat: {words}"):
        cine.read(write_mat(tmp_path / "cine_sax.mat", kspace))


@pytest.mark.parametrize("shape", [(2, 3, 1, 6, 10), (3, 1, 6, 10)])
def test_matlab_series_of_one_frame_is_named(tmp_path, shape):
    with pytest.raises(ValueError, match=r"cine_sax\.mat: is a series with one frame"):
        cine.read(write_mat(tmp_path / "cine_sax.mat", noise(shape)))


def test_other_matlab_variables_are_named(tmp_path, kspace):
    path = write_mat(tmp_path / "cine_sax.mat", kspace, "kspace_sub04")
    with pytest.raises(ValueError, match=r"cine_sax\.mat: holds no 'kspace_full' but \['kspace_sub04'\]"):
        cine.read(path)
    with h5py.File(path, "w") as file:
        file["kspace_full"] = np.zeros((4, 2, 3, 6, 10), np.float32)
    with pytest.raises(ValueError, match=r"'kspace_full' is float32 .*; expected fields real and imag"):
        cine.read(path)


@pytest.mark.parametrize("name", ["fs_0001.h5", "cine_sax.mat"])
def test_no_series_at_all_is_named(tmp_path, kspace, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=rf"{name}: no such file"):
        cine.read(path)
    path.write_bytes(b"not data")
    with pytest.raises(OSError, match=rf"{name}: is not an HDF5 file"):
        cine.read(path)
    with h5py.File(path, "w") as file:
        file["something"] = 1
    with pytest.raises(ValueError, match=rf"{name}: holds no '(dataset|kspace_full)' but \['something'\]"):
        cine.read(path)


@pytest.mark.parametrize("name", ["fs_0001.h5", "cine_sax.mat"])
def test_a_truncated_file_is_named(tmp_path, kspace, name):
    path = write(tmp_path, lines(kspace)) if name.endswith("h5") else write_mat(tmp_path / name, kspace)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"(fs_0001_1_5T\.h5|cine_sax\.mat): is truncated or damaged"):
        cine.read(path)


def test_an_old_matlab_file_is_named(tmp_path):
    path = tmp_path / "cine_sax.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128))
    with pytest.raises(ValueError, match=r"cine_sax\.mat: is a MATLAB file older than v7\.3; save it again"):
        cine.read(path)


def test_only_fully_sampled_series_are_found(tmp_path):
    multi = "cmrxrecon/MultiCoil/Cine/TrainingSet"
    good = ["ocmr/fs_0001_1_5T.h5", f"{multi}/FullSample/P001/cine_sax.mat", f"{multi}/FullSample/P002/cine_lax.mat"]
    other = [
        "ocmr/us_0001_3T.h5", "ocmr/ocmr_data_attributes.csv", f"{multi}/AccFactor04/P001/cine_sax.mat",
        f"{multi}/FullSample/P001/cine_sax_mask.mat", f"{multi}/FullSample/P001/T1map.mat",
        "cmrxrecon/SingleCoil/Cine/TrainingSet/FullSample/P001/cine_sax.mat",
        "cmrxrecon/TrainingSet/UnderSample_Task1/P001/cine_lax_kus_ktUniform8.mat",
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="no cine series"):
        cine.find(tmp_path)
    for name in good + other:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in cine.find(tmp_path)] == good


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("ocmr/fs_0001_1_5T.h5", "fs_0001_1_5T"),
        ("cmrxrecon/FullSample/P001/cine_sax.mat", "P001"),
        ("cmrxrecon/FullSample/Center005/Siemens_30T_Vida/P003/cine_lax.mat", "Center005/Siemens_30T_Vida/P003"),
        ("cmrxrecon/P001/cine_sax.mat", "P001"),
        ("cmrxrecon/cine_P001.mat", "cine_P001"),
    ],
)
def test_subjects_are_told_by_name(path, subject):
    assert cine.subject(f"data/{path}") == subject


def test_fields_of_view_give_the_shape_of_a_pixel(tmp_path, kspace):
    xml = header((X, Y, 1), (X // 2, Y, 1)).replace(*WIDER)
    read = cine.read(write(tmp_path, lines(kspace), xml))
    assert read.kspace.shape[-1] == X // 2
    assert read.aspect == pytest.approx((200 / Y) / (400 / X))
