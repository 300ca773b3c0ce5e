"""Image quality of complex reconstructions, on magnitudes, per slice, as the paper's evaluation code computes it.

PSNR and SSIM take their range from the reference, ``max|x|``. All functions take (y, x) or (batch, [time,] y, x)
tensors in the same units for both arguments and return one value per batch entry (a 0-d tensor for one 2D image).
"""

import numpy as np
import torch


def _magnitudes(reconstruction, target):
    if reconstruction.shape != target.shape:
        raise ValueError(
            f"metrics: the reconstruction has shape {tuple(reconstruction.shape)}, "
            f"but the target has {tuple(target.shape)}; they must agree"
        )
    x, reference = reconstruction.abs().double(), target.abs().double()
    return (x.flatten(1), reference.flatten(1)) if x.ndim > 2 else (x.flatten()[None], reference.flatten()[None])


def _per_slice(values, target):
    return values if target.ndim > 2 else values[0]


def nrmse(reconstruction, target):
    """||(|x_hat| - |x|)|| / ||x|| per slice."""
    x, reference = _magnitudes(reconstruction, target)
    return _per_slice((x - reference).norm(dim=1) / reference.norm(dim=1), target)


def psnr(reconstruction, target):
    """20 log10(max|x| / RMSE) in dB per slice."""
    x, reference = _magnitudes(reconstruction, target)
    rmse = (x - reference).square().mean(dim=1).sqrt()
    return _per_slice(20 * torch.log10(reference.amax(dim=1) / rmse), target)


def ssim(reconstruction, target):
    """Structural similarity per slice: Gaussian window, sigma 1.5 (scikit-image), data range ``max|x|``.

    Frames of a series are averaged.
    """
    from skimage.metrics import structural_similarity

    _magnitudes(reconstruction, target)
    x, reference = reconstruction.abs().cpu().numpy(), target.abs().cpu().numpy()
    x, reference = (x, reference) if target.ndim > 2 else (x[None], reference[None])

    def one(image, truth):
        frames = zip(image.reshape(-1, *image.shape[-2:]), truth.reshape(-1, *truth.shape[-2:]), strict=True)
        options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=float(truth.max()))
        return np.mean([structural_similarity(a, b, **options) for a, b in frames])

    values = torch.tensor([one(a, b) for a, b in zip(x, reference, strict=True)], dtype=torch.float64)
    return _per_slice(values, target)


def complex_l1(reconstruction, target):
    """Mean of |x_hat - x| over complex pixels: the training loss (Section V-C4)."""
    return (reconstruction - target).abs().mean()
