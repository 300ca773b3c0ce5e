"""Unrolled networks: a start and a list of iterations, each of them data consistency and a CNN.

Every strategy in :mod:`gleam.strategies` trains any network that has a method `start(batch)` and an attribute
`iterations`, an `nn.ModuleList` of modules called as `iteration(x, batch)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gleam.networks.denoisers import PlainCNN, ResidualCNN
from gleam.physics.sense import Batch
from gleam.physics.solvers import conjugate_gradient


class PGDIteration(nn.Module):
    """One iteration of proximal gradient descent: a gradient step on the data term, then the CNN (Eqs. 3 and 5).

    Parameters
    ----------
    denoiser : nn.Module
        Complex images (batch, [time,] y, x) to complex images.
    step_size : float
        The 2t of Eq. 3. Fixed at 2, as in the authors' code, it is at the limit of stability for a norm of A of 1.
    """

    def __init__(self, denoiser: nn.Module, *, step_size: float = 2.0) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.step_size = step_size

    def extra_repr(self) -> str:
        """Settings of the iteration beside its weights."""
        return f"step_size={self.step_size}"

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """The next image for the image `x` (batch, [time,] y, x)."""
        # A^H (A x - y) = A^H A x - A^H y, and the batch already holds A^H y, the zero-filled image
        return self.denoiser(x - self.step_size * (batch.sense.normal(x) - batch.zero_filled))


class MoDLIteration(nn.Module):
    """One iteration of MoDL: the CNN, then data consistency by conjugate gradients (Eqs. 7 and 8).

    Parameters
    ----------
    denoiser : nn.Module
        The CNN D, complex images (batch, [time,] y, x) to complex images.
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
    `z = D(x)`. Then x+ minimises `||A x+ - y||^2 + mu ||x+ - z||^2`, that is, `(A^H A + mu I) x+ = A^H y + mu z`.
    Conjugate gradients start at x.
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
        if not hasattr(n_cg, "__index__") or n_cg < 1:
            raise ValueError(f"n_cg={n_cg!r} of MoDL must be a whole number of at least 1")
        self.denoiser = denoiser
        log_mu = torch.tensor(math.log(mu))
        self.log_mu = nn.Parameter(log_mu) if learn_mu else None
        self._mu, self.n_cg, self.implicit = float(mu), int(n_cg), implicit

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
        z = x_next + (batch.sense.normal(x_next) - batch.zero_filled) / self.mu
        return self.denoiser.inverse(z)

    def data_consistency(self, z: Tensor, batch: Batch, start: Tensor) -> Tensor:
        """x+ (Eq. 8) for the CNN's output `z`, by conjugate gradients from `start`; images (batch, [time,] y, x)."""
        mu = self.mu
        return conjugate_gradient(
            lambda v: batch.sense.normal(v, mu),
            batch.zero_filled + mu * z,
            start,
            n_iterations=self.n_cg,
            implicit=self.implicit,
        )


class Unrolled(nn.Module):
    """Iterations applied one after the other to the zero-filled image of a :class:`gleam.physics.Batch`.

    Parameters
    ----------
    iterations : iterable of nn.Module
        Modules called as `iteration(x, batch)`.
    """

    def __init__(self, iterations: Iterable[nn.Module]) -> None:
        super().__init__()
        self.iterations = nn.ModuleList(iterations)

    def start(self, batch: Batch) -> Tensor:
        """x(0) = A^H y."""
        return batch.zero_filled

    def forward(self, batch: Batch, *, n_iterations: int | None = None) -> Tensor:
        """Reconstruct the images of a mini-batch.

        Parameters
        ----------
        batch : Batch
        n_iterations : int, optional
            Stop after this many iterations. Default: all; 0 gives x(0).

        Returns
        -------
        complex Tensor, shape (batch, [time,] y, x)

        Raises
        ------
        ValueError
            If the network does not have that many iterations.
        """
        if n_iterations is not None and not 0 <= n_iterations <= len(self.iterations):
            raise ValueError(f"n_iterations={n_iterations} must be between 0 and {len(self.iterations)}")
        x = self.start(batch)
        for iteration in self.iterations[:n_iterations]:
            x = iteration(x, batch)
        return x

    def iterates(self, batch: Batch) -> list[Tensor]:
        """All of x(0), x(1), ..., x(N)."""
        images = [self.start(batch)]
        for iteration in self.iterations:
            images.append(iteration(images[-1], batch))
        return images


