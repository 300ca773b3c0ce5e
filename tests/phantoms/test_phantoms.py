"""The phantoms' files are the real formats: read back by other readers, repeatable, labelled, split by subject."""

import xml.etree.ElementTree as ElementTree

import h5py
import numpy as np
import pandas as pd
import pytest

from gleam import phantoms
from gleam.datasets import fastmri, mridata
from gleam.phantoms import acquire, generate, scan, write
from gleam.phantoms.fields import Field, cover, ellipse
from gleam.phantoms.knee_anatomy import Knee
from gleam.physics.fourier import ifftc

ismrmrd = pytest.importorskip("ismrmrd")
LIST = "mridata_knee.csv"
NAMESPACE = {"i": "http://www.ismrm.org/ISMRMRD"}
KNEE = {"n_train": 2, "n_val": 1, "n_test": 1, "n_slices": 8, "matrix": (64, 48), "n_coils": 5, "n_jobs": 1}
KNEE_OF_VERSION_2 = (0.213061, 0.231261, 0.268003)
BRAIN_OF_VERSION_2 = (0.390356, 0.204278, 0.369731)
BRAIN = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 3, "matrix": (64, 64), "n_jobs": 1}


@pytest.fixture(scope="module")
def knee_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knees")
    phantoms.knee(folder, **KNEE)
    return folder


@pytest.fixture(scope="module")
def brain_dir(tmp_path_factory):
    pytest.importorskip("nilearn")
    folder = tmp_path_factory.mktemp("brains")
    phantoms.brain(folder, **BRAIN)
    return folder


def listed(folder, name):
    return pd.read_csv(folder / "splits" / name)


def knee_files(folder):
    return [folder / "mridata" / name for name in listed(folder, LIST)["file"]]


def brain_files(folder):
    return [folder / "fastmri" / "multicoil_val" / name for name in listed(folder, "fastmri_brain.csv")["file"]]


def mridata_kspace(path):
    """(coil, readout, step 1, step 2), by h5py alone."""
    with h5py.File(path) as file:
        lines = file["dataset/data"][:]
    head, index = lines["head"], lines["head"]["idx"]
    samples = np.stack(lines["data"]).view(np.complex64)
    samples = samples.reshape(len(lines), head["active_channels"][0], head["number_of_samples"][0])
    shape = [int(index[f"kspace_encode_step_{axis}"].max()) + 1 for axis in (1, 2)]
    kspace = np.full((*samples.shape[1:], *shape), np.nan, np.complex64)
    kspace[:, :, index["kspace_encode_step_1"], index["kspace_encode_step_2"]] = np.moveaxis(samples, 0, -1)
    return kspace


def knee_image(path):
    return ifftc(mridata_kspace(path), (1, 2, 3))


def test_knee_has_every_line_once_and_no_gap(knee_dir):
    for path in knee_files(knee_dir):
        kspace = mridata_kspace(path)
        assert kspace.shape == (5, 8, 64, 48)
        assert np.isfinite(kspace).all()
        with h5py.File(path) as file:
            assert file["dataset/data"].shape == (64 * 48,)


def test_knee_reads_through_the_ismrmrd_package(knee_dir):
    path = knee_files(knee_dir)[0]
    kspace = mridata_kspace(path)
    assert write.HEAD == ismrmrd.hdf5.acquisition_header_dtype
    with ismrmrd.Dataset(path, mode="r") as dataset:
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        n_lines = dataset.number_of_acquisitions()
        for number in (0, 1, 63, 64, 1500, n_lines - 1):
            line = dataset.read_acquisition(number)
            step_1, step_2 = line.idx.kspace_encode_step_1, line.idx.kspace_encode_step_2
            np.testing.assert_array_equal(line.data, kspace[:, :, step_1, step_2])
            assert (line.active_channels, line.number_of_samples, line.center_sample) == (5, 8, 4)
            assert line.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT) == (number == n_lines - 1)
    encoding, system = header.encoding[0], header.acquisitionSystemInformation
    size, fov = encoding.encodedSpace.matrixSize, encoding.encodedSpace.fieldOfView_mm
    assert (size.x, size.y, size.z) == (8, 64, 48)
    assert (fov.y, fov.z) == pytest.approx((160, 153.6))
    limits = encoding.encodingLimits
    assert (limits.kspace_encoding_step_1.maximum, limits.kspace_encoding_step_1.center) == (63, 32)
    assert (limits.kspace_encoding_step_2.maximum, limits.kspace_encoding_step_2.center) == (47, 24)
    assert encoding.trajectory.value == "cartesian"
    assert (system.systemVendor, system.receiverChannels) == ("GLEAM phantom", 5)
    assert header.experimentalConditions.H1resonanceFrequency_Hz == pytest.approx(
        42.577e6 * system.systemFieldStrength_T, rel=1e-3
    )


