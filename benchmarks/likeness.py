"""How like life the phantoms are: k-space, sparsity, air, noise, and the errors of zero-filling and compressed sensing.

`python benchmarks/likeness.py DATA` compares the phantoms with the real images in DATA (data/README.md): knees as
magnitudes with simulated coils and noise, brains as measured, one cine as magnitudes with simulated coils and noise. It
prints a table and writes results/likeness.json, which the book shows. No network is trained.
"""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pywt
import torch

from gleam import baselines, calibration, masks, metrics, phantoms
from gleam.datasets import fastmri
from gleam.datasets.prepare import coil_maps
from gleam.files import write_json
from gleam.phantoms import acquire, magnitudes
from gleam.phantoms.generate import planned
from gleam.phantoms.scan import axis, cropped, draw
from gleam.physics.batch import Batch
from gleam.physics.fourier import fft2c, ifft2c, ifftshift2, to_fft_order

ROOT = Path(__file__).resolve().parent.parent
RINGS = (0, 0.06, 0.125, 0.25, 0.5, 1)  # of the radius of k-space
NOISE = 0.03  # of the 95th percentile, per real channel of one coil: measured on mridata.org's knees
CARDIAC_FOV_MM = 230.0
KNEE_MATRIX, BRAIN_MATRIX, HEART_MATRIX, N_FRAMES = (160, 128), (160, 160), (64, 48), 20
MASKS = {
    "knee": {f"R = {R}": partial(masks.poisson_disc, acceleration=R, n_calibration=10) for R in (4, 12, 16)},
    "brain": {f"R = {R}": partial(masks.random_columns, acceleration=R, center_fraction=0.06) for R in (4, 8)},
    "heart": {f"R = {R}": partial(masks.kt_variable_density, acceleration=R, n_center=3) for R in (5, 10)},
}
LAMDAS = {"knee": [0.004, 0.008, 0.016], "brain": [0.001, 0.003, 0.01]}
HEART_LAMDAS = [(0.0, 0.01, 0.03), (0.0, 0.005, 0.02)]
CALIBRATE = {
    "knee": partial(calibration.jsense, kernel_width=8, calibration_width=20),
    "brain": partial(calibration.espirit, calibration_width=24),
    "heart": partial(calibration.espirit, kernel_width=8, calibration_width=24),
}


def real_knees(data):
    """(k-space (coil, y, x), noise) of every knee."""
    folder = ROOT / "_work" / "likeness"
    source = data / "knees" / "magnitude_14x320x256.npy"
    for (path,) in magnitudes.write(source, folder, matrix=KNEE_MATRIX, noise=NOISE, name="knee"):
        yield fastmri.read(path).kspace[0], NOISE


def real_brains(data):
    """(k-space (coil, y, x), noise) of every brain, its resolution cut to the phantoms' matrix."""
    for path in fastmri.find(data):
        for kspace in fastmri.read(path).kspace:
            kspace = cropped(kspace, BRAIN_MATRIX)
            corner = kspace[:, :12, :12]  # far from the centre: noise alone
            level = float(np.sqrt(np.mean(np.abs(corner) ** 2, axis=(1, 2)).min() / 2))
            yield kspace, level / np.percentile(acquire.rss(ifft2c(kspace)), 95)


