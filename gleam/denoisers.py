"""CNN denoisers of complex images, one code for 2D and 3D (2D + time).

This is the only place where a complex image becomes two real channels.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.autograd.function import once_differentiable

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def to_channels(x):
    """Complex image (batch, ...) to real channels (batch, 2, ...)."""
    return torch.view_as_real(x).movedim(-1, 1).contiguous()


def to_complex(channels):
    """Real channels (batch, 2, ...) to complex image (batch, ...)."""
    return torch.view_as_complex(channels.movedim(1, -1).contiguous())


class _InPlaceReLU(torch.autograd.Function):
    """ReLU between two convolutions that allocates nothing, forward or backward.

    The gradient may be overwritten because the convolution that follows is its only source and has just made it. With
    ``nn.ReLU`` the copy made here is the peak of a training step, a sixth of what a GLEAM module needs.
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


class ResidualBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution around a skip connection; a 1x1 convolution where the channels change."""

    def __init__(self, n_in, n_out, convolution):
        super().__init__()
        self.skip = nn.Identity() if n_in == n_out else convolution(n_in, n_out, 1)
        self.first = convolution(n_in, n_out, 3, padding=1, bias=False)
        self.second = convolution(n_out, n_out, 3, padding=1, bias=False)

    def forward(self, channels):
        between = _InPlaceReLU.apply(self.first(torch.relu(channels)))
        return self.second(between).add_(self.skip(channels))  # in place: one feature map less at the peak


def _convolution(n_dims):
    if n_dims not in CONVOLUTIONS:
        raise ValueError(f"n_dims={n_dims!r} must be 2 (images) or 3 (series of images)")
    return CONVOLUTIONS[n_dims]


class ResidualCNN(nn.Module):
    """x + f(x), f being residual blocks without normalisation and one last convolution (Section V-C1).

    At 100 features in 2D it has 273 902 parameters, which gives the 2.19 M of Table III for 8 iterations.
    Input and output: complex (batch, y, x) for ``n_dims=2``, (batch, time, y, x) for ``n_dims=3``.
    """

    def __init__(self, n_features=100, *, n_blocks=2, n_dims=2):
        super().__init__()
        convolution = _convolution(n_dims)
        widths = [2] + [n_features] * n_blocks
        blocks = [ResidualBlock(a, b, convolution) for a, b in pairwise(widths)]
        self.body = nn.Sequential(*blocks, convolution(n_features, 2, 3, padding=1))

    def forward(self, x):
        return x + to_complex(self.body(to_channels(x)))


class PlainCNN(nn.Module):
    """x + g(x), g being five convolutions with ReLUs between, without normalisation or biases (Section V-C2).

    At 70 features in 2D it has 134 820 parameters. Input and output as in :class:`ResidualCNN`.
    """

    def __init__(self, n_features=70, *, n_layers=5, n_dims=2):
        super().__init__()
        widths = [2] + [n_features] * (n_layers - 1) + [2]
        self.layers = nn.ModuleList(_convolution(n_dims)(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))

    def residual(self, x):
        """g(x)."""
        first, *others = self.layers
        channels = first(to_channels(x))
        for layer in others:
            channels = layer(_InPlaceReLU.apply(channels))
        return to_complex(channels)

    def forward(self, x):
        return x + self.residual(x)
