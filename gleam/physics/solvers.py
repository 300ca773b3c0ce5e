"""Iterative solvers of mini-batches, in which every example is a separate problem; operators are callables."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gleam.files import whole_number


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor | None = None,
    *,
    n_iterations: int = 10,
    tolerance: float = 1e-6,
    implicit: bool = False,
) -> Tensor:
    """Solve H x = b by conjugate gradients, each example of the batch separately.

    Parameters
    ----------
    operator : callable
        x -> H x, with H Hermitian positive definite.
    b : Tensor, shape (batch, ...)
        Right-hand side, real or complex.
    start : Tensor, optional
        First guess, by default 0.
    n_iterations : int
        Number of iterations, at least 1.
    tolerance : float
        An example whose residual has fallen to `tolerance` times `||b||` is no longer changed, so more iterations never
        do harm.
    implicit : bool
        Differentiate the solution instead of the iterations, see Notes.

    Returns
    -------
    Tensor, shape (batch, ...)

    Raises
    ------
    ValueError
        If `n_iterations` is not a whole number of at least 1.

    Notes
    -----
    It never waits for the device. First derivatives exist with respect to `b` and everything that `operator` depends
    on. By default they are those of the iterations: exact for the computed result,
    but their memory grows with the number of iterations. With `implicit` they are those of the solution H^-1 b, by a
    second solve in the backward pass: memory of one vector, but inexact as far as either solve has not converged.
    """
    settings = {"n_iterations": whole_number(n_iterations, "n_iterations"), "tolerance": tolerance}
    if not implicit:
        return _iterate(operator, b, start, **settings)
    with torch.no_grad():
        x = _iterate(operator, b, start, **settings)
    # d x = H^-1 (d b - d H x): the residual at a fixed x has the derivatives of b and H, the backward solve adds H^-1
    return _Implicit.apply(b - operator(x), x, operator, settings)


def _iterate(operator, b, start, n_iterations, tolerance):
    x = torch.zeros_like(b) if start is None else start.expand_as(b).to(b.dtype)
    r = b if start is None else b - operator(x)
    p, e = r, _inner(_reals(r), _reals(r))
    # compared as squares on the device: a comparison in Python would wait for it
    enough = tolerance**2 * _inner(_reals(b), _reals(b)).detach()
    for _ in range(n_iterations - 1):
        x, r, p, e = _Update.apply(x, r, p, operator(p), e, enough)
    step = e / _curvature(p, operator(p), e, enough)  # the last iteration needs only x
    return _as(x, torch.addcmul(_reals(x), step, _reals(p)))


def _curvature(p, q, e, enough):
    """<p, q>, or infinity where e is at most `enough`, so that the step is 0."""
    return _inner(_reals(p), _reals(q)).masked_fill(e <= enough, math.inf)


class _Update(torch.autograd.Function):
    """One iteration without the operator, in few and large operations on real numbers.

    x: iterate, r: residual, p: direction, q = H p, e = <r, r>, c = <p, q>. Then x+ = x + e/c p, r+ = r - e/c q,
    e+ = <r+, r+> and p+ = r+ + e+/e p. Where e is at most `enough`, both quotients are 0 and x+ is x.
    """

    @staticmethod
    def forward(ctx, x, r, p, q, e, enough):
        c = _curvature(p, q, e, enough)
        step = e / c
        x, r = _plus(x, step, p), _plus(r, step, q, sign=-1)
        new_e, e = _inner(_reals(r), _reals(r)), e.masked_fill(e <= enough, math.inf)
        ratio = new_e / e
        ctx.save_for_backward(p, q, r, e, c, step, ratio)
        return x, r, _plus(r, ratio, p), new_e

    @staticmethod
    def backward(ctx, *gradients):
        """The gradients with respect to x, r, p, q and e from those with respect to x+, r+, p+ and e+."""
        if torch.is_grad_enabled():
            raise RuntimeError("conjugate gradients can be differentiated only once; leave out create_graph=True")
        *vectors, e, c, step, ratio = ctx.saved_tensors
        p, q, r = map(_reals, vectors)
        of_x, of_r, of_p = map(_reals, gradients[:3])
        of_ratio = _inner(of_p, p) / e
        of_r = torch.addcmul(of_r + of_p, gradients[3] + of_ratio, r, value=2)
        of_step = (_inner(of_x, p) - _inner(of_r, q)) / c
        of_c = -step * of_step
        of_p = torch.addcmul(torch.addcmul(ratio * of_p, step, of_x), of_c, q)
        of_q = torch.addcmul(of_c * p, step, of_r, value=-1)
        return gradients[0], *(_as(vectors[0], g) for g in (of_r, of_p, of_q)), of_step - of_ratio * ratio, None


def _inner(a, b):
    """<a, b> of real vectors per example, shaped to broadcast."""
    # one reduction, because torch would turn a batch of scalar products into matrix products with a single row
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _plus(a, scale, b, sign=1):
    """A new tensor a + sign scale b, not a view."""
    total = torch.empty_like(a)
    torch.addcmul(_reals(a), scale, _reals(b), value=sign, out=_reals(total))
    return total


def _reals(x):
    # view_as_real refuses a tensor whose conjugation is still pending
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _as(like, reals):
    return torch.view_as_complex(reals) if like.is_complex() else reals


class _Implicit(torch.autograd.Function):
    """Forward the solution; backward H^-1 applied to its gradient, which is then the gradient of the residual."""

    @staticmethod
    def forward(ctx, residual, x, operator, settings):
        ctx.operator, ctx.settings = operator, settings
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return _iterate(ctx.operator, gradient, None, **ctx.settings), None, None, None


class NotConverged(ValueError):
    """An iteration did not converge although its result needs it; `residual` is the size of the last step."""

    def __init__(self, message: str, residual: float = math.inf) -> None:  # the default is needed to unpickle it
        super().__init__(message)
        self.residual = residual


def fixed_point(
    function: Callable[[Tensor], Tensor], start: Tensor, *, n_iterations: int = 100, tolerance: float | None = None
) -> tuple[Tensor, Tensor]:
    """Solve x = function(x) by iteration, each example of the batch separately.

    Parameters
    ----------
    function : callable
        x -> function(x), a contraction if the iteration is to converge.
    start : Tensor, shape (batch, ...)
        First iterate.
    n_iterations : int
        Limit of iterations, at least 1.
    tolerance : float, optional
        Size of a step, relative to the norm of the first iterates, at which an example has converged. Default: ten
        times the rounding error.

    Returns
    -------
    x : Tensor, shape (batch, ...)
        For each example the iterate after its smallest step.
    residual : Tensor, shape (batch,)
        Relative size of that step. An example that does not converge has a large residual, never NaN in x, and does
        not affect the others.

    Raises
    ------
    ValueError
        If `n_iterations` < 1.

    Notes
    -----
    The iteration stops when each example has converged, has diverged (its step was ten times an earlier one), or had
    no new smallest step in ten iterations. This asks the device once per iteration.
    """
    if n_iterations < 1:
        raise ValueError(f"n_iterations={n_iterations!r} of a fixed-point iteration must be at least 1")
    tolerance = 10 * torch.finfo(start.dtype).eps if tolerance is None else tolerance
    x = best = start  # x goes on after `best`, since a later step may be smaller again
    residual = torch.full_like(_norm(start), torch.inf)
    since_best, size = torch.zeros_like(residual), None
    for _ in range(n_iterations):
        new = function(x)
        size = (
            torch.maximum(_norm(start), _norm(new)).clamp_min(torch.finfo(start.dtype).tiny) if size is None else size
        )
        step = _norm(new - x) / size
        better, diverges = step < residual, ~(step <= 10 * residual)  # NaN counts as divergence
        best = torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, best)
        residual = torch.where(better, step, residual)
        since_best = torch.where(better, 0, since_best + 1)
        if not ((residual > tolerance) & ~diverges & (since_best < 10)).any():
            break
        x = new
    return best, residual


def _norm(x):
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
