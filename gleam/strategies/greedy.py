"""Three strategies: end to end, with checkpoints, and GLEAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from gleam import execution
from gleam.networks.unrolled import split
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1
from gleam.strategies.base import Strategy, WholeNetwork, decoupled_step
from gleam.strategies.within import Within


@final
@dataclass(frozen=True, repr=False)
class EndToEnd(WholeNetwork):
    """Backpropagation through the whole network, all activations kept (Eq. 9).

    Parameters
    ----------
    loss : callable
        Of (image, batch).
    """

    loss: Loss | Sequence[Loss] = complex_l1

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on `x` and keep every activation."""
        for iteration in iterations:
            x = iteration(x, batch)
        return x


@final
@dataclass(frozen=True, repr=False)
class Checkpointed(WholeNetwork):
    """Backpropagation with a checkpoint per iteration: keeps x(i) only and recomputes the rest (Section V-B3).

    Buffers, such as the running statistics of batch normalisation, are updated by the first computation alone.

    Parameters
    ----------
    loss
        As in :class:`gleam.EndToEnd`.
    """

    loss: Loss | Sequence[Loss] = complex_l1

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on `x`; keep the input of each and recompute the rest in the backward pass."""
        for iteration in iterations:
            keeps_random_state = not execution.is_capturing()  # a captured step draws no random numbers
            contexts = partial(_contexts, iteration, buffers_of(iteration))
            x = checkpoint(
                iteration, x, batch, use_reentrant=False, preserve_rng_state=keeps_random_state, context_fn=contexts
            )
        return x


def _contexts(iteration, before):
    """For the first computation of an iteration and the second one."""
    return nullcontext(), as_before(iteration, before)


def buffers_of(iteration: nn.Module) -> list[Tensor]:
    """Copies of the buffers of an iteration that changes them when it trains; empty for others."""
    return [b.clone() for b in iteration.buffers()] if iteration.training else []


@contextmanager
def as_before(iteration: nn.Module, before: Sequence[Tensor]) -> Iterator[None]:
    """Context for computing an iteration again: its buffers are those of `before`, and afterwards what they were."""
    # `before` is empty, and no buffer is touched, if the iteration does not train (buffers_of)
    buffers = list(iteration.buffers())[: len(before)]
    now = [b.clone() for b in buffers]
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, now, strict=True):
            buffer.copy_(value)


@final
@dataclass(frozen=True, repr=False)
class Greedy(Within):
    """GLEAM: modules with their own loss and update, and no gradient between them (Algorithm 1, Eq. 10).

    Modules differ by at most one iteration in length. `Greedy(1)` is end-to-end training.

    Parameters
    ----------
    n_modules : int
        Number of modules.
    within : Strategy
        How activations inside a module are kept; `Greedy(3, within=Checkpointed())` also checkpoints each iteration.
    loss : callable, or a sequence of them
        Of (image, batch), one for all modules or one per module (:mod:`gleam.losses`).
    """

    n_modules: int
    within: Strategy = field(default_factory=EndToEnd)
    loss: Loss | Sequence[Loss] = complex_l1

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """The iterations cut into `n_modules` lists; ValueError if there are fewer iterations than modules."""
        iterations: Any = network.iterations
        return split(iterations, self.n_modules)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One step of Algorithm 1; returns the loss of each module."""
        return decoupled_step(self, network, batch, optimizers)
