"""What training asks of a network, and the values that its iterations pass on.

A network has `iterations`, modules called as `iteration(x, batch)`, and `start(batch)`, the first x. Two more methods
are optional. `setup(batch)` runs once per batch and returns the batch that all others get, for example with learned
coil maps in it. `image(x, batch)` makes the image of an iterate, for example of k-space, for losses and scores. What
iterations pass on may be a tensor of any shape, or a tuple, list, dict or dataclass of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gleam.physics.batch import Batch


def setup(network: nn.Module, batch: Batch) -> Any:
    """What the iterations of `network` get as their batch: `network.setup(batch)`, or `batch` without that method."""
    untyped: Any = network
    found = untyped.setup(batch) if hasattr(network, "setup") else batch
    if not hasattr(found, "target"):
        raise ValueError(
            f"setup(batch) of {type(network).__name__} gives a {type(found).__name__}; expected the batch that its "
            "iterations get, with a target, such as dataclasses.replace(batch, sens_maps=...)"
        )
    return found


def image(network: nn.Module, x: Any, batch: Any) -> Tensor:
    """The image of an iterate: `network.image(x, batch)`, or `x` itself without that method.

    Raises
    ------
    ValueError
        If it has not the shape of the target; it would broadcast against it without a word.
    """
    untyped: Any = network
    found = untyped.image(x, batch) if hasattr(network, "image") else x
    expected = tuple(batch.target.shape)
    if not isinstance(found, Tensor) or tuple(found.shape) != expected:
        given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
        made_by = "image(x, batch)" if hasattr(network, "image") else "an iteration, and there is no image(x, batch)"
        raise ValueError(
            f"{type(network).__name__} gives an image of {given}, made by {made_by}; expected the target's {expected}"
        )
    return found


@torch.no_grad()
def check_chain(network: nn.Module, iterations: Iterable[nn.Module], x: Any, batch: Any) -> None:
    """Raise ValueError naming the first of these iterations that cannot take what comes before it, `x` at first."""
    all_iterations: Any = network.iterations
    numbers = {id(iteration): i for i, iteration in enumerate(all_iterations)}
    for iteration in iterations:
        try:
            x = iteration(x, batch)
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(x))
            before = f"iteration {numbers[id(iteration)] - 1}" if numbers[id(iteration)] else "start(batch)"
            raise ValueError(
                f"iteration {numbers[id(iteration)]} of {type(network).__name__}, a {type(iteration).__name__}, does "
                f"not take what {before} gives, of shape {shapes}: {str(error).splitlines()[0]}"
            ) from error


def mapped(function: Callable, value: Any, kind: type = Tensor) -> Any:
    """`value` with `function` applied to each tensor in it, or object of another `kind`.

    The same object where nothing changes.
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list | tuple):
        new: Any = [mapped(function, v, kind) for v in value]
        is_same = all(a is b for a, b in zip(new, value, strict=True))
        # a named tuple takes its values one by one
        return value if is_same else type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    if isinstance(value, dict):
        new = {key: mapped(function, v, kind) for key, v in value.items()}
        return value if all(new[key] is value[key] for key in new) else new
    if is_dataclass(value) and not isinstance(value, type):
        old = {f.name: getattr(value, f.name) for f in fields(value)}
        new = {name: mapped(function, v, kind) for name, v in old.items()}
        if all(new[name] is old[name] for name in new):
            return value
        made = object.__new__(type(value))  # not by its constructor, which may check tensors
        for name, v in new.items():
            object.__setattr__(made, name, v)
        return made
    return value


def detached(value: Any) -> Any:
    """`value` without gradients; the same object if it has none.

    Weights in it are copied: the module that owns them will change them in place.
    """

    def one(tensor):
        # a leaf, or a view of one
        is_weight = tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf)
        found = tensor.detach() if tensor.requires_grad else tensor
        return found.clone() if tensor.requires_grad and is_weight else found

    return mapped(one, value)


def on_device(value: Any, device: str | torch.device) -> Any:
    """`value` on another device; a :class:`gleam.physics.Batch` is copied there once."""
    if isinstance(value, Batch):
        return value.to(device)
    # to the CPU one waits: the host could read values before they arrive
    return mapped(lambda t: t.to(device, non_blocking=torch.device(device).type != "cpu"), value)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in `value`."""
    found: list[Tensor] = []

    def note(tensor):
        found.append(tensor)
        return tensor

    mapped(note, value)
    return found


def device_of(value: Any, otherwise: torch.device) -> torch.device:
    """Device of the first tensor in `value`; `otherwise` if there is none."""
    return next((t.device for t in tensors_in(value)), otherwise)


@dataclass(frozen=True)
class Hole:
    """A place of a tensor in a :func:`taken_apart` value: number in the list of known or of new tensors."""

    is_known: bool
    number: int


def taken_apart(value: Any, known: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """`value` with a :class:`Hole` for each tensor, and the tensors that are not among `known`."""
    new: list[Tensor] = []

    def hole(tensor):
        for number, one in enumerate(known):
            if tensor is one:  # the same object, since comparing values would wait for the device
                return Hole(True, number)
        new.append(tensor)
        return Hole(False, len(new) - 1)

    return mapped(hole, value), new


def put_together(parts: Any, known: Sequence[Tensor], new: Sequence[Tensor]) -> Any:
    """The value that was :func:`taken_apart`."""
    return mapped(lambda hole: (known if hole.is_known else new)[hole.number], parts, Hole)


def outside_iterations(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of a network outside its iterations, which the first module trains."""
    iterations: Any = network.iterations
    inside = {id(p) for iteration in iterations for p in iteration.parameters()}
    return [p for p in network.parameters() if id(p) not in inside]
