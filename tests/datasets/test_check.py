"""The command that says what a loader makes of a raw file."""

import h5py
import numpy as np
import pytest
from skimage.io import imread

from gleam.datasets import check
from gleam.datasets.__main__ import main


@pytest.fixture
def brain(tmp_path):
    """A file in fastMRI's layout without a header: a bright square, off the centre."""
    image = np.zeros((32, 24), np.complex64)
    image[4:10, 15:20] = 1
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image)))
    kspace = kspace + 0.01 * np.random.default_rng(0).normal(size=(2, 3, 32, 24))
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        file.attrs["acquisition"] = "AXT2"
    return tmp_path / "mine.h5"


def test_a_file_is_described_and_its_picture_shows_the_object_where_it_is(brain, tmp_path, capsys):
    assert main(["check", str(brain), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for words in (
        "AXT2",
        "32 x 24",
        "coils:                  3",
        "readout:                along y",
        "training takes it:      yes",
    ):
        assert words in said, said
    picture = imread(tmp_path / "mine.png")[..., 0]
    assert picture.shape == (32, 24) and picture[5:9, 16:19].min() > 200 and picture[15:].max() < 60


def test_an_undersampled_scan_is_described_and_refused_for_training(brain, tmp_path, capsys):
    with h5py.File(brain, "a") as file:
        mask = np.arange(24) % 2 == 0
        file["kspace"][:] = file["kspace"][:] * mask
        file["mask"] = mask
    assert main(["check", str(brain), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "samples that are zero:  50.0%" in said and "training takes it:      no: " in said and str(brain) in said


@pytest.mark.parametrize("content", [b"", b"not a raw file"])
def test_what_cannot_be_read_is_refused_in_words_and_does_not_stop_the_next_file(brain, tmp_path, capsys, content):
    (tmp_path / "other.h5").write_bytes(content)
    missing = tmp_path / "missing.h5"
    assert main(["check", str(tmp_path / "other.h5"), str(missing), str(brain), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.count("training takes it:      no: ") == 2 and said.count("training takes it:      yes") == 1
    assert check.check(missing)[:2] == ({}, None)
