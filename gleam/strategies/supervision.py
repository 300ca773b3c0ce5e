"""Two strategies between end-to-end training and GLEAM, which tell the cut of the gradient from the local losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn
from torch.optim import Optimizer

from gleam.networks import protocol
from gleam.networks.unrolled import split
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1
from gleam.strategies.base import Strategy, WholeNetwork, fixed, forward_module, paired, update_module
from gleam.strategies.greedy import EndToEnd, Greedy, buffers_of
from gleam.strategies.within import Within


@final
@dataclass(frozen=True, repr=False)
class DeepSupervision(Within, WholeNetwork):
    """End-to-end training with the losses of GLEAM: one after every module, and gradients that are not cut.

    The losses are added. Memory and time are those of end-to-end training. `DeepSupervision(1)` is end-to-end training.

    Parameters
    ----------
    n_modules, within, loss
        As in :class:`gleam.Greedy`.
    """

    n_modules: int
    within: Strategy = field(default_factory=EndToEnd)
    loss: Loss | Sequence[Loss] = complex_l1

    def parts(self, network: nn.Module) -> list[tuple[Sequence[nn.Module], Loss]]:
        """The iterations between two losses, and the loss after them."""
        iterations: Any = network.iterations
        return paired(self, split(iterations, self.n_modules))

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One update of the network from the sum of all losses; returns the last of them."""
        batch = protocol.setup(network, self.given(batch))
        unrolled: Any = network
        x, total = unrolled.start(batch), []
        for part in self.parts(network):
            x, loss = forward_module(self, network, part, x, batch)
            total.append(loss)
        (optimizer,) = optimizers
        last = total[-1].detach()
        # without the 0 that sum starts from: with one module it is the loss itself
        update_module(sum(total[1:], total[0]), optimizer)
        return [last]


@final
@dataclass(frozen=True, repr=False)
class LookAhead(Within):
    """GLEAM whose modules also learn from the loss after the next module, with that module's weights fixed.

    A step keeps the activations of two modules and takes about two thirds longer: for every module one more forward
    pass and gradient of its input. `LookAhead(1)` is end-to-end training.

    Parameters
    ----------
    n_modules, within, loss
        As in :class:`gleam.Greedy`.
    """

    n_modules: int
    within: Strategy = field(default_factory=EndToEnd)
    loss: Loss | Sequence[Loss] = complex_l1

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """Those of :class:`gleam.Greedy`."""
        return Greedy(self.n_modules, self.within).modules(network)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """Module by module: forward, both losses, backward and update; returns the losses after each module."""
        batch = protocol.setup(network, self.given(batch))
        unrolled: Any = network
        x, losses, parts = unrolled.start(batch), [], self.parts(network)
        # fixed in the image of all later modules, as in decoupled_step
        of_first = protocol.outside_iterations(network) if hasattr(network, "image") else []
        for m, (part, optimizer) in enumerate(zip(parts, optimizers, strict=True)):
            x, loss = forward_module(self, network, part, x, batch, of_first if m else ())
            losses.append(loss.detach())
            # a slice of at most one: no module follows the last
            with _frozen([i for following, _ in parts[m + 1 : m + 2] for i in following]):
                for following in parts[m + 1 : m + 2]:
                    loss = loss + forward_module(self, network, following, x, batch, of_first if m else ())[1]
                # no gradient between modules (Eq. 10)
                x, batch = protocol.detached((x, batch))
                update_module(loss, optimizer)
        return losses


@contextmanager
def _frozen(iterations: Sequence[nn.Module]) -> Iterator[None]:
    """Context in which iterations keep their weights and, at its end, get back their buffers."""
    before = [buffers_of(iteration) for iteration in iterations]
    with fixed([p for iteration in iterations for p in iteration.parameters()]):
        yield
    # not sooner: the module before may share a buffer, and its backward pass needs that unchanged
    for iteration, values in zip(iterations, before, strict=True):
        for buffer, value in zip(list(iteration.buffers())[: len(values)], values, strict=True):
            buffer.copy_(value)
