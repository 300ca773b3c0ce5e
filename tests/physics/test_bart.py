"""Maps and compressed sensing beside BART's, a program that shares no code with ours, where it is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from raw_files import coil_images

from gleam import baselines, masks, metrics
from gleam.datasets import fastmri
from gleam.physics.batch import Batch
from gleam.physics.calibration import espirit
from gleam.physics.fourier import fft2c, fftshift2, ifft2, ifft2c

pytestmark = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
REAL = Path(os.environ.get("GLEAM_REAL_DATA", Path(__file__).parents[2] / "data"))


def write_cfl(path, array):
    """(coil, y, x) as BART's pair of files of dimensions (1, y, x, coil): text header, values first axis fastest."""
    values = np.moveaxis(array, 0, -1)[None].astype(np.complex64)
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, values.shape)) + "\n")
    path.with_suffix(".cfl").write_bytes(values.tobytes(order="F"))
    return str(path)


def read_cfl(path):
    """Back to (coil, y, x), or (y, x) where there is one coil."""
    sizes = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    values = np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(sizes[:4], order="F")
    return np.moveaxis(values[0], -1, 0).squeeze()


def bart(folder, *command, **arrays):
    """Write ``arrays``, run a command on them and return what it makes."""
    files = [write_cfl(folder / name, array) for name, array in arrays.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(["bart", *command, *files, str(folder / "out")], check=True, capture_output=True, env=environment)
    return read_cfl(folder / "out")


def phantom():
    return fft2c(coil_images((96, 80), n_coils=6))


def brain():
    folder = REAL / fastmri.FOLDER
    paths = [path for path in fastmri.find(REAL) if path.stat().st_size < 20e6] if folder.is_dir() else []
    if not paths:
        pytest.skip(f"no small file in {fastmri.FOLDER} of the folder of real data; set GLEAM_REAL_DATA")
    kspace = fastmri.read(paths[0]).kspace[0]
    return (kspace / np.abs(ifft2c(kspace)).max()).astype(np.complex64)


@pytest.fixture(params=[phantom, brain], ids=["phantom", "brain"], scope="module")
def kspace(request):
    return request.param()


def projection_error(maps, images):
    """||m - S S^H m|| / ||m||: what the maps cannot explain of the coil images."""
    return np.linalg.norm(images - maps * np.sum(maps.conj() * images, axis=0)) / np.linalg.norm(images)


def test_fourier_transform_is_barts(tmp_path, kspace):
    images = bart(tmp_path, "fft", "-i", "-u", "6", kspace=kspace)  # 6: over y and x; -u: orthonormal
    np.testing.assert_allclose(images, ifft2c(kspace), atol=1e-5 * np.abs(images).max())


def test_espirit_is_barts_ecalib(tmp_path, kspace):
    settings = {"kernel_width": 6, "calibration_width": 24, "crop": 0.8}
    ours = espirit(kspace, **settings)
    theirs = bart(tmp_path, "ecalib", "-k", "6", "-r", "24", "-c", "0.8", "-t", "0.02", "-m", "1", kspace=kspace)
    images = ifft2c(kspace)
    strength = np.linalg.norm(images, axis=0)
    body = strength > 0.1 * strength.max()
    for maps in (ours, theirs):
        assert (np.linalg.norm(maps, axis=0)[body] > 0).mean() > 0.97
    body &= (np.linalg.norm(ours, axis=0) > 0) & (np.linalg.norm(theirs, axis=0) > 0)
    images, ours, theirs = (x * body for x in (images, ours, theirs / np.linalg.norm(theirs, axis=0).clip(1e-9)))
    assert projection_error(ours, images) < 1.02 * projection_error(theirs, images)
    assert projection_error(ours, theirs) < 0.04 and projection_error(theirs, ours) < 0.04


def pics(folder, batch, lamda, n_iterations, *more):
    """BART's l1-wavelet reconstruction of a batch of one slice."""
    measured = fft2c(ifft2(batch.kspace)) * fftshift2(batch.mask)  # exact zeros: BART finds the mask by them
    arrays = {"kspace": measured[0].numpy(), "maps": batch.sens_maps[0].numpy()}
    settings = ("-R", f"W:6:0:{lamda}", "-i", str(n_iterations), "-w", "1")  # -w 1: ours are normalised units already
    return torch.from_numpy(bart(folder, "pics", *settings, *more, **arrays))[None]


def undersampled(kspace, mask):
    return Batch.from_slice(kspace, mask, espirit(kspace, kernel_width=6, calibration_width=24, crop=0))


@pytest.mark.parametrize("cycle_spinning", [False, True])
def test_wavelet_is_barts_pics(tmp_path, kspace, cycle_spinning):
    """Both shift Daubechies 2 at random, but not by the same shifts, or both do not (-n)."""
    batch = undersampled(kspace, masks.poisson_disc(kspace.shape[1:], 4, n_calibration=24, seed=0))
    lamda, more = 0.02, () if cycle_spinning else ("-n",)
    ours = baselines.wavelet(lamda, n_iterations=30, cycle_spinning=cycle_spinning)(batch)
    theirs = pics(tmp_path, batch, lamda, 30, *more)
    inner = (theirs.conj() * ours).sum()
    sign = inner / inner.abs()  # BART's image is times -1 where a side is 2 modulo 4
    assert abs(sign.imag) < 1e-3
    assert (theirs * sign - ours).norm() < 0.07 * ours.norm()
    weights = (lamda / 4, lamda, lamda * 4)
    distance = {weight: metrics.nrmse(pics(tmp_path, batch, weight, 30, *more), ours).item() for weight in weights}
    assert min(distance, key=distance.get) == lamda  # so the weight means the same in both
    for one in (ours, theirs):
        assert metrics.nrmse(one, batch.target) < 0.8 * metrics.nrmse(batch.zero_filled, batch.target)


def test_wavelet_is_as_good_as_barts_pics(tmp_path, kspace):
    """Each at its own best weight."""
    batch = undersampled(kspace, masks.random_columns(kspace.shape[1:], 4, center_fraction=0.08, seed=0))
    lamdas = 0.0005 * 2.0 ** np.arange(5)
    plain, ours, theirs = (
        max(metrics.psnr(method(lamda), batch.target).item() for lamda in lamdas)
        for method in (
            lambda lamda: baselines.wavelet(lamda, cycle_spinning=False)(batch),
            lambda lamda: baselines.wavelet(lamda)(batch),
            lambda lamda: pics(tmp_path, batch, lamda, 100),
        )
    )
    assert ours > theirs - 0.3 and ours > plain + 0.5
