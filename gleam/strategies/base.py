"""The interface of training strategies, and three of them: end to end, with checkpoints, and GLEAM.

A strategy takes one gradient step on one mini-batch. It cuts the iterations of a network into modules, each with its
own optimizer, and updates each module once. It works on any network that is a start plus a list of iterations
(:mod:`gleam.networks.protocol`). How the activations inside a module are kept is a second, independent choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from gleam import execution
from gleam.networks import protocol
from gleam.networks.unrolled import split
from gleam.physics.losses import Loss, complex_l1, named
from gleam.physics.sense import Batch
from gleam.processes.team import ALONE, Team

BETAS = (0.9, 0.999)  # of Adam, Section V-C4


class Strategy(ABC):
    """How one gradient step on one mini-batch is taken.

    A subclass must define :meth:`modules`, :meth:`propagate` and :meth:`step`. All other members that training, cost
    measurement and :class:`gleam.Fast` use have a default here. The defaults suit a strategy that runs in one process
    and whose steps can be recorded as a CUDA graph.

    Attributes
    ----------
    is_capturable : bool
        Whether a step can be recorded as a CUDA graph: it never waits for a value from the device and uses one device.
    is_captured : bool
        Whether steps on CUDA are recorded as a graph.
    needs_fp32 : bool
        Whether the strategy gains nothing from a smaller number format.
    precision : str or None
        Number format of the convolutions; None: that of torch's settings.
    is_pipelined : bool
        Whether each of several devices holds consecutive modules.
    team : Team
        The processes that train together.
    replica : int
        Number of the replica that this process belongs to. Replicas are copies of the network that share a mini-batch.
    loss : callable, or a sequence of them
        Of (image, batch), one for all modules or one per module (:mod:`gleam.losses`).
    """

    is_capturable: bool = True
    is_captured: bool = False
    needs_fp32: bool = False
    precision: str | None = None
    is_pipelined: bool = True
    team: Team = ALONE
    replica: int = 0
    loss: Loss | Sequence[Loss] = staticmethod(complex_l1)

    @abstractmethod
    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """Cut `network.iterations` into modules: lists of iterations, each updated on its own."""

    @abstractmethod
    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on the image `x` (batch, [time,] y, x) and keep what the backward pass needs."""

    @abstractmethod
    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """Update every module of `network` once, on one mini-batch.

        Parameters
        ----------
        network : Module
            A start plus a list of iterations.
        batch : Batch
        optimizers : sequence of Optimizer
            One per module, as from :func:`optimizers`.

        Returns
        -------
        list of Tensor
            The loss of each module, detached, on the device of that module.
        """

    def losses(self, network: nn.Module) -> list[Loss]:
        """The loss of each module; ValueError if there are more or fewer than modules."""
        n_modules, own = len(self.modules(network)), self.loss
        found: Any = list(own) if isinstance(own, list | tuple) else [own] * n_modules
        if len(found) != n_modules:
            raise ValueError(
                f"{self} has {len(found)} losses and {n_modules} modules; expected one loss, or {n_modules}"
            )
        return found

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
        """The same strategy without CUDA graphs: allocations inside a replay cannot be measured."""
        return self

    def settled(self, device: str | torch.device) -> Strategy:
        """The same strategy with every choice made that depends on `device`."""
        return self

    def diagnostics(self) -> dict:
        """Counts and errors since the last call, for the history of a run; empty if there are none."""
        return {}

    def finish(self) -> None:  # noqa: B027  (most strategies have nothing to wait for)
        """Wait until other processes have received all that this one sent."""

    def __repr__(self) -> str:
        """Code that makes the strategy; the paper's loss goes without saying, since it is part of a run's name."""
        own: Any = self
        declared: Any = fields(own) if is_dataclass(self) else ()
        shown = {f.name: repr(getattr(self, f.name)) for f in declared if f.repr and f.name != "loss"}
        if self.loss is not complex_l1:
            shown["loss"] = named(self.loss)
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


class WholeNetwork(Strategy):
    """A strategy with one module, the whole network; a subclass defines how activations are kept."""

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """One list with all iterations."""
        iterations: Any = network.iterations
        return split(iterations, 1)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One update of the network from the loss of its last output."""
        return _decoupled_step(self, network, batch, optimizers)


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
    loss : callable
        Of (image, batch).
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
    own = list(iteration.buffers())[: len(before)]
    now = [b.clone() for b in own]
    for buffer, value in zip(own, before, strict=True):
        buffer.copy_(value)
    try:
        yield
    finally:
        for buffer, value in zip(own, now, strict=True):
            buffer.copy_(value)


@final
@dataclass(frozen=True, repr=False)
class Greedy(Strategy):
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

    @property
    def is_capturable(self) -> bool:
        """As `within`."""
        return self.within.is_capturable

    @property
    def needs_fp32(self) -> bool:
        """As `within`."""
        return self.within.needs_fp32

    @property
    def propagation(self) -> Strategy:
        """The strategy inside a module."""
        return self.within

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """The iterations cut into `n_modules` lists; ValueError if there are fewer iterations than modules."""
        iterations: Any = network.iterations
        return split(iterations, self.n_modules)

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run `iterations` on `x` as `within` does."""
        return self.within.propagate(iterations, x, batch)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """Forward, local loss, backward and update, module by module; the next module gets the output detached."""
        return _decoupled_step(self, network, batch, optimizers)

    def diagnostics(self) -> dict:
        """Those of `within`."""
        return self.within.diagnostics()


