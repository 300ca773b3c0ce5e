"""Unrolled networks: a start and a list of iterations, each of them data consistency and a CNN.

Anything with an attribute ``iterations`` (an ``nn.ModuleList`` of modules called as ``iteration(x, batch)``) and a
method ``start(batch)`` is such a network, and every strategy in :mod:`gleam.strategies` trains it.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from gleam.networks.denoisers import PlainCNN, ResidualCNN
from gleam.physics.solvers import conjugate_gradient


class PGDIteration(nn.Module):
    """One iteration of proximal gradient descent: gradient step on the data term, then the CNN (Eqs. 3 and 5).

    ``step_size`` is the 2t of Eq. 3, fixed at 2 as in the authors' code: the limit of stability for a norm of A of 1.
    """

    def __init__(self, denoiser, *, step_size=2.0):
        super().__init__()
        self.denoiser = denoiser
        self.step_size = step_size

    def extra_repr(self):
        """What decides the iteration beside its weights."""
        return f"step_size={self.step_size}"

    def forward(self, x, batch):
        # A^H(A x - y) = A^H A x - A^H y, and A^H y is the zero-filled image that the batch holds already
        return self.denoiser(x - self.step_size * (batch.sense.normal(x) - batch.zero_filled))


class MoDLIteration(nn.Module):
    """One iteration of MoDL: the CNN, then data consistency by conjugate gradients (Eqs. 7 and 8).

    z = D(x), then x+ minimises ||A x+ - y||^2 + mu ||x+ - z||^2, that is (A^H A + mu I) x+ = A^H y + mu z, by ``n_cg``
    steps that start at x. ``mu`` is fixed or, with ``learn_mu``, where learning starts; then its logarithm is a weight,
    so that weight decay draws mu towards 1. ``implicit`` chooses the gradient of
    :func:`gleam.solvers.conjugate_gradient`. Raises ValueError for mu <= 0 or no step.
    """

    def __init__(self, denoiser, *, mu=0.05, n_cg=10, learn_mu=False, implicit=False):
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
    def mu(self):
        """Weight of the CNN's output against the data."""
        return self._mu if self.log_mu is None else self.log_mu.exp()

    def extra_repr(self):
        """What decides the iteration beside its weights."""
        return f"mu={self._mu}, n_cg={self.n_cg}, learn_mu={self.log_mu is not None}, implicit={self.implicit}"

    def forward(self, x, batch):
        return self.data_consistency(self.denoiser(x), batch, start=x)

    @torch.no_grad()
    def inverse(self, x_next, batch):
        """x from x+: z = ((A^H A + mu I) x+ - A^H y) / mu (Eq. 11), then the inverse of the CNN; no gradient.

        Eq. 11 holds for the exact solution. What conjugate gradients left over comes back divided by mu, and an error
        of x+ multiplied by up to 1 + 1 / mu. That they started at x makes x+ depend on x a second time, which vanishes
        as they converge and is left out here: given x, :meth:`forward` has its exact gradient again, start included.
        Raises ValueError if the CNN has no inverse, and what that raises.
        """
        if not hasattr(self.denoiser, "inverse"):
            raise ValueError(
                f"{type(self.denoiser).__name__} cannot be inverted; MoDL needs a CNN with a method inverse"
            )
        z = x_next + (batch.sense.normal(x_next) - batch.zero_filled) / self.mu
        return self.denoiser.inverse(z)

    def data_consistency(self, z, batch, start):
        """x+ for the CNN's output ``z``, by conjugate gradients from ``start``."""
        mu = self.mu
        return conjugate_gradient(
            lambda v: batch.sense.normal(v, mu), batch.zero_filled + mu * z, start,
            n_iterations=self.n_cg, implicit=self.implicit,
        )  # fmt: skip


class Unrolled(nn.Module):
    """Iterations applied one after the other to the zero-filled image of a :class:`gleam.physics.Batch`."""

    def __init__(self, iterations):
        super().__init__()
        self.iterations = nn.ModuleList(iterations)

    def start(self, batch):
        """x(0) = A^H y."""
        return batch.zero_filled

    def forward(self, batch, *, n_iterations=None):
        """Reconstruction (batch, [time,] y, x) after ``n_iterations`` (default: all; 0 gives x(0)).

        Raises ValueError if the network does not have that many iterations.
        """
        if n_iterations is not None and not 0 <= n_iterations <= len(self.iterations):
            raise ValueError(f"n_iterations={n_iterations} must be between 0 and {len(self.iterations)}")
        x = self.start(batch)
        for iteration in self.iterations[:n_iterations]:
            x = iteration(x, batch)
        return x

    def iterates(self, batch):
        """All of x(0), x(1), ..., x(N), as a list."""
        images = [self.start(batch)]
        for iteration in self.iterations:
            images.append(iteration(images[-1], batch))
        return images


def pgd(n_iterations=8, n_features=100, *, n_dims=2, step_size=2.0, seed=0):
    """Unrolled proximal gradient descent (Section V-C1): N iterations with a residual CNN each, weights not shared.

    ``n_dims=3`` takes series of images. ``seed`` decides the initial weights; iteration i starts from the same weights
    whatever ``n_iterations``. The paper: 8 iterations of 100 features in 2D, 4 iterations of 50 in 3D.
    """
    return Unrolled(
        PGDIteration(_seeded(seed, i, ResidualCNN, n_features, n_dims=n_dims), step_size=step_size)
        for i in range(_positive(n_iterations, "n_iterations"))
    )


def modl(
    n_iterations=8,
    n_features=70,
    *,
    n_dims=2,
    mu=0.05,
    n_cg=10,
    learn_mu=False,
    implicit=False,
    lipschitz=None,
    seed=0,
):
    """Unrolled MoDL (Section V-C2): N iterations with a plain residual CNN each, weights not shared.

    The arguments are those of :func:`pgd`, :class:`MoDLIteration` and :class:`gleam.networks.denoisers.PlainCNN`.
    The paper: 8 iterations of 70 features in 2D, mu 4.0 at R = 4 and 0.05 at R = 16; 4 iterations of 50 features and
    0.05 in 3D.
    """
    return Unrolled(
        MoDLIteration(
            _seeded(seed, i, PlainCNN, n_features, n_dims=n_dims, lipschitz=lipschitz),
            mu=mu, n_cg=n_cg, learn_mu=learn_mu, implicit=implicit,
        )
        for i in range(_positive(n_iterations, "n_iterations"))
    )  # fmt: skip


def split(iterations, n_modules):
    """Cut a list of iterations into ``n_modules`` contiguous modules, as even as can be, the longer ones first.

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
