"""Phantoms straight into memory are the phantoms of the raw files: samples, batches, order, subjects."""

import pickle
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import gleam
from gleam import calibration, phantoms
from gleam.datasets import Slices, cine, fastmri, load, mridata
from gleam.datasets.splits import BRAINS, KNEES, files_by_split
from gleam.phantoms import generate, phantom_scans, simulated
from gleam.physics.batch import Batch
from gleam.physics.fourier import fft2c, ifft2, ifft2c

COUNTS = {"n_train": 2, "n_val": 1, "n_test": 1}
KNEE = {**COUNTS, "n_slices": 5, "matrix": (48, 40), "n_coils": 3}
HEART = {**COUNTS, "n_train": 1, "n_slices": 2, "matrix": (48, 40), "n_frames": 4, "n_coils": 3}
BRAIN = {**COUNTS, "n_train": 1, "n_slices": 2, "matrix": (48, 48), "n_coils": (4, 6)}
MASKS = {"acceleration": 4, "n_calibration": 6, "n_masks": 5}


def smooth_maps(kspace, width=12):
    """A calibration that is fast: coil images of low resolution over their root sum of squares."""
    window = (np.hanning(n + 2)[1:-1] ** width for n in kspace.shape[-2:])
    maps = ifft2c(kspace * np.prod(np.meshgrid(*window, indexing="ij"), axis=0))
    return (maps / np.linalg.norm(maps, axis=0)).astype(np.complex64)


def no_maps(kspace):
    return np.zeros_like(kspace)


def through_files(folder, write, read, files, make_mask, subjects, mask_seed):
    write(folder, **subjects, n_jobs=1)
    return load._slices(files(folder), read, smooth_maps, make_mask, folder / "cache", 5, mask_seed, 1)


def assert_close(ours, theirs):
    for field in fields(Batch):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        assert a.shape == b.shape and a.dtype == b.dtype
        assert torch.linalg.norm(a - b) <= 1e-5 * torch.linalg.norm(b), field.name


def check_same_batches(ours, theirs):
    """Of (train, val, test) each: order, subjects, and every batch of training and evaluation, to rounding."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a.name, a.index, a.subjects, a.shapes) == (b.name, b.index, b.subjects, b.shapes)
        assert (a.is_phantom, a.acquisition, a.n_left_out) == (b.is_phantom, b.acquisition, b.n_left_out)
        assert a.aspect == pytest.approx(b.aspect, rel=1e-3)
        for (i, one), (j, other) in zip(a.batches(3), b.batches(3), strict=True):
            assert i == j
            assert_close(one, other)
    for step in range(8):
        assert_close(ours[0].training_batch(step, 3, seed=1), theirs[0].training_batch(step, 3, seed=1))


def test_knees_are_those_of_the_raw_files(tmp_path):
    subjects = {**KNEE, "n_slices": {"train": 9, "val": 4, "test": 6}, "seed": 3}
    ours = simulated.knees(**MASKS, mask_seed=2, calibrate=smooth_maps, n_jobs=1, **subjects)
    files = partial(files_by_split, folder="mridata", split_list=KNEES)
    check_same_batches(
        ours, through_files(tmp_path, phantoms.knee, mridata.read, files, ours[0].make_mask, subjects, 2)
    )
    assert [[shape[0] for shape in split.shapes] for split in ours] == [[5, 4], [4], [6]]


def test_hearts_are_those_of_the_raw_files(tmp_path):
    ours = simulated.hearts(acceleration=3, n_center=2, n_masks=5, calibrate=smooth_maps, n_jobs=1, **HEART)
    theirs = through_files(tmp_path, phantoms.heart, cine.read, cine.by_split, ours[0].make_mask, HEART, mask_seed=0)
    check_same_batches(ours, theirs)
    assert ours[0][0].target.shape == (1, 4, 48, 40)


def test_brains_are_those_of_the_raw_files(tmp_path):
    pytest.importorskip("nilearn")
    settings = {"acceleration": 4, "center_fraction": 0.1, "n_masks": 5}
    ours = simulated.brains(**settings, calibrate=smooth_maps, n_jobs=1, **BRAIN)
    files = partial(files_by_split, folder=fastmri.FOLDER, split_list=BRAINS)
    check_same_batches(
        ours, through_files(tmp_path, phantoms.brain, fastmri.read, files, ours[0].make_mask, BRAIN, mask_seed=0)
    )


def test_processes_draw_what_one_process_draws(monkeypatch):
    settings = {**KNEE, "n_val": 0, "n_test": 0}
    alone = simulated.knees(**MASKS, n_jobs=1, **settings)[0]
    monkeypatch.setattr(generate, "VOXELS_PER_PROCESS", 1)
    monkeypatch.setattr(phantom_scans, "VOXELS_PER_TASK", 2 * 48 * 40)
    shared = simulated.knees(**MASKS, n_jobs=2, **settings)[0]
    assert_close(shared.training_batch(0, 3, seed=0), alone.training_batch(0, 3, seed=0))
    assert shared.fingerprint == alone.fingerprint


@pytest.fixture(scope="module")
def knee():
    """One volume of knee slices with the phantom's own maps, and with those that JSENSE finds."""
    settings = {"n_train": 1, "n_val": 0, "n_test": 0, "n_slices": 8, "matrix": (96, 80), "n_coils": 8, "n_jobs": 1}
    jsense = partial(calibration.jsense, kernel_width=8, calibration_width=20)
    splits = (simulated.knees(**MASKS, calibrate=c, **settings)[0] for c in (None, jsense))
    return [split.storage.volumes[0] for split in splits]


