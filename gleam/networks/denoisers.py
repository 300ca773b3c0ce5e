"""CNN denoisers of complex images, one code for 2D and 3D (2D + time).

This is the only place where a complex image becomes two real channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gleam import execution
from gleam.networks.convolutions import CONVOLUTIONS
from gleam.networks.lipschitz import operator_norm
from gleam.networks.lipschitz import steepest as steepest
from gleam.physics.solvers import NotConverged, fixed_point


def to_channels(x: Tensor, n_features: int) -> Tensor:
    """Convert a complex image to real channels.

    Parameters
    ----------
    x : complex Tensor, shape (batch, ...)
    n_features : int
        Features of the CNN; they decide the memory layout (:func:`gleam.execution.channels_last`). The complex image
        itself has its two channels last.

    Returns
    -------
    Tensor, shape (batch, 2 or more, ...)
        Real part, imaginary part, and as many channels of zeros as :func:`gleam.execution.padded` asks for.
    """
    channels = torch.view_as_real(x)
    n_more = execution.padded(2) - 2
    channels = (nn.functional.pad(channels, (0, n_more)) if n_more else channels).movedim(-1, 1)
    return channels if execution.channels_last(x, n_features) else channels.contiguous()


def to_complex(channels: Tensor) -> Tensor:
    """Real channels (batch, 2 or more, ...) of any precision to a complex image (batch, ...) of the first two."""
    pairs = (channels if channels.shape[1] == 2 else channels.narrow(1, 0, 2)).movedim(1, -1)
    return torch.view_as_complex(pairs.to(torch.promote_types(pairs.dtype, torch.float32)).contiguous())


def _check_dims(x, convolution):
    n_dims = len(convolution.kernel_size)
    if x.ndim != n_dims + 1:
        raise ValueError(
            f"a CNN with n_dims={n_dims} cannot take images of shape {tuple(x.shape)}; expected "
            + ("(batch, y, x), and the other n_dims for series" if n_dims == 2 else "(batch, time, y, x)")
            + ("" if n_dims == 2 else ", and the other n_dims for images")
        )


class _InPlaceReLU(torch.autograd.Function):
    """ReLU between two convolutions that allocates no memory, forward or backward.

    The gradient may be overwritten: only the convolution that follows gives one, in a tensor used nowhere else.
    The copy that `nn.ReLU` makes here would be the peak of a training step, a sixth of what a GLEAM module needs.
    """

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x.relu_())
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)


def _relu_in_place(x):
    return torch.relu(x) if torch.compiler.is_compiling() else _InPlaceReLU.apply(x)  # a compiler plans memory


class Layers(nn.Sequential):
    """Layers from real channels to real channels, compiled if :mod:`gleam.execution` says so."""

    def forward(self, channels: Tensor) -> Tensor:
        """(batch, channel, ...) to (batch, channel, ...)."""
        return execution.compiled(_through)(self, channels) if execution.compiles() else self.through(channels)

    def through(self, channels: Tensor) -> Tensor:
        """Apply the layers without compiling."""
        return super().forward(channels)


def _through(layers, channels):
    """One function for the compiler; the method of each object would be compiled anew."""
    return layers.through(channels)


class _Chain(Layers):
    """Layers with a ReLU between them."""

    def through(self, channels):
        first, *others = self
        channels = first(channels)
        for layer in others:
            channels = layer(_relu_in_place(channels))
        return channels


class ResidualBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution; the skip connection is a 1x1 convolution if the channels change.

    Parameters
    ----------
    n_in, n_out : int
        Channels of the input and the output.
    convolution : type
        :class:`gleam.networks.convolutions.Conv2d` or `Conv3d`.
    """

    def __init__(self, n_in: int, n_out: int, convolution: type[nn.Module]) -> None:
        super().__init__()
        self.skip = nn.Identity() if n_in == n_out else convolution(n_in, n_out, 1)
        self.first = convolution(n_in, n_out, 3, padding=1, bias=False)
        self.second = convolution(n_out, n_out, 3, padding=1, bias=False)

    def forward(self, channels: Tensor) -> Tensor:
        """(batch, n_in, ...) to (batch, n_out, ...)."""
        between = _relu_in_place(self.first(torch.relu(channels)))  # the skip connection needs `channels` unchanged
        return self.second(between).add_(self.skip(channels))  # in place: the peak has one feature map less


def _convolution(n_dims):
    if n_dims not in CONVOLUTIONS:
        raise ValueError(f"n_dims={n_dims!r} must be 2 (images) or 3 (series of images)")
    return CONVOLUTIONS[n_dims]


