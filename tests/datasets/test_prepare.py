import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from faults.isolated import isolated
from problems import small_disc, write_prepared
from raw_files import coil_images, header, relative_maps, write_fastmri

from gleam import baselines, phantoms
from gleam.datasets import Slices, fastmri, load
from gleam.datasets import prepare as module
from gleam.datasets.prepare import prepare
from gleam.datasets.volume import Volume
from gleam.files import described
from gleam.metrics import nrmse
from gleam.physics.calibration import EmptyMapsError, espirit, jsense
from gleam.physics.fourier import fft2c, ifft2, ifft2c, ifftshift2
from gleam.physics.masks import poisson_disc, random_columns

CALIBRATE = partial(jsense, kernel_width=4, calibration_width=12, n_iterations=3, n_inner_iterations=3)
REAL = Path(os.environ.get("GLEAM_REAL_DATA", Path(__file__).parents[2] / "data"))


@pytest.fixture
def raw(tmp_path):
    """Three raw files of different sizes, two of them with two slices."""
    files = []
    for i, (n_slices, shape) in enumerate([(2, (24, 20)), (2, (24, 20)), (1, (16, 18))]):
        kspace = np.stack([fft2c(coil_images(shape, 3, seed=10 * i + s)) for s in range(n_slices)])
        xml = header((*shape, 1), vendor="GLEAM phantom" if i else "", tesla=3)
        path = tmp_path / "raw" / f"{'abc'[i]}.h5"
        files.append(write_fastmri(path, kspace, xml, acquisition="AXT2", patient_id=f"p{i}"))
    return files


@pytest.fixture
def run(tmp_path, raw):
    """prepare with this test's files and cache, each overridable."""
    defaults = {"read": fastmri.read, "calibrate": CALIBRATE, "cache_dir": tmp_path / "cache", "n_jobs": 1}
    return lambda paths=raw, **more: prepare(paths, **{"progress": False, **defaults, **more})


def times(paths):
    return [path.stat().st_mtime_ns for path in paths]


def test_identities_of_prepared_slices(run, raw):
    for path, prepared in zip(raw, run(), strict=True):
        volume = fastmri.read(path)
        with h5py.File(prepared) as file:
            kspace, sens_maps, target = (file[name][:] for name in module.ARRAYS)
            chunks = [file[name].chunks for name in module.ARRAYS]
        assert all(array.dtype == np.complex64 for array in (kspace, sens_maps, target))
        assert kspace.shape == sens_maps.shape == volume.kspace.shape
        assert chunks == [(1, *kspace.shape[1:]), (1, *kspace.shape[1:]), (1, *kspace.shape[2:])]
        images = ifft2(kspace)
        np.testing.assert_allclose(images, ifft2c(volume.kspace), atol=1e-5)
        np.testing.assert_allclose(np.sum(sens_maps.conj() * images, axis=1), target, atol=1e-5)
        power = np.sum(np.abs(sens_maps) ** 2, axis=1)
        assert np.all((np.abs(power - 1) < 1e-4) | (power == 0))


def test_attributes(run, raw):
    prepared = run(settings={"data": "brain"})
    assert [path.name[:2] for path in prepared] == ["a-", "b-", "c-"]
    assert all(len(path.stem) == 14 for path in prepared)
    with h5py.File(prepared[1]) as file:
        attributes = dict(file.attrs)
    assert (attributes["subject"], attributes["acquisition"], attributes["field_strength"]) == ("p1", "AXT2", 3.0)
    assert attributes["is_phantom"]
    assert attributes["source_file"] == "b.h5"
    assert len(attributes["source_sha256"]) == 64
    for word in ("gleam.calibration.jsense", "calibration_width", "gleam.datasets.fastmri.read", "brain"):
        assert word in attributes["settings"]
    with h5py.File(run()[0]) as file:
        assert not file.attrs["is_phantom"]


def test_second_call_computes_nothing(run, monkeypatch):
    first = run()
    before = times(first)

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "_prepare_one", forbidden)
    monkeypatch.setattr(module.hashlib, "file_digest", forbidden)
    assert run() == first
    assert times(first) == before


def test_only_what_is_missing_is_computed(run):
    first = run()
    before = times(first)
    first[1].unlink()
    assert run() == first
    after = times(first)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] > before[1]


