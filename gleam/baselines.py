"""Reconstructions without training: zero-filled, and compressed sensing through SigPy.

Each is a function ``batch -> image`` that :func:`gleam.evaluate` takes like a network.
"""

import functools

import numpy as np
import torch

from gleam.fourier import fft2c, fftshift2, ifft2


def zero_filled(batch):
    """A^H y: coil-combined inverse FFT of the measured samples."""
    return batch.zero_filled


def wavelet(lamda, *, n_iterations=100):
    """Compressed sensing with l1-wavelet regularisation (Section V-B2): FISTA in SigPy, slice by slice.

    ``lamda`` is the weight of the l1 norm in normalised units; the paper has 0.12, 0.07, 0.06 for knees at R = 4, 12,
    16 and 0.001 for brains. Returns a function from :class:`gleam.physics.Batch` to images (batch, y, x).
    """
    if not lamda >= 0:
        raise ValueError(f"lamda={lamda!r} of the wavelet baseline must be a number of at least 0")
    return functools.partial(_wavelet, lamda=lamda, n_iterations=n_iterations)


def _wavelet(batch, *, lamda, n_iterations):
    kspace = fft2c(ifft2(batch.kspace)).cpu().numpy()  # SigPy's transforms are centred
    mask = fftshift2(batch.mask).cpu().numpy().astype(np.float32)
    sens_maps = batch.sens_maps.cpu().numpy()
    images = [_wavelet_slice(*example, lamda, n_iterations) for example in zip(kspace, mask, sens_maps, strict=True)]
    return torch.from_numpy(np.stack(images)).to(batch.target)


def _wavelet_slice(kspace, mask, sens_maps, lamda, n_iterations):
    from sigpy.mri.app import L1WaveletRecon

    app = L1WaveletRecon(kspace * mask, sens_maps, lamda, weights=mask, max_iter=n_iterations, show_pbar=False)
    return app.run()


def choose_lamda(lamdas, val, *, n_slices=8, make=wavelet):
    """The weight among ``lamdas`` with the lowest mean nRMSE on ``n_slices`` evenly spread slices of ``val``.

    Returns (weight, dict of weight to nRMSE).
    """
    from gleam.metrics import nrmse

    slices = [val[int(i)] for i in np.linspace(0, len(val) - 1, min(n_slices, len(val)))]
    scores = {lamda: float(np.mean([nrmse(make(lamda)(one), one.target).item() for one in slices])) for lamda in lamdas}
    return min(scores, key=scores.get), scores