def pgd(
    n_iterations: int = 8, n_features: int = 100, *, n_dims: int = 2, step_size: float = 2.0, seed: int = 0
) -> Unrolled:
    """Unrolled proximal gradient descent: N iterations with a residual CNN each, weights not shared.

    Parameters
    ----------
    n_iterations : int
        N, at least 1.
    n_features : int
        Channels of the CNNs' feature maps.
    n_dims : int
        2 for images, 3 for series of images.
    step_size : float
        As in :class:`PGDIteration`.
    seed : int
        Seed of the initial weights. Those of iteration i do not depend on `n_iterations`.

    Returns
    -------
    Unrolled

    Raises
    ------
    ValueError
        If `n_iterations` < 1, or if `n_dims` is neither 2 nor 3.

    Notes
    -----
    Section V-C1. The paper has 8 iterations of 100 features in 2D and 4 iterations of 50 in 3D.
    """
    return Unrolled(
        PGDIteration(_seeded(seed, i, ResidualCNN, n_features, n_dims=n_dims), step_size=step_size)
        for i in range(_positive(n_iterations, "n_iterations"))
    )


def modl(
    n_iterations: int = 8,
    n_features: int = 70,
    *,
    n_dims: int = 2,
    mu: float = 0.05,
    n_cg: int = 10,
    learn_mu: bool = False,
    implicit: bool = False,
    lipschitz: float | None = None,
    seed: int = 0,
) -> Unrolled:
    """Unrolled MoDL: N iterations with a plain residual CNN each, weights not shared.

    Parameters
    ----------
    n_iterations, n_features, n_dims, seed : int
        As in :func:`pgd`.
    mu, n_cg, learn_mu, implicit
        As in :class:`MoDLIteration`.
    lipschitz : float, optional
        As in :class:`gleam.networks.denoisers.PlainCNN`.

    Returns
    -------
    Unrolled

    Raises
    ------
    ValueError
        As :func:`pgd`, :class:`MoDLIteration` and :class:`gleam.networks.denoisers.PlainCNN`.

    Notes
    -----
    Section V-C2. The paper has 8 iterations of 70 features in 2D, with mu 4.0 at R = 4 and 0.05 at R = 16, and 4
    iterations of 50 features with mu 0.05 in 3D.
    """
    return Unrolled(
        MoDLIteration(
            _seeded(seed, i, PlainCNN, n_features, n_dims=n_dims, lipschitz=lipschitz),
            mu=mu,
            n_cg=n_cg,
            learn_mu=learn_mu,
            implicit=implicit,
        )
        for i in range(_positive(n_iterations, "n_iterations"))
    )


def split(iterations: Sequence, n_modules: int) -> list[list]:
    """Cut a list of iterations into `n_modules` contiguous modules of nearly equal length, the longer ones first.

    Raises ValueError unless 1 <= n_modules <= N.
    """
    n_iterations = len(iterations)
    if not hasattr(n_modules, "__index__") or not 1 <= n_modules <= n_iterations:
        raise ValueError(
            f"n_modules={n_modules!r} cannot cut a network of {n_iterations} iterations; "
            f"choose a whole number from 1 to {n_iterations}"
        )
    base, extra = divmod(n_iterations, n_modules)
    ends = [base * (m + 1) + min(m + 1, extra) for m in range(n_modules)]
    return [list(iterations[a:b]) for a, b in pairwise([0, *ends])]


def _positive(value, name):
    if not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    return value


def _seeded(seed, index, make, *args, **keywords):
    """Build a module from its own seed and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1000 + index)
        return make(*args, **keywords)
