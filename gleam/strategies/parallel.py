"""P-GLEAM: greedy modules trained in parallel, by several processes or on several devices of one process.

Module m needs only the detached output of module m - 1. So each process trains some of the modules and sends x(m), in
most networks an image, to the process of the next one, with what `setup` has learned of the batch, if the network has
one. Gradients are exchanged only between replicas, which average them; weights and optimizer states only at validations
and checkpoints. Every process reads the mini-batch itself, in the same seeded order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleam.files import whole_number
from gleam.networks import protocol
from gleam.networks.unrolled import split
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1
from gleam.processes.team import Team, join
from gleam.strategies.base import Strategy, forward_module, update_module
from gleam.strategies.exchange import Place
from gleam.strategies.greedy import EndToEnd, Greedy
from gleam.strategies.monitor import combined
from gleam.strategies.within import Within


@final
@dataclass(frozen=True, repr=False)
class ParallelGreedy(Within):
    """P-GLEAM: the weights of :class:`gleam.Greedy`, trained by all processes that torchrun or a notebook started.

    Without a launcher one process trains all modules in turn, so the same script runs anywhere. On a CPU with the same
    number of threads, and without replicas, the weights are those of one process to the last bit: every module computes
    with the same numbers in the same order.

    Parameters
    ----------
    n_modules, within, loss
        As in :class:`gleam.Greedy`.
    pipelined : bool
        True: each process holds consecutive modules and takes the next mini-batch as soon as it has sent its output.
        False: modules are assigned in turn (round-robin), as in Algorithm 2. Within a block of modules, one per
        process, the forward passes follow one another and the backward passes overlap.
    n_replicas : int
        Copies of the whole arrangement that share each mini-batch (data parallelism). Gradients are averaged module by
        module, weighted by the number of slices, so uneven batches and batches smaller than `n_replicas` count
        correctly. Sums are then rounded in another order than in one process. Batch normalisation and the like see
        only the replica's share of a mini-batch, and dropout differs between replicas.
    n_in_flight : int
        A process may be at most this many outputs ahead of the process that receives them.

    Raises
    ------
    ValueError
        If `n_replicas` or `n_in_flight` is no whole number of at least 1; on first use, if the processes cannot form
        equal replicas, or a replica has more processes than modules.
    """

    n_modules: int
    within: Strategy = field(default_factory=EndToEnd)
    pipelined: bool = True
    n_replicas: int = 1
    n_in_flight: int = 2
    loss: Loss | Sequence[Loss] = complex_l1
    # the place of this process, and what was checked: a frozen dataclass can change the content of a dict
    _state: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        for name in ("n_replicas", "n_in_flight"):
            whole_number(getattr(self, name), name)

    is_capturable = False

    @property
    def equivalent(self) -> Greedy:
        """The strategy that trains the same weights in one process."""
        return Greedy(self.n_modules, self.within, self.loss)

    @property
    def is_pipelined(self) -> bool:
        """Whether each process holds consecutive modules."""
        return self.pipelined

    @property
    def team(self) -> Team:
        """The processes that train together."""
        return join()

    @property
    def replica(self) -> int:
        """Number of the replica that this process belongs to."""
        return self._place.replica

    def modules(self, network: nn.Module) -> list[Sequence[nn.Module]]:
        """Those of :class:`gleam.Greedy`."""
        return self.equivalent.modules(network)

    def mine(self, network: nn.Module) -> list[int]:
        """Numbers of the modules that this process trains."""
        return self._place.mine

    def assignment(self, n_devices: int) -> list[Sequence[int]]:
        """Module numbers of each of `n_devices` devices, as :func:`assignment`."""
        return assignment(self.n_modules, n_devices, pipelined=self.pipelined)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[Optimizer]) -> list[Tensor]:
        """This process's part of one step; all processes get the same mini-batch.

        Returns the losses of all modules, 0 for modules of other processes.
        """
        place = self._place
        if place.team.size == 1:
            return self.equivalent.step(network, batch, optimizers)
        n_slices, is_plain = len(batch), not hasattr(network, "setup") and not hasattr(network, "image")
        batch = self.given(batch.part(place.replica, self.n_replicas))
        average = place.averaging(len(batch) / n_slices, batch.target.device)
        parts = self.parts(network)
        losses = [torch.zeros_like(batch.target.real[:0].sum()) for _ in parts]  # scalars, also of an empty batch
        unrolled: Any = network
        x: Any = None
        prepared: Any = batch  # as setup has made it
        for m in place.mine:
            if len(batch):
                if m == 0:
                    prepared = protocol.setup(network, batch)
                    x = unrolled.start(prepared)
                elif m - 1 not in place.mine:
                    x, prepared = place.receive(m - 1, batch, is_plain)
                self._check_image(network, x, prepared)
                x, loss = forward_module(self, network, parts[m], x, prepared)
                x, prepared = protocol.detached((x, prepared))
                # before the backward pass, so that the next process begins at once
                if m + 1 < len(parts) and m + 1 not in place.mine:
                    place.send(m + 1, (x, prepared), batch, is_plain, self.n_in_flight)
            else:  # more replicas than slices: no gradient here, but the average over replicas needs every process
                loss = losses[m]
            losses[m] = update_module(loss, optimizers[m], average)
        return losses

    def _check_image(self, network, x, batch):
        """Once: the image must not need weights that only the first process trains."""
        if hasattr(network, "image") and "checked" not in self._state:
            with torch.enable_grad():
                found = protocol.image(network, *protocol.detached((x, batch)))
            self._state["checked"] = True
            if found.requires_grad:
                raise ValueError(
                    f"image(x, batch) of {type(network).__name__} uses weights of its own; P-GLEAM passes on learned "
                    "values only in the batch that setup(batch) returns"
                )

    def diagnostics(self) -> dict:
        """Those of `within`, of all processes together; every process must call this."""
        found = list(self.team.merge({self.team.rank: self.within.diagnostics()}).values())
        return combined(found) if all(found) else {}  # only `Invertible` counts anything

    def finish(self) -> None:
        """Wait until all that was sent has been received; call it before another exchange between processes."""
        self._place.wait_for_sent()

    @property
    def _place(self):
        if "place" not in self._state:
            self._state["place"] = Place(self, self.team)
        return self._state["place"]

    def __getstate__(self):
        return self.__dict__ | {"_state": {}}  # connections do not go to another process


def assignment(n_modules: int, n_devices: int, *, pipelined: bool = True) -> list[Sequence[int]]:
    """Module numbers for each of `n_devices` devices: consecutive ones if `pipelined`, else assigned in turn.

    Raises ValueError if there are more devices than modules.
    """
    if not 1 <= n_devices <= n_modules:
        raise ValueError(
            f"{n_devices} devices cannot share n_modules={n_modules}: start at most one process per module, times "
            "n_replicas"
        )
    numbers = range(n_modules)
    return split(numbers, n_devices) if pipelined else [list(numbers[d::n_devices]) for d in range(n_devices)]


def spread(network: nn.Module, strategy: Strategy, devices: Sequence[str | torch.device]) -> nn.Module:
    """Put the modules of a network on several devices of this process, consecutive modules together.

    From then on image and batch move to the device of an iteration whenever it is called. So every strategy trains the
    network as before, and :class:`gleam.Greedy` becomes P-GLEAM: nothing in a step waits, so GPUs work at the same
    time, each on the mini-batch that has reached it.

    Parameters
    ----------
    network : Module
        What lies outside its iterations stays on the first device.
    strategy : Strategy
        Cuts the network into modules.
    devices : sequence of device
        At most one per module.

    Returns
    -------
    Module
        `network` itself.

    Raises
    ------
    ValueError
        If there are more devices than modules.
    """
    modules = strategy.modules(network)
    network.to(devices[0])
    for hook in network.__dict__.pop("_spread", ()):  # of an earlier call
        hook.remove()
    places = assignment(len(modules), len(devices), pipelined=strategy.is_pipelined)
    hooks = []
    for device, numbers in zip(devices, places, strict=True):
        for iteration in (iteration for m in numbers for iteration in modules[m]):
            iteration.to(device)
            hooks.append(iteration.register_forward_pre_hook(partial(_bring, torch.device(device))))
    network._spread = hooks  # type: ignore[assignment]  # torch declares modules and tensors only
    return network


def _bring(device, iteration, arguments):
    """Hook before the forward pass of an iteration; a function of the module, since a network may be pickled."""
    return tuple(protocol.on_device(value, device) for value in arguments)
