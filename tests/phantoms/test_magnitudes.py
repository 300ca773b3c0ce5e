"""Raw files from magnitudes of real anatomy: what was simulated, and that nothing else was changed."""

import json
import re
from functools import partial

import h5py
import numpy as np
import pytest
from problems import small_disc
from raw_files import coil_images, relative_maps

import gleam
from gleam.datasets import fastmri, formats
from gleam.phantoms import acquire, magnitudes
from gleam.phantoms.scan import axis
from gleam.physics.fourier import ifft2c

SHAPE = (40, 32)


@pytest.fixture
def source(tmp_path):
    """Two subjects, neither symmetric, with a margin of air."""
    images = np.zeros((2, *SHAPE), np.float32)
    for number, image in enumerate(images):
        image[8:30, 5:25] = np.abs(coil_images((22, 20), 1, sigma=0.0, seed=number)[0])
        image[10 + number, 6:12] = 3
    np.save(tmp_path / "some.npy", images.astype(np.float16))
    return tmp_path / "some.npy"


def write(source, folder="out", **more):
    settings = {"n_coils": 4, "progress": False} | more
    return magnitudes.write(source, source.parent / folder, **settings)


def settings_of(path):
    with h5py.File(path) as file:
        header = file["ismrmrd_header"][()].decode()
    assert "<systemVendor>GLEAM simulated coils</systemVendor>" in header
    return json.loads(re.search(r"<name>gleam_simulated_coils</name><value>(.*?)</value>", header)[1])


def combined(path):
    """Root sum of squares of the coil images, which is the magnitude, for the coils' own is 1."""
    return acquire.rss(ifft2c(fastmri.read(path).kspace[0]))


def test_without_noise_the_coils_together_see_the_magnitude(source):
    images = np.load(source).astype(np.float32)
    paths = write(source, noise=0.0, name="knee")
    assert [[path.name for path in some] for some in paths] == [["knee_01_v0.h5"], ["knee_02_v0.h5"]]
    for image, (path,) in zip(images, paths, strict=True):
        np.testing.assert_allclose(combined(path), image, atol=1e-5)
        volume = formats.read(path)
        assert volume.kspace.shape == (1, 4, *SHAPE) and volume.kspace.dtype == np.complex64
        assert (volume.acquisition, volume.is_phantom) == ("real anatomy, simulated coils and noise", False)
        assert volume.field_strength is None and volume.aspect == pytest.approx((160 / 40) / (153.6 / 32))
        coil_images = ifft2c(volume.kspace[0])[:, image > 0]
        assert np.abs(np.angle(coil_images)).std() > 0.1, "there is a phase"
    assert [fastmri.read(path).subject for (path,) in paths] == ["knee-01", "knee-02"]
    with h5py.File(paths[0][0]) as file:
        np.testing.assert_allclose(file["reconstruction_rss"][0], images[0], atol=1e-5)


def test_coils_have_unit_root_sum_of_squares_and_differ(source):
    grid = [np.zeros(1), axis(40, 160.0), axis(32, 153.6)]
    maps = magnitudes.unit_maps(np.random.default_rng(0), 6, grid, (160.0, 153.6))
    assert maps.shape == (6, 40, 32)
    np.testing.assert_allclose(acquire.rss(maps), 1, rtol=1e-5)
    assert np.abs(np.corrcoef(np.abs(maps).reshape(6, -1)) - np.eye(6)).max() < 0.9
    brightest = {np.unravel_index(one.argmax(), one.shape) for one in np.abs(maps)}
    assert len(brightest) == 6, "each coil is nearest to another place"


def test_noise_is_as_asked_at_the_matrix_that_is_used(source):
    (quiet, _), (loud, _) = (write(source, str(n), noise=n, matrix=(20, 16)) for n in (0.0, 0.05))
    clean, noisy = (fastmri.read(path[0]).kspace[0] for path in (quiet, loud))
    assert clean.shape == (4, 20, 16)
    noise, scale = noisy - clean, np.percentile(acquire.rss(ifft2c(clean)), 95)
    for part in (noise.real, noise.imag):
        assert part.std() == pytest.approx(0.05 * scale, rel=0.06)
        assert abs(part.mean()) < 0.01 * scale
    assert np.abs(np.corrcoef(noise.reshape(4, -1)) - np.eye(4)).max() < 0.2, "noise of the coils is independent"
    whole = fastmri.read(write(source, "whole", noise=0.0)[0][0]).kspace[0]
    np.testing.assert_allclose(whole[:, 10:30, 8:24], clean, atol=1e-5, err_msg="the centre of k-space is kept")


