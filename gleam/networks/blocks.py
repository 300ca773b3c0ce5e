"""Lists of blocks of other packages as networks, and what adapters need of a batch (:mod:`gleam.networks.adapt`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gleam.networks.unrolled import Unrolled
from gleam.physics.batch import Batch
from gleam.physics.fourier import fft2c, fftshift2, ifft2


def centred(batch: Batch) -> tuple[Tensor, Tensor]:
    """k-space (batch, coil, [time,] y, x) and mask (batch, 1, [time,] y or 1, x), both centred."""
    mask = fftshift2(batch.mask.expand(*batch.mask.shape[:-1], batch.kspace.shape[-1]))
    return mask * fft2c(ifft2(batch.kspace)), mask


def once(make: Callable, batch: Any) -> Any:
    """`make(batch)`, kept with the batch as its own cached properties are."""
    kept = vars(batch).setdefault("_given", {})  # a frozen dataclass refuses attributes, but not this
    if make not in kept:
        kept[make] = make(batch)
    return kept[make]


class _Block(nn.Module):
    """A block as an iteration; it gets as many inputs after x as it requires."""

    def __init__(self, block, inputs):
        super().__init__()
        required = [
            p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            for p in inspect.signature(block.forward).parameters.values()
        ]
        self.block, self.inputs, self.n_more = block, inputs, max(1, sum(required)) - 1

    def forward(self, x, batch):
        more = self.inputs(batch)[: self.n_more] if self.n_more else ()
        found = self.block(x, *more)  # operators of mrpro return (x,)
        return found[0] if isinstance(found, tuple) and len(found) == 1 else found


class _Blocks(Unrolled):
    """Of blocks on complex images, called as `block(x)` or `block(x, batch)`."""

    def __init__(self, modules):
        modules = list(modules) if isinstance(modules, Iterable) else []
        if not modules or not all(isinstance(module, nn.Module) for module in modules):
            raise ValueError("modules are not a list of modules; expected an nn.ModuleList, an nn.Sequential or a list")
        super().__init__(_Block(module, self.inputs) for module in modules)

    @staticmethod
    def inputs(batch):
        return (batch,)


class _ChannelBlocks(_Blocks):
    def start(self, batch):
        return torch.view_as_real(batch.zero_filled).movedim(-1, 1).contiguous()

    def image(self, x, batch):
        return torch.view_as_complex(x.movedim(1, -1).contiguous().to(batch.target.real.dtype))


class _PairBlocks(_Blocks):
    def start(self, batch):
        return torch.view_as_real(batch.zero_filled).unsqueeze(1)

    def image(self, x, batch):
        return torch.view_as_complex(x.contiguous().to(batch.target.real.dtype)).squeeze(1)


class _MRproBlocks(_Blocks):
    @staticmethod
    def inputs(batch):
        return once(encoding, batch)

    def start(self, batch):
        kspace, operator = once(encoding, batch)
        return operator.adjoint(kspace)[0]

    def image(self, x, batch):
        return x[:, 0, 0]


def blocks(modules: Iterable[nn.Module]) -> Unrolled:
    """Modules of complex images (batch, [time,] y, x), applied one after the other to the zero-filled image.

    Parameters
    ----------
    modules : iterable of nn.Module
        Such as an `nn.ModuleList` or `nn.Sequential`. A module whose `forward` requires two arguments is called as
        `block(x, batch)`, any other as `block(x)`.

    Raises
    ------
    ValueError
        If they are no modules.
    """
    return _Blocks(modules)


def channel_blocks(modules: Iterable[nn.Module]) -> Unrolled:
    """As :func:`blocks` for real images of two channels (batch, 2, [time,] y, x), real and imaginary part."""
    return _ChannelBlocks(modules)


def pair_blocks(modules: Iterable[nn.Module]) -> Unrolled:
    """As :func:`blocks` for images whose last axis is real and imaginary part (batch, 1, [time,] y, x, 2)."""
    return _PairBlocks(modules)


def mrpro_blocks(modules: Iterable[nn.Module]) -> Unrolled:
    """Blocks made with the operators of mrpro, on images (batch, 1 coil, 1 z, y, x).

    A block gets as many of (x, kspace, operator) as its `forward` requires: :func:`encoding` makes the last two of each
    batch. It returns the next x, or (x,) as mrpro's operators do. Operators of one batch cannot be part of a network
    that is trained on many.

    Parameters
    ----------
    modules : iterable of nn.Module

    Raises
    ------
    ValueError
        If they are no modules.
    """
    return _MRproBlocks(modules)


def encoding(batch: Batch) -> tuple[Tensor, Any]:
    """(k-space, operator) of a batch for mrpro: centred, (batch, coil, 1 z, y, x), and A = mask, Fourier, maps."""
    from mrpro.operators import CartesianMaskingOp, FastFourierOp, SensitivityOp

    kspace, mask = (x.unsqueeze(2) for x in centred(batch))
    maps = SensitivityOp(batch.sens_maps.unsqueeze(2))
    return kspace, CartesianMaskingOp(mask) @ FastFourierOp(dim=(-2, -1)) @ maps
