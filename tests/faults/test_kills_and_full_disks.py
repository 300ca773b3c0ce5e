"""Kills, full disks, and two runs in one folder: what was done is kept, and results are those of an unharmed run."""

import json
import os
import resource
import signal
import subprocess
import time
from functools import partial

import h5py
import numpy as np
import pytest
import torch
from faults.isolated import isolated
from problems import small_disc, write_prepared
from raw_files import coil_images, relative_maps, write_fastmri

import gleam
from gleam import files, masks, records
from gleam.datasets import fastmri, hdf5
from gleam.datasets.prepare import prepare
from gleam.physics.fourier import fft2c
from gleam.training.identity import weights_digest

SETTINGS = {"n_steps": 60, "batch_size": 2, "validate_every": 5, "learning_rate": 3e-3}


def reproduce(folder, raw):
    """From raw files to a record, as a chapter does it; returns all that must not differ."""
    paths = prepare(raw, read=fastmri.read, calibrate=relative_maps, cache_dir=folder / "cache", n_jobs=1)
    make_mask = partial(small_disc, acceleration=3)
    data = [
        gleam.datasets.Slices(name, tuple(paths[i : i + 1]), make_mask, 8, i, cache_dir=folder / "cache")
        for i, name in enumerate(("train", "val", "test"))
    ]
    net = gleam.unrolled.pgd(3, 4, seed=1)
    fit = gleam.fit(net, *data[:2], gleam.Greedy(3), run_dir=folder / "runs", **SETTINGS)
    scores = gleam.evaluate(net, data[2])
    record = records.record("toy", "GLEAM", scores, data, network=net, fit=fit)
    saved = records.load(records.save(record, folder / "records"))
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in fit.history]
    return weights_digest(net), fit.best_step, fit.best_nrmse, history, saved.scores


@pytest.fixture
def raw(tmp_path):
    stacks = [np.stack([fft2c(coil_images((24, 20), seed=10 * i + s)) for s in range(3)]) for i in range(3)]
    return [write_fastmri(tmp_path / "raw" / f"file_{i}.h5", stacks[i], acquisition="AXT2") for i in range(3)]


@pytest.mark.faults
def test_a_run_that_is_killed_again_and_again_equals_one_that_is_not(raw, tmp_path, request):
    n_kills, n_killed, round_ = 2 if request.config.getoption("--sample") else 20, 0, 0
    started = time.monotonic()
    whole = isolated(reproduce, tmp_path / "whole", raw, seconds=200)
    assert whole.kind == "value", whole
    seconds, generator = time.monotonic() - started, np.random.default_rng(0)
    while n_killed < n_kills:
        folder, round_ = tmp_path / f"killed{round_}", round_ + 1
        for _ in range(8):  # of one run
            outcome = isolated(reproduce, folder, raw, seconds=seconds * generator.uniform(0.05, 0.6))
            n_killed += outcome.kind == "hang"
            if outcome.kind != "hang" or n_killed == n_kills:
                break
        again = isolated(reproduce, folder, raw, seconds=200)
        assert again == whole
    print(f"\n{n_killed} kills in {round_} runs, all equal to the unkilled one")


def limited(n_bytes):
    """Let no file grow beyond `n_bytes`, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def write_checkpoint(path):
    weights = {"a": torch.zeros(500_000)}
    gleam.training.checkpoints.save(path, gleam.Fit({"n_steps": 4}), weights, {}, {})


def write_bank(path):
    masks.bank(partial(masks.random_columns, (256, 256), 4), 32, seed=1, cache_dir=path.parent)


def write_image(path):
    with files.written_whole(path) as temporary:
        temporary.write_bytes(bytes(1_000_000))


def write_hdf5(path):
    """Far more than the disk has, in chunks and in lines of different length."""
    with hdf5.written(path) as file:
        slices = file.create_dataset("slices", (100, 8, 24, 20), np.complex64, chunks=(1, 8, 24, 20), fletcher32=True)
        lines = file.create_dataset("lines", (100,), h5py.vlen_dtype(np.float32), chunks=(10,))
        for i in range(100):
            slices[i], lines[i] = i, np.ones(500, np.float32)


WRITERS = {
    "HDF5": write_hdf5,
    "checkpoint": write_checkpoint,
    "bank": write_bank,
    "JSON": lambda path: files.write_json(path, list(range(300_000))),
    "bytes": write_image,
}


def folders(tmp_path):
    """A folder under a limit of size and, where one may be mounted, a file system of 100 kB."""
    yield tmp_path, partial(limited, 100_000)
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        try:
            yield disk, None
        finally:
            subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.faults
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_said_in_one_sentence_and_what_was_there_stays(kind, tmp_path):
    for folder, limit in folders(tmp_path):
        path = folder / "kept"
        path.write_text("as before")
        outcome = isolated(WRITERS[kind], path, named="cannot write", limit=limit)
        assert outcome.kind == "error" and "; make room there and call again" in outcome.words, outcome
        assert [one.name for one in folder.iterdir() if one.is_file()] == ["kept"]
        assert path.read_text() == "as before"


@pytest.mark.faults
def test_a_phantom_that_does_not_fit_is_refused_before_it_is_written(tmp_path):
    for folder, limit in folders(tmp_path):
        if limit is None:
            write = partial(
                gleam.phantoms.brain, folder, n_train=1, n_val=1, n_test=1, n_slices=4, matrix=(64, 64), n_coils=8,
                seed=0, n_jobs=1,
            )  # fmt: skip
            outcome = isolated(write, named="cannot write", seconds=120)
            assert outcome.kind == "error" and "MB are free; make room there" in outcome.words, outcome


def train(folder):
    data = gleam.datasets.Slices("x", (folder / "a.h5",), partial(small_disc, acceleration=3), 4)
    net = gleam.unrolled.pgd(3, 4, seed=1)
    fit = gleam.fit(net, data, data, gleam.Greedy(3), run_dir=folder / "runs", **SETTINGS)
    return weights_digest(net), json.dumps(vars(fit), default=str)


@pytest.mark.faults
def test_two_runs_in_one_folder_are_one(tmp_path):
    """The second process waits for the first and finds its run: seconds are those of one training."""
    write_prepared(tmp_path / "a.h5")
    reading, writing = os.pipe()
    other = os.fork()
    if other == 0:
        os.write(writing, repr(train(tmp_path)).encode())
        os._exit(0)
    found = isolated(train, tmp_path, seconds=200)
    os.waitpid(other, 0)
    assert found.kind == "value" and repr(found.value) == os.read(reading, 10**6).decode()
