"""The experiments' networks at their own sizes, and batches of random numbers to measure them with."""

from dataclasses import dataclass

import torch

from gleam import Checkpointed, fourier, physics
from gleam.training.experiments import Experiment


@dataclass(frozen=True)
class Case:
    """The network of an experiment and what it is trained on; ``shape``: ([time,] y, x)."""

    experiment: Experiment
    shape: tuple
    n_coils: int

    @property
    def shallow(self):
        """Number of iterations end to end."""
        return self.experiment.methods["End-to-end"].n_iterations

    @property
    def deep(self):
        """Number of iterations with GLEAM."""
        return self.experiment.methods["GLEAM"].n_iterations

    @property
    def greedy(self):
        """The strategy of GLEAM."""
        return self.experiment.methods["GLEAM"].strategy

    def network(self, n_iterations=None, *, seed=0):
        """The network, untrained."""
        return self.experiment.make_network(n_iterations or self.shallow, seed=seed)

    def methods(self, *, with_inversion=False):
        """Dict of method to (number of iterations, strategy), as in the paper's tables."""
        own = {name: (method.n_iterations, method.strategy) for name, method in self.experiment.methods.items()}
        own.setdefault("Checkpointing", (self.shallow, Checkpointed()))
        names = ("End-to-end", "Checkpointing", *(["MEL"] if with_inversion else []), "GLEAM")
        return {name: own[name] for name in names}

    def batch(self, device="cpu", *, seed=0):
        """A mini-batch of random numbers on ``device``."""
        batch_size = self.experiment.training["batch_size"]
        return random_batch(self.shape, self.n_coils, batch_size, seed=seed).to(device)

    def describe(self):
        """What a record says about it."""
        make = self.experiment.make_network
        sizes = {"batch_size": self.experiment.training["batch_size"], "n_coils": self.n_coils}
        options = {name: value for name, value in make.keywords.items() if name != "seed"}
        return sizes | {"matrix": list(self.shape), "network": make.func.__name__} | options


def random_batch(shape, n_coils, batch_size, *, acceleration=4, seed=0):
    """Random images under random masks, which cost as much as any other; ``shape``: ([time,] y, x)."""
    generator = torch.Generator().manual_seed(seed)
    normal = {"dtype": torch.complex64, "generator": generator}
    target = torch.randn(batch_size, *shape, **normal)
    maps = torch.randn(batch_size, n_coils, *[1] * (len(shape) - 2), *shape[-2:], **normal)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = torch.rand(batch_size, 1, *shape, generator=generator) < 1 / acceleration
    return physics.Batch.undersample(fourier.fft2(maps * target[:, None]), mask, maps, target)