def test_every_setting_changes_the_file(run, raw, monkeypatch):
    one = raw[:1]
    names = {run(one)[0].name for _ in range(2)}
    assert len(names) == 1
    names.add(run(one, calibrate=partial(CALIBRATE, kernel_width=5))[0].name)
    names.add(run(one, calibrate=partial(espirit, kernel_width=4, calibration_width=12))[0].name)
    names.add(run(one, settings={"x": 1})[0].name)
    monkeypatch.setattr(module, "PREPARATION_VERSION", -1)
    names.add(run(one)[0].name)
    assert len(names) == 5


def test_a_changed_raw_file_is_prepared_anew(run, raw):
    before = run(raw[:1])
    with h5py.File(raw[0], "a") as file:
        file["kspace"][0] *= 2
    after = run(raw[:1])
    assert before != after
    with h5py.File(before[0]) as old, h5py.File(after[0]) as new:
        np.testing.assert_allclose(new["target"][0], 2 * old["target"][0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(new["target"][1], old["target"][1])


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_the_last_slice(path):
    with h5py.File(path) as file:
        chunk = file["sens_maps"].id.get_chunk_info(1)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset + 50)
        file.write(b"\xff" * 8)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip_the_last_slice, empty])
def test_damaged_cache_is_redone(run, raw, damage):
    first = run()
    whole = first[0].read_bytes()
    assert module.is_whole(first[0])
    damage(first[0])
    assert not module.is_whole(first[0])
    assert run() == first
    assert first[0].read_bytes() == whole


