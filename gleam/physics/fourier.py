"""Orthonormal 2D Fourier transforms over the last two axes, for NumPy arrays and torch tensors.

Raw files hold *centred* k-space: the zero frequency and the middle of the field of view lie at index ``n // 2``.
Loops use the *uncentred* transform, which needs no shifts. Both describe the same physics: if ``m`` is a centred coil
image, then ``fft2(m)`` is its centred k-space in FFT order times a phase of modulus one, so undersampling commutes
with it. Hence k-space is brought to FFT order once (:func:`to_fft_order`), masks likewise (:func:`ifftshift2`), and
images, which is what a CNN sees, stay centred.
"""

import numpy as np
import torch

AXES = (-2, -1)


def _library(x):
    return torch if isinstance(x, torch.Tensor) else np


def _over_axes(function, x):
    return function(x, dim=AXES) if isinstance(x, torch.Tensor) else function(x, axes=AXES)


def fft2(x):
    """Uncentred orthonormal FFT of ``x`` (..., y, x), complex in, complex out."""
    if isinstance(x, torch.Tensor):
        return torch.fft.fft2(x, norm="ortho")
    return np.fft.fft2(x, norm="ortho").astype(np.result_type(x, np.complex64), copy=False)


def ifft2(k):
    """Inverse of :func:`fft2`."""
    if isinstance(k, torch.Tensor):
        return torch.fft.ifft2(k, norm="ortho")
    return np.fft.ifft2(k, norm="ortho").astype(np.result_type(k, np.complex64), copy=False)


def fft_unscaled(x, axes=AXES):
    """FFT of a torch tensor over ``axes``, :func:`fft2` but for its scaling, which spares a pass; over none, ``x``."""
    return torch.fft.fftn(x, dim=axes, norm="backward") if axes else x


def fftshift2(x):
    """Move index 0 of the last two axes to the centre."""
    return _over_axes(_library(x).fft.fftshift, x)


def ifftshift2(x):
    """Move the centre of the last two axes to index 0; inverse of :func:`fftshift2`, for odd sizes too."""
    return _over_axes(_library(x).fft.ifftshift, x)


def fft2c(x):
    """Centred orthonormal FFT: centred image (..., y, x) to centred k-space."""
    return fftshift2(fft2(ifftshift2(x)))


def ifft2c(k):
    """Centred k-space (..., y, x) to centred image; inverse of :func:`fft2c`."""
    return fftshift2(ifft2(ifftshift2(k)))


def fftc(x, axes):
    """Centred orthonormal FFT of a NumPy array over ``axes``; the number of bits is kept."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def ifftc(k, axes):
    """Inverse of :func:`fftc`."""
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k, axes), axes=axes, norm="ortho"), axes)


def to_fft_order(kspace):
    """Centred k-space (..., y, x) to the uncentred k-space of the same centred images."""
    return fft2(ifft2c(kspace))
