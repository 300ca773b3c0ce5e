"""The interface of training strategies, and the step of Algorithm 1.

A strategy takes one gradient step on one mini-batch. It cuts the iterations of a network into modules, each with its
own optimizer, and updates each module once. It works on any network that is a start plus a list of iterations
(:mod:`gleam.networks.protocol`). How the activations inside a module are kept is a second, independent choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam import execution
from gleam.files import named, plain
from gleam.networks import protocol
from gleam.networks.unrolled import split
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1, splitting
from gleam.processes.team import ALONE, Team


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
    loss: Loss | Sequence[Loss] = staticmethod(complex_l1)  # a plain function would become a method of the strategy

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

    def parts(self, network: nn.Module) -> list[tuple[Sequence[nn.Module], Loss]]:
        """Each module and its loss; ValueError if there are more or fewer losses than modules."""
        return paired(self, self.modules(network))

    def given(self, batch: Batch) -> Batch:
        """What a network gets of `batch` in training: without the samples that a loss holds out."""
        self_supervised = splitting(self.loss)
        return self_supervised.split(batch) if self_supervised else batch

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
        """The same strategy without CUDA graphs, since allocations inside a replay cannot be measured."""
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
        declared: Any = fields(self) if is_dataclass(self) else ()
        shown = {f.name: repr(plain(getattr(self, f.name))) for f in declared if f.repr and f.name != "loss"}
        if self.loss is not complex_l1:
            shown["loss"] = named(self.loss)
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


def paired(strategy: Strategy, modules: Sequence[Sequence[nn.Module]]) -> list[tuple[Sequence[nn.Module], Loss]]:
    """Modules with the losses of a strategy; ValueError if there are more or fewer losses than modules."""
    loss, n = strategy.loss, len(modules)
    losses: Any = loss if isinstance(loss, list | tuple) else [loss] * n
    if len(losses) != n:
        raise ValueError(f"{strategy} has {len(losses)} losses and {n} modules; expected one loss, or {n}")
    for one in losses:
        if not callable(one) or isinstance(one, type):  # a class, given instead of an object of it
            raise ValueError(
                f"loss={one!r} is not a function of (image, batch); expected one such as gleam.losses.complex_l1, or "
                "gleam.losses.DataConsistent(0.9)"
            )
    return list(zip(modules, losses, strict=True))


class WholeNetwork(Strategy):
    """A strategy with one module, the whole network; a subclass defines how activations are kept."""

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """One list with all iterations."""
        iterations: Any = network.iterations
        return split(iterations, 1)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """One update of the network from the loss of its last output."""
        return decoupled_step(self, network, batch, optimizers)


def decoupled_step(strategy, network, batch, optimizers):
    """Algorithm 1. The next module gets x(m) as computed before the update of module m, as in the paper."""
    batch = protocol.setup(network, strategy.given(batch))
    x, losses = network.start(batch), []
    # weights outside all iterations are trained with the first module only, though images of later ones may need them
    of_first = protocol.outside_iterations(network) if hasattr(network, "image") else []
    for m, (part, optimizer) in enumerate(zip(strategy.parts(network), optimizers, strict=True)):
        x, loss = forward_module(strategy, network, part, x, batch, of_first if m else ())
        x, batch = protocol.detached((x, batch))
        losses.append(update_module(loss, optimizer))
    return losses


def forward_module(
    strategy: Strategy,
    network: nn.Module,
    part: tuple[Sequence[nn.Module], Loss],
    x: Any,
    batch: Any,
    untrained: Sequence[nn.Parameter] = (),
) -> tuple[Any, Tensor]:
    """Return x(m) and its local loss for the input x(m-1) of a module (Eq. 10).

    Parameters
    ----------
    strategy : Strategy
    network : Module
    part : (list of Module, callable)
        The module and its loss, one of :meth:`Strategy.parts`.
    x, batch
        What the module gets.
    untrained : sequence of Parameter
        Weights that the image may need and another module trains.

    Raises
    ------
    ValueError
        If an iteration cannot take what the one before it gives, if the image of x(m) has not the shape of the target,
        or if the loss is not one number with a gradient.
    """
    module, loss_of = part
    received = x
    try:
        x = strategy.propagate(module, received, batch)
    except RuntimeError as error:
        # look for iterations that do not fit together, which torch reports by shapes deep inside a layer
        if not isinstance(error, torch.OutOfMemoryError) and not execution.is_capturing():
            protocol.check_chain(network, module, received, batch)
        raise
    batch = protocol.on_device(batch, protocol.device_of(x, batch.target.device))  # the module may be on another one
    with fixed(untrained):
        image = protocol.image(network, x, batch)
    with torch.autocast(image.device.type, enabled=False):  # losses are always float32
        loss = loss_of(image, batch)
    if not isinstance(loss, Tensor) or loss.ndim or loss.is_complex():
        found = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss {named(loss_of)} gives {found}; expected one real number")
    if image.requires_grad and not loss.requires_grad:
        raise ValueError(f"the loss {named(loss_of)} has no gradient; expected torch operations")
    return x, loss.to(batch.target.real.dtype)  # of one type, as replicas average it


@contextmanager
def fixed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
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