class ResidualCNN(nn.Module):
    """x + f(x), where f has residual blocks without normalisation and one last convolution (Section V-C1).

    Parameters
    ----------
    n_features : int
        Channels of the feature maps.
    n_blocks : int
        Residual blocks of f.
    n_dims : int
        2 for images (batch, y, x), 3 for series (batch, time, y, x); complex input and output.

    Raises
    ------
    ValueError
        If `n_dims` is neither 2 nor 3, or, when called, if an image has another number of axes.

    Notes
    -----
    With 100 features in 2D it has 273 902 parameters, which gives the 2.19 M of Table III for 8 iterations.
    """

    def __init__(self, n_features: int = 100, *, n_blocks: int = 2, n_dims: int = 2) -> None:
        super().__init__()
        convolution = _convolution(n_dims)
        widths = [2] + [n_features] * n_blocks
        blocks = [ResidualBlock(a, b, convolution) for a, b in pairwise(widths)]
        self.body = Layers(*blocks, convolution(n_features, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Complex images to complex images of the same shape."""
        last: Any = self.body[-1]
        _check_dims(x, last)
        return x + to_complex(self.body(to_channels(x, last.in_channels)))


class PlainCNN(nn.Module):
    """x + g(x), where g has five convolutions with ReLUs between, no normalisation and no biases (Section V-C2).

    Parameters
    ----------
    n_features : int
        Channels of the feature maps.
    n_layers : int
        Convolutions of g.
    n_dims : int
        2 for images (batch, y, x), 3 for series (batch, time, y, x); complex input and output.
    lipschitz : float, optional
        Upper limit of the Lipschitz constant of g, between 0 and 1. By default g has no limit, as in the paper.

    Raises
    ------
    ValueError
        If `lipschitz` is out of range, if `n_dims` is neither 2 nor 3, or, when called, if an image has another number
        of axes.

    Notes
    -----
    With 70 features in 2D it has 134 820 parameters. It can be inverted if the Lipschitz constant of g is below 1.
    Where :meth:`lipschitz_bound` exceeds `lipschitz`, g is scaled so that its bound equals `lipschitz`. (Without biases
    it does not matter which layer of g is scaled.)
    """

    def __init__(
        self, n_features: int = 70, *, n_layers: int = 5, n_dims: int = 2, lipschitz: float | None = None
    ) -> None:
        super().__init__()
        if lipschitz is not None and not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz={lipschitz!r} must lie between 0 and 1, or be None for a network left free")
        self.lipschitz = lipschitz
        widths = [2] + [n_features] * (n_layers - 1) + [2]
        self.layers = _Chain(*(_convolution(n_dims)(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)))

    def extra_repr(self) -> str:
        """Settings of the network beside its layers."""
        return f"lipschitz={self.lipschitz}"

    def residual(self, x: Tensor) -> Tensor:
        """g(x)."""
        g = self._convolutions(x)
        return g if self.lipschitz is None else self._scale() * g

    def forward(self, x: Tensor) -> Tensor:
        """x + g(x)."""
        return x + self.residual(x)

    @torch.no_grad()
    def inverse(self, y: Tensor, *, n_iterations: int = 100, tolerance: float = 1e-4) -> Tensor:
        """Solve x + g(x) = y by the fixed-point iteration x <- y - g(x), without a gradient.

        Parameters
        ----------
        y : complex Tensor
            Images as :meth:`forward` returns them.
        n_iterations : int
            Limit of iterations. It stops before when x changes by no more than rounding.
        tolerance : float
            Largest step allowed at the end, relative to the norm of x.

        Returns
        -------
        complex Tensor
            x, of the shape of `y`.

        Raises
        ------
        NotConverged
            If the smallest step was larger than `tolerance` (:class:`gleam.solvers.NotConverged`, a ValueError).
        """
        # once for all iterations, as it does not depend on x
        scale = 1.0 if self.lipschitz is None else self._scale()
        x, residual = fixed_point(lambda x: y - scale * self._convolutions(x), y, n_iterations=n_iterations)
        worst = float(residual.max())
        # "not <=", since NaN counts as a failure
        if not worst <= tolerance:
            raise NotConverged(
                f"the inverse of {type(self).__name__} did not converge: its last step still changed x by {worst:.1g} "
                f"of its norm, and tolerance={tolerance:g}; keep g a contraction, as lipschitz=0.9 does",
                worst,
            )
        return x

    def lipschitz_bound(self) -> Tensor:
        """Upper bound of the Lipschitz constant of the convolutions and ReLUs before scaling, on images of any size.

        The product of the :func:`operator_norm` of the layers; differentiable. The constant itself may be far smaller.
        """
        layers: Iterable[Any] = self.layers
        return torch.stack([operator_norm(layer.weight) for layer in layers]).prod()

    def _scale(self):
        return self.lipschitz / self.lipschitz_bound().clamp_min(self.lipschitz)

    def _convolutions(self, x):
        _check_dims(x, self.layers[0])
        return to_complex(self.layers(to_channels(x, self.layers[-1].in_channels)))
