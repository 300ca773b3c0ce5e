"""Image quality of complex reconstructions, on magnitudes, per slice, as the paper's evaluation code computes it.

PSNR and SSIM take their range from the reference, ``max|x|``. All functions take (y, x) or (batch, [time,] y, x)
tensors in the same units for both arguments and return one value per batch entry (a 0-d tensor for one 2D image).

A series counts as one slice: nRMSE and PSNR are of all its voxels together. SSIM, whose window is 2D, is the mean over
its frames. The range is that of the whole series, ``max|x|`` of any frame.
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
    return _ssim(reconstruction, target, lambda similarity, truth: similarity[_BORDER, _BORDER].mean())


def ssim_object(reconstruction, target):
    """SSIM averaged over the :func:`foreground` of the target alone, without the air around it.

    In air the target is nothing but noise, and a method scores there by showing noise of the same strength.
    """
    return _ssim(reconstruction, target, lambda similarity, truth: similarity[foreground(truth)].mean())


def foreground(target, threshold=0.15):
    """Where the body is: magnitudes (y, x) above ``threshold`` of the 99th percentile, holes filled. NumPy, boolean."""
    from scipy.ndimage import binary_fill_holes

    magnitude = np.abs(np.asarray(target))
    return binary_fill_holes(magnitude > threshold * np.percentile(magnitude, 99))


_BORDER = slice(5, -5)  # half a window: what scikit-image leaves out of its mean


def _ssim(reconstruction, target, average):
    from skimage.metrics import structural_similarity

    _magnitudes(reconstruction, target)
    x, reference = reconstruction.abs().cpu().numpy(), target.abs().cpu().numpy()
    x, reference = (x, reference) if target.ndim > 2 else (x[None], reference[None])

    def one(image, truth):
        options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=float(truth.max()))
        frames = zip(image.reshape(-1, *image.shape[-2:]), truth.reshape(-1, *truth.shape[-2:]), strict=True)
        return np.mean([average(structural_similarity(a, b, full=True, **options)[1], b) for a, b in frames])

    values = torch.tensor([one(a, b) for a, b in zip(x, reference, strict=True)], dtype=torch.float64)
    return _per_slice(values, target)


def complex_l1(reconstruction, target):
    """Mean of |x_hat - x| over complex pixels: the training loss (Section V-C4)."""
    return (reconstruction - target).abs().mean()
