"""The measurement y = A x + noise, A = Omega F S (Eq. 1), of 2D images and 2D + time series, and mini-batches of it.

Shapes: image (batch, [time,] y, x); sensitivity maps (batch, coil, [1,] y, x); k-space (batch, coil, [time,] y, x);
mask (batch, 1, [time,] y, x), where y or x is 1 if whole lines along it are measured (:func:`without_readout`). Images
and maps are centred; k-space and masks are in FFT order (see :mod:`gleam.fourier`), so no call shifts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gleam import execution
from gleam.physics.fourier import AXES, Array, fft2, fft_unscaled, ifft2, ifft2c, ifftshift2, to_fft_order

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
        if isinstance(shift, Tensor):
            return self.normal(x) + shift * x
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
        first, *others = sens_maps.split(max(1, AT_ONCE // x.numel()), COIL)
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
    torch.view_as_real(kspace).mul_(signs)
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


@dataclass(frozen=True)
class Batch:
    """A mini-batch of accelerated acquisitions, in normalised units.

    Parameters
    ----------
    kspace : complex Tensor, shape (batch, coil, [time,] y, x)
        Measured samples y in FFT order, zero elsewhere.
    mask, sens_maps : Tensor
        As in :class:`Sense`.
    zero_filled : complex Tensor, shape (batch, [time,] y, x)
        The image A^H y, where every network starts (the paper writes x(0) = y).
    target : complex Tensor, shape (batch, [time,] y, x)
        The fully sampled image.
    scale : Tensor, shape (batch,)
        Multiply an image by it to return to the units of the file.
    """

    kspace: Tensor
    mask: Tensor
    sens_maps: Tensor
    zero_filled: Tensor
    target: Tensor
    scale: Tensor

    @classmethod
    def undersample(cls, kspace: Tensor, mask: Tensor, sens_maps: Tensor, target: Tensor) -> Batch:
        """Keep the samples in `mask` and divide each example by the brightness of its zero-filled image.

        Shapes as in :class:`Batch`. The brightness is the 95th percentile of the magnitude over all pixels, as in the
        authors' code; for a series, of the magnitude averaged over time. If the object is so small that the percentile
        falls into air, half the object's own level is used (:func:`brightness`). An empty slice is not scaled.
        """
        mask = mask.to(kspace.real.dtype)
        kspace = kspace * mask
        zero_filled = Sense(sens_maps, mask).adjoint(kspace)
        magnitude = zero_filled.abs()
        scale = brightness(magnitude.mean(1) if magnitude.ndim == 4 else magnitude)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        kspace, zero_filled, target = (x / per_example(scale, x) for x in (kspace, zero_filled, target))
        return cls(kspace, mask, sens_maps, zero_filled, target, scale)

    @cached_property
    def sense(self) -> Sense:
        """The operator of this batch."""
        return Sense(self.sens_maps, self.mask)

    @classmethod
    def from_slice(
        cls, kspace: np.ndarray | Tensor, mask: np.ndarray | Tensor, sens_maps: np.ndarray | Tensor
    ) -> Batch:
        """Make a batch of one from the arrays of one fully sampled slice, for example of your own data.

        Parameters
        ----------
        kspace, sens_maps : complex array, shape (coil, y, x)
            Centred. The target is the coil-combined image.
        mask : array, shape (y, x)
            Centred; 1 or True where k-space is to be measured.

        Raises
        ------
        ValueError
            If the shapes do not fit, if the mask or the maps are empty, or if values are not complex or not finite.
        """
        _check_slice(kspace, mask, sens_maps)
        kspace, sens_maps = (torch.as_tensor(x).to(torch.complex64)[None] for x in (kspace, sens_maps))
        mask = torch.as_tensor(mask)[None]
        target = (sens_maps.conj() * ifft2c(kspace)).sum(COIL)
        return cls.undersample(to_fft_order(kspace), without_readout(ifftshift2(mask))[:, None], sens_maps, target)

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device; it is copied once, and later calls return that copy."""
        device = torch.device(device)
        if device == self.target.device:
            return self
        if device not in self._copies:
            ahead = device.type != "cpu"  # on the CPU one could read values before they arrive
            self._copies[device] = Batch(*(getattr(self, f.name).to(device, non_blocking=ahead) for f in fields(self)))
        return self._copies[device]

    @cached_property
    def _copies(self):
        return {}

    def part(self, i: int, n: int) -> Batch:
        """Part `i` of `n`: every n-th example from the i-th on; empty if there are too few."""
        return self if n == 1 else Batch(*(getattr(self, f.name)[i::n] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.target)


def brightness(magnitude: Tensor) -> Tensor:
    """95th percentile over all pixels of each magnitude image, but at least half the level of its object.

    Parameters
    ----------
    magnitude : Tensor, shape (batch, y, x)

    Returns
    -------
    Tensor, shape (batch,)

    Notes
    -----
    The level of the object is the root mean square of the magnitude, in which each pixel is weighted by its energy so
    that air does not count: sqrt(sum m^4 / sum m^2). In scans of knees, brains and hearts the object is large enough
    for the percentile to be the larger of the two; around an object of few pixels the percentile may be 0.
    """
    m = magnitude.flatten(1)
    peak = m.amax(1)
    energy = (
        m / peak.clamp_min(torch.finfo(m.dtype).tiny)[:, None]
    ).square()  # relative to the peak, so that no unit underflows
    level = peak * (energy.square().sum(1) / energy.sum(1).clamp_min(1)).sqrt()
    return torch.maximum(torch.quantile(m, 0.95, dim=1), level / 2)


def _check_slice(kspace, mask, sens_maps):
    shapes = [tuple(x.shape) for x in (kspace, mask, sens_maps)]
    if len(shapes[0]) != 3 or shapes[2] != shapes[0] or shapes[1] != shapes[0][1:]:
        raise ValueError(
            f"kspace {shapes[0]}, mask {shapes[1]} and sens_maps {shapes[2]} do not fit; expected (coil, y, x), (y, x) "
            "and (coil, y, x)"
        )
    mask = torch.as_tensor(mask)
    if not mask.any() or not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask measures nothing or holds values other than 0 and 1; expected True where measured")
    if not torch.as_tensor(sens_maps).any():
        raise ValueError("sens_maps are empty (all zero): the calibration found no coil; expected maps of the object")
    for name, values in {"kspace": torch.as_tensor(kspace), "sens_maps": torch.as_tensor(sens_maps)}.items():
        if not values.is_complex() or not values.isfinite().all():
            raise ValueError(f"{name} is {values.dtype} or holds NaN or infinite values; expected finite complex ones")


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """`values` (batch,) with trailing axes added, so that they broadcast over `like` (batch, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
