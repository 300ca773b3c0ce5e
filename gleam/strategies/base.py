"""The interface of training strategies, and three of them: end to end, with checkpoints, and GLEAM.

A strategy takes one gradient step on one mini-batch. It cuts the iterations of a network into modules, each with its
own optimizer, and takes one update of each; any network that is a start plus a list of iterations will do
(:mod:`gleam.networks.unrolled`). How the activations inside a module are kept is a second, independent choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gleam import execution
from gleam.metrics import complex_l1
from gleam.networks.unrolled import split
from gleam.physics.sense import Batch
from gleam.processes.team import ALONE, Team

BETAS = (0.9, 0.999)


class Strategy(ABC):
    """How one gradient step on one mini-batch is taken.

    A subclass must have :meth:`modules`, :meth:`propagate` and :meth:`step`. Everything else that training, cost
    measurement and :class:`gleam.Fast` may ask for is here, with the answer of a strategy of one process whose steps
    can be recorded.

    Attributes
    ----------
    is_capturable : bool
        Whether a step never asks the device for a value, nor another device for anything, so that it can be recorded
        as a CUDA graph.
    is_captured : bool
        Whether steps on CUDA are recorded.
    needs_fp32 : bool
        Whether the strategy gains nothing in a smaller number format.
    precision : str or None
        Number format of the convolutions; None: the one that torch is set to.
    is_pipelined : bool
        Whether each of several devices holds consecutive modules.
    team : Team
        The processes that train together.
    replica : int
        Number of the copy of the network, of those that share a mini-batch, that this process belongs to.
    """

    is_capturable: bool = True
    is_captured: bool = False
    needs_fp32: bool = False
    precision: str | None = None
    is_pipelined: bool = True
    team: Team = ALONE
    replica: int = 0

    @abstractmethod
    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """Cut ``network.iterations`` into the lists that are updated on their own."""

    @abstractmethod
    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run ``iterations`` on ``x`` and keep what the backward pass needs."""

    @abstractmethod
    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
        """Make one update of every module, with its own optimizer.

        Returns the losses, one per module, detached, each where its module is.
        """

    def mine(self, network: nn.Module) -> list[int]:
        """Numbers of the modules that this process trains."""
        return list(range(len(self.modules(network))))

    @property
    def propagation(self) -> Strategy:
        """The strategy that keeps the activations inside a module."""
        return self

    @property
    def equivalent(self) -> Strategy:
        """The strategy that trains the same weights in one process."""
        return self

    @property
    def eager(self) -> Strategy:
        """The same without CUDA graphs, in whose replay no allocation can be seen."""
        return self

    def settled(self, device: str | torch.device) -> Strategy:
        """The same with everything decided that depends on ``device``."""
        return self

    def diagnostics(self) -> dict:
        """What was noticed since the last call; it joins the history of a run."""
        return {}

    def finish(self) -> None:  # noqa: B027  (most strategies have nothing to wait for)
        """Wait until everything sent to other processes has been received."""


class WholeNetwork(Strategy):
    """A strategy whose one module is the network; subclasses say how its activations are kept."""

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """One list with all iterations."""
        return split(network.iterations, 1)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
        """One update of the network from the loss of its last output."""
        return _decoupled_step(self, network, batch, optimizers)


@final
@dataclass(frozen=True)
class EndToEnd(WholeNetwork):
    """Backpropagation through the whole network, all activations kept (Eq. 9)."""

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run ``iterations`` on ``x`` and keep every activation."""
        for iteration in iterations:
            x = iteration(x, batch)
        return x


@final
@dataclass(frozen=True)
class Checkpointed(WholeNetwork):
    """Backpropagation with a checkpoint per iteration: only x(i) is kept, the rest is computed again (Section V-B3)."""

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run ``iterations`` on ``x``; keep the input of each and compute the rest again in the backward pass."""
        for iteration in iterations:
            keeps_random_state = not execution.is_capturing()  # no random numbers are drawn in a captured step
            x = checkpoint(iteration, x, batch, use_reentrant=False, preserve_rng_state=keeps_random_state)
        return x