def _decoupled_step(strategy, network, batch, optimizers):
    """Algorithm 1. The next module gets x(m) as computed before the update of module m, as in the paper."""
    batch = protocol.setup(network, batch)
    x, losses = network.start(batch), []
    for m, optimizer in enumerate(optimizers):
        x, loss = forward_module(strategy, network, m, x, batch)
        losses.append(update_module(loss, optimizer))
        x, batch = protocol.detached(x), protocol.detached(batch)
    return losses


def forward_module(strategy: Strategy, network: nn.Module, m: int, x: Any, batch: Any) -> tuple[Any, Tensor]:
    """Return x(m) and its local loss for the input x(m-1) of module `m` (Eq. 10).

    Raises
    ------
    ValueError
        If the image of x(m) has not the shape of the target, or the loss is not one number.
    """
    x = strategy.propagate(strategy.modules(network)[m], x, batch)
    batch = protocol.on_device(batch, protocol.device_of(x, batch.target.device))
    with _fixed(protocol.outside_iterations(network) if m and hasattr(network, "image") else []):
        image = protocol.image(network, x, batch)
    loss = strategy.losses(network)[m](image, batch)
    if not isinstance(loss, Tensor) or loss.ndim or loss.is_complex():
        found = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss {named(strategy.losses(network)[m])} gives {found}; expected one real number")
    return x, loss


@contextmanager
def _fixed(parameters):
    """Context in which gradients do not reach these parameters, which another module trains."""
    trained = [p.requires_grad_(False) for p in parameters if p.requires_grad]
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def update_module(loss: Tensor, optimizer: Optimizer, average: Callable | None = None) -> Tensor:
    """Backward pass and update of one module.

    Parameters
    ----------
    loss : Tensor
        The local loss. If it needs no gradient, there is no backward pass.
    optimizer : Optimizer
        That of the module.
    average : callable, optional
        Called as `average(loss, parameters)` between backward pass and update, to average both over replicas in place.

    Returns
    -------
    Tensor
        The loss, detached.
    """
    if loss.requires_grad:
        # outside autocast, as torch advises: each operation has the format of its forward pass anyway
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
    loss = loss.detach()
    if average:
        average(loss, [p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # so that only one module's gradients are in memory at a time
    return loss


def parameters_by_module(strategy: Strategy, network: nn.Module) -> list[list[nn.Parameter]]:
    """The network's parameters as one list per module of `strategy`.

    Parameters outside all iterations belong to the first module.

    Raises
    ------
    ValueError
        If two modules share a parameter, since each updates it on its own, or if a module has none.
    """
    groups = [[p for iteration in module for p in iteration.parameters()] for module in strategy.modules(network)]
    owners = [{id(p) for p in group} for group in groups]
    if shared := [name for name, p in network.named_parameters() if sum(id(p) in own for own in owners) > 1]:
        raise ValueError(
            f"{strategy} cannot train modules that share weights, such as {shared[0]}; give each iteration its own"
        )
    if not all(groups):
        raise ValueError(f"module {groups.index([])} of {strategy} has no weights to train; cut the network otherwise")
    groups[0] += protocol.outside_iterations(network)
    return [list({id(p): p for p in group}.values()) for group in groups]


def optimizers(
    strategy: Strategy, network: nn.Module, *, learning_rate: float, weight_decay: float = 0.0
) -> list[Optimizer]:
    """One Adam per module of `strategy`, with the paper's betas (Section V-C4).

    Each uses one fused kernel for all weights unless some are complex. On CUDA a fused one holds the learning rate as
    a tensor on the device, which a captured step reads anew each time; change it by :func:`set_learning_rate`. Raises
    ValueError as :func:`parameters_by_module`.
    """
    found: list[Optimizer] = []
    for parameters in parameters_by_module(strategy, network):
        can_fuse = all(p.is_floating_point() for p in parameters)  # the fused kernel takes no complex weights
        rate: float | Tensor = learning_rate
        if can_fuse and all(p.is_cuda for p in parameters):
            rate = torch.tensor(learning_rate, device=parameters[0].device)
        found.append(torch.optim.Adam(parameters, lr=rate, betas=BETAS, weight_decay=weight_decay, fused=can_fuse))
    return found


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate without synchronising with the device."""
    (group,) = optimizer.param_groups
    if torch.is_tensor(group["lr"]):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