def test_lines_equal_those_the_ismrmrd_package_writes(tmp_path):
    kspace = (np.arange(2 * 6 * 4 * 3) * (1 - 2j)).reshape(2, 6, 4, 3).astype(np.complex64)
    write.write_mridata(tmp_path / "ours.h5", kspace, "<x/>")
    with ismrmrd.Dataset(tmp_path / "theirs.h5") as theirs:
        theirs.write_xml_header(b"<x/>")
        for number in range(12):
            line = ismrmrd.Acquisition.from_array(kspace[:, :, number % 4, number // 4].copy())
            line.idx.kspace_encode_step_1, line.idx.kspace_encode_step_2 = number % 4, number // 4
            theirs.append_acquisition(line)
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "theirs.h5") as theirs:
        a, b = ours["dataset/data"], theirs["dataset/data"]
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert ours["dataset/xml"][0] == theirs["dataset/xml"][0]
        for field in ("number_of_samples", "active_channels", "idx", "version"):
            np.testing.assert_array_equal(a[:]["head"][field], b[:]["head"][field])
        np.testing.assert_array_equal(np.stack(a[:]["data"]), np.stack(b[:]["data"]))


def test_noise_is_the_level_asked_for(tmp_path):
    one = {**KNEE, "n_train": 1, "n_val": 0, "n_test": 0}
    phantoms.knee(tmp_path / "clean", **one, noise=0)
    phantoms.knee(tmp_path / "noisy", **one, noise=0.03)
    clean, noisy = (mridata_kspace(knee_files(tmp_path / name)[0]) for name in ("clean", "noisy"))
    combined = acquire.rss(ifftc(clean, (1, 2, 3)))
    difference = noisy - clean
    for part in (difference.real, difference.imag):
        assert part.std(axis=(1, 2, 3)) / np.percentile(combined, 95) == pytest.approx(0.03, rel=0.05)


def test_default_noise_is_the_measured_one(knee_dir, brain_dir):
    for path in knee_files(knee_dir):
        coils = knee_image(path)
        background = coils[:, :, :4, :4]
        assert 0.017 < background.real.std() / np.percentile(acquire.rss(coils), 95) < 0.043
    for path in brain_files(brain_dir):
        with h5py.File(path) as file:
            coils, combined = ifftc(file["kspace"][:], (2, 3)), file["reconstruction_rss"][:]
        assert 0.013 < coils[:, :, :20].real.std() / np.percentile(combined, 95) < 0.021


def test_kspace_is_the_transform_of_the_anatomy(tmp_path):
    phantoms.knee(tmp_path, **{**KNEE, "n_train": 1, "n_val": 0, "n_test": 0}, noise=0)
    combined = acquire.rss(knee_image(knee_files(tmp_path)[0]))
    rng = np.random.default_rng(np.random.SeedSequence([0, 0, 0, 0]).spawn(3)[0])
    grid = [scan.axis(n, fov, c) for n, fov, c in zip((8, 64, 48), scan.KNEE_FOV_MM, (5.0, 0, 0), strict=True)]
    anatomy = Knee(rng).image(grid)
    assert combined[anatomy == 0].max() < 1e-5
    assert np.corrcoef(combined.ravel(), anatomy.ravel())[0, 1] > 0.9
    assert 0.15 < (anatomy > 0.2).mean() < 0.6


def test_anatomy_does_not_depend_on_the_matrix():
    levels = np.array([0.0, 20.0])
    fine, coarse = (
        Knee(np.random.default_rng(5)).image([levels, scan.axis(m, 160), scan.axis(m, 160)]) for m in (128, 64)
    )
    pooled = fine.reshape(2, 64, 2, 64, 2).mean((2, 4))
    assert np.corrcoef(pooled.ravel(), coarse.ravel())[0, 1] > 0.93


def test_no_two_subjects_are_alike(knee_dir, tmp_path):
    images = [acquire.rss(knee_image(path)) for path in knee_files(knee_dir)]
    for k, image in enumerate(images):
        for other in images[:k]:
            assert np.linalg.norm(image - other) > 0.15 * np.linalg.norm(image)
    phantoms.knee(tmp_path, **{**KNEE, "n_val": 0, "n_test": 0, "seed": 1})
    assert not set(listed(knee_dir, LIST)["file"]) & set(listed(tmp_path, LIST)["file"])


def test_same_seed_same_bytes_whatever_the_processes(knee_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "VOXELS_PER_PROCESS", 1)
    phantoms.knee(tmp_path, **{**KNEE, "n_val": 0, "n_test": 0, "n_jobs": 2})
    for path in knee_files(tmp_path):
        np.testing.assert_array_equal(mridata_kspace(path), mridata_kspace(knee_dir / "mridata" / path.name))


def test_split_lists_match_the_files_and_keep_subjects_apart(knee_dir, brain_dir):
    knees, brains = listed(knee_dir, LIST), listed(brain_dir, "fastmri_brain.csv")
    assert list(knees["split"]) == ["train", "train", "val", "test"]
    assert knees["file"].is_unique and brains["file"].is_unique
    assert set(knees["file"]) == {path.name for path in (knee_dir / "mridata").iterdir()}
    assert (knees[["n_x", "n_y", "n_z", "n_coils"]].to_numpy() == (8, 64, 48, 5)).all()
    patients = []
    for row, path in zip(brains.itertuples(), brain_files(brain_dir), strict=True):
        with h5py.File(path) as file:
            assert file["kspace"].shape == (row.n_slices, row.n_coils, row.encoded_x, row.encoded_y)
            assert file["reconstruction_rss"].shape == (row.n_slices, row.recon_x, row.recon_y)
            patients.append(file.attrs["patient_id"])
    assert len(set(patients)) == len(patients)


def test_brain_is_what_fastmris_reader_expects(brain_dir):
    for path in brain_files(brain_dir):
        with h5py.File(path) as file:
            kspace, rss, attrs = file["kspace"][:], file["reconstruction_rss"][:], dict(file.attrs)
            root = ElementTree.fromstring(file["ismrmrd_header"][()])
        assert (kspace.dtype, rss.dtype) == (np.complex64, np.float32)
        n_coils = kspace.shape[1]
        assert kspace.shape == (3, n_coils, 128, 64) and 4 <= n_coils <= 20
        assert attrs["acquisition"] == "AXT2"
        assert attrs["max"] == pytest.approx(rss.max()) and attrs["norm"] == pytest.approx(np.linalg.norm(rss))

        def query(*names, root=root):
            return root.find("/".join(f"i:{name}" for name in names), NAMESPACE).text

        assert [int(query("encoding", "encodedSpace", "matrixSize", axis)) for axis in "xyz"] == [128, 64, 1]
        assert [int(query("encoding", "reconSpace", "matrixSize", axis)) for axis in "xyz"] == [64, 64, 1]
        limits = ("encoding", "encodingLimits", "kspace_encoding_step_1")
        assert (int(query(*limits, "center")), int(query(*limits, "maximum")) + 1) == (32, 64)
        assert query("acquisitionSystemInformation", "systemVendor") == "GLEAM phantom"
        assert float(query("acquisitionSystemInformation", "systemFieldStrength_T")) == 2.8936
        combined = acquire.rss(np.moveaxis(ifftc(kspace, (2, 3)), 1, 0))
        np.testing.assert_allclose(combined[:, 32:96], rss, rtol=1e-4, atol=1e-9)
        assert combined[:, :24].max() < 0.6 * np.percentile(rss, 95)
        ismrmrd.xsd.CreateFromDocument(ElementTree.tostring(root))


def test_brain_looks_t2_weighted(brain_dir):
    """Fluid is brighter than grey matter, grey brighter than white, bone darkest."""
    from gleam.phantoms.brain_anatomy import INTENSITIES, Brain

    assert INTENSITIES["csf"] > INTENSITIES["grey"] > INTENSITIES["white"] > INTENSITIES["bone"]
    axis = scan.axis(64, 224)
    head, other = (Brain(np.random.default_rng(k)).image((np.array([10.0]), axis, axis))[0] for k in (1, 2))
    assert (head[:3] == 0).all() and (head[:, :2] == 0).all()
    assert np.linalg.norm(head - other) > 0.2 * np.linalg.norm(head)
    middle = head[20:44, 20:44]
    assert middle.max() > 1.8 * np.median(middle) and 0.25 < np.median(middle) < 0.65


def test_files_are_kept_and_renewed_only_when_settings_change(tmp_path):
    settings = {**KNEE, "n_train": 1, "n_val": 0, "n_test": 0}
    phantoms.knee(tmp_path, **settings)
    path = knee_files(tmp_path)[0]
    written = path.stat().st_mtime_ns
    phantoms.knee(tmp_path, **{**settings, "n_train": 2})
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:4000])
    phantoms.knee(tmp_path, **settings)
    assert mridata_kspace(path).shape == (5, 8, 64, 48)
    phantoms.knee(tmp_path, **{**settings, "n_coils": 3})
    assert mridata_kspace(path).shape[0] == 3
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_train": -1}, "n_train=.* must be a whole number of at least 0"),
        ({"n_train": 0, "n_val": 0, "n_test": 0}, "at least one subject"),
        ({"n_slices": 2.5}, "n_slices=.* must be a whole number"),
        ({"n_slices": {"train": 8}}, "n_slices must be a whole number or a dict with train, val, test"),
        (
            {"n_slices": {"train": 1, "val": 4, "test": 4}},
            "n_slices of train=.* must be a whole number of at least [28]",
        ),
        ({"matrix": 64}, "matrix must be two numbers"),
        ({"matrix": (64, 8)}, "each side of matrix"),
        ({"matrix": (64, 49)}, "must be even"),
        ({"n_coils": 0}, "n_coils must be a whole number of at least 1"),
        ({"n_coils": (4, 2.5)}, "n_coils must be"),
        ({"noise": (0.04, 0.02)}, "noise must be a number"),
        ({"noise": None}, "noise must be a number"),
        ({"noise": float("nan")}, "noise must be a number"),
        ({"seed": -3}, "seed=.* must be"),
        ({"n_jobs": 0}, "n_jobs=.* must be"),
    ],
)
@pytest.mark.parametrize("make", [phantoms.knee, phantoms.brain])
def test_a_bad_argument_gets_one_sentence(make, change, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, **{**KNEE, **change})
    assert not list(tmp_path.iterdir())


