import math

import numpy as np
import pytest
import torch
from problems import complex_normal
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from gleam import metrics


@pytest.fixture
def pair():
    target = complex_normal(3, 32, 24)
    return target + 0.1 * complex_normal(3, 32, 24, seed=1), target


def test_agree_with_scikit_image_on_magnitudes(pair):
    nrmse, psnr, ssim = (metric(*pair) for metric in (metrics.nrmse, metrics.psnr, metrics.ssim))
    for i, (x, truth) in enumerate(zip(*(t.abs().double().numpy() for t in pair), strict=True)):
        assert nrmse[i].item() == pytest.approx(normalized_root_mse(truth, x), rel=1e-6)
        assert psnr[i].item() == pytest.approx(peak_signal_noise_ratio(truth, x, data_range=truth.max()), rel=1e-6)
        expected = structural_similarity(
            x, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=truth.max()
        )
        assert ssim[i].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", [metrics.nrmse, metrics.psnr, metrics.ssim])
def test_do_not_depend_on_phase_or_scale_and_take_single_slices(metric, pair):
    x, target = pair
    values = metric(x, target)
    torch.testing.assert_close(metric(7 * x * 1j, 7 * target), values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metric(x[1], target[1]), values[1], rtol=1e-6, atol=1e-9)


def test_of_series_agree_with_scikit_image():
    target = complex_normal(2, 4, 32, 24) * torch.tensor([1, 2, 3, 1])[:, None, None]
    reconstruction = target + 0.2 * complex_normal(2, 4, 32, 24, seed=1)
    values = [metric(reconstruction, target) for metric in (metrics.nrmse, metrics.psnr, metrics.ssim)]
    for i, (x, truth) in enumerate(zip(*(t.abs().double().numpy() for t in (reconstruction, target)), strict=True)):
        frames = [
            structural_similarity(a, b, gaussian_weights=True, use_sample_covariance=False, data_range=truth.max())
            for a, b in zip(x, truth, strict=True)
        ]
        expected = normalized_root_mse(truth, x), peak_signal_noise_ratio(truth, x, data_range=truth.max())
        np.testing.assert_allclose([value[i] for value in values], [*expected, np.mean(frames)], rtol=1e-5)
    target[..., 0, 0] = 20  # one range for all frames, so that each may be scored by itself
    each = metrics.ssim_object(reconstruction.flatten(0, 1), target.flatten(0, 1)).reshape(2, 4)
    torch.testing.assert_close(metrics.ssim_object(reconstruction, target), each.mean(1))


def test_ssim_of_the_object_ignores_the_air():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 56), indexing="ij")
    target = torch.where(y**2 + x**2 < 0.5, 1.0 + 0.2 * torch.sin(20 * x), 0.0) * (y**2 + x**2 > 0.05)
    body = metrics.foreground(target)
    assert body[32, 28] and not body[0, 0]  # the hole in the middle belongs to the object
    air = torch.from_numpy(~body)
    far = torch.nn.functional.max_pool2d((~air).float()[None], 13, 1, 6)[0] == 0  # beyond any window of the object
    noisy = target + 0.3 * far * torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    assert metrics.ssim(noisy, target) < 0.9
    torch.testing.assert_close(metrics.ssim_object(noisy, target), torch.tensor(1.0, dtype=torch.float64))


def test_perfect_reconstruction(pair):
    _, target = pair
    assert (metrics.nrmse(target, target) == 0).all()
    assert (metrics.psnr(target, target) == math.inf).all()
    np.testing.assert_allclose(metrics.ssim(target, target), 1)


def test_complex_l1_counts_phase(pair):
    _, target = pair
    assert metrics.complex_l1(target, target) == 0
    torch.testing.assert_close(metrics.complex_l1(-target, target), 2 * target.abs().mean())


@pytest.mark.parametrize("metric", [metrics.nrmse, metrics.psnr, metrics.ssim])
def test_shapes_that_differ_are_named(metric, pair):
    with pytest.raises(ValueError, match=r"\(3, 32, 24\).*\(32, 24\)"):
        metric(pair[0], pair[1][0])


def test_the_relative_error_is_that_of_complex_entries():
    x = complex_normal(3, 4, 5)
    assert metrics.relative_error(x, x) == 0
    assert metrics.relative_error(-x, x) == pytest.approx(2)  # nRMSE of magnitudes would be 0
