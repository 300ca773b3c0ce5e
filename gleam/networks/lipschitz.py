"""How far a CNN can stretch an image: its Lipschitz constant, bounded from below and from above."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def steepest(function: Callable[[Tensor], Tensor], x: Tensor, *, n_iterations: int = 10, seed: int = 0) -> float:
    """Norm of the Jacobian of `function` at `x` by power iteration: a lower bound of the Lipschitz constant.

    Parameters
    ----------
    function : callable
        Complex images -> complex images.
    x : complex Tensor, shape (batch, ...)
    n_iterations : int
    seed : int
        Seed of the first direction.

    Returns
    -------
    float
        The largest norm over the batch.

    Notes
    -----
    The Jacobian is applied by a difference, which is exact for a network of convolutions and ReLUs as long as no ReLU
    switches. Its adjoint is applied by autograd.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    direction = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    short = 1e-3 * _lengths(x)  # so short that few ReLUs switch
    for _ in range(n_iterations):
        step = direction * (short / _lengths(direction))
        with torch.no_grad():
            image = (function(x + step) - function(x - step)) / (2 * short)
        start = x.detach().requires_grad_()
        (direction,) = torch.autograd.grad(function(start), start, image)
    return float(_lengths(image).max())


def _lengths(x):
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.ndim - 1))


_N_FREQUENCIES = {2: 16, 3: 12}  # per axis, by the number of axes
_N_SQUARINGS = 5  # the bound is then at most k^(1/64) times the norm for k channels


def operator_norm(weight: Tensor) -> Tensor:
    """Upper bound, tight to a few percent, of the norm of a zero-padded convolution on images of any size.

    Parameters
    ----------
    weight : Tensor, shape (out, in, 3, 3[, 3])
        As in `nn.Conv2d`; stride 1.

    Returns
    -------
    Tensor, shape ()
        Differentiable, and a function of the weight alone.

    Notes
    -----
    On an unbounded plane a convolution is one matrix (out, in) per spatial frequency, and its norm is the largest of
    their spectral norms. On an image, which is zero outside, it cannot be larger. The power method, by repeated
    squaring, runs on a grid of frequencies at once. For a kernel three wide, the norm between the M frequencies per
    axis is at most 1 / cos(pi / M) times the largest on the grid (M. Riesz, trigonometric polynomials of degree 1).
    """
    size = weight.shape[2:]
    n = _N_FREQUENCIES[len(size)]
    with torch.no_grad():
        # half of the frequencies: those of a real kernel come in conjugate pairs of equal norm
        matrices = torch.fft.rfftn(weight, s=[n] * len(size), dim=list(range(2, weight.ndim))).movedim((0, 1), (-2, -1))
        grid, matrices = matrices.shape[:-2], matrices.flatten(0, -3)
        worst, vector, bound = _largest_singular_value(matrices)
        frequencies, taps = (
            torch.cartesian_prod(*(torch.arange(m, device=weight.device) for m in shape)) for shape in (grid, size)
        )
        turns = (taps * _at(frequencies, worst)).sum(1)
        wave = torch.polar(torch.ones_like(bound), -2 * math.pi / n * turns.to(bound.dtype))
    # with frequency and vector held fixed, the derivative of this is that of the norm
    norm = torch.linalg.vector_norm((weight.flatten(2).to(wave.dtype) @ wave) @ vector)
    margin = math.cos(math.pi / n) ** len(size)  # see Notes
    # the value is the bound, and the gradient that of the norm, in proportion
    return norm * (bound / norm.clamp_min(torch.finfo(norm.dtype).tiny)).detach() / margin


def _largest_singular_value(matrices):
    """(index of the matrix, right singular vector, upper bound of the value) of the largest among `matrices`."""
    is_wide = matrices.shape[1] < matrices.shape[2]
    power = matrices @ matrices.mH if is_wide else matrices.mH @ matrices
    log_norm = 0
    for k in range(_N_SQUARINGS + 1):
        power = power @ power if k else power
        norm = torch.view_as_real(power).flatten(1).norm(dim=1).clamp_min(torch.finfo(matrices.dtype).tiny)
        # scaled to norm 1, its factor kept as a logarithm: the powers would overflow or vanish
        power, log_norm = power / norm[:, None, None], 2 * log_norm + norm.log()
    worst = log_norm.argmax()
    columns = _at(power, worst)
    vector = _at(columns.mT, torch.linalg.vector_norm(columns, dim=0).argmax())
    vector = _at(matrices, worst).mH @ vector if is_wide else vector
    size = torch.linalg.vector_norm(vector).clamp_min(torch.finfo(matrices.dtype).tiny)
    return worst, vector / size, (_at(log_norm, worst) / 2 ** (_N_SQUARINGS + 1)).exp()


def _at(x, number):
    """`x[number]` for a number in a tensor on the device, without synchronising as indexing would."""
    return x.index_select(0, number.reshape(1))[0]
