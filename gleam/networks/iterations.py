"""One iteration of an unrolled network: data consistency and a CNN."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gleam.files import whole_number
from gleam.physics.batch import Batch
from gleam.physics.solvers import conjugate_gradient


class PGDIteration(nn.Module):
    """One iteration of proximal gradient descent: a gradient step on the data term, then the CNN (Eqs. 3 and 5).

    Parameters
    ----------
    denoiser : nn.Module
        Complex images (batch, [time,] y, x) to complex images.
    step_size : float
        The 2t of Eq. 3. Fixed at 2, as in the authors' code, it is at the limit of stability for a norm of A of 1.
    learn_step_size : bool
        Train 2t, from `step_size` on.
    """

    def __init__(self, denoiser: nn.Module, *, step_size: float = 2.0, learn_step_size: bool = False) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.step_size = nn.Parameter(torch.tensor(float(step_size))) if learn_step_size else step_size

    def extra_repr(self) -> str:
        """Settings of the iteration beside its weights."""
        return "learn_step_size=True" if isinstance(self.step_size, Tensor) else f"step_size={self.step_size}"

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """The next image for the image `x` (batch, [time,] y, x)."""
        # A^H (A x - y) = A^H A x - A^H y, and the batch already holds A^H y, the zero-filled image
        return self.denoiser(x - self.step_size * (batch.sense.normal(x) - batch.zero_filled))


class MoDLIteration(nn.Module):
    """One iteration of MoDL: the CNN, then data consistency by conjugate gradients (Eqs. 7 and 8).

    Parameters
    ----------
    denoiser : nn.Module
        The CNN f_theta, complex images (batch, [time,] y, x) to complex images.
    mu : float
        Weight of the CNN's output against the data, above 0; with `learn_mu` its initial value.
    n_cg : int
        Steps of conjugate gradients, at least 1.
    learn_mu : bool
        Train the logarithm of mu. Weight decay then draws mu towards 1.
    implicit : bool
        Kind of gradient, see :func:`gleam.solvers.conjugate_gradient`.

    Raises
    ------
    ValueError
        If `mu` is not above 0 and finite, or if `n_cg` is not a whole number of at least 1.

    Notes
    -----
    `z = f_theta(x)` (Eq. 8). Then x+ minimises `||A x+ - y||^2 + mu ||x+ - z||^2`, that is,
    `(A^H A + mu I) x+ = A^H y + mu z` (Eq. 7). Conjugate gradients start at x.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        mu: float = 0.05,
        n_cg: int = 10,
        learn_mu: bool = False,
        implicit: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < mu < math.inf:
            raise ValueError(
                f"mu={mu!r} of MoDL must be greater than 0, or its data consistency has no unique solution"
            )
        self.denoiser = denoiser
        # its logarithm is trained, so that mu stays above 0
        log_mu = torch.tensor(math.log(mu))
        self.log_mu = nn.Parameter(log_mu) if learn_mu else None
        # the number that was given is part of the `repr` and so of a run's name, also where mu is learned
        self._mu, self.n_cg, self.implicit = float(mu), whole_number(n_cg, "n_cg"), implicit

    @property
    def mu(self) -> float | Tensor:
        """Weight of the CNN's output against the data; a tensor if it is learned."""
        return self._mu if self.log_mu is None else self.log_mu.exp()

    def extra_repr(self) -> str:
        """Settings of the iteration beside its weights."""
        return f"mu={self._mu}, n_cg={self.n_cg}, learn_mu={self.log_mu is not None}, implicit={self.implicit}"

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """The next image for the image `x` (batch, [time,] y, x)."""
        return self.data_consistency(self.denoiser(x), batch, start=x)

    @torch.no_grad()
    def inverse(self, x_next: Tensor, batch: Batch) -> Tensor:
        """x from x+ without a gradient: z = ((A^H A + mu I) x+ - A^H y) / mu (Eq. 11), then the inverse of the CNN.

        Parameters
        ----------
        x_next : complex Tensor, shape (batch, [time,] y, x)
            Output of :meth:`forward`.
        batch : Batch

        Returns
        -------
        complex Tensor, shape (batch, [time,] y, x)

        Raises
        ------
        ValueError
            If the CNN has no method `inverse`, or if that raises it.

        Notes
        -----
        Eq. 11 holds for the exact solution. The residual of conjugate gradients is divided by mu here, and an error of
        x+ is multiplied by up to 1 + 1 / mu. Because conjugate gradients start at x, x+ depends on x in a second way,
        which vanishes as they converge and is left out here. Once x is known, :meth:`forward` has its exact gradient
        again, start included.
        """
        if not hasattr(self.denoiser, "inverse"):
            raise ValueError(
                f"{type(self.denoiser).__name__} cannot be inverted; MoDL needs a CNN with a method inverse"
            )
        inverse: Any = self.denoiser.inverse
        return inverse(self.before_data_consistency(x_next, batch))

    def before_data_consistency(self, x_next: Tensor, batch: Batch) -> Tensor:
        """z = f_theta(x), recovered from x+ (Eq. 11); images (batch, [time,] y, x)."""
        return x_next + (batch.sense.normal(x_next) - batch.zero_filled) / self.mu

    def data_consistency(self, z: Tensor, batch: Batch, start: Tensor) -> Tensor:
        """x+ (Eq. 7) for the CNN's output `z`, by conjugate gradients from `start`; images (batch, [time,] y, x)."""
        mu = self.mu
        return conjugate_gradient(
            # H of Eq. 7: A^H A + mu I
            lambda v: batch.sense.normal(v, mu),
            batch.zero_filled + mu * z,
            start,
            n_iterations=self.n_cg,
            implicit=self.implicit,
        )


class Unwatched(MoDLIteration):
    """MoDL whose inverse returns what its fixed-point iteration ends with, converged or not, to look at failures."""

    @torch.no_grad()
    def inverse(self, x_next: Tensor, batch: Batch) -> Tensor:
        """x from x+, without a gradient and without an error where the CNN cannot be inverted."""
        inverse: Any = self.denoiser.inverse
        return inverse(self.before_data_consistency(x_next, batch), tolerance=math.inf)


class AsPublished(Unwatched):
    """MoDL with the inverse of the authors' public code, whose operator has mu I twice: it takes z + x+ for z."""

    def before_data_consistency(self, x_next: Tensor, batch: Batch) -> Tensor:
        """z + x+, about twice the z of Eq. 11."""
        return 2 * x_next + (batch.sense.normal(x_next) - batch.zero_filled) / self.mu
