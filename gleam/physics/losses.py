"""Training losses: callables of (image, batch) that return one number.

A function of your own will do as well, if it has a name: name and source are part of what names a training run. The
source of functions that it calls, and the values of global variables, are not: give numbers by a partial function, and
change `run_dir` if you change a function that it calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gleam import metrics
from gleam.files import named
from gleam.physics.batch import Batch, per_example
from gleam.physics.sense import Sense

Loss = Callable[[Tensor, Batch], Tensor]


def complex_l1(image: Tensor, batch: Batch) -> Tensor:
    """Mean of `|x - target|` over complex pixels: the paper's loss (Section V-C4).

    Raises ValueError for an image without a phase, such as a root sum of squares.
    """
    if image.is_complex() != batch.target.is_complex():
        raise ValueError(
            f"complex_l1 compares an image of {image.dtype} with a target of {batch.target.dtype}; expected the same "
            "kind, or a loss of magnitudes such as gleam.losses.magnitude_l1"
        )
    return metrics.complex_l1(image, batch.target)


def magnitude_l1(image: Tensor, batch: Batch) -> Tensor:
    """Mean of `| |x| - |target| |`, for images without a phase, such as a root sum of squares."""
    return (image.abs() - batch.target.abs()).abs().mean()


def one_minus_ssim(image: Tensor, batch: Batch) -> Tensor:
    """1 - SSIM of magnitudes, with the window and data range of :func:`gleam.metrics.ssim`; frames count as images."""
    x, truth = image.abs(), batch.target.abs()
    peak = _or_one(truth.flatten(1).amax(1))  # 0 in an empty slice
    c1, c2 = (per_example((k * peak).square(), x) for k in (0.01, 0.03))  # the usual constants of SSIM
    mean_x, mean_t = _blurred(x), _blurred(truth)
    var_x, var_t = _blurred(x * x) - mean_x.square(), _blurred(truth * truth) - mean_t.square()
    covariance = _blurred(x * truth) - mean_x * mean_t
    similarity = (2 * mean_x * mean_t + c1) * (2 * covariance + c2)
    return 1 - (similarity / ((mean_x.square() + mean_t.square() + c1) * (var_x + var_t + c2))).mean()


def _blurred(x):
    """Local means under a Gaussian window, where the window lies inside the image.

    Sums of shifted images and no convolution, whose smaller number formats would lose the variances.
    """
    sigma, radius = 1.5, 5  # the usual window of SSIM, 11 x 11
    if min(x.shape[-2:]) <= 2 * radius:
        raise ValueError(
            f"SSIM needs images of at least {2 * radius + 1} x {2 * radius + 1} pixels, not {tuple(x.shape[-2:])}"
        )
    at = torch.arange(-radius, radius + 1)
    window = torch.exp(-at.square() / (2 * sigma**2))
    for axis in (-2, -1):
        n = x.shape[axis] - 2 * radius
        shifted = (x.narrow(axis, i, n) * w for i, w in enumerate((window / window.sum()).tolist()))
        x = sum(shifted)
    return x


@dataclass(frozen=True)
class Mixed:
    """Weighted sum of losses.

    Parameters
    ----------
    parts : tuple or list of (float, loss)
        Such as `((0.8, complex_l1), (0.2, one_minus_ssim))`.

    Raises
    ------
    ValueError
        If there is no part, one is not a pair, its weight not a finite number, or its loss not a function.
    """

    parts: Sequence[tuple[float, Loss]]

    def __post_init__(self):
        if not self.parts:
            raise ValueError("Mixed has no losses; expected pairs of a weight and a loss, such as (0.8, complex_l1)")
        for part in self.parts if isinstance(self.parts, list | tuple) else [self.parts]:
            is_pair = isinstance(part, list | tuple) and len(part) == 2
            if not (is_pair and isinstance(part[0], Real) and math.isfinite(part[0])):
                raise ValueError(f"{part!r} of Mixed is not a pair of a weight and a loss, such as (0.8, complex_l1)")
            _check_loss(part[1], "Mixed")

    def __call__(self, image: Tensor, batch: Batch) -> Tensor:
        """The sum."""
        total: Any = sum(weight * loss(image, batch) for weight, loss in self.parts)
        return total

    def __repr__(self) -> str:
        return f"Mixed({', '.join(f'{_digits(weight)} {named(loss)}' for weight, loss in self.parts)})"


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
        If `weight` is not a number between 0 and 1, or `loss` is not a function.
    """

    weight: float = 0.9
    loss: Loss = complex_l1

    def __post_init__(self):
        if not (isinstance(self.weight, Real) and 0 <= self.weight <= 1):
            raise ValueError(f"weight={self.weight!r} of DataConsistent must be a number between 0 and 1")
        _check_loss(self.loss, "DataConsistent")

    def __call__(self, image: Tensor, batch: Batch) -> Tensor:
        """The weighted mean of both losses; ValueError for an image without a phase."""
        if not image.is_complex():
            raise ValueError(f"DataConsistent needs a complex image to compare with its samples, not {image.dtype}")
        consistent = image - batch.sense.normal(image) + batch.measured_image
        return (1 - self.weight) * self.loss(image, batch) + self.weight * self.loss(consistent, batch)

    def __repr__(self) -> str:
        return f"DataConsistent({_digits(self.weight)}, {named(self.loss)})"


