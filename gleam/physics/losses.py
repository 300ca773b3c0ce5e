"""Training losses: callables of (image, batch) that return one number.

A function of your own will do as well, if it has a name: name and source are part of what names a training run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from gleam import metrics
from gleam.physics.batch import Batch

Loss = Callable[[Tensor, Batch], Tensor]


def complex_l1(image: Tensor, batch: Batch) -> Tensor:
    """Mean of `|x - target|` over complex pixels: the paper's loss (Section V-C4)."""
    return metrics.complex_l1(image, batch.target)


def magnitude_l1(image: Tensor, batch: Batch) -> Tensor:
    """Mean of `| |x| - |target| |`, for images without a phase, such as a root sum of squares."""
    return (image.abs() - batch.target.abs()).abs().mean()


def one_minus_ssim(image: Tensor, batch: Batch) -> Tensor:
    """1 - SSIM of magnitudes, with the window and data range of :func:`gleam.metrics.ssim`; frames count as images."""
    x, truth = image.abs(), batch.target.abs()
    peak = truth.flatten(1).amax(1).clamp_min(torch.finfo(truth.dtype).tiny)
    c1, c2 = ((k * peak).square().reshape(-1, *[1] * (x.ndim - 1)) for k in (0.01, 0.03))
    mean_x, mean_t = _blurred(x), _blurred(truth)
    var_x, var_t = _blurred(x * x) - mean_x.square(), _blurred(truth * truth) - mean_t.square()
    covariance = _blurred(x * truth) - mean_x * mean_t
    similarity = (2 * mean_x * mean_t + c1) * (2 * covariance + c2)
    return 1 - (similarity / ((mean_x.square() + mean_t.square() + c1) * (var_x + var_t + c2))).mean()


def _blurred(x, sigma=1.5, radius=5):
    """Local means under a Gaussian window, where the window lies inside the image."""
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    window = torch.exp(-at.square() / (2 * sigma**2))
    window = window / window.sum()
    frames = x.flatten(0, -3)[:, None]
    return conv2d(conv2d(frames, window[None, None, :, None]), window[None, None, None, :]).reshape(
        *x.shape[:-2], x.shape[-2] - 2 * radius, x.shape[-1] - 2 * radius
    )


@dataclass(frozen=True)
class Mixed:
    """Weighted sum of losses.

    Parameters
    ----------
    parts : sequence of (float, loss)
        Such as `((0.8, complex_l1), (0.2, one_minus_ssim))`.
    """

    parts: Sequence[tuple[float, Loss]]

    def __call__(self, image: Tensor, batch: Batch) -> Tensor:
        """The sum."""
        total: Any = sum(weight * loss(image, batch) for weight, loss in self.parts)
        return total

    def __repr__(self) -> str:
        return f"Mixed({', '.join(f'{weight:g} {named(loss)}' for weight, loss in self.parts)})"


@dataclass(frozen=True)
class DataConsistent:
    """A loss of the image and of the image after a step of data consistency, x - A^H (A x - y).

    That step has no weights. The next module takes it anyway, so a module need not be punished for errors that it
    removes.

    Parameters
    ----------
    weight : float
        Of the loss after the step; that of the image itself gets 1 - `weight`.
    loss : callable
        Of (image, batch).

    Raises
    ------
    ValueError
        If `weight` is not between 0 and 1.
    """

    weight: float = 0.9
    loss: Loss = complex_l1

    def __post_init__(self):
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight={self.weight!r} of DataConsistent must be between 0 and 1")

    def __call__(self, image: Tensor, batch: Batch) -> Tensor:
        """The weighted mean of both losses."""
        consistent = image - batch.sense.normal(image) + batch.zero_filled
        return (1 - self.weight) * self.loss(image, batch) + self.weight * self.loss(consistent, batch)

    def __repr__(self) -> str:
        return f"DataConsistent({self.weight:g}, {named(self.loss)})"


def named(value: Callable | Sequence[Callable]) -> str:
    """A name of a callable that is the same in every process, for the name of a training run.

    That of a function or class is its own; others have their `repr`; several are a list. A partial function is named
    with its arguments.

    Raises
    ------
    ValueError
        If it cannot be named: a lambda, a function inside another one, or a `repr` with an address in memory.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(named, value))}]"
    if isinstance(value, functools.partial):
        arguments = [*map(repr, value.args), *(f"{key}={given!r}" for key, given in value.keywords.items())]
        return f"partial({', '.join([named(value.func), *arguments])})"
    name = getattr(value, "__qualname__", "") or repr(value)
    if "<l" in name or " at 0x" in name:  # <lambda>, <locals>
        raise ValueError(
            f"{name} cannot be named, so the training run could not be found again; expected a function defined with "
            "def outside of others, or an object with a repr of its own"
        )
    return name
