import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_files import coil_images, header, relative_maps, write_fastmri

from gleam import baselines
from gleam.calibration import espirit, jsense
from gleam.datasets import Slices, fastmri
from gleam.datasets import prepare as module
from gleam.datasets.prepare import prepare
from gleam.fourier import fft2c, ifft2, ifft2c
from gleam.masks import random_columns
from gleam.metrics import nrmse

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
            kspace, sens_maps, target = (file[name][:] for name in module.DATASETS)
            chunks = [file[name].chunks for name in module.DATASETS]
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
    monkeypatch.setattr(module, "_sha256", forbidden)
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
    names.add(run(one, calibrate=partial(espirit, kernel_width=4))[0].name)
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
    assert not list(cache.glob(".*"))


def test_calibration_that_fails_names_file_and_slice(run):
    with pytest.raises(ValueError, match=r"a\.h5, slice 0: .*leaves empty maps"):
        run(calibrate=partial(espirit, kernel_width=8, calibration_width=9, crop=1.5))


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
