"""The command `gleam` on real files: what it writes, what it says, and how it refuses."""

import shutil
import tomllib
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from raw_files import coil_images, write_mat

import gleam
from gleam.datasets import formats
from gleam.phantoms.write import header_xml, write_fastmri
from gleam.physics.fourier import fft2c, ifft2c
from gleam.records.command import main
from gleam.training import checkpoints
from gleam.training.raw_files import maps_of_centre, reconstruct_file

SIZES = {"n_train": 1, "n_val": 1, "n_test": 1, "n_coils": 4, "n_jobs": 1, "matrix": (32, 32)}
FIT = {"n_steps": 2, "batch_size": 1, "validate_every": 2, "learning_rate": 3e-3}


def write_brains(home):
    """Discs in fastMRI's layout, the readout oversampled (the anatomy of phantom brains takes seconds to load)."""
    header = header_xml(
        encoded=(64, 32, 1), encoded_fov_mm=(440, 256, 5), recon=(32, 32, 1), recon_fov_mm=(220, 256, 5), n_slices=2,
        n_coils=4, field_strength=3, protocol="AXT2", settings="discs",
    )  # fmt: skip
    rows = ["file,split"]
    for number, split in enumerate(("train", "val", "test")):
        images = np.stack([coil_images((32, 32), seed=2 * number + s) for s in range(2)])
        kspace = fft2c(np.pad(images, [(0, 0), (0, 0), (16, 16), (0, 0)]))
        path = home / "fastmri" / "multicoil_val" / f"file_{number}.h5"
        write_fastmri(path, kspace, np.linalg.norm(images, axis=1), header, acquisition="AXT2", patient_id=f"p{number}")
        rows.append(f"{path.name},{split}")
    (home / "splits").mkdir(exist_ok=True)
    (home / "splits" / "fastmri_brain.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Of each kind: test file (path), run (path), and the loader's test split, whose one mask has the seed 2."""
    home, found = tmp_path_factory.mktemp("scans"), {}
    makers = {
        "knee": (lambda: gleam.phantoms.generate.knee(home, n_slices=4, **SIZES), "mridata", gleam.datasets.knees,
                 {"acceleration": 3, "n_calibration": 6}),
        "brain": (lambda: write_brains(home), "fastmri/multicoil_val", gleam.datasets.brains,
                  {"acceleration": 3, "center_fraction": 0.2}),
        "heart": (lambda: gleam.phantoms.generate.heart(home, n_slices=1, n_frames=4, **SIZES), "ocmr",
                  gleam.datasets.hearts, {"acceleration": 3}),
    }  # fmt: skip
    for kind, (write, folder, load, masks) in makers.items():
        write()
        train, val, test = load(home, cache_dir=home / "cache", n_masks=2, n_jobs=1, **masks)
        network = gleam.unrolled.pgd(2, 4, n_dims=3 if kind == "heart" else 2, step_size=1.0)
        gleam.fit(network, train, val, gleam.Greedy(2), run_dir=home / f"{kind}_runs", **FIT)
        (run,) = (home / f"{kind}_runs").iterdir()
        (path,) = [p for p in (home / folder).glob("*.h5") if formats.read(p).subject == test.subjects[0]]
        found[kind] = path, run, test
    return found


def expected(run, test):
    """Images of the loader's test split, in the units of the file."""
    network = gleam.load(run)
    return torch.stack([gleam.reconstruct(network, b)[0] * b.scale for b in (test[i] for i in range(len(test)))])


@pytest.mark.parametrize("kind", ["knee", "brain", "heart"])
def test_nifti_holds_what_the_library_reconstructs_with_its_voxels(kind, scans, tmp_path, capsys):
    path, run, test = scans[kind]
    out = tmp_path / "new" / "image.nii.gz"
    assert main(["reconstruct", str(run), str(path), "--out", str(out), "--seed", "2"]) == 0
    images, image = expected(run, test).abs().numpy(), nibabel.load(out)
    order = (3, 2, 0, 1) if kind == "heart" else (2, 1, 0)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), images.transpose(order))
    z, y, x = formats.read(path).spacing
    assert image.header.get_zooms()[:3] == pytest.approx((x, y, z)) and y / x == pytest.approx(test.aspect)
    assert min(x, y, z) > 0 and (x, y, z) != (1, 1, 1) and image.header.get_xyzt_units()[0] == "mm"
    assert (
        nibabel.aff2axcodes(image.affine) == ("L", "P", "S") and b"not for diagnosis" in image.header["descrip"].item()
    )
    assert (tmp_path / "new" / "image.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    scores = gleam.evaluate(gleam.load(run), test).mean(numeric_only=True)
    zero = gleam.evaluate(gleam.baselines.zero_filled, test).mean(numeric_only=True)
    assert f": nRMSE {scores.nrmse:.4f}, PSNR {scores.psnr:.2f} dB" in said and f"PSNR {zero.psnr:.2f} dB" in said
    assert "undersampled here" in said and "trained on phantoms: not for diagnosis" in said


def test_hdf5_holds_complex_images_of_the_slices_asked_for(scans, tmp_path):
    path, run, test = scans["brain"]
    arguments = ["reconstruct", str(run / "checkpoint.safetensors"), str(path), "--seed", "2"]
    for out, slices in (("all.h5", []), ("one.h5", ["--slices", "1"]), ("last.h5", ["--slices", "1:"])):
        assert main([*arguments, "--out", str(tmp_path / out), *slices]) == 0
    with h5py.File(tmp_path / "all.h5") as file:
        images, said = file["reconstruction"][:], dict(file["reconstruction"].attrs)
    np.testing.assert_array_equal(images, expected(run, test).numpy())
    assert (
        said["run"] == run.name
        and said["network"].startswith("pgd(")
        and said["acceleration"] == pytest.approx(3, 0.05)
    )
    assert said["label"] == "trained on phantoms: not for diagnosis" and said["subject"] == test.subjects[0]
    for name in ("one.h5", "last.h5"):
        with h5py.File(tmp_path / name) as file:
            np.testing.assert_array_equal(file["reconstruction"][:], images[1:])


def undersampled(kind, path, out, mask):
    """The raw file with only the lines of `mask` (y, z), columns (x) or (frame, y)."""
    shutil.copy(path, out)
    with h5py.File(out, "r+") as file:
        if kind == "brain":
            file["kspace"][...] = file["kspace"][:] * mask
            return out
        rows = file["dataset/data"][:]
        index = rows["head"]["idx"]
        where = (
            (index["kspace_encode_step_1"], index["kspace_encode_step_2"])
            if kind == "knee"
            else (index["phase"], index["kspace_encode_step_1"])
        )
        file["dataset/data"].resize(int(mask[where].sum()), axis=0)
        file["dataset/data"][...] = rows[mask[where]]
    return out


def test_points_that_are_missing_are_seen_in_fastmris_layout_too(scans, tmp_path):
    path, run, _ = scans["brain"]
    mask = gleam.masks.poisson_disc((64, 32), 2.5, n_calibration=16, seed=0)
    found = reconstruct_file(run, undersampled("brain", path, tmp_path / "p.h5", mask), progress=False)
    assert found.target is None and found.acceleration == pytest.approx(2.5, rel=0.01)
    assert found.images.shape == (2, 64, 32) and "single points" in found.warnings[0], "aliases are not cropped"


@pytest.mark.parametrize("kind", ["knee", "brain", "heart"])
def test_a_scan_undersampled_at_the_scanner_is_reconstructed_as_it_is(kind, scans, tmp_path, capsys):
    path, run, test = scans[kind]
    volume = formats.read(path)
    make = {"knee": gleam.masks.poisson_disc, "brain": gleam.masks.random_columns,
            "heart": gleam.masks.kt_variable_density}[kind]  # fmt: skip
    widths = {"knee": {"n_calibration": 10}, "brain": {"center_fraction": 0.3}, "heart": {"n_center": 6}}[kind]
    mask = make(volume.kspace.shape[-3 if kind == "heart" else -2 :], 2.5, seed=7, **widths)
    lines = {"knee": mask, "brain": mask[0], "heart": mask[..., 0] if kind == "heart" else None}[kind]
    file = undersampled(kind, path, tmp_path / path.name, lines)
    with pytest.raises(ValueError, match=r"undersampled|not fully sampled"):
        formats.read(file)
    found = reconstruct_file(run, file, progress=False)
    assert found.target is None and found.scores is None and not found.warnings
    assert found.acceleration == pytest.approx(float(gleam.masks.achieved_acceleration(mask, tuple(range(mask.ndim)))))
    if kind != "heart":
        kspace = torch.from_numpy(volume.kspace[0]) * torch.from_numpy(mask)
        settings = {"knee": ("jsense", 8, 20), "brain": ("espirit", 6, 24)}[kind]
        maps = maps_of_centre(
            kspace.numpy(), **dict(zip(("method", "kernel_width", "calibration_width"), settings, strict=True))
        )
        batch = gleam.physics.Batch.from_measured(kspace, maps, mask)
        image = gleam.reconstruct(gleam.load(run), batch)[0] * batch.scale
        assert (found.images[0] - image).norm() < 1e-4 * image.norm()
    truth = expected(run, test)
    error = (found.zero_filled.abs() - truth.abs()).norm() / truth.norm()
    assert error < 0.6, "it is the same object"
    assert main(["reconstruct", str(run), str(file), "--out", str(tmp_path / "o.h5")]) == 0
    said = capsys.readouterr()
    assert "reconstructed as measured, R = 2.5; without a fully sampled image there is no score" in said.out


def test_what_is_far_from_the_training_is_warned_of(scans, tmp_path, capsys):
    path, run, _ = scans["brain"]
    arguments = ["reconstruct", str(run), str(path), "--out", str(tmp_path / "o.h5"), "--slices", "0"]
    assert main([*arguments, "--acceleration", "1.5"]) == 0
    assert "R = 1.5 is far from the R = 3 of the training" in capsys.readouterr().err
    knee, _, _ = scans["knee"]
    found = reconstruct_file(run, knee, slices=(0, 1), progress=False)
    assert "the file says '3D FSE" in found.warnings[0] and "trained on 'AXT2'" in found.warnings[0]
    points = undersampled(
        "knee", knee, tmp_path / "k.h5", gleam.masks.poisson_disc((32, 32), 2.5, n_calibration=10, seed=0)
    )
    (warning,) = reconstruct_file(run, points, slices=(0, 1), progress=False).warnings[1:]
    assert warning.startswith("measured are single points, and the network was trained on whole columns")


def test_maps_are_those_that_the_run_says_and_else_take_in_the_phase(scans, tmp_path, capsys, monkeypatch):
    path, run, test = scans["knee"]
    assert test.describe()["sens_maps"]["function"] == "gleam.calibration.jsense"
    arguments = ["reconstruct", str(run), str(path), "--out", str(tmp_path / "o.h5"), "--force", "--slices", "0"]
    words = checkpoints.load_words
    made = {
        "JSENSE, as in the training": test.describe()["sens_maps"],
        "JSENSE, which leaves the image nearly without phase; the run does not say": None,
        "JSENSE, which leaves the image nearly without phase; those of the training were made": {
            "function": "mine.smooth_maps", "arguments": {}, "positional": []
        },
        "ESPIRiT, as in the training": {
            "function": "gleam.calibration.espirit", "positional": [],
            "arguments": {"kernel_width": 6, "calibration_width": 20, "crop": 0.1},
        },
    }  # fmt: skip
    images = []
    for sentence, told in made.items():

        def changed(file, told=told):
            fit, about = words(file)
            return fit, about | {"train": about["train"] | {"sens_maps": told}}

        monkeypatch.setattr(checkpoints, "load_words", changed)
        assert main(arguments) == 0
        assert f"sensitivity maps: {sentence}" in capsys.readouterr().out
        with h5py.File(tmp_path / "o.h5") as file:
            images.append(file["reconstruction"][:])
    assert (images[0] == images[1]).all() and (images[0] == images[2]).all() and not (images[0] == images[3]).all()
    path, run, test = scans["brain"]
    assert test.describe()["sens_maps"]["function"] == "gleam.calibration.espirit"
    monkeypatch.setattr(checkpoints, "load_words", words)
    known = reconstruct_file(run, path, progress=False)
    monkeypatch.setattr(checkpoints, "load_words", lambda file: changed(file, None))
    other = reconstruct_file(run, path, progress=False)
    assert known.maps == "ESPIRiT, as in the training" and other.maps.startswith("ESPIRiT with the phase of the image")
    assert not torch.equal(known.images, other.images)


@pytest.mark.parametrize("method", ["jsense", "espirit"])
def test_with_the_phase_in_the_maps_an_image_does_not_depend_on_the_phase_of_the_scan(method):
    """An image of any phase, constant or a ramp, comes out as its magnitude, as smooth as the centre shows it."""
    kspace = fft2c(coil_images((32, 32), sigma=0))
    ramp = np.exp(1j * (2 + 3 * np.linspace(-1, 1, 32)))
    settings = {"method": method, "kernel_width": 6, "calibration_width": 20}
    combined = lambda kspace, **more: np.sum(  # noqa: E731
        np.conj(maps_of_centre(kspace, **settings, **more)) * ifft2c(kspace), axis=0
    )
    inside = np.linalg.norm(ifft2c(kspace), axis=0) > 0.5
    plain, mended = (combined(fft2c(ifft2c(kspace) * ramp), phase=phase) for phase in (False, True))
    assert np.abs(np.angle(mended[inside])).max() < 0.5
    np.testing.assert_allclose(np.abs(mended), np.abs(plain), atol=1e-4 * np.abs(plain).max())
    if method == "espirit":
        assert np.abs(np.angle(plain[inside])).max() > 1


def test_what_the_reader_says_of_a_file_is_shown(scans, tmp_path, capsys):
    path, run, _ = scans["brain"]
    kspace = formats.read(path).kspace
    header = header_xml(
        encoded=(32, 48, 1), encoded_fov_mm=(220, 256, 5), recon=(32, 48, 1), recon_fov_mm=(220, 256, 5), n_slices=2,
        n_coils=4, field_strength=3, protocol="AXT2", settings="discs",
    )  # fmt: skip
    other = tmp_path / "other.h5"
    write_fastmri(other, kspace, np.ones((2, 32, 32)), header, acquisition="AXT2", patient_id="p")
    assert main(["reconstruct", str(run), str(other), "--out", str(tmp_path / "o.h5"), "--slices", "0"]) == 0
    assert "k-space has 32 x 32 samples" in capsys.readouterr().out


def test_bad_input_is_one_sentence_and_exit_2(scans, tmp_path, capsys):
    path, run, _ = scans["brain"]
    heart, heart_run, _ = scans["heart"]
    out, text = tmp_path / "o.h5", tmp_path / "text.h5"
    text.write_text("no HDF5")
    measured = undersampled("brain", path, tmp_path / "m.h5", np.arange(32) % 2 + (abs(np.arange(32) - 16) < 8) > 0)
    (tmp_path / "there.h5").touch()
    (tmp_path / "blocked").touch()
    old = write_mat(tmp_path / "x.mat", np.ones((2, 3, 4, 8, 8), np.complex64), userblock=b"MATLAB 5.0")
    cases = {
        "elsewhere does not exist; expected the folder of a run": [tmp_path / "elsewhere", path, out],
        "no such file": [run, tmp_path / "none.h5", out],
        "is not an HDF5 file": [run, text, out],
        "older than v7.3": [heart_run, old, out],
        "holds series over time, and the network": [run, heart, out],
        "holds single images, and the network": [heart_run, path, out],
        "exists already; choose another name or overwrite it with --force": [run, path, tmp_path / "there.h5"],
        "expected a name that ends in .nii, .nii.gz or .h5": [run, path, tmp_path / "o.dcm"],
        "cannot write": [run, path, tmp_path / "blocked" / "o.h5"],
        "is the raw file itself": [run, path, path],
        "has 2 slices, numbered from 0, and none of 5:6": [run, path, out, "--slices", "5"],
        "no other acceleration can be chosen": [run, measured, out, "--acceleration", "3"],
        "lower one of them": [run, path, out, "--acceleration", "30"],
        "must be 'cpu', 'cuda' or a GPU": [run, path, out, "--device", "tpu"],
    }
    for sentence, (a, b, c, *options) in cases.items():
        assert main(["reconstruct", str(a), str(b), "--out", str(c), *options]) == 2, sentence
        said = capsys.readouterr()
        assert sentence in said.err.rpartition("gleam: ")[2] and "Traceback" not in said.err, said.err
    assert not out.exists() and not out.with_suffix(".png").exists()
    assert main(["reconstruct", str(run), str(path), "--out", str(tmp_path / "there.h5"), "--force"]) == 0
    with pytest.raises(SystemExit) as stopped:
        main(["reconstruct", str(run), str(path), "--out", str(out), "--slices", "a"])
    assert stopped.value.code == 2 and "'a'; expected a slice such as 3" in capsys.readouterr().err


def test_the_command_is_installed_and_explains_itself(capsys):
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"gleam": f"{main.__module__}:{main.__name__}"}
    for arguments, word in ((["--help"], "reconstruct"), (["reconstruct", "--help"], "--slices")):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0 and word in capsys.readouterr().out


def test_runs_are_listed(scans, capsys, tmp_path):
    _, run, _ = scans["knee"]
    assert main(["runs", str(run.parent)]) == 0
    assert run.name in capsys.readouterr().out
    assert main(["runs", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