def real_hearts(data, n_acquisitions=6):
    """(k-space (coil, time, y, x), noise) of the one cine, as often with other coils, phase and noise."""
    frames = np.load(data / "cine" / "magnitude_4ch_30x144x144.npy").astype(np.float32)
    # a lower resolution, by the centre of k-space
    frames = np.abs(ifft2c(cropped(fft2c(frames.astype(np.complex64)), HEART_MATRIX)))
    frames = frames[np.arange(N_FRAMES) * len(frames) // N_FRAMES]
    fov = CARDIAC_FOV_MM, CARDIAC_FOV_MM * HEART_MATRIX[1] / HEART_MATRIX[0]
    grid = [np.zeros(1), *(axis(n, side) for n, side in zip(HEART_MATRIX, fov, strict=True))]
    for number in range(n_acquisitions):
        rng = np.random.default_rng(number)
        maps = magnitudes.unit_maps(rng, 8, grid, fov)
        kspace = fft2c((maps[:, None] * frames * acquire.turned(acquire.Phase(rng)(grid))).astype(np.complex64))
        yield acquire.add_noise(rng, kspace, NOISE * np.percentile(frames.mean(0), 95)), NOISE


def phantom_scans(kind, n_subjects=8):
    """(k-space (coil, [time,] y, x), noise) of two middle slices of each subject."""
    settings = {
        "knee": {"n_slices": 10, "matrix": KNEE_MATRIX},
        "brain": {"n_slices": 6, "matrix": BRAIN_MATRIX, "n_coils": 8},
        "heart": {"n_slices": 4, "matrix": HEART_MATRIX, "n_frames": N_FRAMES},
    }[kind]
    for job in planned(getattr(phantoms, kind), n_train=n_subjects, n_val=0, n_test=0, **settings):
        scan = draw(job)
        images = scan.images()
        factor, sigma = scan.scales(images, scan.coils)
        middle = len(images) // 2
        for s in (middle, middle + 1):
            maps = scan.coils.maps(slice(None), slice(s, s + 1))[:, 0]
            coils = maps * images[s] if images.ndim == 3 else maps[:, None] * images[s]
            kspace = fft2c(np.ascontiguousarray(factor * cropped(coils, scan.recon), np.complex64))
            yield acquire.add_noise(scan.noise, kspace, sigma), scan.level


def measured(kind, scans):
    """Means over scans of every quantity, as a dict."""
    pairs = list(scans)
    # equal seeds: real scan and phantom number i have the same mask
    batches = [
        [_batch(kspace, kind, make, seed) for seed, (kspace, _) in enumerate(pairs)] for make in MASKS[kind].values()
    ]
    rows = [_quantities(batch.target[0].numpy(), noise) for batch, (_, noise) in zip(batches[0], pairs, strict=True)]
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if kind == "heart":
        candidates = [baselines.spatiotemporal(*lamdas, n_iterations=100) for lamdas in HEART_LAMDAS]
    else:
        candidates = [baselines.wavelet(lamda, n_iterations=60) for lamda in LAMDAS[kind]]
    for name, several in zip(MASKS[kind], batches, strict=True):
        found[f"nRMSE, zero-filled, {name}"] = _mean_error(baselines.zero_filled, several)
        # the best weight for these very scans, alike for real ones and phantoms
        found[f"nRMSE, CS, {name}"] = min(_mean_error(method, several) for method in candidates)
    return found


def _mean_error(method, batches):
    return float(np.mean([metrics.nrmse(method(batch), batch.target).item() for batch in batches]))


def _batch(kspace, kind, make_mask, seed):
    maps = coil_maps(kspace, CALIBRATE[kind])
    target = np.sum(np.conj(maps) * ifft2c(kspace), axis=0)
    mask = ifftshift2(make_mask(kspace.shape[1:], seed=seed))
    arrays = (to_fft_order(kspace), mask[None], maps, target)
    return Batch.undersample(*(torch.from_numpy(np.ascontiguousarray(x))[None] for x in arrays))


def _quantities(image, noise):
    """Of one normalised image ([time,] y, x): shares of energy, of wavelets, of air, of what moves; and the noise."""
    still = np.abs(image) if image.ndim == 2 else np.abs(image).mean(0)
    # what is not foreground is air
    body = metrics.foreground(torch.from_numpy(still))
    found = _energy_by_radius(image) | {
        "wavelets that hold 99 % of the energy": _sparsity(image),
        "air": 1 - float(np.mean(np.asarray(body))),
        "noise of one coil": noise,
    }
    if image.ndim == 3:
        found["energy that moves"] = float(np.sum(np.abs(image).var(0)) / np.sum(np.mean(np.abs(image) ** 2, axis=0)))
    return found


def _energy_by_radius(image):
    energy = np.abs(fft2c(image)) ** 2
    y, x = (2 * axis(n, 1.0) for n in image.shape[-2:])
    radius = np.hypot(y[:, None], x)
    return {
        f"k-space energy, {low:g} to {high:g} of the radius": float(
            energy[..., (radius >= low) & (radius < high)].sum() / energy.sum()
        )
        for low, high in pairwise(RINGS)
    }


def _sparsity(image, share=0.99):
    """Share of the wavelet coefficients (Daubechies 4, three levels) that hold ``share`` of the energy."""
    counts = []
    for one in image.reshape(-1, *image.shape[-2:]):
        energy = np.abs(pywt.coeffs_to_array(pywt.wavedec2(one, "db4", mode="periodization", level=3))[0].ravel()) ** 2
        counts.append(np.mean(np.cumsum(np.sort(energy)[::-1]) < share * energy.sum()))
    return float(np.mean(counts))


def main(data):
    """Measure, print and write."""
    torch.set_num_threads(1)
    rows = []
    for kind, real in {"knee": real_knees, "brain": real_brains, "heart": real_hearts}.items():
        life, drawn = measured(kind, real(Path(data))), measured(kind, phantom_scans(kind))
        rows += [
            {"data": kind, "quantity": q, "real": life[q], "phantom": drawn[q], "ratio": drawn[q] / life[q]}
            for q in life
        ]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))
    write_json(ROOT / "results" / "likeness.json", rows)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
