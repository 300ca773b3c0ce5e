"""Predicted cost of a training step: memory at any depth, and, by `simulation`, the speed of P-GLEAM.

Both are computed from measurements (:mod:`gleam.cost.step` and :mod:`gleam.cost.timing`), so figures should mark them
as predictions. :func:`explained` uses the first to say what would fit when memory has run out.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gleam.cost.simulation import simulate as simulate  # gleam.prediction has both
from gleam.cost.step import copied, is_cuda, peak_split
from gleam.files import named
from gleam.networks import protocol
from gleam.networks.unrolled import split
from gleam.physics.batch import Batch
from gleam.physics.losses import complex_l1
from gleam.strategies.base import Strategy
from gleam.strategies.fast import Fast
from gleam.strategies.greedy import Checkpointed, EndToEnd, Greedy


@dataclass(frozen=True)
class MemoryModel:
    """Peak bytes of a training step for any number of iterations and modules, from measurements with one to three.

    A step holds weights and Adam's state per iteration of the network, gradients and activations per iteration of the
    longest module: memory is linear in N and stepwise in M. For one batch, one device, and iterations that are alike.

    Parameters
    ----------
    n_iterations : int
        N of the network.
    fixed_bytes, weight_bytes : int
        Bytes of weights and optimizer outside the iterations, and per iteration.
    plain : (int, int, int)
        All other bytes at the peak with one, two and three iterations in one module.
    checkpointed : (int, int)
        The same with checkpoints, for one and two iterations.
    image_bytes, gradient_bytes : int
        Of an iterate, in most networks an image of the batch; of the gradients of one iteration.
    """

    n_iterations: int
    fixed_bytes: int
    weight_bytes: int
    plain: tuple
    checkpointed: tuple
    image_bytes: int
    gradient_bytes: int

    @classmethod
    def measured(
        cls, network: nn.Module, batch: Batch, *, device: str | torch.device = "cpu", strategy: Strategy | None = None
    ) -> MemoryModel:
        """The model of `network`, from 1 to 3 of its iterations, in the precision of `strategy` if it is `Fast`."""
        short = [shortened(network, n) for n in (1, 2, 3)]
        ways: Any = [replace(way, loss=strategy.parts(network)[0][1]) if strategy else way for way in _WAYS]
        if isinstance(strategy, Fast):
            ways = [replace(strategy, strategy=way, compiled=False) for way in ways]
        networks = short, short[:2]
        plain, checkpointed = (
            [peak_split(n, way, batch, device=device) for n in those] for those, way in zip(networks, ways, strict=True)
        )
        stored = [s["weights"] + s["optimizer"] for s in plain]
        working = [tuple(sum(s.values()) - s["weights"] - s["optimizer"] for s in way) for way in (plain, checkpointed)]
        weights = [s["weights"] for s in plain]
        iterations: Any = network.iterations
        first: Any = short[0]
        with torch.no_grad():
            iterate = first.start(protocol.setup(first, batch.to("cpu")))
        return cls(
            len(iterations),
            fixed_bytes=2 * stored[0] - stored[1],  # one iteration minus what a second one adds
            weight_bytes=stored[1] - stored[0],
            plain=working[0],
            checkpointed=working[1],
            image_bytes=sum(t.nbytes for t in protocol.tensors_in(iterate)),
            gradient_bytes=weights[1] - weights[0],
        )

    def peak_bytes(self, n_iterations: int | None = None, n_modules: int = 1, *, checkpointed: bool = False) -> int:
        """Peak bytes of a step of `n_iterations` (default: the network's) in `n_modules`, each plain or checkpointed.

        Raises ValueError if there are fewer iterations than modules.
        """
        n_iterations = self.n_iterations if n_iterations is None else n_iterations
        longest = len(split(range(n_iterations), n_modules)[0])
        received = self.image_bytes * (n_modules > 1)  # a later module's input is not the batch's own image
        stored = self.fixed_bytes + n_iterations * self.weight_bytes
        if checkpointed:  # at the end of the backward pass all gradients are held, at its beginning all inputs
            (one, two), per_iteration = self.checkpointed, max(self.image_bytes, self.gradient_bytes)
        else:  # two - one includes what is held only once, such as the gradient of an input
            one, two, three = self.plain
            per_iteration = three - two
        return stored + received + (one if longest == 1 else two + (longest - 2) * per_iteration)

    def modules_that_fit(
        self, available_bytes: int, n_iterations: int | None = None, *, checkpointed: bool = False
    ) -> int | None:
        """The smallest number of modules whose step fits into `available_bytes`; None if no number does."""
        n_iterations = self.n_iterations if n_iterations is None else n_iterations
        fitting = (
            m
            for m in range(1, n_iterations + 1)
            if self.peak_bytes(n_iterations, m, checkpointed=checkpointed) <= available_bytes
        )
        return next(fitting, None)

    def deepest_that_fits(
        self, available_bytes: int, per_module: int | None = None, *, checkpointed: bool = False
    ) -> int:
        """The largest number of iterations whose step fits into `available_bytes`, up to :data:`MAX_ITERATIONS`.

        Modules have at most `per_module` iterations (default: one module of all); 0 if no network fits.
        """
        most = (available_bytes - self.fixed_bytes) // max(1, self.weight_bytes)  # by the weights alone
        for n in range(min(MAX_ITERATIONS, most), 0, -1):
            n_modules = -(-n // per_module) if per_module else 1
            if self.peak_bytes(n, n_modules, checkpointed=checkpointed) <= available_bytes:
                return n
        return 0


MAX_ITERATIONS = 1000  # no network of this field is as deep
_WAYS = EndToEnd(), Checkpointed()


def shortened(network: nn.Module, n_iterations: int) -> nn.Module:
    """A copy on the CPU with the first `n_iterations`; if there are fewer, the last one is repeated."""
    short: Any = copied(network, "cpu")
    full: Any = network.iterations
    # copied one by one, so that a repeated one has weights of its own
    short.iterations = nn.ModuleList(copied(full[min(i, len(full) - 1)], "cpu") for i in range(n_iterations))
    return short


@contextmanager
def explained(
    network: nn.Module,
    strategy: Strategy,
    make_batch: Callable[[], Batch],
    *,
    device: str | torch.device,
    n_devices: int = 1,
    note: Callable[[], str | None] | None = None,
) -> Iterator[None]:
    """Context for training, in which a `torch.OutOfMemoryError` becomes a MemoryError with a clear message.

    The message says what a step needs, what the device has, and which number of modules fits there.

    Parameters
    ----------
    network : nn.Module
    strategy : Strategy
        How a step is taken.
    make_batch : callable
        () -> the batch of a step; called only after memory has run out.
    device : str or torch.device
    n_devices : int
        Number of devices that share the network.
    note : callable, optional
        () -> text that is added to the message, or None.

    Raises
    ------
    MemoryError
        In place of a `torch.OutOfMemoryError`.

    Notes
    -----
    The numbers come from a :class:`MemoryModel` measured on the CPU, since the device is full. There are none for
    strategies that keep something else than activations or checkpoints, nor for one of several devices.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # else the error would keep the tensors of the failed step
        model = None if n_devices > 1 else _model(network, strategy, make_batch)
        text = _does_not_fit(model, strategy, *_room(device), n_modules=len(strategy.modules(network)))
        raise MemoryError("; ".join(part for part in (text, note and note()) if part)) from error


def _model(network, strategy, make_batch):
    """Try shape-only (fake) tensors first, real ones if the code needs values; None if neither works."""
    try:
        batch = make_batch()
    except Exception:  # a failure here or below must not hide that memory has run out
        return None
    for shapes_only in (FakeTensorMode(allow_non_fake_inputs=True), nullcontext()):
        with suppress(Exception), shapes_only:
            copied = type(batch)(*(getattr(batch, f.name).to("cpu", copy=True) for f in fields(batch)))
            return MemoryModel.measured(network, copied, strategy=strategy)
    return None


def _room(device):
    """(name of `device`, bytes that this process has or could have there; None if unknown)."""
    if not is_cuda(device):
        return str(device), None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.cuda.get_device_name(device), free + torch.cuda.memory_reserved(device)


def _does_not_fit(model, strategy, device, available_bytes, *, n_modules):
    """The message of :func:`explained`, with fewer numbers if `model` is None or does not know `strategy`."""
    within = strategy.propagation
    is_known = isinstance(within, EndToEnd | Checkpointed)
    if model is None or not (is_known or available_bytes):
        start = _need_and_room(None, device, available_bytes)
        return f"a step of {strategy} {start}: more modules or devices, a smaller batch or fewer features need less"
    checkpointed = isinstance(within, Checkpointed)
    peak = partial(model.peak_bytes, checkpointed=checkpointed)
    need = peak(n_modules=n_modules) if is_known else None
    start = f"a step of {strategy} {_need_and_room(need, device, available_bytes)}"
    # advice must fit into the device, and need less than the step that has just failed
    limit = min(n for n in (available_bytes, need and need - 1) if n)
    fewest = model.modules_that_fit(limit, checkpointed=checkpointed)
    m = fewest or model.n_iterations
    greedy = Greedy(m, within=Checkpointed() if checkpointed else EndToEnd())
    written = as_code(replace(strategy, strategy=greedy) if isinstance(strategy, Fast) else greedy)
    gleam = f"{written} needs {_gb(peak(n_modules=m))}"
    if fewest:
        return f"{start}: GLEAM with {gleam}"
    least = "its modules are single iterations" if n_modules == m else f"even one iteration per module, {gleam}"
    return f"{start}: {least}, so take checkpoints inside the iterations, a smaller batch or fewer features"


def _need_and_room(need, device, available_bytes):
    """What a step needs and the device has, as far as known, as the second part of a sentence."""
    if need is None:
        return f"does not fit into the {_gb(available_bytes) if available_bytes else 'memory'} of {device}"
    if available_bytes is None:
        return f"needs about {_gb(need)}, more than {device} has"
    found = f"needs about {_gb(need)} and {device} has {_gb(available_bytes)}"
    return found if need > available_bytes else f"{found}, the rest of it taken by other tensors or by kernels"


def as_code(strategy: Strategy) -> str:
    """Short code of a strategy of :func:`gleam.plan`, such as `gleam.Greedy(4)`."""
    if isinstance(strategy, Fast):
        return f"gleam.Fast({as_code(strategy.strategy)}, {strategy.precision!r})"
    loss: Any = strategy.loss
    arguments = [str(strategy.n_modules)] if isinstance(strategy, Greedy) else []
    if isinstance(strategy, Greedy) and strategy.within != EndToEnd():
        arguments.append(f"within={as_code(strategy.within)}")
    if loss is not complex_l1:
        is_ours = getattr(loss, "__module__", "") == complex_l1.__module__
        arguments.append(f"loss={'gleam.losses.' if is_ours else ''}{named(loss)}")
    return f"gleam.{type(strategy).__name__}({', '.join(arguments)})"


def _gb(n_bytes):
    return f"{n_bytes / 1e9:.3g} GB"
