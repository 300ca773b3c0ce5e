"""Convolutions of images and of series of images, for :mod:`gleam.networks.denoisers`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gleam import execution

FRAMES_PER_BLOCK = 4  # of Conv3d: frames are stacked three times, so more of them need more memory at a time


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` for feature maps that may be padded with channels of zeros (:func:`gleam.execution.padded`)."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, y, x) to (batch, channel, y, x), padded as `x` is."""
        return self._conv_forward(x, *_padded(self, x))


def _padded(convolution, x):
    """Weight and bias of `convolution` for the channels that `x` has; those of padded channels are zero."""
    weight, bias = convolution.weight, convolution.bias
    if x.is_contiguous():  # weights follow the layout of x
        weight = weight.contiguous()
    n_out, n_in = execution.padded(len(weight)) - len(weight), x.shape[1] - weight.shape[1]
    if n_out or n_in:
        weight = nn.functional.pad(weight, [0, 0] * (weight.ndim - 2) + [0, n_in, 0, n_out])
        bias = bias if bias is None else nn.functional.pad(bias, [0, n_out])
    return weight, bias


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that is also fast on a CPU, for kernels of size 1 or 3 with stride 1 that keep the size.

    In fp32 with fewer than 32 channels torch has only a slow path on CPUs, ten times as slow. Instead, each frame and
    its two neighbours become the channels of a 2D convolution. It takes a few frames at a time, so that no more memory
    is kept for the backward pass than by `nn.Conv3d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, time, y, x) to (batch, channel, time, y, x), padded as `x` is."""
        weight, bias = _padded(self, x)
        if x.device.type != "cpu" or (self.kernel_size, self.padding) not in _FAST:
            return self._conv_forward(x, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            # oneDNN's bf16 results are wrong for fewer frames than the kernel has: append frames of zeros
            n_frames, n_more = x.shape[2], max(0, self.kernel_size[0] - x.shape[2])
            if n_more:
                x = nn.functional.pad(x, (0, 0, 0, 0, 0, n_more))
            y = self._conv_forward(x, weight, bias)
            return y[:, :, :n_frames] if n_more else y
        if x.is_contiguous(memory_format=torch.channels_last_3d):  # 32 channels or more (execution.channels_last)
            return self._conv_forward(x, weight, bias)
        if self.kernel_size == (1, 1, 1):
            y = torch.conv2d(x.transpose(1, 2).flatten(0, 1), weight[:, :, 0])  # frame by frame
            y = y.unflatten(0, (len(x), -1)).transpose(1, 2)
        else:
            y = _FramesAsChannels.apply(x, weight)
        return y if bias is None else y + bias[:, None, None, None]


# (size of the kernel, padding)
_FAST = [((1, 1, 1), (0, 0, 0)), ((3, 3, 3), (1, 1, 1))]
CONVOLUTIONS = {2: Conv2d, 3: Conv3d}
_LAYOUTS: dict[type[nn.Module], torch.memory_format] = {Conv2d: torch.channels_last, Conv3d: torch.channels_last_3d}


def lay_out(network: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Change the weights of this module's convolutions to channels last, with their gradients and moments.

    Parameters
    ----------
    network : nn.Module
        Its :class:`Conv2d` and :class:`Conv3d` are changed in place; what has this layout already is not copied.
    optimizers : iterable of Optimizer
        Those that train `network`.
    """
    layouts: dict[Any, torch.memory_format] = {
        layer.weight: _LAYOUTS[type(layer)] for layer in network.modules() if type(layer) in _LAYOUTS
    }
    for p, layout in layouts.items():
        if not p.is_contiguous(memory_format=layout):
            p.data = p.data.contiguous(memory_format=layout)
        if p.grad is not None and not p.grad.is_contiguous(memory_format=layout):
            p.grad = p.grad.contiguous(memory_format=layout)
    # the fused update needs weights, gradients and moments in the same order in memory
    for p, moments in (item for optimizer in optimizers for item in optimizer.state.items() if item[0] in layouts):
        for key, t in moments.items():
            if torch.is_tensor(t) and t.shape == p.shape and not t.is_contiguous(memory_format=layouts[p]):
                moments[key] = t.contiguous(memory_format=layouts[p])


class _FramesAsChannels(torch.autograd.Function):
    """3 x 3 x 3 convolution as 2D convolutions of blocks of frames."""

    @staticmethod
    def forward(ctx, x, weight):
        # the stacked frames, three times as large as x, are made again in the backward pass
        ctx.save_for_backward(x, weight)
        n, _, n_t, n_y, n_x = x.shape
        n_out, n_pixels = len(weight), n_y * n_x
        # each frame of y is contiguous, so that the next layer copies nothing
        strides = (n_t * n_out * n_pixels, n_pixels, n_out * n_pixels, n_x, 1)
        kernel, y = _as_2d(weight), x.new_empty_strided((n, n_out, n_t, n_y, n_x), strides)
        for first, last in _blocks(n_t):
            block = torch.conv2d(_neighbours(x, first, last), kernel, padding=1)
            y[:, :, first:last] = block.unflatten(0, (-1, last - first)).transpose(1, 2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        kernel, to_x = _as_2d(weight), torch.zeros_like(x)
        to_kernel = torch.zeros_like(kernel)
        for first, last in _blocks(x.shape[2]):
            to_block, of_block, _ = torch.ops.aten.convolution_backward(
                gradient[:, :, first:last].transpose(1, 2).flatten(0, 1), _neighbours(x, first, last), kernel,
                None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False],
            )  # fmt: skip
            to_kernel += of_block
            parts = to_block.unflatten(0, (-1, last - first)).transpose(1, 2).chunk(3, dim=1)
            for shift, part in zip((-1, 0, 1), parts, strict=True):
                # the frame of zeros beside the first and the last one needs no gradient
                a, b = max(first + shift, 0), min(last + shift, x.shape[2])
                to_x[:, :, a:b] += part[:, :, a - first - shift : b - first - shift]
        return to_x, to_kernel.unflatten(1, (3, -1)).transpose(1, 2)


def _as_2d(weight):
    """(out, in, 3, 3, 3) to (out, 3 in, 3, 3)."""
    return weight.transpose(1, 2).flatten(1, 2)


def _blocks(n_frames):
    return [(first, min(first + FRAMES_PER_BLOCK, n_frames)) for first in range(0, n_frames, FRAMES_PER_BLOCK)]


def _neighbours(x, first, last):
    """Frames first to last, each stacked with the frames before and after it: (batch * frame, 3 in, y, x)."""
    n_frames = x.shape[2]
    block = x[:, :, max(first - 1, 0) : last + 1].transpose(1, 2)
    empty = (first == 0, last == n_frames)  # whether a frame of zeros is needed before, after
    block = nn.functional.pad(block, (0, 0, 0, 0, 0, 0, *map(int, empty)))
    return torch.cat([block[:, k : k + last - first] for k in range(3)], dim=2).flatten(0, 1)
