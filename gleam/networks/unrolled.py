"""Unrolled networks: a start and a list of iterations, each of them data consistency and a CNN.

:mod:`gleam.networks.protocol` says what strategies ask of any network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gleam.files import is_whole_number, plain, whole_number
from gleam.networks import protocol
from gleam.networks.denoisers import PlainCNN, ResidualCNN
from gleam.networks.iterations import MoDLIteration, PGDIteration
from gleam.physics.batch import Batch


class Unrolled(nn.Module):
    """Iterations applied one after the other to the zero-filled image of a :class:`gleam.physics.Batch`.

    A class of your own may derive from it, with another `start` and with `setup` and `image`
    (:mod:`gleam.networks.protocol`).

    Parameters
    ----------
    iterations : iterable of nn.Module
        Modules called as `iteration(x, batch)`.
    recipe : dict, optional
        "function", the name of the function here that made the network, and its "arguments": a training run keeps
        them, so that its network can be made again.
    """

    def __init__(self, iterations: Iterable[nn.Module], recipe: dict | None = None) -> None:
        super().__init__()
        self.iterations = nn.ModuleList(iterations)
        self.recipe = recipe

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
        batch = protocol.setup(self, batch)
        x = self.start(batch)
        for iteration in self.iterations[:n_iterations]:
            x = iteration(x, batch)
        return protocol.image(self, x, batch)

    def iterates(self, batch: Batch) -> list[Tensor]:
        """The images of x(0), x(1), ..., x(N)."""
        batch = protocol.setup(self, batch)
        x = self.start(batch)
        images = [protocol.image(self, x, batch)]
        for iteration in self.iterations:
            x = iteration(x, batch)
            images.append(protocol.image(self, x, batch))
        return images


class Consistent(Unrolled):
    """An unrolled network whose images, of every depth, are those after one more step of data consistency."""

    def image(self, x: Tensor, batch: Batch) -> Tensor:
        """x - A^H (A x - y) for the iterate `x` (batch, [time,] y, x)."""
        return x - batch.sense.normal(x) + batch.measured_image


def pgd(
    n_iterations: int = 8,
    n_features: int = 100,
    *,
    n_dims: int = 2,
    step_size: float = 2.0,
    learn_step_size: bool = False,
    consistent: bool = False,
    seed: int = 0,
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
    step_size, learn_step_size
        As in :class:`PGDIteration`.
    consistent : bool
        End with data consistency (:class:`Consistent`).
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
    n_iterations, n_features = whole_number(n_iterations, "n_iterations"), whole_number(n_features, "n_features")
    n_dims, step_size, seed = plain(n_dims), plain(step_size), whole_number(seed, "seed", 0)
    arguments = dict(n_iterations=n_iterations, n_features=n_features, n_dims=n_dims, step_size=step_size, seed=seed)
    # named only if set, as recipes from before these options existed are
    changed = {"consistent": consistent, "learn_step_size": learn_step_size}
    arguments |= {name: True for name, is_set in changed.items() if is_set}
    iterations = [
        PGDIteration(
            _seeded(seed, i, ResidualCNN, n_features, n_dims=n_dims),
            step_size=step_size,
            learn_step_size=learn_step_size,
        )
        for i in range(n_iterations)
    ]
    return (Consistent if consistent else Unrolled)(iterations, {"function": "pgd", "arguments": arguments})


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
    iteration: type[MoDLIteration] = MoDLIteration,
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
    iteration : type
        Class of the iterations, such as :class:`gleam.networks.iterations.Unwatched`.

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
    n_iterations, n_features = whole_number(n_iterations, "n_iterations"), whole_number(n_features, "n_features")
    n_dims, lipschitz, seed = plain(n_dims), plain(lipschitz), whole_number(seed, "seed", 0)
    physics: dict[str, Any] = dict(mu=plain(mu), n_cg=plain(n_cg), learn_mu=learn_mu, implicit=implicit)
    sizes = dict(n_iterations=n_iterations, n_features=n_features, n_dims=n_dims, lipschitz=lipschitz, seed=seed)
    iterations = [
        iteration(_seeded(seed, i, PlainCNN, n_features, n_dims=n_dims, lipschitz=lipschitz), **physics)
        for i in range(n_iterations)
    ]
    # a class of your own is not among the arguments that a file can hold
    recipe = {"function": "modl", "arguments": sizes | physics} if iteration is MoDLIteration else None
    return Unrolled(iterations, recipe)


def split(iterations: Sequence, n_modules: int) -> list[Sequence]:
    """Cut a list of iterations into `n_modules` contiguous modules of nearly equal length, the longer ones first.

    Raises ValueError unless 1 <= n_modules <= N.
    """
    n_iterations = len(iterations)
    if not is_whole_number(n_modules, most=n_iterations):
        raise ValueError(
            f"n_modules={n_modules!r} cannot cut a network of {n_iterations} iterations; "
            f"choose a whole number from 1 to {n_iterations}"
        )
    base, extra = divmod(n_iterations, n_modules)  # the first `extra` modules have one more
    ends = [base * (m + 1) + min(m + 1, extra) for m in range(n_modules)]
    return [list(iterations[a:b]) for a, b in pairwise([0, *ends])]


def _seeded(seed, index, make, *args, **keywords):
    """Build a module from its own seed and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        # a seed per iteration: its first weights do not depend on how many iterations there are
        torch.default_generator.manual_seed(seed * 1000 + index)  # torch.manual_seed would reseed every GPU as well
        return make(*args, **keywords)