def test_processes_give_the_same_files(run, tmp_path):
    alone = run(calibrate=relative_maps)
    together = run(calibrate=relative_maps, n_jobs=2, cache_dir=tmp_path / "other")
    assert [path.name for path in together] == [path.name for path in alone]
    for a, b in zip(alone, together, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_bad_file_loses_none_that_was_finished(run, raw, tmp_path):
    with h5py.File(raw[2], "a") as file:
        file["kspace"][0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"c\.h5: the k-space of slice 0 holds NaN"):
        run()
    cache = tmp_path / "cache"
    assert sorted(path.name[0] for path in cache.glob("*.h5")) == ["a", "b"]
    assert not list(cache.glob(".*.part"))


def test_calibration_that_fails_names_file_and_slice(run, raw):
    with pytest.raises(ValueError, match=r"a\.h5, slice 0: kernel_width 30 and .*and 2 more files cannot be prepared"):
        run(calibrate=partial(espirit, kernel_width=30))
    with pytest.raises(ValueError, match=r"a\.h5, slice 0: calibrate gave maps \(24, 20\); expected \(3, 24, 20\)"):
        run(raw[:1], calibrate=one_coil)


def one_coil(kspace):
    return kspace[0]


def test_a_file_without_any_maps_is_named_and_does_not_stop_the_others(run, raw, tmp_path):
    with h5py.File(raw[0], "a") as file:
        file["kspace"][:] = 0
    with pytest.raises(ValueError, match=r"a\.h5: none of its 2 slices can be prepared, slice 1: .* maps are empty$"):
        run()
    assert sorted(path.name[0] for path in (tmp_path / "cache").glob("*.h5")) == ["b", "c"]
    espirit_leaves_none = partial(espirit, kernel_width=8, calibration_width=9, crop=1.5)
    with pytest.raises(ValueError, match=r"b\.h5: none of its 2 .*leaves empty maps; lower crop"):
        run(raw[1:2], calibrate=espirit_leaves_none)


def maps_where_there_is_signal(kspace):
    """Raises, like ESPIRiT, for a weak slice; gives empty maps, like every calibration, for a slice of zeros."""
    if 0 < np.linalg.norm(kspace) < 1e-3:
        raise EmptyMapsError("empty maps")
    return relative_maps(kspace) if kspace.any() else np.zeros_like(kspace)


@pytest.mark.parametrize("weak", [0, 1e-9])
def test_a_slice_with_empty_maps_is_left_out_and_the_others_are_kept(run, raw, tmp_path, capsys, weak):
    whole = run(raw[:2], calibrate=maps_where_there_is_signal)
    with h5py.File(raw[0], "a") as file:
        file["kspace"][0] *= weak
    prepared = run(raw[:2], calibrate=maps_where_there_is_signal, progress=True)
    assert "a.h5: no sensitivity map is left of slice 0: left out" in capsys.readouterr().out
    assert all(map(module.is_whole, prepared)) and prepared[1] == whole[1]
    with h5py.File(prepared[0]) as file, h5py.File(whole[0]) as before:
        assert list(file.attrs["left_out"]) == [0] and "left_out" not in before.attrs
        for name in module.ARRAYS:
            np.testing.assert_array_equal(file[name][:], before[name][1:])
    slices = Slices("test", tuple(prepared), random_columns)
    assert (len(slices), slices.describe()["n_left_out"]) == (3, 1)


N_FRAMES = 5


def read_series(path):
    """fastMRI's file as a series that brightens."""
    volume = fastmri.read(path)
    brightness = 1 + np.arange(N_FRAMES, dtype=np.float32)[:, None, None]
    return Volume(volume.kspace[:, :, None] * brightness, path.stem, False, "cine", None)


def test_series_get_the_maps_of_their_temporal_mean(run, raw):
    for path, prepared in zip(raw, run(read=read_series), strict=True):
        kspace = read_series(path).kspace
        assert module.is_whole(prepared)
        with h5py.File(prepared) as file:
            fft_order, maps, target = (file[name][:] for name in module.ARRAYS)
            chunks = [file[name].chunks for name in module.ARRAYS]
        n, n_coils, n_frames, *size = kspace.shape
        assert fft_order.shape == kspace.shape and target.shape == (n, n_frames, *size)
        assert maps.shape == (n, n_coils, 1, *size)
        assert chunks == [(1, *array.shape[1:]) for array in (fft_order, maps, target)]
        np.testing.assert_allclose(ifft2(fft_order), ifft2c(kspace), atol=1e-5)
        np.testing.assert_allclose(np.sum(maps.conj() * ifft2(fft_order), axis=1), target, atol=1e-4)
        for one, of_mean in zip(maps[:, :, 0], kspace.mean(axis=2), strict=True):
            np.testing.assert_allclose(one, CALIBRATE(of_mean), atol=1e-5)


def lines_over_time(shape, *, seed, acceleration):
    n_frames, n_y, n_x = shape
    generator = np.random.default_rng(seed)
    lines = np.stack([generator.permutation(n_y) < n_y / acceleration for _ in range(n_frames)])
    lines[:, n_y // 2] = True
    return np.repeat(lines[..., None], n_x, axis=2)


def test_batches_of_series_obey_the_physics_and_never_mix_shapes(run, tmp_path):
    make_mask = partial(lines_over_time, acceleration=3)
    series = Slices("train", tuple(run(read=read_series)), make_mask, n_masks=4, seed=1, cache_dir=tmp_path)
    assert series.describe()["coil_time_y_x"] == [(3, N_FRAMES, 16, 18), (3, N_FRAMES, 24, 20)]
    assert "coil_y_x" not in series.describe() and len(series) == 5
    seen = []
    for step in range(series._n_batches(2)):
        batch = series.training_batch(step, 2, seed=0)
        n, n_frames, n_y, n_x = batch.target.shape
        assert batch.mask.shape == (n, 1, N_FRAMES, n_y, 1)  # whole lines along x
        assert batch.kspace.shape == (n, 3, n_frames, n_y, n_x) and batch.sens_maps.shape == (n, 3, 1, n_y, n_x)
        assert batch.zero_filled.shape == batch.target.shape
        # FFT order: the centre line comes first
        assert batch.mask[..., 0, :].all()
        assert (batch.mask != batch.mask[:, :, :1]).any()
        torch.testing.assert_close(batch.sense.adjoint(batch.kspace), batch.zero_filled, rtol=1e-4, atol=1e-5)
        seen.append((n_y, n_x, n))
    assert sorted(seen) == [(16, 18, 1), (24, 20, 2), (24, 20, 2)]
    assert sorted(i for indices, _ in series.batches(2) for i in indices) == list(range(5))


def test_keys_and_masks_of_slices_are_those_of_earlier_versions(tmp_path):
    """Prepared files and training runs of 2D data stay valid."""
    recipe = {"version": module.PREPARATION_VERSION, "settings": {}}
    recipe |= {"read": described(fastmri.read), "calibrate": described(partial(espirit, calibration_width=12))}
    assert module._cached(Path("a.h5"), "0" * 64, recipe, tmp_path).name == "a-92067f048d71.h5"
    path = write_prepared(tmp_path / "a.h5", n_slices=5)
    slices = Slices("train", (path,), partial(small_disc, acceleration=3), n_masks=4, seed=5)
    assert slices._epoch(0, 2, 3) == [[4, 2], [1, 3], [0]]
    drawn = slices.training_batch(0, 2, seed=3).mask[:, 0].numpy().astype(bool)
    bank = np.stack([small_disc((24, 20), acceleration=3, seed=s) for s in np.random.SeedSequence(5).spawn(4)])
    np.testing.assert_array_equal(drawn, ifftshift2(bank[[3, 1]]))


def test_bad_arguments_are_named(run, raw, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5: no such file"):
        run([raw[0], tmp_path / "nowhere.h5"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file"):
        run(cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(ValueError, match="cannot be named in a cache"):
        run(calibrate=lambda kspace: kspace)


@pytest.mark.parametrize("calibrate", [jsense, espirit])
def test_real_brains(tmp_path, calibrate):
    if not (REAL / fastmri.FOLDER).is_dir():
        pytest.skip(f"no {fastmri.FOLDER} in the folder of real data; set GLEAM_REAL_DATA to one that has it")
    paths = [path for path in fastmri.find(REAL) if path.stat().st_size < 20e6][:2]
    if not paths:
        pytest.skip("the folder of real data holds no fastMRI file of less than 20 MB")
    files = prepare(paths, read=fastmri.read, calibrate=calibrate, cache_dir=tmp_path, n_jobs=1)
    for prepared in files:
        with h5py.File(prepared) as file:
            images, maps, target = ifft2(file["kspace"][:]), file["sens_maps"][:], file["target"][:]
            assert not file.attrs["is_phantom"]
        assert np.linalg.norm(images - maps * target[:, None]) < 0.2 * np.linalg.norm(images)
    make_mask = partial(random_columns, acceleration=4, center_fraction=0.08)
    brains = Slices("test", tuple(files), make_mask)
    for i in range(len(brains)):
        batch = brains[i]
        cs = baselines.wavelet(0.01, n_iterations=30)(batch)
        assert nrmse(cs, batch.target) < 0.8 * nrmse(batch.zero_filled, batch.target)


def test_hashes_of_another_form_are_ignored_and_made_again(run, tmp_path):
    prepared, stored = run(), tmp_path / "cache" / "hashes.json"
    (name, (stamp, sha)), *_ = json.loads(stored.read_text()).items()
    others = [
        [],
        "text",
        None,
        {name: 5},
        {name: [stamp]},
        {name: [stamp, 7]},
        {name: [stamp, "short"]},
        {name: [stamp, None]},
    ]
    for text in [*map(json.dumps, others), "{", "[" * 100_000]:
        stored.write_text(text)
        assert run() == prepared
        assert json.loads(stored.read_text())[name] == [stamp, sha]


@pytest.fixture
def read_only(tmp_path):
    """Function that calls another where the folder `shared` cannot be written, as a user who is not root."""
    home = Path(tempfile.mkdtemp())  # pytest's own folder is hidden from other users
    home.chmod(0o755)

    def called(function):
        for path in home.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        found = isolated(function, named="cannot write", seconds=120, limit=lambda: os.geteuid() or os.setuid(65534))
        for path in (path for path in home.rglob("*") if path.is_dir()):
            path.chmod(0o755)
        return found

    yield home, called
    shutil.rmtree(home)


def test_a_complete_cache_that_is_read_only_is_used(read_only):
    home, called = read_only
    sizes = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 4, "matrix": (32, 32), "n_coils": 3, "n_jobs": 1}
    make_mask = partial(poisson_disc, acceleration=2, n_calibration=4)
    options = {"masks": make_mask, "calibrate": relative_maps, "cache_dir": home / "cache", "n_masks": 2}

    def fingerprint():
        splits = phantoms.knee(home, **sizes)
        train, *others = load.files(splits, data_dir=home / "mridata", **options)
        assert train.training_batch(0, 1, seed=0).kspace.abs().sum() > 0 and all(len(split) for split in others)
        return train.fingerprint

    whole = fingerprint()
    files = sorted(home.rglob("*"))
    assert called(fingerprint).value == whole
    (home / "cache" / "hashes.json").unlink()  # as in a copy, where places and times are others
    assert called(fingerprint).value == whole
    assert sorted(home.rglob("*")) == [path for path in files if path.name != "hashes.json"]
    next((home / "cache").glob("*-*.h5")).unlink()
    assert called(fingerprint).kind == "error", "what is not there has to be written"
