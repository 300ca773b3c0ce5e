import numpy as np
import pytest
import torch
from problems import complex_normal

from gleam import fourier

SHAPES = [(8, 8), (7, 8), (9, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor])
def test_transforms_are_unitary_and_inverse_to_each_other(shape, as_array):
    x = as_array(complex_normal(2, *shape).numpy())
    for forward, inverse in [(fourier.fft2, fourier.ifft2), (fourier.fft2c, fourier.ifft2c)]:
        k = forward(x)
        assert k.dtype == x.dtype
        np.testing.assert_allclose(inverse(k), x, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(np.asarray(k)), np.linalg.norm(np.asarray(x)), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_centred_transform_of_the_central_pixel_is_flat(shape):
    x = torch.zeros(shape, dtype=torch.complex64)
    x[shape[0] // 2, shape[1] // 2] = 1
    torch.testing.assert_close(fourier.fft2c(x), torch.full(shape, np.prod(shape) ** -0.5, dtype=torch.complex64))


@pytest.mark.parametrize("shape", SHAPES)
def test_undersampling_in_fft_order_is_undersampling_of_centred_kspace(shape):
    kspace = complex_normal(3, *shape)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    centred = fourier.ifft2c(kspace * mask)
    in_fft_order = fourier.ifft2(fourier.to_fft_order(kspace) * fourier.ifftshift2(mask))
    torch.testing.assert_close(in_fft_order, centred)


@pytest.mark.parametrize("shape", SHAPES)
def test_centred_transform_over_any_axes_is_that_of_the_last_two(shape):
    x = complex_normal(*shape, 3).numpy()
    k = fourier.fftc(x, (0, 1))
    assert k.dtype == x.dtype
    np.testing.assert_allclose(k, np.moveaxis(fourier.fft2c(np.moveaxis(x, 2, 0)), 0, 2), atol=1e-6)
    np.testing.assert_allclose(fourier.ifftc(k, (0, 1)), x, atol=1e-6)
