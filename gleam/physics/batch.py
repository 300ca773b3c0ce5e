"""A mini-batch of accelerated acquisitions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gleam.physics.fourier import ifft2c, ifftshift2, to_fft_order
from gleam.physics.sense import COIL, Sense, without_readout

LEAST_SHARE = 0.99  # of samples that are not exactly zero in a fully sampled slice: noise fills k-space


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

    @cached_property
    def measured_image(self) -> Tensor:
        """A^H y by the operator of this batch, equal to `zero_filled` unless the maps were replaced since."""
        return self.sense.adjoint(self.kspace)

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
            If the shapes do not fit, if the mask or the maps are empty, if values are not complex or not finite, or if
            k-space holds nothing outside the mask, or zeros between its samples: it is then not fully sampled.
        """
        y, maps, measured = _slice(kspace, mask, sens_maps)
        # a fully sampled slice has noise where the mask is 0
        is_masked = not measured.all() and not (y * ~measured[:, None].bool()).any()
        sampled = y[0].any(0)
        rows, columns = (torch.nonzero(sampled.any(axis))[:, 0] for axis in (1, 0))
        # zeros around the samples are padding; k-space without any sample is an empty slice
        inside = sampled[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] if len(rows) else torch.ones(1)
        if is_masked or inside.float().mean() < LEAST_SHARE:
            where = "wherever mask is" if is_masked else "between its samples"
            raise ValueError(
                f"kspace is zero {where}, so the slice is not fully sampled and has no target; expected all samples, "
                "or Batch.from_measured for a scan that was undersampled at the scanner"
            )
        target = (maps.conj() * ifft2c(y)).sum(COIL)
        return cls.undersample(to_fft_order(y), without_readout(ifftshift2(measured))[:, None], maps, target)

    @classmethod
    def from_measured(
        cls, kspace: np.ndarray | Tensor, sens_maps: np.ndarray | Tensor, mask: np.ndarray | Tensor | None = None
    ) -> Batch:
        """Make a batch of one from a scan that was undersampled at the scanner: it can be reconstructed, not scored.

        The target is NaN everywhere.

        Parameters
        ----------
        kspace, sens_maps : complex array, shape (coil, y, x)
            Centred; k-space is zero where nothing was measured.
        mask : array, shape (y, x), optional
            Centred; 1 or True where k-space was measured. Default: where any coil is not zero.

        Raises
        ------
        ValueError
            As :meth:`from_slice`, or if k-space holds samples outside the mask.
        """
        kspace = tensor(kspace)
        mask = (kspace != 0).any(0) if mask is None else mask
        y, maps, measured = _slice(kspace, mask, sens_maps)
        if (y * ~measured[:, None].bool()).norm() > 1e-3 * y.norm():  # else rounding of a transform
            raise ValueError(
                "kspace holds samples where mask is 0; expected the mask of what was measured, centred as kspace is "
                "and not in FFT order"
            )
        target = torch.full_like(y[:, 0], complex("nan"))
        return cls.undersample(to_fft_order(y), without_readout(ifftshift2(measured))[:, None], maps, target)

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device; it is copied once, and later calls return that copy."""
        device = torch.device(device)
        if device == self.target.device:
            return self
        if device not in self._copies:
            ahead = device.type != "cpu"  # on the CPU one could read values before they arrive
            values = (getattr(self, f.name).to(device, non_blocking=ahead) for f in fields(self))
            self._copies[device] = type(self)(*values)
        return self._copies[device]

    @cached_property
    def _copies(self):
        return {}

    @classmethod
    def joined(cls, batches: list[Batch]) -> Batch:
        """The examples of several batches as one; their arrays must have the same shapes but for the first axis."""
        return cls(*(torch.cat([getattr(one, f.name) for one in batches]) for f in fields(cls)))

    def part(self, i: int, n: int) -> Batch:
        """Part `i` of `n`: every n-th example from the i-th on; empty if there are too few."""
        return self if n == 1 else type(self)(*(getattr(self, f.name)[i::n] for f in fields(self)))

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
    # relative to the peak, so that no unit underflows
    energy = (m / peak.clamp_min(torch.finfo(m.dtype).tiny)[:, None]).square()
    level = peak * (energy.square().sum(1) / energy.sum(1).clamp_min(1)).sqrt()
    return torch.maximum(torch.quantile(m, 0.95, dim=1), level / 2)


def _slice(kspace, mask, sens_maps):
    """The arrays of a slice, checked, as tensors of a batch of one: k-space, maps, mask."""
    kspace, mask, sens_maps = tensor(kspace), tensor(mask), tensor(sens_maps)
    shapes = [tuple(x.shape) for x in (kspace, mask, sens_maps)]
    if len(shapes[0]) != 3 or shapes[2] != shapes[0] or shapes[1] != shapes[0][1:]:
        raise ValueError(
            f"kspace {shapes[0]}, mask {shapes[1]} and sens_maps {shapes[2]} do not fit; expected (coil, y, x), (y, x) "
            "and (coil, y, x)"
        )
    if not mask.any() or not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask measures nothing or holds values other than 0 and 1; expected True where measured")
    if not sens_maps.any():
        raise ValueError("sens_maps are empty (all zero): the calibration found no coil; expected maps of the object")
    for name, values in {"kspace": kspace, "sens_maps": sens_maps}.items():
        if not values.is_complex() or not (values.abs() < 1e18).all():  # squares of larger ones overflow
            raise ValueError(f"{name} is {values.dtype} or holds NaN or infinite values; expected finite complex ones")
    return kspace.to(torch.complex64)[None], sens_maps.to(torch.complex64)[None], mask[None]


def tensor(values: np.ndarray | Tensor) -> Tensor:
    """Values as a tensor; of an array, which may be flipped, of another byte order or read-only, a plain copy."""
    if isinstance(values, Tensor):
        return values
    values = np.asarray(values)
    if values.dtype.kind not in "biufc" or values.dtype.itemsize > 16:
        raise ValueError(f"an array of {values.dtype} cannot be taken; expected complex, real or Boolean numbers")
    return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """`values` (batch,) with trailing axes added, so that they broadcast over `like` (batch, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
