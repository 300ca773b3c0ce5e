import h5py
import numpy as np
import pytest
from raw_files import header, noise, write_fastmri

from gleam.datasets import fastmri
from gleam.physics.fourier import fft2c, ifft2c


def test_images_are_cropped_to_the_recon_matrix(tmp_path):
    images = noise((2, 3, 16, 12))
    xml = header((16, 12, 1), (8, 8, 1), tesla=2.8936)
    path = write_fastmri(tmp_path / "a.h5", fft2c(images), xml, acquisition="AXT2", patient_id="p1")
    read = fastmri.read(path)
    np.testing.assert_allclose(ifft2c(read.kspace), images[..., 4:12, 2:10], atol=1e-5)
    assert read.kspace.dtype == np.complex64
    assert (read.subject, read.is_phantom, read.acquisition, read.field_strength) == ("p1", False, "AXT2", 2.8936)


@pytest.mark.parametrize(
    ("n_coils", "rows", "columns", "recon", "expected"),
    [(4, 16, 9, (8, 12, 1), (8, 9)), (5, 7, 7, (9, 9, 1), (7, 7)), (1, 9, 6, (4, 3, 1), (4, 3))],
)
def test_coils_and_sizes_vary_and_nothing_is_padded(tmp_path, n_coils, rows, columns, recon, expected):
    path = write_fastmri(tmp_path / "a.h5", noise((2, n_coils, rows, columns)), header((rows, columns, 1), recon))
    assert fastmri.read(path).kspace.shape == (2, n_coils, *expected)


def test_own_data_without_header_or_attributes(tmp_path):
    kspace = noise((2, 3, 6, 5))
    read = fastmri.read(write_fastmri(tmp_path / "own.h5", kspace))
    np.testing.assert_array_equal(read.kspace, kspace)
    assert (read.subject, read.acquisition, read.field_strength, read.is_phantom) == ("own", "unknown", None, False)


def test_phantom_is_told_by_its_vendor(tmp_path):
    xml = header((6, 5, 1), vendor="GLEAM phantom")
    assert fastmri.read(write_fastmri(tmp_path / "a.h5", noise((1, 1, 6, 5)), xml)).is_phantom


def test_find_filters_by_acquisition_and_nominal_field(tmp_path):
    folder = tmp_path / fastmri.FOLDER
    kspace = noise((1, 1, 2, 2))
    for name, kind, tesla in (("c", "AXT2", 2.8936), ("a", "AXT2", 3.0), ("b", "AXT2", 1.494), ("d", "AXT1", 3.0)):
        write_fastmri(folder / f"{name}.h5", kspace, header((2, 2, 1), tesla=tesla), acquisition=kind)
    write_fastmri(folder / "e.h5", kspace)

    def found(**filters):
        return "".join(path.stem for path in fastmri.find(tmp_path, **filters))

    assert found() == "abcde"
    assert found(acquisition="AXT2") == "abc"
    assert found(field_strength=3.0) == "acd"
    assert found(acquisition="AXT2", field_strength=3.0) == "ac"
    assert found(acquisition="AXT2", field_strength=1.5) == "b"


def test_find_does_not_read_kspace(tmp_path, monkeypatch):
    xml = header((2, 2, 1), tesla=3)
    write_fastmri(tmp_path / fastmri.FOLDER / "a.h5", noise((1, 1, 2, 2)), xml, acquisition="AXT2")
    get = h5py.Group.__getitem__

    def without_kspace(group, name):
        assert name != "kspace"
        return get(group, name)

    monkeypatch.setattr(h5py.Group, "__getitem__", without_kspace)
    assert len(fastmri.find(tmp_path, acquisition="AXT2", field_strength=3.0)) == 1


def test_find_without_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="multicoil_val: no such folder"):
        fastmri.find(tmp_path)


def bad_value(kspace):
    kspace[1, 0, 2, 2] = np.inf
    return kspace


@pytest.mark.parametrize(
    ("kspace", "sentence"),
    [
        (bad_value(noise((2, 2, 4, 4))), "slice 1 holds NaN or infinite"),
        (noise((2, 4, 4)), r"'kspace' is complex64 \(2, 4, 4\); expected complex \(slice, coil, y, x\)"),
        (np.ones((2, 2, 4, 4), np.float32), "'kspace' is float32"),
    ],
)
def test_bad_kspace_is_named(tmp_path, kspace, sentence):
    path = write_fastmri(tmp_path / "bad.h5", kspace)
    with pytest.raises(ValueError, match=sentence) as error:
        fastmri.read(path)
    assert str(path) in str(error.value)


def test_other_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5: no such file; expected a fastMRI multicoil file"):
        fastmri.read(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(OSError, match=r"text\.h5: is not an HDF5 file"):
        fastmri.read(tmp_path / "text.h5")
    path = write_fastmri(tmp_path / "whole.h5", noise((2, 2, 8, 8)))
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"cut\.h5: is truncated or damaged"):
        fastmri.read(tmp_path / "cut.h5")
    with pytest.raises(ValueError, match=r"bad_header\.h5: the ISMRMRD header cannot be read"):
        fastmri.read(write_fastmri(tmp_path / "bad_header.h5", noise((1, 1, 2, 2)), "<x/>"))
    path = write_fastmri(tmp_path / "challenge.h5", noise((1, 1, 2, 2)))
    with h5py.File(path, "a") as file:
        file["mask"] = [True, False]
    with pytest.raises(ValueError, match=r"challenge\.h5: is undersampled"):
        fastmri.read(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = 1
    with pytest.raises(ValueError, match=r"other\.h5: holds no 'kspace' but \['image'\]"):
        fastmri.read(tmp_path / "other.h5")


def test_single_samples_that_are_missing_are_noticed(tmp_path):
    """As of a Poisson disc: its zero-filled image would be taken for the truth. Padding and empty slices are none."""
    kspace = noise((3, 2, 16, 12))
    padded = kspace.copy()
    padded[..., :2], padded[..., -2:] = 0, 0
    padded[2] = 0
    assert fastmri.read(write_fastmri(tmp_path / "padded.h5", padded)).measured == (0, 16, 2, 10)
    holes = kspace * (np.random.default_rng(0).random((16, 12)) < 0.9)
    path = write_fastmri(tmp_path / "holes.h5", holes)
    with pytest.raises(ValueError, match=r"holes\.h5: is undersampled, slice 0 has samples of zero between others"):
        fastmri.read(path)
    assert not fastmri.read_measured(path).is_full