def test_the_phantoms_own_maps_are_normalised_and_explain_the_coils(knee):
    own, _ = knee
    torch.testing.assert_close(own["sens_maps"].abs().square().sum(1), torch.ones(8, 96, 80), rtol=1e-5, atol=1e-5)
    coils = ifft2(own["kspace"])
    combined = own["target"].abs()
    left = (coils - own["sens_maps"] * own["target"][:, None]).abs().square().sum(1).sqrt()
    inside = combined > 0.5 * torch.quantile(combined.flatten(), 0.95)
    # What the maps leave is noise: of 8 coils 7 are free, of 0.02 to 0.04 of the 95th percentile per real channel.
    level = left[inside].square().mean().sqrt() / torch.quantile(combined.flatten(), 0.95)
    assert 0.02 * np.sqrt(14) * 0.95 < level < 0.04 * np.sqrt(14) * 1.05


def test_jsense_finds_the_phantoms_own_maps_where_there_is_signal(knee):
    """Inside the object both combine the coils to the same magnitude within 0.5 %: so the shortcut's targets are those
    of the raw route, and no estimate of maps is missed.
    """
    own, found = knee
    torch.testing.assert_close(own["kspace"], found["kspace"], rtol=0, atol=0)
    a, b = own["target"].abs(), found["target"].abs()
    inside = a > 0.3 * torch.quantile(a.flatten(), 0.95)
    assert inside.float().mean() > 0.2
    assert torch.linalg.norm((a - b)[inside]) < 0.005 * torch.linalg.norm(a[inside])
    alike = (own["sens_maps"].conj() * found["sens_maps"]).sum(1).abs()[inside]
    assert torch.quantile(alike, 0.05) > 0.99


def test_a_split_says_that_it_was_simulated_and_what_its_maps_are():
    settings = {**MASKS, **KNEE, "n_slices": 4, "n_val": 0, "n_test": 0, "n_train": 1, "n_jobs": 1}
    own, other = simulated.knees(**settings)[0], simulated.knees(calibrate=smooth_maps, **settings)[0]
    facts = own.describe()
    assert facts["is_phantom"] and facts["source"] == "simulated straight into memory, without raw files"
    assert facts["sens_maps"] == "the phantom's own coil sensitivities, normalised"
    assert facts["n_subjects"] == 1 and facts["n_slices"] == 4 and facts["coil_y_x"] == [(3, 48, 40)]
    assert "smooth_maps" in str(other.describe()["sens_maps"])
    again = simulated.knees(**{**settings, "seed": 1})[0]
    assert len({own.fingerprint, other.fingerprint, again.fingerprint}) == 3


def test_a_split_can_be_sent_to_another_process():
    train = simulated.knees(**MASKS, **{**KNEE, "n_slices": 4}, n_jobs=1)[0]
    packed = pickle.dumps(train)
    assert len(packed) < 20_000
    assert_close(pickle.loads(packed)[0], train[0])
    assert_close(replace(train, storage=None)[0], train[0])  # drawn when needed


def test_fingerprints_stay_those_of_earlier_versions():
    """Runs and records are found by them."""
    settings = {"n_train": 1, "n_val": 0, "n_test": 1, "n_jobs": 1}
    knees = simulated.knees(**MASKS, mask_seed=2, **{**KNEE, "n_slices": 4, **settings})
    assert [split.fingerprint for split in knees] == ["aa2f6315b3e122e7", "615622cb391f1998", "1a8c850a8761e807"]
    scans = phantom_scans.PhantomScans(generate.planned(phantoms.heart, **{**HEART}), None, torch.device("cpu"), 1)
    make_mask = partial(gleam.masks.kt_variable_density, acceleration=3, n_center=2)
    train = replace(scans, jobs=[job for job in scans.jobs if job["split"] == "train"])
    assert Slices("train", train, make_mask, n_masks=5).fingerprint == "fc56ef53e7a1c0f2"


