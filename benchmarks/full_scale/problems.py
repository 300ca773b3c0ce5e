"""The paper's networks at given sizes, and batches of random numbers to measure them with."""

from dataclasses import dataclass, field, replace

import torch

from gleam import Checkpointed, EndToEnd, Greedy, Invertible, fourier, physics

N_CHECKPOINTS = 7  # of memory-efficient learning, in the paper


@dataclass(frozen=True)
class Case:
    """A network of the paper and what it is trained on.

    ``make``: :func:`gleam.unrolled.pgd` or :func:`gleam.unrolled.modl`, ``options`` its other arguments; ``shape``:
    ([time,] y, x); ``deep``: number of iterations with GLEAM, in ``n_modules`` modules.
    """

    make: object
    n_iterations: int
    n_features: int
    shape: tuple
    n_coils: int
    batch_size: int
    deep: int
    n_modules: int
    options: dict = field(default_factory=dict)

    def network(self, n_iterations=None, *, seed=0):
        """The network, untrained."""
        n_iterations = n_iterations or self.n_iterations
        return self.make(n_iterations, self.n_features, n_dims=len(self.shape), seed=seed, **self.options)

    def methods(self, *, with_inversion=False):
        """Dict of method to (number of iterations, strategy), as in the paper's tables."""
        shallow = {"End-to-end": EndToEnd(), "Checkpointing": Checkpointed()}
        shallow |= {"MEL": Invertible(N_CHECKPOINTS)} if with_inversion else {}
        methods = {name: (self.n_iterations, strategy) for name, strategy in shallow.items()}
        return methods | {"GLEAM": (self.deep, Greedy(self.n_modules))}

    def batch(self, device="cpu", *, seed=0):
        """A mini-batch of random numbers on ``device``."""
        return random_batch(self.shape, self.n_coils, self.batch_size, seed=seed).to(device)

    def describe(self):
        """What a record says about it."""
        sizes = {name: getattr(self, name) for name in ("n_features", "batch_size", "n_coils")}
        return sizes | {"matrix": list(self.shape), "network": self.make.__name__} | self.options

    def changed(self, **options):
        """The same with other ``options``."""
        return replace(self, options=self.options | options)


def random_batch(shape, n_coils, batch_size, *, acceleration=4, seed=0):
    """Random images under random masks, which cost as much as any other; ``shape``: ([time,] y, x)."""
    generator = torch.Generator().manual_seed(seed)
    normal = {"dtype": torch.complex64, "generator": generator}
    target = torch.randn(batch_size, *shape, **normal)
    maps = torch.randn(batch_size, n_coils, *[1] * (len(shape) - 2), *shape[-2:], **normal)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = torch.rand(batch_size, 1, *shape, generator=generator) < 1 / acceleration
    return physics.Batch.undersample(fourier.fft2(maps * target[:, None]), mask, maps, target)
