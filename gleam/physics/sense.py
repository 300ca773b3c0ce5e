"""The measurement y = A x + noise, A = Omega F S (Eq. 1), of 2D images and 2D + time series.

Shapes: image (batch, [time,] y, x); sensitivity maps (batch, coil, [1,] y, x); k-space (batch, coil, [time,] y, x);
mask (batch, 1, [time,] y, x), where y or x is 1 if whole lines along it are measured (:func:`without_readout`). Images
and maps are centred; k-space and masks are in FFT order (see :mod:`gleam.fourier`), so no call shifts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gleam import execution
from gleam.physics.fourier import AXES, Array, fft2, fft_unscaled, ifft2

COIL = 1
# Samples of k-space that A^H A works on at a time. So few stay in the cache of a GPU, and their memory is small beside
# the feature maps of a CNN. At the paper's sizes these are two coils of a mini-batch, at small sizes all coils.
AT_ONCE = 3 * 2**18


@dataclass(frozen=True)
class Sense:
    """The SENSE operator A = Omega F S of a mini-batch (Eq. 1); its methods are linear and differentiable.

    With `sum_c |S_c|^2 <= 1` the norm of A is at most 1.

    Parameters
    ----------
    sens_maps : complex Tensor, shape (batch, coil, [1,] y, x)
        Coil sensitivity maps S, centred.
    mask : Tensor, shape (batch, 1, [time,] y, x)
        Sampling mask Omega in FFT order; y or x is 1 if whole lines along it are measured.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """

    sens_maps: Tensor
    mask: Tensor

    def __post_init__(self):
        maps, mask = tuple(self.sens_maps.shape), tuple(self.mask.shape)
        if len(maps) not in (4, 5) or len(maps) != len(mask) or mask[COIL] != 1:
            raise ValueError(
                f"sens_maps of shape {maps} and mask of shape {mask} do not fit; expected "
                "(batch, coil, [1,] y, x) and (batch, 1, [time,] y, x)"
            )
        if maps[0] != mask[0] or any(m not in (n, 1) for n, m in zip(maps[-2:], mask[-2:], strict=True)):
            raise ValueError(
                f"sens_maps of shape {maps} and mask of shape {mask} differ in batch, y or x; expected the same, or 1 "
                "along an axis of the mask"
            )

    def forward(self, x: Tensor) -> Tensor:
        """A x: image (batch, [time,] y, x) to undersampled k-space (batch, coil, [time,] y, x)."""
        return self.mask * fft2(self.sens_maps * x.unsqueeze(COIL))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """A^H y: k-space (batch, coil, [time,] y, x) to the zero-filled, coil-combined image (batch, [time,] y, x)."""
        return (self.sens_maps.conj() * ifft2(self.mask * kspace)).sum(COIL)

    def normal(self, x: Tensor, shift: float | Tensor = 0.0) -> Tensor:
        """A^H A x + shift x for an image (batch, [time,] y, x); `shift` is a number or, if it is learned, a tensor."""
        if isinstance(shift, Tensor):  # it gets a gradient, which _Normal does not give
            return self.normal(x) + shift * x
        # nor does it give one to learned maps
        if self.sens_maps.requires_grad or self.mask.requires_grad:
            return self.adjoint(self.forward(x)) + shift * x
        if self._lines_along_x:  # transforms are fastest along the contiguous axis
            return _Normal.apply(x.mT.contiguous(), *self._factors, shift).mT.contiguous()
        return _Normal.apply(x, *self._factors, shift)

    @property
    def _lines_along_x(self):
        return self.mask.shape[-1] == 1 < self.mask.shape[-2]

    @cached_property
    def _factors(self):
        """Factors of :meth:`normal`: the maps, and real numbers (batch, 1, [time,] y, x, 2) for k-space.

        The latter multiply real and imaginary part. They hold the mask, the conjugation, and the factor by which two
        unscaled transforms become orthonormal. Along an axis of length 1 whole lines are measured and transforms
        cancel.
        """
        maps, mask = self.sens_maps, self.mask.square() / math.prod(self.mask.shape[-2:])
        if self._lines_along_x:
            maps, mask = maps.mT.contiguous(), mask.mT
        return maps, torch.stack([mask, -mask], dim=-1)


class _Normal(torch.autograd.Function):
    """A^H A x + shift x, with A^H A x = conj(sum_c S_c F conj(Omega F S_c x)). Its gradient is the same operator.

    Two forward transforms, instead of one and its inverse, need no conjugate of the maps, which would be computed in
    every call. Coils are taken in groups of at most `AT_ONCE` samples.
    """

    @staticmethod
    def forward(ctx, x, sens_maps, signs, shift):
        ctx.save_for_backward(sens_maps, signs)
        ctx.shift = shift
        first, *others = sens_maps.split(max(1, AT_ONCE // x.numel()), COIL)  # at least one coil at a time
        total = _normal_of(first, x, signs)
        for maps in others:
            total.add_(_normal_of(maps, x, signs))
        return total.add_(x, alpha=shift) if shift else total

    @staticmethod
    def backward(ctx, gradient):
        return _Normal.apply(gradient, *ctx.saved_tensors, ctx.shift), None, None, None


def _normal_of(sens_maps, x, signs):
    """The contribution of some coils to A^H A x."""
    axes = [axis for axis in AXES if signs.shape[axis - 1] > 1]
    kspace = fft_unscaled(sens_maps * x.unsqueeze(COIL), axes)
    torch.view_as_real(kspace).mul_(signs)  # mask, conjugation and scale in one pass over memory
    images = fft_unscaled(kspace, axes)
    if not execution.compiles():
        return images.mul_(sens_maps).sum(COIL).conj_physical_()
    reals = torch.view_as_real(images), torch.view_as_real(sens_maps)
    return torch.view_as_complex(execution.compiled(_combined_reals)(*reals))


def _combined_reals(m, s):
    """conj(sum_c S_c m_c) from real and imaginary parts: the compiler fuses it, but does not know complex numbers."""
    real, imaginary = m[..., 0] * s[..., 0] - m[..., 1] * s[..., 1], m[..., 0] * s[..., 1] + m[..., 1] * s[..., 0]
    return torch.stack([real.sum(COIL), -imaginary.sum(COIL)], dim=-1)


def without_readout(mask: Array) -> Array:
    """Cut an axis, y or x, along which all masks (..., y, x) are constant to length 1.

    Such an axis is the readout: columns are measured along all of y, the lines of k-t masks along all of x.
    """
    for axis in AXES:
        first = mask[..., :1, :] if axis == -2 else mask[..., :1]
        same: Any = mask == first
        if bool(same.all()):
            mask = first
    return mask
