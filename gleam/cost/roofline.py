"""Roofline model: the work of a training step, and measured limits of a device.

A step of F floating-point operations that moves B bytes takes at least F over the rate of the arithmetic, and at least
B over the rate of the memory. The intensity F / B decides which of the two is the limit.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from math import log2, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gleam.cost.timing import timed
from gleam.execution import checked_device
from gleam.physics.batch import Batch
from gleam.strategies.base import Strategy
from gleam.strategies.fast import Fast
from gleam.strategies.updates import optimizers

MIN_CALLS = 5  # in each measurement of a limit, however long they take


@dataclass(frozen=True)
class Work:
    """The work of one training step.

    Parameters
    ----------
    flops : int
        Floating-point operations.
    bytes : int
        Bytes moved if every operator reads its inputs from memory and writes its outputs there.
    """

    flops: int
    bytes: int

    @property
    def intensity(self) -> float:
        """Floating-point operations per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class TimedStep:
    """A training step: its work, and the time that it took.

    Parameters
    ----------
    work : Work
    seconds : float
    precision : str
        Number format of its convolutions, such as "bf16".
    """

    work: Work
    seconds: float
    precision: str = "fp32"

    @property
    def flops_per_second(self) -> float:
        """Rate of the arithmetic."""
        return self.work.flops / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Rate of traffic; may exceed the memory's if caches or fused kernels help."""
        return self.work.bytes / self.seconds

    @property
    def point(self) -> tuple[float, float]:
        """Where it lies in the roofline plot, as (intensity, rate of the arithmetic)."""
        return self.work.intensity, self.flops_per_second

    def share(self, limits: Mapping[str, float]) -> float:
        """Its rate over the highest that `limits` of :func:`limits` allow: the arithmetic's or the memory's."""
        allowed = min(
            limits[f"{self.precision}_flops_per_second"], self.work.intensity * limits["copy_bytes_per_second"]
        )
        return self.flops_per_second / allowed


def work(network: nn.Module, strategy: Strategy, batch: Batch, *, computed: bool = True) -> Work:
    """Count the :class:`Work` of one training step, update included.

    Parameters
    ----------
    network : nn.Module
        It is copied and not changed.
    strategy : Strategy
        A step of :class:`gleam.Fast` is counted in its precision, but neither compiled nor captured nor padded, since
        what is done for speed alone is not work.
    batch : Batch
    computed : bool
        Run the step to count it. With False only shapes are propagated, so that sizes can be counted that do not fit
        into memory here.

    Returns
    -------
    Work

    Raises
    ------
    ValueError
        If `computed` is False and the strategy depends on values, as memory-efficient learning does, or on several
        devices.

    Notes
    -----
    FLOPs are counted for convolutions and matrix products (forward, backward and recomputed; a multiply-add is two) and
    for complex Fourier transforms of n points (5 n log2(n)). Elementwise operations are left out. Bytes: each operator
    reads its inputs once and writes its outputs once; views count nothing. This is the traffic operator by operator,
    and an upper bound of the necessary traffic, since fused kernels and caches save part of it.
    """
    if isinstance(strategy, Fast):
        strategy = replace(strategy, compiled=False, captured=False, channel_multiple=1)
    if not computed and not strategy.is_capturable:
        raise ValueError(f"a step of {strategy} depends on values or on several devices; count it with computed=True")
    batch = batch if computed else batch.to("cpu")  # some operators on CUDA do not work with shapes alone
    network = copy.deepcopy(network).to(batch.target.device).train()
    mode: Any = nullcontext() if computed else FakeTensorMode(allow_non_fake_inputs=True)
    with mode as shapes_only:
        if not computed:
            network = copy.deepcopy(network)  # made in this mode, its weights are shapes alone
            batch = type(batch)(*(shapes_only.from_tensor(getattr(batch, f.name)) for f in fields(batch)))
        step = partial(strategy.step, network, batch, optimizers(strategy, network, learning_rate=1e-5))
        step()  # the first step also makes the state of the optimizers
        with _Counter() as counter:
            step()
    return Work(counter.flops, counter.bytes)


