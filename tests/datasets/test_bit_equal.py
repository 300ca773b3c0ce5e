"""Files that the loaders read correctly give the same batches as ever, bit for bit: digests in `digests.json`.

What is compared is the same on every machine: k-space as decoded, masks, maps, and what the header became. The phantoms
hold whole numbers from -50 to 50. Where a reader uses Fourier transforms (of an oversampled readout, say), its result
is rounded to whole numbers first. Of real files, those of `GLEAM_REAL_DATA` that are read without a transform.

A digest that changes means that trained networks saw other data. If that is intended (a reader was wrong), raise
`PREPARATION_VERSION` in gleam/datasets/prepare.py, say so in CHANGELOG.md, and write the digests anew by

    PYTHONPATH=tests GLEAM_REAL_DATA=DIR .venv/bin/python tests/datasets/test_bit_equal.py

A new entry needs no such thing. Without the real files their digests stay as they are.
"""

import hashlib
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from raw_files import header, line, raster, write_fastmri, write_ismrmrd, write_mat

from gleam import masks
from gleam.datasets import Slices, fastmri, formats, prepare
from gleam.phantoms import magnitudes
from gleam.physics.fourier import fftc, ifftc

STORED = Path(__file__).with_name("digests.json")
REAL = Path(os.environ.get("GLEAM_REAL_DATA", Path(__file__).parents[2] / "data"))


def numbers(*shape, seed=0):
    """Complex64 whole numbers, none of them 0."""
    parts = np.random.default_rng(seed).integers(1, 50, (2, *shape)) * np.array([1, -1])[seed % 2]
    return (parts[0] - 1j * parts[1]).astype(np.complex64)