PAPER = yaml.safe_load((Path(__file__).parents[2] / "notebooks" / "paper.yaml").read_text())["phantoms"]


@pytest.mark.parametrize(
    ("write", "size", "n_slices"),
    [
        (phantoms.knee, (8, 320, 256), (4480, 640, 960)),
        (phantoms.brain, (15, 384, 384), (858, 790, 800)),
        (phantoms.heart, (8, 20, 180, 208), (261, 33, 76)),
    ],
)
def test_the_papers_sizes_and_counts(write, size, n_slices):
    jobs = generate.planned(write, **PAPER[write.__name__])
    shapes = [
        phantom_scans.PhantomScans([job for job in jobs if job["split"] == split], None, torch.device("cpu"), 1).shapes
        for split in ("train", "val", "test")
    ]
    assert {shape[1:] for own in shapes for shape in own} == {size}
    assert tuple(sum(shape[0] for shape in own) for own in shapes) == n_slices


def test_brains_without_tissue_maps_fail_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    monkeypatch.setattr(simulated, "planned", None)
    with pytest.raises(ModuleNotFoundError, match="brain phantoms need nilearn's tissue maps"):
        simulated.brains(acceleration=4, **BRAIN)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_slices": 2}, ValueError, "n_slices=.* must be a whole number of at least 4"),
        ({"matrix": (48, 41)}, ValueError, "must be even"),
        ({"n_jobs": 0}, ValueError, "n_jobs=.* must be a whole number of at least 1"),
        ({"acceleration": 0.5}, ValueError, "acceleration=0.5 must be a number of at least 1"),
        ({"n_calibration": 0}, ValueError, "leaves no centre to calibrate on"),
        ({"n_masks": 0}, ValueError, "n_masks=.* must be a whole number of at least 1"),
        ({"mask_seed": -1}, ValueError, "seed of the masks=-1 must be a whole number of at least 0"),
        ({"device": "cuda:77"}, ValueError, "is not there|needs a GPU"),
        ({"n_frames": 3}, TypeError, "n_frames"),
        ({"calibrate": no_maps}, ValueError, r"slice 0: its sensitivity maps are empty"),
    ],
)
def test_a_bad_argument_gets_one_sentence(change, error, words):
    with pytest.raises(error, match=words):
        simulated.knees(**{**MASKS, **KNEE, "n_jobs": 1, **change})


def test_a_split_without_subjects_is_empty_and_cannot_be_trained_on(tmp_path):
    train, val, test = simulated.knees(**MASKS, n_jobs=1, **{**KNEE, "n_train": 1, "n_val": 0, "n_test": 0})
    assert len(val) == 0 and val.describe()["n_slices"] == 0 and list(test.batches(2)) == []
    settings = {"n_steps": 2, "batch_size": 1, "run_dir": tmp_path}
    for splits, name in (((train, val), "val"), ((val, train), "train")):
        with pytest.raises(ValueError, match=f"{name} has no slices"):
            gleam.fit(gleam.unrolled.pgd(n_iterations=1, n_features=4), *splits, gleam.EndToEnd(), **settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "make", [partial(simulated.knees, **MASKS, **KNEE), partial(simulated.hearts, acceleration=3, **HEART)]
)
def test_a_gpu_measures_what_a_cpu_measures(make):
    for ours, theirs in zip(make(device="cuda"), make(), strict=True):
        assert ours[0].target.is_cuda
        for key, values in ours.storage.volumes[0].items():
            torch.testing.assert_close(values.cpu(), theirs.storage.volumes[0][key], rtol=1e-4, atol=1e-4)


def test_kspace_is_in_fft_order():
    volume = simulated.knees(**MASKS, **{**KNEE, "n_train": 1}, n_jobs=1)[0].storage.volumes[0]
    combined = (volume["sens_maps"].conj() * ifft2(volume["kspace"])).sum(1)
    torch.testing.assert_close(combined, volume["target"], rtol=1e-4, atol=1e-4)
    energy = fft2c(volume["target"]).abs().square().sum(0)
    assert energy[20:28, 16:24].sum() > 0.8 * energy.sum()


@pytest.mark.parametrize("change", [{"acceleration": 3}, {"n_masks": 6}, {"mask_seed": 1}, {"n_calibration": 4}])
def test_other_masks_are_other_data(change):
    settings = {**MASKS, **KNEE, "n_slices": 4, "n_train": 1, "n_val": 0, "n_test": 0, "n_jobs": 1}
    one, other = (simulated.knees(**settings | c)[0].fingerprint for c in ({}, change))
    assert one != other
