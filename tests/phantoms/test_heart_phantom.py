"""The beating heart: its physiology, its motion, and files that OCMR's readers understand."""

import h5py
import numpy as np
import pandas as pd
import pytest

from gleam import phantoms
from gleam.datasets import cine
from gleam.phantoms import acquire, scan, write
from gleam.phantoms.fields import Field
from gleam.phantoms.heart_anatomy import Heart
from gleam.phantoms.heart_motion import Breathing, Cycle, breathe
from gleam.physics.fourier import fftc, ifft2c, ifftc

ismrmrd = pytest.importorskip("ismrmrd")
HEART = {
    "n_train": 2,
    "n_val": 1,
    "n_test": 1,
    "n_slices": 2,
    "matrix": (48, 40),
    "n_frames": 4,
    "n_coils": 3,
    "n_jobs": 1,
}
COLUMNS = ["file", "split", "n_slices", "n_coils", "n_frames", "n_y", "n_x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("hearts")
    phantoms.heart(out, **HEART)
    return out


def paths(folder):
    return [folder / name for name in pd.read_csv(folder / "splits" / "cine_heart.csv")["file"]]


def stack(heart, step_mm=2.0, pixel_mm=1.5):
    """A fine grid over the whole heart, and the volume of its voxels in mm3."""
    y, x = heart.ventricles.centre
    grid = np.arange(-4, 110, step_mm), np.arange(y - 50, y + 50, pixel_mm), np.arange(x - 95, x + 55, pixel_mm)
    return grid, step_mm * pixel_mm**2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ventricle_ejects_what_its_cycle_says_and_keeps_its_wall(seed):
    heart = Heart(np.random.default_rng(seed))
    grid, voxel = stack(heart)
    below_base = heart.ventricles.lv_radii(grid[0], 0.0)[4] >= 0
    diastole = heart.parts(grid, 0.0)
    systole = heart.parts(grid, heart.cycle.systole)
    below_base_then = heart.ventricles.lv_radii(grid[0], heart.cycle.systole)[4] >= 0

    def volumes(parts, below):
        return {name: part[below].sum() * voxel / 1000 for name, part in parts.items()}

    full, empty = volumes(diastole, below_base), volumes(systole, below_base_then)
    assert 70 < full["lv_blood"] < 200
    # Trabeculae and papillary muscles, which keep their size, make the blood's fraction a little larger.
    assert 1 - empty["lv_blood"] / full["lv_blood"] == pytest.approx(heart.cycle.ejection_fraction, abs=0.09)
    assert empty["lv_wall"] == pytest.approx(full["lv_wall"], rel=0.06)
    assert empty["rv_blood"] < 0.75 * full["rv_blood"]


def test_discs_of_the_wall_keep_their_volume_and_thicken():
    ventricles = Heart(np.random.default_rng(3)).ventricles
    t = ventricles.cycle.systole
    level = np.linspace(0.3, 0.8, 7) * ventricles.length
    inner, outer, inner_0, outer_0, u = ventricles.lv_radii(level, t)
    shorter = (ventricles.length - level) / (1 - u) / ventricles.length
    np.testing.assert_allclose((outer**2 - inner**2) * shorter, outer_0**2 - inner_0**2, rtol=1e-9)
    assert (1.25 < (outer - inner) / (outer_0 - inner_0)).all()
    np.testing.assert_allclose(inner**2 * shorter / inner_0**2, ventricles.cycle.volume(t), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_cycle_is_periodic_with_a_short_systole(seed):
    cycle = Cycle(np.random.default_rng(seed))
    times = np.arange(400) / 400
    volume = np.array([cycle.volume(t) for t in times])
    assert volume.max() == pytest.approx(1, abs=1e-6) and volume[0] == pytest.approx(1, abs=1e-6)
    assert volume.min() == pytest.approx(1 - cycle.ejection_fraction, abs=1e-3)
    assert 0.35 <= times[volume.argmin()] <= 0.41
    assert 0.50 <= cycle.ejection_fraction <= 0.65
    assert np.abs(np.diff(volume, append=volume[0])).max() < 0.02
    assert cycle.volume(1.3) == pytest.approx(cycle.volume(0.3))
    assert max(cycle.flow(t) for t in times) == pytest.approx(1, abs=0.01)


def test_blood_is_bright_wall_mid_grey_lung_dark_and_the_heart_beats():
    heart = Heart(np.random.default_rng(1))
    matrix = (160, 160)
    grid = [np.array([0.4 * heart.ventricles.length])]
    grid += [scan.axis(n, side) for n, side in zip(matrix, heart.field_of_view(matrix), strict=True)]
    image, blood = heart.image(grid, 0.0)
    parts = heart.parts(grid, 0.0)
    signal = image[blood > 0.99]
    wall = image[parts["lv_wall"] > 0.99]
    assert np.median(signal) == pytest.approx(1, abs=0.15) and 0.28 < np.median(wall) < 0.45
    assert np.std(signal) > 0.02 and np.std(wall) > 0.015  # no flat regions
    assert np.percentile(image, 20) < 0.1
    still, later = heart.image(grid, 1.0)[0], heart.image(grid, heart.cycle.systole)[0]
    np.testing.assert_allclose(still, image, atol=1e-5)
    changed = np.abs(later - image)[0] > 0.1
    assert 0.02 < changed.mean() < 0.3
    edge = changed.copy()
    edge[8:-8, 8:-8] = False
    assert not edge.any()


def test_anatomy_does_not_depend_on_the_matrix():
    heart = Heart(np.random.default_rng(5))
    fine, coarse = (heart.image([np.array([30.0]), scan.axis(n, 200), scan.axis(n, 200)], 0.2)[0] for n in (192, 96))
    pooled = fine.reshape(1, 96, 2, 96, 2).mean((2, 4))
    assert np.corrcoef(pooled.ravel(), coarse.ravel())[0, 1] > 0.9


def test_a_field_at_scattered_points_is_the_field_on_the_grid():
    field = Field(np.random.default_rng(0), (12, 7, 5), (40, 40, 40))
    grid = np.array([-20.0, 3.3]), np.linspace(-31, 30, 9), np.linspace(-29, 33, 11)
    y, x = (np.broadcast_to(v, (2, 9, 11)) for v in (grid[1][:, None], grid[2]))
    np.testing.assert_allclose(field.at(grid[0], y, x), field(grid), atol=1e-4)


def test_breath_drifts_slowly_and_the_back_lies_still():
    breathing = Breathing(np.random.default_rng(0), 3)
    path = np.array([breathing.shift(1, t) for t in np.linspace(0, 1, 21)])
    assert 0.05 < np.ptp(path, axis=0).max() < 8 and np.abs(np.diff(path, axis=0)).max() < 0.5
    grid = np.zeros(1), np.array([-90.0, 0.0, 90.0]), np.zeros(1)
    np.testing.assert_allclose(breathe(grid, (0, 2.0, 0))[1] - grid[1], (-2, -1.137, 0), atol=0.05)


def test_files_read_through_the_ismrmrd_package(folder):
    path = paths(folder)[0]
    volume = cine.read(path)
    with ismrmrd.Dataset(path, mode="r") as dataset:
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        assert dataset.number_of_acquisitions() == 2 * 4 * 48
        lines = [dataset.read_acquisition(k) for k in range(2 * 4 * 48)]
    raw = np.full((2, 3, 4, 48, 80), np.nan, np.complex64)
    for line in lines:
        raw[line.idx.slice, :, line.idx.phase, line.idx.kspace_encode_step_1] = line.data
    assert np.isfinite(raw).all()
    assert [line.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT) for line in lines].index(True) == len(lines) - 1
    cropped = fftc(ifftc(raw, (-1,))[..., 20:60], (-1,))
    np.testing.assert_allclose(volume.kspace, cropped, atol=1e-5 * np.abs(cropped).max())
    encoding, system = header.encoding[0], header.acquisitionSystemInformation
    size, recon, limits = encoding.encodedSpace, encoding.reconSpace, encoding.encodingLimits
    assert (size.matrixSize.x, size.matrixSize.y, size.matrixSize.z) == (80, 48, 1)
    assert (recon.matrixSize.x, recon.matrixSize.y) == (40, 48)
    assert size.fieldOfView_mm.x == pytest.approx(2 * recon.fieldOfView_mm.x, rel=1e-4)
    assert recon.fieldOfView_mm.z == pytest.approx(8)
    assert (limits.phase.maximum, limits.slice.maximum, limits.kspace_encoding_step_1.center) == (3, 1, 24)
    assert system.systemVendor == "GLEAM phantom" and system.receiverChannels == 3
    assert encoding.trajectory.value == "cartesian" and header.measurementInformation.protocolName == "cine_bSSFP_sax"
    assert 750 / 4 <= header.sequenceParameters.TR[0] <= 1050 / 4
    heights = [lines[0].position[0], lines[-1].position[0]]
    assert 10 < heights[1] - heights[0] < 30


def test_the_reader_knows_a_phantom_and_its_square_pixels(folder):
    volume = cine.read(paths(folder)[0])
    assert volume.is_phantom and volume.kspace.shape == (2, 3, 4, 48, 40)
    assert volume.aspect == pytest.approx(1, rel=1e-3)
    assert volume.field_strength in scan.HEART_FIELD_STRENGTHS_T


def test_the_split_list_matches_the_files(folder):
    listed = pd.read_csv(folder / "splits" / "cine_heart.csv")
    assert list(listed.columns) == COLUMNS
    assert list(listed["split"]) == ["train", "train", "val", "test"] and listed["file"].is_unique
    assert {folder / name for name in listed["file"]} == set((folder / "ocmr").iterdir())
    assert (listed[COLUMNS[2:]].to_numpy() == (2, 3, 4, 48, 40)).all()


def test_no_two_subjects_are_alike(folder):
    images = [acquire.rss(np.moveaxis(ifft2c(cine.read(path).kspace), 1, 0)) for path in paths(folder)]
    images = [image / np.linalg.norm(image) for image in images]
    for k, image in enumerate(images):
        assert all(np.linalg.norm(image - other) > 0.15 for other in images[:k])


def test_noise_is_the_level_asked_for(tmp_path):
    one = {**HEART, "n_train": 1, "n_val": 0, "n_test": 0}
    for name, noise in (("clean", 0), ("noisy", 0.03)):
        phantoms.heart(tmp_path / name, **one, noise=noise)
    clean, noisy = (cine.read(paths(tmp_path / name)[0]).kspace for name in ("clean", "noisy"))
    combined = acquire.rss(np.moveaxis(ifft2c(clean), 1, 0))
    for part in ((noisy - clean).real, (noisy - clean).imag):
        assert part.std(axis=(0, 2, 3, 4)) / np.percentile(combined, 95) == pytest.approx(0.03, rel=0.06)


def test_frames_differ_by_a_beating_heart_and_not_by_noise_alone(tmp_path):
    phantoms.heart(tmp_path, **{**HEART, "n_train": 1, "n_val": 0, "n_test": 0, "n_frames": 8}, noise=0)
    images = ifft2c(cine.read(paths(tmp_path)[0]).kspace)
    magnitude = acquire.rss(np.moveaxis(images, 1, 0))
    first = magnitude[:, :1]
    change = np.linalg.norm(magnitude - first, axis=(2, 3)) / np.linalg.norm(first, axis=(2, 3))
    assert (change[:, 3] > 0.1).all() and (change[:, 3] > change[:, 7]).all()
    steady = (magnitude.min(axis=1) > 0.5 * magnitude.max(axis=1)) & (magnitude[:, 0] > 0.3)
    turned = np.abs(np.angle(np.sum(images * np.conj(images[:, :, :1]), axis=1)))  # the background's phase is constant
    moved = turned[np.broadcast_to(steady[:, None], turned.shape)]
    assert np.quantile(moved, 0.9) < 0.3 and moved.max() > 0.02


def test_files_are_kept_the_same_and_renewed_when_settings_change(folder, tmp_path):
    settings = {**HEART, "n_train": 1, "n_val": 0, "n_test": 0}
    phantoms.heart(tmp_path, **settings)
    path = paths(tmp_path)[0]
    np.testing.assert_array_equal(cine.read(path).kspace, cine.read(folder / "ocmr" / path.name).kspace)
    written = path.stat().st_mtime_ns
    phantoms.heart(tmp_path, **{**settings, "n_val": 1})
    assert path.stat().st_mtime_ns == written
    phantoms.heart(tmp_path, **{**settings, "n_frames": 3})
    assert cine.read(path).kspace.shape[2] == 3
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_frames": 1}, "n_frames=.* must be a whole number of at least 2"),
        ({"n_slices": 0}, "n_slices=.* must be a whole number of at least 1"),
        ({"matrix": (80, 63)}, "must be even"),
        ({"matrix": 80}, "matrix must be two numbers"),
        ({"n_coils": 0}, "n_coils must be"),
        ({"noise": -0.1}, "noise must be"),
        ({"n_train": 0, "n_val": 0, "n_test": 0}, "at least one subject"),
    ],
)
def test_a_bad_argument_gets_one_sentence(change, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        phantoms.heart(tmp_path, **{**HEART, **change})
    assert not list(tmp_path.iterdir())


def test_slices_are_written_as_they_come(tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((2, 3, 2, 4, 6)) + 1j * rng.standard_normal((2, 3, 2, 4, 6))).astype(np.complex64)
    write.write_ocmr(tmp_path / "a.h5", iter(kspace), (2, 3, 4), "<x/>", levels_mm=(5.0, 15.0))
    with h5py.File(tmp_path / "a.h5") as file:
        lines = file["dataset/data"][:]
    np.testing.assert_array_equal(lines["head"]["scan_counter"], np.arange(24))
    samples = np.stack(lines["data"]).view(np.complex64).reshape(2, 3, 4, 2, 6)
    np.testing.assert_array_equal(samples, kspace.swapaxes(2, 3))
    np.testing.assert_array_equal(lines["head"]["position"][:, 0], np.repeat((5, 15), 12))