def test_a_folder_of_real_data_is_left_alone(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / LIST).write_text("file,split\nreal.h5,train\n")
    with pytest.raises(ValueError, match="not of phantoms"):
        phantoms.knee(tmp_path, **KNEE)
    assert (tmp_path / "splits" / LIST).read_text() == "file,split\nreal.h5,train\n"


def test_fields_have_unit_variance_and_shapes_their_area():
    grid = [np.linspace(-80, 80, 50)] * 3
    assert Field(np.random.default_rng(0), 8)(grid).std() == pytest.approx(1, abs=0.1)
    y, x = np.meshgrid(np.arange(-40, 40.0), np.arange(-40, 40.0), indexing="ij")
    assert cover(ellipse(x, y, 30, 20), 1.0).sum() == pytest.approx(np.pi * 600, rel=0.01)


def test_the_aspect_of_a_pixel_survives_the_raw_file(knee_dir, brain_dir):
    knee = mridata.read(next((knee_dir / "mridata").glob("*.h5")))
    brain = fastmri.read(next((brain_dir / "fastmri").rglob("*.h5")))
    assert knee.aspect == pytest.approx((160 / KNEE["matrix"][0]) / (153.6 / KNEE["matrix"][1]), rel=1e-3)
    assert brain.aspect == pytest.approx(1, rel=1e-3)


def test_knees_and_brains_are_those_of_version_2():
    """Their pixels must not change without a new version: files of the old one would stay in use."""
    grid = np.array([0.0, 15.0]), scan.axis(32, 150), scan.axis(32, 150)
    knee = Knee(np.random.default_rng(7)).image(grid)
    assert (knee.mean(), knee.std(), knee[1, 12, 20]) == pytest.approx(KNEE_OF_VERSION_2, rel=1e-4)
    pytest.importorskip("nilearn")
    from gleam.phantoms.brain_anatomy import Brain

    brain = Brain(np.random.default_rng(7)).image(grid)
    assert (brain.mean(), brain.std(), brain[1, 12, 20]) == pytest.approx(BRAIN_OF_VERSION_2, rel=1e-4)