def oversampled(kspace, axis):
    """K-space of twice the field of view along `axis`, empty outside."""
    n = kspace.shape[axis]
    width = [(0, 0)] * kspace.ndim
    width[axis] = (n - n // 2, n // 2) if n % 2 else (n // 2, n // 2)
    return fftc(np.pad(ifftc(kspace, (axis,)), width), (axis,)).astype(np.complex64)


def stack(path):
    """2D slices, lines in random order, a noise scan among them."""
    kspace = numbers(3, 2, 8, 12)  # (slice, coil, y, x)
    lines = [line(kspace[s, :, y], step_1=y, slice=s) for s in range(3) for y in range(8)]
    np.random.default_rng(0).shuffle(lines)
    noise = line(numbers(2, 12, seed=1), flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    return write_ismrmrd(path, header((12, 8, 1), protocol="T2", tesla=3), [noise, *lines])


def knee(path):
    """3D; the readout becomes the slices."""
    kspace = fftc(numbers(3, 10, 6, 4), (1,)).astype(np.complex64)
    return write_ismrmrd(path, header((10, 6, 4)), raster(kspace))


def decoded_knee(path):
    """3D whose second phase encoding is decoded, as in mridata.org's files; two averages."""
    kspace = fftc(ifftc(numbers(2, 10, 6, 4), (3,)), (1,)).astype(np.complex64)
    steps = [(i, j) for j in range(4) for i in range(6)]
    lines = [line(kspace[:, :, i, j], step_1=i, slice=j, average=a) for a in (0, 1) for i, j in steps]
    return write_ismrmrd(path, header((10, 6, 4)), lines)


def ocmr(path):
    """A series: oversampled readout, counters from 3 on."""
    kspace = oversampled(numbers(2, 3, 4, 6, 10), 4)  # (slice, coil, time, y, x)
    lines = [
        line(kspace[s, :, t, y], step_1=y + 3, slice=s, phase=t) for s in range(2) for y in range(6) for t in range(4)
    ]
    return write_ismrmrd(path, header((20, 12, 1), (10, 12, 1), centers=(6, None), protocol="cine_sax"), lines)


def brain(path, kspace=None):
    kspace = numbers(2, 4, 24, 20) if kspace is None else kspace
    return write_fastmri(path, kspace, header((24, 20, 1), tesla=3), acquisition="AXT2", patient_id="p")


def oversampled_brain(path):
    kspace = oversampled(numbers(2, 4, 12, 20), 2)
    return write_fastmri(path, kspace, header((24, 20, 1), (12, 20, 1)), acquisition="AXT2")


def padded_brain(path):
    kspace = numbers(2, 4, 24, 20)
    kspace[..., :3] = kspace[..., -1:] = 0
    return brain(path, kspace)


def exchanged_brain(path):
    return brain(path, numbers(2, 4, 24, 20).swapaxes(2, 3))


def undersampled_brain(path):
    kspace = numbers(2, 4, 24, 20)
    kspace[..., 1::3] = 0
    return brain(path, kspace)


def cmrxrecon(path):
    return write_mat(path.with_suffix(".mat"), numbers(2, 3, 4, 6, 8))


def cmrxrecon_2025(path):
    return write_mat(path.with_suffix(".mat"), numbers(3, 4, 6, 8), "kspace")


WITHOUT_TRANSFORM = brain, padded_brain, exchanged_brain, undersampled_brain, cmrxrecon, cmrxrecon_2025
WITH_TRANSFORM = stack, knee, decoded_knee, ocmr, oversampled_brain


def sha256(*arrays):
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return total.hexdigest()


def whole(values):
    """The whole numbers that `values` are to rounding."""
    rounded = np.rint(np.stack([values.real, values.imag]))
    assert np.abs(rounded - np.stack([values.real, values.imag])).max() < 0.01
    return rounded.astype(np.int32)


def digest_of_volume(volume, is_rounded):
    said = [
        volume.acquisition,
        volume.field_strength,
        volume.measured,
        volume.readout,
        volume.is_full,
        len(volume.notes),
    ]
    said += [round(float(mm), 4) for mm in (volume.aspect, *volume.spacing)]
    return sha256(whole(volume.kspace) if is_rounded else volume.kspace) + " " + json.dumps(said)


def digest_of_phantom(write, folder):
    path = write(folder / f"{write.__name__}.h5")
    return digest_of_volume(formats.read_measured(path), write in WITH_TRANSFORM)


def halves(kspace):
    """Maps of four coils: powers of i over 2."""
    return (0.5 * np.array([1, 1j, -1, -1j])[:, None, None] * np.ones(kspace.shape[1:])).astype(np.complex64)


def digest_of_batches(folder):
    """From raw files to the batches of two epochs: order, masks, maps, and k-space with the scale multiplied back."""
    paths = [
        brain(folder / "a.h5"),
        padded_brain(folder / "b.h5"),
        brain(folder / "c.h5", numbers(3, 4, 24, 20, seed=3)),
    ]
    prepared = prepare.prepare(
        paths, read=fastmri.read, calibrate=halves, cache_dir=folder / "cache", n_jobs=1, progress=False
    )
    make_mask = partial(masks.random_columns, acceleration=2, center_fraction=0.3)
    slices = Slices("train", tuple(prepared), make_mask, n_masks=4, seed=5, cache_dir=folder / "cache")
    found = []
    for batch in [slices.training_batch(step, 2, seed=7) for step in range(8)] + [slices[0]]:
        found += [whole((batch.kspace * batch.scale[:, None, None, None]).numpy()), batch.mask.numpy(), batch.sens_maps]
    return sha256(*found)


def digests(folder):
    """All digests by name; those of real files where there are any."""
    found = {write.__name__: digest_of_phantom(write, folder) for write in (*WITHOUT_TRANSFORM, *WITH_TRANSFORM)}
    found["batches"] = digest_of_batches(folder)
    return found | digests_of_real_files()


def digests_of_real_files():
    brains = sorted((REAL / fastmri.FOLDER).glob("*.h5"))
    images = sorted((REAL / "knees").glob("*.npy"))
    found = {f"real {path.name}": digest_of_volume(formats.read(path), False) for path in brains if is_exact(path)}
    return found | {f"real {path.name}": sha256(magnitudes._read(path)) for path in images}


def is_exact(path):
    """Whether a file in fastMRI's layout is small, and read without a transform: its matrix is the one shown."""
    with h5py.File(path) as file:
        shape = file["kspace"].shape
    return path.stat().st_size < 20e6 and formats.read(path).kspace.shape == shape


def stored():
    return json.loads(STORED.read_text())


@pytest.mark.parametrize("write", [*WITHOUT_TRANSFORM, *WITH_TRANSFORM], ids=lambda write: write.__name__)
def test_every_format_is_read_as_ever(write, tmp_path):
    assert digest_of_phantom(write, tmp_path) == stored()[write.__name__]


def test_batches_of_raw_files_are_the_same_as_ever(tmp_path):
    assert digest_of_batches(tmp_path) == stored()["batches"]


def test_real_files_are_read_as_ever():
    found = {name: value for name, value in digests_of_real_files().items() if name in stored()}
    if not found:
        pytest.skip("no real file whose digest is known; set GLEAM_REAL_DATA to a folder that has some")
    assert found == {name: stored()[name] for name in found}


def test_the_whole_numbers_of_a_phantom_come_back(tmp_path):
    """What the digests of transformed files stand for: the reader's result is the k-space that was written."""
    np.testing.assert_allclose(
        formats.read(oversampled_brain(tmp_path / "a.h5")).kspace, numbers(2, 4, 12, 20), atol=1e-3
    )
    np.testing.assert_array_equal(formats.read(brain(tmp_path / "b.h5")).kspace, numbers(2, 4, 24, 20))


if __name__ == "__main__":
    before = stored() if STORED.exists() else {}
    with tempfile.TemporaryDirectory() as made:
        after = before | digests(Path(made))
    STORED.write_text(json.dumps(after, indent=1, sort_keys=True) + "\n")
    sys.exit("\n".join(f"changed: {name}" for name in before if before[name] != after[name]) or None)
