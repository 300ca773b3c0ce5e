"""P-GLEAM: greedy modules trained side by side, on several processes or on several devices of one.

Module m needs nothing from the others but the detached output of module m - 1. So each process trains modules of its
own and sends x(m) on, an image; no gradient, weight or data crosses. Every process reads the mini-batch itself, from
the same seeded order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gleam.networks.unrolled import split
from gleam.physics.sense import Batch
from gleam.processes.team import Team, join
from gleam.strategies.base import EndToEnd, Greedy, Strategy, forward_module, update_module
from gleam.strategies.inversion import combined


@final
@dataclass(frozen=True)
class ParallelGreedy(Strategy):
    """P-GLEAM: the weights of :class:`gleam.Greedy`, trained by all processes that torchrun or a notebook started.

    ``pipelined``: each process holds consecutive modules and takes the next mini-batch as soon as it has sent its
    output on, at most ``n_in_flight`` outputs ahead of the process that receives them. Otherwise the modules are dealt
    out in turn, as in Algorithm 2: in each block of modules forward passes follow one another, and backward passes
    overlap. Either way every module sees the same numbers in the same order as in one process: on a CPU with the same
    number of threads the weights are the same to the last bit.

    ``n_replicas`` copies of the whole arrangement share each mini-batch (data parallelism): gradients are averaged
    module by module, weighted by the number of slices, so that uneven batches, and ones smaller than the number of
    replicas, count as they should. Sums are then rounded in another order than in one process. What depends on a whole
    mini-batch, such as batch normalisation, sees a replica's share only, and dropout differs between replicas.

    In a process that nobody launched all modules are trained in turn, so the same script runs anywhere. Raises
    ValueError if the processes cannot be shared out.
    """

    n_modules: int
    within: Strategy = field(default_factory=EndToEnd)
    pipelined: bool = True
    n_replicas: int = 1
    n_in_flight: int = 2
    _state: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        for name in ("n_replicas", "n_in_flight"):
            value = getattr(self, name)
            if not hasattr(value, "__index__") or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")

    is_capturable = False

    @property
    def equivalent(self) -> Greedy:
        """The strategy that trains the same weights in one process."""
        return Greedy(self.n_modules, self.within)

    @property
    def propagation(self) -> Strategy:
        """The strategy inside a module."""
        return self.within

    @property
    def needs_fp32(self) -> bool:
        """As ``within``."""
        return self.within.needs_fp32

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
        """As :class:`gleam.Greedy`."""
        return self.equivalent.modules(network)

    def propagate(self, iterations: Sequence[nn.Module], x: Tensor, batch: Batch) -> Tensor:
        """Run ``iterations`` on ``x`` as ``within`` does."""
        return self.within.propagate(iterations, x, batch)

    def mine(self, network: nn.Module) -> list[int]:
        """Numbers of the modules that this process trains."""
        return self._place.mine

    def assignment(self, n_devices: int) -> list[Sequence[int]]:
        """Module numbers of each of ``n_devices`` devices; ValueError if there are more devices than modules."""
        return assignment(self.n_modules, n_devices, pipelined=self.pipelined)

    def step(self, network: nn.Module, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
        """This process's part of one step on the mini-batch ``batch``, which all processes are given alike.

        Returns the losses of all modules, 0 for those of other processes.
        """
        place = self._place
        if place.team.size == 1:
            return self.equivalent.step(network, batch, optimizers)
        modules, n_slices = self.modules(network), len(batch)
        batch = batch.part(place.replica, self.n_replicas)
        average = place.averaging(len(batch) / n_slices, batch.target.device)
        losses = [torch.zeros_like(batch.target.real[:0].sum()) for _ in modules]
        x = network.start(batch) if len(batch) and 0 in place.mine else None
        for m in place.mine:
            if len(batch):
                x = x if m == 0 or m - 1 in place.mine else place.receive(m - 1, batch.target)
                x, loss = forward_module(self, modules[m], x, batch)
                if m + 1 < len(modules) and m + 1 not in place.mine:
                    place.send(m + 1, x.detach(), batch.target, self.n_in_flight)
            else:  # more replicas than slices: nothing to add, but the others count on this process
                loss = losses[m]
            losses[m] = update_module(loss, optimizers[m], average)
            x = None if x is None else x.detach()
        return losses

    def diagnostics(self) -> dict:
        """Those of ``within``, of all processes together; all of them have to ask."""
        found = list(self.team.merge({self.team.rank: self.within.diagnostics()}).values())
        return combined(found) if all(found) else {}

    def finish(self) -> None:
        """Wait until everything sent has been received; before the processes do something else together."""
        self._place.wait_for_sent()

    @property
    def _place(self):
        if "place" not in self._state:
            self._state["place"] = _Place(self, self.team)
        return self._state["place"]

    def __getstate__(self):
        return self.__dict__ | {"_state": {}}


def assignment(n_modules: int, n_devices: int, *, pipelined: bool = True) -> list[Sequence[int]]:
    """Module numbers for each of ``n_devices`` devices: consecutive ones if ``pipelined``, else dealt out in turn.

    Raises ValueError if there are more devices than modules.
    """
    if not 1 <= n_devices <= n_modules:
        raise ValueError(
            f"{n_devices} devices cannot share n_modules={n_modules}: start at most one process per module, times "
            "n_replicas"
        )
    numbers = range(n_modules)
    return split(numbers, n_devices) if pipelined else [list(numbers[d::n_devices]) for d in range(n_devices)]


class _Place:
    """One process's place in the mesh of replicas x devices, and its connections.

    Neighbours along the chain of modules have neighbouring ranks, so that a node with as many GPUs as a replica has
    devices keeps its images to itself.
    """

    def __init__(self, strategy, team):
        self.team = team
        n_replicas = 1 if team.size == 1 else strategy.n_replicas  # alone it does all
        n_devices, rest = divmod(team.size, n_replicas)
        if rest or not n_devices:
            raise ValueError(
                f"{team.size} processes cannot form n_replicas={strategy.n_replicas} equal replicas; start a multiple"
            )
        self.replica, self.device = divmod(team.rank, n_devices)
        of_device = strategy.assignment(n_devices)
        self.mine = of_device[self.device]
        self.rank_of = {m: self.replica * n_devices + d for d, ms in enumerate(of_device) for m in ms}
        self.mesh_shape = n_replicas, n_devices
        self.sent, self.groups = deque(), {}

    def receive(self, m, like):
        """x(m) from the process that trains module m; shape and type are those of the target."""
        x = torch.empty_like(like, memory_format=torch.contiguous_format)
        with self.team.talking():
            dist.recv(torch.view_as_real(x), src=self.rank_of[m])
        return x

    def send(self, m, x, like, n_in_flight):
        """Send ``x`` to the process that trains module m; wait only for what lies ``n_in_flight`` sends back."""
        if x.shape != like.shape or x.dtype != like.dtype:
            raise ValueError(
                f"an iteration gave {x.dtype} of shape {tuple(x.shape)}; P-GLEAM passes on images like the target, "
                f"{like.dtype} of shape {tuple(like.shape)}"
            )
        self.wait_for_sent(n_in_flight - 1)
        x = x.resolve_conj().contiguous()
        with self.team.talking():
            self.sent.append((dist.isend(torch.view_as_real(x), dst=self.rank_of[m]), x))

    def wait_for_sent(self, n_left=0):
        """Wait until at most ``n_left`` sends are under way."""
        while len(self.sent) > n_left:
            work, _ = self.sent.popleft()
            with self.team.talking():
                work.wait()

    def averaging(self, weight, device):
        """What :func:`gleam.strategies.base.update_module` does between backward pass and update: nothing, or the
        average over replicas, in which this one counts ``weight``. All have to ask before they exchange anything."""
        if self.mesh_shape[0] == 1:
            return None
        if device.type not in self.groups:  # the mesh is of the kind of device that trains
            with self.team.talking():
                mesh = dist.init_device_mesh(device.type, self.mesh_shape, mesh_dim_names=("replicas", "modules"))
            self.groups[device.type] = mesh.get_group("replicas")
        return partial(self._average, weight, self.groups[device.type])

    def _average(self, weight, group, loss, parameters):
        parameters = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for dtype in dict.fromkeys([loss.dtype, *(g.dtype for g in gradients)]):
            chosen = [g for g in [loss, *gradients] if g.dtype == dtype]
            flat = weight * torch.cat([g.reshape(-1) for g in chosen])
            with self.team.talking():
                dist.all_reduce(torch.view_as_real(flat) if flat.is_complex() else flat, group=group)
            for gradient, average in zip(chosen, flat.split([g.numel() for g in chosen]), strict=True):
                gradient.copy_(average.view_as(gradient))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def spread(network: nn.Module, strategy: Strategy, devices: Sequence[str | torch.device]) -> nn.Module:
    """Put the modules of ``network`` on several ``devices`` of this process, consecutive ones together.

    Wherever an iteration is called from then on, image and batch come to its device; so every strategy trains the
    network as before, and :class:`gleam.Greedy` is P-GLEAM: nothing in a step waits, so GPUs work at the same time,
    each on the mini-batch that has come to it. What lies outside the iterations stays on the first device. Returns the
    network. Raises ValueError if there are more devices than modules.
    """
    modules = strategy.modules(network)
    network.to(devices[0])
    for hook in network.__dict__.pop("_spread", ()):
        hook.remove()
    places = assignment(len(modules), len(devices), pipelined=strategy.is_pipelined)
    hooks = []
    for device, numbers in zip(devices, places, strict=True):
        for iteration in (iteration for m in numbers for iteration in modules[m]):
            iteration.to(device)
            hooks.append(iteration.register_forward_pre_hook(partial(_bring, torch.device(device))))
    network._spread = hooks
    return network


def _bring(device, iteration, arguments):
    x, batch = arguments
    return x.to(device, non_blocking=device.type != "cpu"), batch.to(device)
