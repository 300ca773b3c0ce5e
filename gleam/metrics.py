"""Image quality of complex reconstructions: computed on magnitudes, per slice, as in the paper's evaluation code.

All functions take two tensors (y, x) or (batch, [time,] y, x) in the same units. They return one value per batch
entry (a 0-d tensor for one 2D image). PSNR and SSIM take their data range from the target: `max|x|`.

A series counts as one slice: nRMSE and PSNR are computed over all its voxels together. SSIM, whose window is 2D, is the
mean over its frames. The data range is that of the whole series.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def _magnitudes(reconstruction, target):
    """Both magnitudes as float64 (batch, pixel); ValueError if the shapes differ."""
    if reconstruction.shape != target.shape:
        raise ValueError(
            f"metrics: the reconstruction has shape {tuple(reconstruction.shape)}, "
            f"but the target has {tuple(target.shape)}; they must agree"
        )
    # float64, since sums over a series of many pixels lose digits in float32
    x, reference = reconstruction.abs().double(), target.abs().double()
    return (x.flatten(1), reference.flatten(1)) if x.ndim > 2 else (x.flatten()[None], reference.flatten()[None])


def _per_slice(values, target):
    return values if target.ndim > 2 else values[0]


def nrmse(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Normalised root mean square error per slice: `||(|x_hat| - |x|)|| / ||x||`.

    Raises ValueError if the shapes differ, as all functions here that compare magnitudes do.
    """
    x, reference = _magnitudes(reconstruction, target)
    return _per_slice((x - reference).norm(dim=1) / reference.norm(dim=1), target)


def psnr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per slice in dB: `20 log10(max|x| / RMSE)`."""
    x, reference = _magnitudes(reconstruction, target)
    rmse = (x - reference).square().mean(dim=1).sqrt()
    return _per_slice(20 * torch.log10(reference.amax(dim=1) / rmse), target)


def ssim(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity per slice, the mean over frames of a series.

    Gaussian window of sigma 1.5 (scikit-image), data range `max|x|`.
    """
    return _ssim(reconstruction, target, lambda similarity, truth: similarity[_BORDER, _BORDER].mean())


def ssim_object(reconstruction: Tensor, target: Tensor) -> Tensor:
    """SSIM averaged over the :func:`foreground` of the target, without the air around it.

    In air the target is only noise, and a reconstruction with noise of the same strength scores high there.
    """
    return _ssim(reconstruction, target, lambda similarity, truth: similarity[foreground(truth)].mean())


def foreground(target: np.ndarray | Tensor, threshold: float = 0.15) -> np.ndarray:
    """Boolean mask (y, x) of the body: magnitudes above `threshold` of the 99th percentile, with holes filled."""
    from scipy.ndimage import binary_fill_holes

    magnitude = np.abs(np.asarray(target))
    return binary_fill_holes(magnitude > threshold * np.percentile(magnitude, 99))


_BORDER = slice(5, -5)  # scikit-image leaves half a window out of its mean


def _ssim(reconstruction, target, average):
    from skimage.metrics import structural_similarity

    _magnitudes(reconstruction, target)  # only for its check of the shapes
    x, reference = reconstruction.abs().cpu().numpy(), target.abs().cpu().numpy()
    x, reference = (x, reference) if target.ndim > 2 else (x[None], reference[None])

    def one(image, truth):
        options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=float(truth.max()))
        frames = zip(image.reshape(-1, *image.shape[-2:]), truth.reshape(-1, *truth.shape[-2:]), strict=True)
        return np.mean([average(structural_similarity(a, b, full=True, **options)[1], b) for a, b in frames])

    values = torch.tensor([one(a, b) for a, b in zip(x, reference, strict=True)], dtype=torch.float64)
    return _per_slice(values, target)


def complex_l1(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Training loss: the mean of `|x_hat - x|` over complex pixels (Section V-C4)."""
    return (reconstruction - target).abs().mean()


def relative_error(x: Tensor, truth: Tensor) -> float:
    """`||x - truth|| / ||truth||` over all entries, complex or real; for images with a phase, and for gradients."""
    return ((x - truth).norm() / truth.norm()).item()
