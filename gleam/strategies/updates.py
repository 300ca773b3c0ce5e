"""The optimizers of the modules of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam.files import named
from gleam.networks import protocol
from gleam.strategies.base import Strategy

BETAS = (0.9, 0.999)  # of Adam, Section V-C4


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
    if shared := [name for name, p in network.named_parameters() if sum(id(p) in ids for ids in owners) > 1]:
        raise ValueError(
            f"{strategy} cannot train modules that share weights, such as {shared[0]}; give each iteration its own"
        )
    if not all(groups):
        raise ValueError(f"module {groups.index([])} of {strategy} has no weights to train; cut the network otherwise")
    groups[0] += protocol.outside_iterations(network)
    # a weight that a module has twice is updated once
    return [list({id(p): p for p in group}.values()) for group in groups]


def optimizers(
    strategy: Strategy,
    network: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    make: Callable | None = None,
) -> list[Optimizer]:
    """One optimizer per module of `strategy`: Adam with the paper's betas (Section V-C4), or what `make` makes.

    `make` is called as `make(parameters, lr=, weight_decay=)`, as the classes of :mod:`torch.optim` are. An Adam uses
    one fused kernel for all weights unless some are complex. On CUDA a fused one holds the learning rate as a tensor on
    the device, which a captured step reads anew each time; change it by :func:`set_learning_rate`. Raises ValueError as
    :func:`parameters_by_module`.
    """
    found: list[Optimizer] = []
    for parameters in parameters_by_module(strategy, network):
        if make is not None:
            try:
                found.append(make(parameters, lr=learning_rate, weight_decay=weight_decay))
            except TypeError as error:
                raise ValueError(
                    f"the optimizer {named(make)} cannot be made with (parameters, lr=, weight_decay=): {error}"
                ) from error
            continue
        can_fuse = all(p.is_floating_point() for p in parameters)  # the fused kernel takes no complex weights
        rate: float | Tensor = learning_rate
        if can_fuse and all(p.is_cuda for p in parameters):
            rate = torch.tensor(learning_rate, device=parameters[0].device)
        found.append(torch.optim.Adam(parameters, lr=rate, betas=BETAS, weight_decay=weight_decay, fused=can_fuse))
    return found


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate without synchronising with the device."""
    (group,) = optimizer.param_groups
    # a tensor on the device, which a captured step reads again at each replay
    if torch.is_tensor(group["lr"]):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class Accumulated:
    """An optimizer whose every n-th step is one, with the mean of the gradients of n mini-batches."""

    def __init__(self, optimizer: torch.optim.Optimizer, n: int) -> None:
        self.optimizer, self.n, self.n_calls = optimizer, n, 0

    def __getattr__(self, name: str) -> Any:  # what is not here: param_groups, state, state_dict, ...
        return getattr(self.optimizer, name)

    def step(self) -> None:
        """Count a mini-batch; with the last of n update the weights."""
        self.n_calls += 1
        if self.n_calls % self.n == 0:
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(gradients, self.n) if gradients else None  # all in one kernel; it takes no empty list
            self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """After an update, forget the gradients."""
        # in between, those of several mini-batches add up
        if self.n_calls % self.n == 0:
            self.optimizer.zero_grad(set_to_none)
