"""Orthonormal 2D Fourier transforms over the last two axes, for NumPy arrays and torch tensors.

Raw files hold *centred* k-space: the zero frequency and the middle of the field of view lie at index `n // 2`.
Loops use the *uncentred* transform, which needs no shifts. Both describe the same physics: if `m` is a centred coil
image, then `fft2(m)` is its centred k-space in FFT order times a phase of modulus one, and undersampling commutes
with such a phase. Hence k-space is brought to FFT order once (:func:`to_fft_order`), masks likewise
(:func:`ifftshift2`), and images stay centred, which is how the CNN sees them.

Unless a description names one of them, arrays and tensors will both do, and the result is of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

AXES = (-2, -1)
Array = TypeVar("Array", np.ndarray, Tensor)


def central(shape: Sequence[int], width: int) -> tuple[slice, ...]:
    """Slices of the central square (or cube) of `width` samples in a centred array of `shape`."""
    return tuple(slice(n // 2 - width // 2, n // 2 - width // 2 + width) for n in shape)


def fft2(x: Array) -> Array:
    """Uncentred orthonormal FFT of complex `x` (..., y, x)."""
    if isinstance(x, Tensor):
        return torch.fft.fft2(x, norm="ortho")
    return np.fft.fft2(x, norm="ortho").astype(np.result_type(x, np.complex64), copy=False)


def ifft2(k: Array) -> Array:
    """Uncentred orthonormal inverse FFT of complex `k` (..., y, x); inverse of :func:`fft2`."""
    if isinstance(k, Tensor):
        return torch.fft.ifft2(k, norm="ortho")
    return np.fft.ifft2(k, norm="ortho").astype(np.result_type(k, np.complex64), copy=False)


def fft_unscaled(x: Tensor, axes: Sequence[int] = AXES) -> Tensor:
    """FFT of a tensor over `axes` without scaling, which saves one pass over memory; over no axes `x` itself."""
    return torch.fft.fftn(x, dim=axes, norm="backward") if axes else x


def fftshift2(x: Array) -> Array:
    """Move index 0 of the last two axes to the centre."""
    return torch.fft.fftshift(x, dim=AXES) if isinstance(x, Tensor) else np.fft.fftshift(x, axes=AXES)


def ifftshift2(x: Array) -> Array:
    """Move the centre of the last two axes to index 0; inverse of :func:`fftshift2`, for odd sizes too."""
    return torch.fft.ifftshift(x, dim=AXES) if isinstance(x, Tensor) else np.fft.ifftshift(x, axes=AXES)


def fft2c(x: Array) -> Array:
    """Centred orthonormal FFT: centred image (..., y, x) to centred k-space."""
    return fftshift2(fft2(ifftshift2(x)))


def ifft2c(k: Array) -> Array:
    """Centred k-space (..., y, x) to centred image; inverse of :func:`fft2c`."""
    return fftshift2(ifft2(ifftshift2(k)))


def fftc(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Centred orthonormal FFT of a NumPy array over `axes`; the precision of `x` is kept."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def ifftc(k: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Centred orthonormal inverse FFT of a NumPy array over `axes`; inverse of :func:`fftc`."""
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k, axes), axes=axes, norm="ortho"), axes)


def to_fft_order(kspace: Array) -> Array:
    """Centred k-space (..., y, x) to the uncentred k-space of the same centred images."""
    return fft2(ifft2c(kspace))