@dataclass(frozen=True)
class SplitBatch(Batch):
    """A mini-batch some of whose samples are held out of `kspace`, `mask` and `zero_filled`.

    Parameters
    ----------
    held_out : complex Tensor, shape (batch, coil, [time,] y, x)
        Those samples, zero elsewhere.
    held_out_mask : Tensor, shape (batch, 1, [time,] y, x)
        Where they are.
    """

    held_out: Tensor
    held_out_mask: Tensor


@dataclass(frozen=True)
class SelfSupervised:
    """Learning without a target: the network gets a part of the measured samples and has to predict the others.

    At every step each sample is held out with probability `share`, all coils together, except the 4 x 4 at the centre
    of k-space. The loss is `||u - v||_2 / ||v||_2 + ||u - v||_1 / ||v||_1` for held-out samples v and their prediction
    u, averaged over examples.

    Parameters
    ----------
    share : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If `share` is not a number between 0 and 1.

    Notes
    -----
    SSDU: Yaman et al., Magn. Reson. Med. 84, 2020, with samples drawn uniformly. A strategy splits the batch before
    each step, by torch's CPU generator. Validation of :func:`gleam.fit` still needs slices with a target.
    """

    share: float = 0.4

    def __post_init__(self):
        if not (isinstance(self.share, Real) and 0 < self.share < 1):
            raise ValueError(f"share={self.share!r} of SelfSupervised must be a number between 0 and 1")

    def split(self, batch: Batch) -> SplitBatch:
        """The batch with a random part of its samples held out."""
        y = batch.kspace
        chosen = torch.rand(y[:, :1].shape).to(y.device) < self.share  # drawn on the CPU: the same on every device
        chosen[..., [[0], [1], [-2], [-1]], [0, 1, -2, -1]] = False  # the centre, in FFT order
        held_out = batch.mask * chosen
        mask = batch.mask * ~chosen
        given = {f.name: getattr(batch, f.name) for f in fields(batch)}
        given |= {"kspace": y * mask, "mask": mask, "zero_filled": Sense(batch.sens_maps, mask).adjoint(y)}
        return SplitBatch(**given, held_out=y * held_out, held_out_mask=held_out)

    def __call__(self, image: Tensor, batch: Batch) -> Tensor:
        """The loss; ValueError for an image without a phase, or a batch that no strategy has split."""
        if not image.is_complex() or not isinstance(batch, SplitBatch):
            found = f"an image of {image.dtype}" if not image.is_complex() else f"a {type(batch).__name__}"
            raise ValueError(f"SelfSupervised needs a complex image and a batch of its split(batch), not {found}")
        measured = batch.held_out.flatten(1)
        error = Sense(batch.sens_maps, batch.held_out_mask).forward(image).flatten(1) - measured
        ratios = [error.norm(p, dim=1) / _or_one(measured.norm(p, dim=1)) for p in (2, 1)]
        return (ratios[0] + ratios[1]).mean()

    def __repr__(self) -> str:
        return f"SelfSupervised({_digits(self.share)})"


def _check_loss(loss, owner):
    """Raise ValueError if `loss` is not a function of (image, batch); a class, given for an object of it, is none."""
    if not callable(loss) or isinstance(loss, type):
        raise ValueError(
            f"loss={loss!r} of {owner} is not a function of (image, batch); expected one such as "
            "gleam.losses.complex_l1"
        )


def _digits(value):
    """All digits of a number, since it is part of what names a training run."""
    return repr(float(value)).removesuffix(".0")


def _or_one(values):
    return torch.where(values > 0, values, torch.ones_like(values))


def splitting(loss: Loss | Sequence[Loss]) -> SelfSupervised | None:
    """The :class:`SelfSupervised` among losses, also inside others; ValueError if there are two kinds of it."""
    found = set(_splitting(loss))
    if len(found) > 1:
        raise ValueError(f"the losses hold out different samples ({found}); expected one kind of SelfSupervised")
    return found.pop() if found else None


def _splitting(loss):
    if isinstance(loss, SelfSupervised):
        return [loss]
    if isinstance(loss, DataConsistent):  # a loss around another one
        return _splitting(loss.loss)
    parts = [one for _, one in loss.parts] if isinstance(loss, Mixed) else loss
    return [one for part in parts for one in _splitting(part)] if isinstance(parts, list | tuple) else []
