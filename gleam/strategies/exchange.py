"""What the processes of P-GLEAM send each other."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gleam.networks import protocol
from gleam.physics.batch import Batch
from gleam.processes.sending import packed, unpacked
from gleam.processes.team import Team

_HEADER = 8192  # bytes of the message that says what follows: a fixed size, so that it can be received unasked


def _bytes(tensor):
    """A dense tensor as bytes, in the order of its memory: the libraries send no complex and no Boolean numbers."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def _dense(tensor):
    """The tensor without gaps in memory and, where it had none, with its strides, which decide how sums are rounded."""
    tensor = tensor.resolve_conj().resolve_neg()
    is_dense = tensor.stride() == torch.empty_like(tensor, device="meta").stride()
    return tensor if is_dense else tensor.clone()


class Place:
    """One process's place in the mesh of replicas x devices, and its connections.

    Neighbours along the chain of modules have neighbouring ranks. So where a node has as many GPUs as a replica has
    devices, images are sent within the node only.
    """

    def __init__(self, strategy: Any, team: Team) -> None:
        self.team = team
        n_replicas = 1 if team.size == 1 else strategy.n_replicas  # a single process trains everything
        n_devices, rest = divmod(team.size, n_replicas)
        if rest or not n_devices:
            raise ValueError(
                f"{team.size} processes cannot form n_replicas={strategy.n_replicas} equal replicas; start a multiple"
            )
        self.replica, self.device = divmod(team.rank, n_devices)
        of_device = strategy.assignment(n_devices)  # "device": a process of the replica
        self.mine = of_device[self.device]
        self.rank_of = {m: self.replica * n_devices + d for d, ms in enumerate(of_device) for m in ms}
        self.mesh_shape = n_replicas, n_devices
        self.sent: deque = deque()
        self.groups: dict = {}

    def receive(self, m: int, batch: Batch, is_plain: bool) -> tuple[Any, Any]:
        """(x(m), batch) from the process that trains module m, as :meth:`send` has sent them."""
        new: list[Tensor] = []
        parts: Any
        if is_plain:  # an image like the target, so no header says what comes
            like = batch.target.shape, torch.empty(batch.target.shape, device="meta").stride(), batch.target.dtype
            shapes, parts = [like], (protocol.Hole(False, 0), batch)
        else:
            header = torch.empty(_HEADER, dtype=torch.uint8)
            self._receive(header, m)
            parts, shapes = unpacked(header.numpy().tobytes())
        for shape, strides, dtype in shapes:
            new.append(torch.empty_strided(shape, strides, dtype=dtype, device=batch.target.device))
            self._receive(_bytes(new[-1]), m)
        return protocol.put_together(parts, protocol.tensors_in(batch), new)

    def _receive(self, flat, m):
        with self.team.talking():
            dist.recv(flat, src=self.rank_of[m])

    def send(self, m: int, value: tuple[Any, Any], batch: Batch, is_plain: bool, n_in_flight: int) -> None:
        """Send `value`, (x, batch), to the process that trains module m; at most `n_in_flight` sends are under way.

        Of a plain network, whose iterates are images, only x is sent. Otherwise a header says of which tensors `value`
        consists; those of `batch` are known to all processes and are not sent.
        """
        parts, new = protocol.taken_apart(value, protocol.tensors_in(batch))
        new = [t.resolve_conj().contiguous() if is_plain else _dense(t) for t in new]
        if is_plain and (new[0].shape, new[0].dtype) != (batch.target.shape, batch.target.dtype):
            raise ValueError(
                f"an iteration gave {new[0].dtype} of shape {tuple(new[0].shape)}; expected the target's "
                f"{batch.target.dtype} and {tuple(batch.target.shape)}, or a network with image(x, batch)"
            )
        # each send keeps its tensors alive: this bounds their memory
        self.wait_for_sent(n_in_flight - 1)
        messages = [_bytes(t) for t in new]
        if not is_plain:
            header = packed((parts, [(t.shape, t.stride(), t.dtype) for t in new]))
            if len(header) > _HEADER:
                raise ValueError(f"iterates of {len(new)} tensors are too many for P-GLEAM to pass on; expected a few")
            messages.insert(0, torch.frombuffer(bytearray(header.ljust(_HEADER, b"\0")), dtype=torch.uint8))
        with self.team.talking():
            # with the tensor itself, which must live until it is sent
            self.sent.append([(dist.isend(flat, dst=self.rank_of[m]), flat) for flat in messages])

    def wait_for_sent(self, n_left: int = 0) -> None:
        """Wait until at most `n_left` sends are under way."""
        while len(self.sent) > n_left:
            for work, _ in self.sent.popleft():
                with self.team.talking():
                    work.wait()

    def averaging(self, weight: float, device: torch.device) -> Any:
        """The function that averages over replicas, this one with `weight`; None without replicas.

        The first call is collective: every process must make it before any other exchange of the step.
        """
        if self.mesh_shape[0] == 1:
            return None
        if device.type not in self.groups:  # a mesh belongs to one kind of device: the one that trains
            with self.team.talking():
                mesh = dist.init_device_mesh(device.type, self.mesh_shape, mesh_dim_names=("replicas", "modules"))
            self.groups[device.type] = mesh.get_group("replicas")
        return partial(self._average, weight, self.groups[device.type])

    def _average(self, weight, group, loss, parameters):
        parameters = [p for p in parameters if p.requires_grad]
        # zeros where this replica has no slice or no use for a weight: all replicas must send the same
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for dtype in dict.fromkeys([loss.dtype, *(g.dtype for g in gradients)]):
            chosen = [g for g in [loss, *gradients] if g.dtype == dtype]
            # one message for all gradients of a type
            flat = weight * torch.cat([g.reshape(-1) for g in chosen])
            with self.team.talking():
                dist.all_reduce(torch.view_as_real(flat) if flat.is_complex() else flat, group=group)
            for gradient, average in zip(chosen, flat.split([g.numel() for g in chosen]), strict=True):
                gradient.copy_(average.view_as(gradient))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
