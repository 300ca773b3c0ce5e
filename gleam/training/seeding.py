"""Random numbers inside a network, such as those of dropout, as a function of seed, step and iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from gleam import execution
from gleam.files import digest


@contextmanager
def seeded(network: nn.Module, seed: int, replica: int = 0) -> Iterator[Callable[[int], None]]:
    """Context in which random numbers inside `network` are a function of (seed, step, iteration).

    Yields `begin(step)`, to be called before each step. It sets the generator of torch. In addition a forward pre-hook
    of each iteration sets it anew before every call, to a value that depends on seed, step and number of the iteration.

    Parameters
    ----------
    network : Module
    seed : int
        That of the run.
    replica : int
        Number of the replica that trains; replicas have different slices.

    Notes
    -----
    Why so often: dropout must draw the same mask when an iteration is computed a second time (checkpointing,
    memory-efficient learning), when a killed run goes on from its checkpoint, and when another process trains the
    iteration, whose generator has not advanced through the iterations before (P-GLEAM).
    """
    iterations: Any = network.iterations
    numbers = {id(iteration): i for i, iteration in enumerate(iterations)}
    now: list[int] = []

    def begin(step):
        now[:] = [step]
        _seed_generators(seed, *now)

    def reseed(iteration, _):  # called by torch before iteration.forward
        _seed_generators(seed, *now, numbers[id(iteration)], *([replica] if replica else []))

    with ExitStack() as hooks:
        for iteration in iterations:
            hooks.callback(iteration.register_forward_pre_hook(reseed).remove)
        yield begin


def _seed_generators(*where):
    """Same as torch.manual_seed, which without a GPU records the call stack each time and so takes 0.5 ms."""
    seed = int(digest(list(where))[:15], 16)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized() and not execution.is_capturing():
        torch.cuda.manual_seed_all(seed)