# Torch's FlopCounterMode cannot be used: its hooks on modules fail when an inversion takes gradients inside a backward
# pass.
_ARITHMETIC = flop_registry | {  # it knows no Fourier transform: 5 n log2(n) for n points
    torch.ops.aten._fft_c2c: lambda x, axes, *_, **__: round(5 * x.numel() * sum(log2(x.shape[a]) for a in axes))
}
# operators that read and write nothing
_WITHOUT_DATA = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
# operators that do not read their first input
_OVERWRITING = {"copy_", "fill_", "zero_", "zeros_like", "ones_like", "full_like", "new_zeros"}


class _Counter(TorchDispatchMode):
    """Counts floating-point operations, and bytes read and written, each tensor once per operator."""

    def __init__(self):
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        result = function(*args, **kwargs)
        if function.overloadpacket in _ARITHMETIC:
            self.flops += _ARITHMETIC[function.overloadpacket](*args, **kwargs, out_val=result)
        if name not in _WITHOUT_DATA and function.namespace != "prim":  # prim: queries, for example of the device
            self.bytes += _moved(function._schema, name, args, kwargs, result)
        return result


def _moved(schema, name, args, kwargs, result):
    """Bytes that one call of an operator reads and writes."""
    aliases = [value.alias_info for value in schema.returns]
    if aliases and all(alias is not None and not alias.is_write for alias in aliases):
        return 0  # a view
    new = tree_leaves(result) if not any(aliases) else []
    total = sum(map(_size, new))
    for i, argument in enumerate(schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        # an output that is given as an argument is only written
        is_read = not (argument.is_out or (i == 0 and name in _OVERWRITING))
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        total += (is_read + is_written) * sum(map(_size, tree_leaves(value)))
    return total


def _size(tensor):
    """Bytes of the elements of `tensor`, expanded ones counted once; 0 for anything else."""
    if not isinstance(tensor, Tensor):
        return 0
    return tensor.element_size() * prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def limits(
    device: str | torch.device = "cpu", *, seconds: float = 1.0, n: int | None = None, n_bytes: int | None = None
) -> dict[str, float]:
    """Measure the highest rates of a device.

    Parameters
    ----------
    device : str or torch.device
    seconds : float
        Time of each measurement; its result is the median over the calls.
    n : int, optional
        Rows of the square matrices. Default: 8192 on CUDA, 512 on a CPU.
    n_bytes : int, optional
        Bytes to copy. Default: 2 GiB on CUDA, 256 MiB on a CPU.

    Returns
    -------
    dict of str to float
        `bf16_flops_per_second`, `fp32_flops_per_second` and, on CUDA, `tf32_flops_per_second`: product of two square
        matrices of random numbers; a CPU uses torch's threads. `copy_bytes_per_second`: copy within the device's
        memory, reading and writing counted.

    Raises
    ------
    ValueError
        If the device is a GPU that is not there.

    Notes
    -----
    The device is synchronised after every call.
    """
    device = checked_device(device)
    on_cuda = device.type == "cuda"
    n, n_bytes = n or (8192 if on_cuda else 512), n_bytes or (2**31 if on_cuda else 2**28)
    formats = {"bf16": (torch.bfloat16, "ieee"), "tf32": (torch.float32, "tf32"), "fp32": (torch.float32, "ieee")}
    if not on_cuda:
        del formats["tf32"]  # a CPU has no such format
    found, matmul = {}, torch.backends.cuda.matmul
    for name, (dtype, fp32_precision) in formats.items():
        generator = torch.Generator(device).manual_seed(0)
        a, b = (torch.randn(n, n, device=device, generator=generator).to(dtype) for _ in range(2))
        before, matmul.fp32_precision = matmul.fp32_precision, fp32_precision
        try:
            of_product = _seconds_of(partial(torch.mm, a, b, out=torch.empty_like(a)), device, seconds)
        finally:
            matmul.fp32_precision = before
        found[f"{name}_flops_per_second"] = 2 * n**3 / of_product
        del a, b  # no two pairs at a time
    source = torch.randint(256, (n_bytes,), dtype=torch.uint8, device=device)  # copying zeros might be faster
    copied = torch.empty_like(source)
    return found | {"copy_bytes_per_second": 2 * n_bytes / _seconds_of(partial(copied.copy_, source), device, seconds)}


def _seconds_of(call, device, seconds):
    """Median seconds of `call` over as many calls as `seconds` allow, at least MIN_CALLS, after one for warm-up."""
    times, until = [], time.perf_counter() + seconds
    while len(times) <= MIN_CALLS or time.perf_counter() < until:
        times.append(timed(call, device))
    return statistics.median(times[1:])