def test_versions_differ_and_are_flipped_and_shifted_as_their_settings_say(source):
    images = np.load(source).astype(np.float32)
    paths = write(source, noise=0.0, n_versions=6, max_shift=3)
    views = [[settings_of(path) for path in some] for some in paths]
    for image, some, of_subject in zip(images, paths, views, strict=True):
        assert (of_subject[0]["mirrored"], of_subject[0]["shift"]) == (False, [0, 0])
        for path, view in zip(some, of_subject, strict=True):
            shown = np.roll(image[:, ::-1] if view["mirrored"] else image, view["shift"], (0, 1))
            np.testing.assert_allclose(combined(path), shown, atol=1e-5)
            assert max(map(abs, view["shift"])) <= 3
        assert len({fastmri.read(path).subject for path in some}) == 1
    drawn = [view for of_subject in views for view in of_subject[1:]]
    assert {view["mirrored"] for view in drawn} == {False, True}
    assert len({tuple(view["shift"]) for view in drawn}) > 5
    one, other = (np.angle(fastmri.read(path).kspace[0]) for path in paths[0][:2])
    assert np.abs(one - other).mean() > 0.5, "coils and phase are others"


def test_a_file_depends_on_seed_subject_and_version_alone_and_is_kept(source):
    some = write(source, "a", n_versions=2)
    alone = write(source, "b", n_versions=1)
    other = write(source, "c", n_versions=1, seed=1)
    kspace = lambda path: fastmri.read(path).kspace  # noqa: E731
    assert np.array_equal(kspace(some[1][0]), kspace(alone[1][0]))
    assert not np.array_equal(kspace(some[1][0]), kspace(other[1][0]))
    assert not np.array_equal(kspace(some[0][0]), kspace(some[0][1]))
    before = {path: path.stat().st_mtime_ns for pair in some for path in pair}
    some[0][1].write_bytes(some[0][1].read_bytes()[:100])
    write(source, "a", n_versions=2)
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [some[0][1]]
    write(source, "a", n_versions=2, noise=0.1)
    assert all(path.stat().st_mtime_ns != before[path] for path in before)
    np.save(source, np.load(source)[::-1])  # other images under the same name
    write(source, "a", n_versions=2)
    assert not np.array_equal(kspace(some[1][0]), kspace(alone[1][0]))


def test_they_become_slices_whose_versions_stay_in_one_split(source):
    np.save(source, np.concatenate([np.load(source)] * 2)[:3])
    paths = write(source, n_versions=2, max_shift=1)
    arguments = {"masks": partial(small_disc, acceleration=3), "calibrate": relative_maps, "n_masks": 2}
    arguments["cache_dir"] = source.parent / "cache"
    splits = {"train": paths[0], "val": paths[1][:1], "test": paths[2][:1]}
    train, _, test = gleam.datasets.files(splits, **arguments)
    assert (len(train), train.subjects) == (2, ["subject-01"] * 2)
    assert test.describe()["acquisition"] == "real anatomy, simulated coils and noise" and not test.is_phantom
    with pytest.raises(ValueError, match="subject subject-01 is in both train and test"):
        gleam.datasets.files({**splits, "train": paths[0][:1], "test": paths[0][1:]}, **arguments)


GOOD = np.ones((2, 8, 6))


@pytest.mark.parametrize(
    ("images", "settings", "words"),
    [
        (GOOD[0], {}, r"some\.npy: holds float64 \(8, 6\); expected magnitude images \(subject, y, x\)"),
        (GOOD[:0], {}, r"holds float64 \(0, 8, 6\)"),
        (GOOD + 1j, {}, "holds complex128"),
        (np.array(["a"]), {}, "holds <U1"),
        (np.stack([GOOD[0], np.full((8, 6), np.nan)]), {}, r"some\.npy: image 1 has NaN, infinite or negative pixels"),
        (-GOOD, {}, "image 0 has NaN, infinite or negative pixels"),
        (0 * GOOD, {}, "or only zeros; expected"),
        (GOOD, {"matrix": (8, 7)}, r"matrix=\(8, 7\) must be two whole numbers, at most those of the images, \(8, 6\)"),
        (GOOD, {"matrix": (8,)}, r"matrix=\(8,\) must be two whole numbers"),
        (GOOD, {"matrix": (0, 6)}, r"matrix=\(0, 6\) must be"),
        (GOOD, {"noise": -1}, "noise=-1 must be a number of at least 0"),
        (GOOD, {"n_coils": 0}, "n_coils=0 must be a whole number of at least 1"),
        (GOOD, {"n_versions": 1.5}, r"n_versions=1\.5 must be a whole number of at least 1"),
        (GOOD, {"max_shift": -1}, "max_shift=-1 must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_used_is_one_clear_sentence(images, settings, words, tmp_path):
    np.save(tmp_path / "some.npy", images)
    with pytest.raises(ValueError, match=words) as error:
        write(tmp_path / "some.npy", **settings)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npy: no such file; expected magnitude images"):
        write(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ValueError, match=r"text\.npy: cannot be read"):
        write(tmp_path / "text.npy")
    np.savez(tmp_path / "more.npz", a=GOOD)
    with pytest.raises(ValueError, match=r"more\.npz: holds an archive of arrays"):
        write(tmp_path / "more.npz")