@final
@dataclass(frozen=True)
class Greedy(Strategy):
    """GLEAM (Algorithm 1, Eq. 10): ``n_modules`` modules, each with its own loss and update, no gradient between them.

    ``within`` is the strategy inside a module; ``Greedy(3, within=Checkpointed())`` also checkpoints each iteration.
    Modules differ by at most one iteration in length. ``Greedy(1)`` is end-to-end training.
    """

    n_modules: int
    within: Strategy = field(default_factory=EndToEnd)

    @property
    def is_capturable(self) -> bool:
        """As ``within``."""
        return self.within.is_capturable

    @property
    def needs_fp32(self) -> bool:
        """As ``within``."""
        return self.within.needs_fp32

    @property
    def propagation(self) -> Strategy:
        """The strategy inside a module."""
        return self.within

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """The iterations cut into ``n_modules`` lists; ValueError if there are fewer iterations than modules."""
        return split(network.iterations, self.n_modules)

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run ``iterations`` on ``x`` as ``within`` does."""
        return self.within.propagate(iterations, x, batch)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
        """Forward, local loss, backward and update, module by module; the output passes on detached."""
        return _decoupled_step(self, network, batch, optimizers)

    def diagnostics(self) -> dict:
        """Those of ``within``."""
        return self.within.diagnostics()


def _decoupled_step(strategy, network, batch, optimizers):
    """Algorithm 1. What passes on is x(m) from before the update of module m, as in the paper."""
    x, losses = network.start(batch), []
    for module, optimizer in zip(strategy.modules(network), optimizers, strict=True):
        x, loss = forward_module(strategy, module, x, batch)
        losses.append(update_module(loss, optimizer))
        x = x.detach()
    return losses


def forward_module(
    strategy: Strategy, module: Sequence[nn.Module], x: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Return x(m) and its local loss for the input x(m-1) of a module."""
    x = strategy.propagate(module, x, batch)
    return x, complex_l1(x, batch.to(x.device).target)


def update_module(loss: Tensor, optimizer: torch.optim.Optimizer, average: Callable | None = None) -> Tensor:
    """Backward pass and update of one module; returns the loss, detached.

    ``average(loss, parameters)`` comes between the two, where several processes share a mini-batch.
    """
    if loss.requires_grad:
        with torch.autocast(loss.device.type, enabled=False):  # formats are those of the forward pass
            loss.backward()
    loss = loss.detach()
    if average:
        average(loss, [p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # gradients of one module at a time are what memory has to hold
    return loss


def parameters_by_module(strategy: Strategy, network: nn.Module) -> list[list[nn.Parameter]]:
    """The network's parameters as one list per module of ``strategy``; those outside all iterations join the first.

    Raises ValueError if two modules share a parameter, since each has an update of its own, or if one has none.
    """
    groups = [[p for iteration in module for p in iteration.parameters()] for module in strategy.modules(network)]
    owners = [{id(p) for p in group} for group in groups]
    if sum(map(len, owners)) > len(set().union(*owners)):
        raise ValueError(f"{strategy} cannot train modules that share weights; give each iteration its own")
    known = set().union(*owners)
    if not all(groups):
        raise ValueError(f"module {groups.index([])} of {strategy} has no weights to train; cut the network otherwise")
    groups[0] += [p for p in network.parameters() if id(p) not in known]
    return [list({id(p): p for p in group}.values()) for group in groups]


def optimizers(
    strategy: Strategy, network: nn.Module, *, learning_rate: float, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """One Adam per module of ``strategy``, with the paper's betas (Section V-C4) and one fused kernel for all weights.

    On CUDA the learning rate is a tensor on the device, which a captured step reads anew each time; change it by
    :func:`set_learning_rate`. Raises what :func:`parameters_by_module` raises.
    """
    return [_adam(group, learning_rate, weight_decay) for group in parameters_by_module(strategy, network)]


def _adam(parameters, learning_rate, weight_decay):
    can_fuse = all(p.is_floating_point() for p in parameters)  # the fused kernel takes no complex ones
    if can_fuse and all(p.is_cuda for p in parameters):
        learning_rate = torch.tensor(learning_rate, device=parameters[0].device)
    return torch.optim.Adam(parameters, lr=learning_rate, betas=BETAS, weight_decay=weight_decay, fused=can_fuse)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate without synchronising with the device."""
    (group,) = optimizer.param_groups
    if torch.is_tensor(group["lr"]):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
