"""How far a training step is from what its machine can do: the work of a step, and measured limits of a device.

A step of F floating-point operations that moves B bytes cannot be faster than F over the rate of the arithmetic, nor
than B over that of the memory; which of the two decides follows from the intensity F / B (the roofline model).
"""

import copy
import statistics
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from math import log2, prod

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gleam.cost.timing import timed
from gleam.execution import checked_device
from gleam.strategies.base import optimizers
from gleam.strategies.fast import Fast

MIN_CALLS = 5  # of each measurement of a limit, however long they take


@dataclass(frozen=True)
class Work:
    """What one training step has to do: floating-point operations, and bytes moved if every operator is a pass over
    memory of its own.
    """

    flops: int
    bytes: int

    @property
    def intensity(self):
        """FLOP per byte."""
        return self.flops / self.bytes

    def flops_per_second(self, seconds):
        """Rate of a step that takes ``seconds``."""
        return self.flops / seconds

    def bytes_per_second(self, seconds):
        """Traffic of a step that takes ``seconds``; above the memory's own rate if caches or fused kernels spare it."""
        return self.bytes / seconds

    def allowed_flops_per_second(self, limits, precision="fp32"):
        """What the rates of :func:`limits` allow: that of the arithmetic or, at this intensity, that of the memory."""
        return min(limits[f"{precision}_flops_per_second"], self.intensity * limits["copy_bytes_per_second"])


def work(network, strategy, batch, *, computed=True):
    """:class:`Work` of one training step of ``strategy`` on ``batch``, update included; ``network`` stays as it is.

    FLOPs are those of convolutions and matrix products, forward, backward and computed again, a multiply-add being two,
    and 5 n log2(n) for a complex Fourier transform of n points. Elementwise work is left out. Bytes: each operator's
    inputs read once and its outputs written once, views excluded. That is what the step moves operator by operator, and
    an upper bound of what it has to move: fused kernels and caches spare part of it.

    A step of :class:`gleam.Fast` is counted in its precision, but neither compiled nor captured nor padded: what is
    done for speed alone is no work.

    The step is run once to be counted. With ``computed=False`` nothing is computed and shapes alone tell, so that sizes
    can be counted that no memory here would hold. Raises ValueError if that cannot be, because the strategy's course
    depends on values, as that of memory-efficient learning does, or on several devices.
    """
    if isinstance(strategy, Fast):
        strategy = replace(strategy, compiled=False, captured=False, channel_multiple=1)
    if not computed and not strategy.is_capturable:
        raise ValueError(f"a step of {strategy} depends on values or on several devices; count it with computed=True")
    batch = batch if computed else batch.to("cpu")  # on CUDA some operators do not tell shapes alone
    network = copy.deepcopy(network).to(batch.target.device).train()
    with nullcontext() if computed else FakeTensorMode(allow_non_fake_inputs=True) as shapes_only:
        if not computed:
            network = copy.deepcopy(network)
            batch = type(batch)(*(shapes_only.from_tensor(getattr(batch, f.name)) for f in fields(batch)))
        step = partial(strategy.step, network, batch, optimizers(strategy, network, learning_rate=1e-5))
        step()  # the optimizers make their state only once
        with _Counter() as counter:
            step()
    return Work(counter.flops, counter.bytes)


def _flops_of_fourier(x, axes, *_, **__):
    return round(5 * x.numel() * sum(log2(x.shape[axis]) for axis in axes))


# not by torch's FlopCounterMode itself: its hooks on modules do not bear the gradients that an inversion takes inside a
# backward pass
_ARITHMETIC = flop_registry | {torch.ops.aten._fft_c2c: _flops_of_fourier}
# nothing is read or written
_WITHOUT_DATA = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
_OVERWRITING = {"copy_", "fill_", "zero_", "zeros_like", "ones_like", "full_like", "new_zeros"}  # first input: a shape


class _Counter(TorchDispatchMode):
    """Counts the operations of operators, and the bytes they read and write, each tensor once per operator."""

    def __init__(self):
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        result = function(*args, **kwargs)
        if function.overloadpacket in _ARITHMETIC:
            self.flops += _ARITHMETIC[function.overloadpacket](*args, **kwargs, out_val=result)
        if name not in _WITHOUT_DATA and function.namespace != "prim":  # prim: questions, as after the device
            self.bytes += _moved(function._schema, name, args, kwargs, result)
        return result


def _moved(schema, name, args, kwargs, result):
    aliases = [value.alias_info for value in schema.returns]
    if aliases and all(alias is not None and not alias.is_write for alias in aliases):
        return 0  # a view
    new = tree_leaves(result) if not any(aliases) else []
    total = sum(map(_size, new))
    for i, argument in enumerate(schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        is_read = not (argument.is_out or (i == 0 and name in _OVERWRITING))
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        total += (is_read + is_written) * sum(map(_size, tree_leaves(value)))
    return total


def _size(tensor):
    """Bytes of the elements of ``tensor``, those that it repeats counted once; 0 for anything else."""
    if not isinstance(tensor, torch.Tensor):
        return 0
    return tensor.element_size() * prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def limits(device="cpu", *, seconds=1.0, n=None, n_bytes=None):
    """What ``device`` does at best, measured: a dict of rates, each a median over calls that take ``seconds`` together.

    ``bf16_flops_per_second``, ``fp32_flops_per_second`` and, on CUDA, ``tf32_flops_per_second``: product of two square
    matrices of ``n`` rows, of random numbers (default: 8192 on CUDA, 512 on a CPU, which uses torch's threads).
    ``copy_bytes_per_second``: copy of ``n_bytes`` within the device's memory, read and written (default: 2 GiB and 256
    MiB). Every call is waited for. Raises ValueError for a GPU that is not there.
    """
    device = checked_device(device)
    on_cuda = device.type == "cuda"
    n, n_bytes = n or (8192 if on_cuda else 512), n_bytes or (2**31 if on_cuda else 2**28)
    formats = {"bf16": (torch.bfloat16, "ieee"), "tf32": (torch.float32, "tf32"), "fp32": (torch.float32, "ieee")}
    if not on_cuda:
        del formats["tf32"]
    found = {
        f"{name}_flops_per_second": 2 * n**3 / _seconds_of_product(n, *how, device, seconds)
        for name, how in formats.items()
    }
    source = torch.randint(256, (n_bytes,), dtype=torch.uint8, device=device)  # zeros might be copied faster
    copied = torch.empty_like(source)
    return found | {"copy_bytes_per_second": 2 * n_bytes / _seconds_of(partial(copied.copy_, source), device, seconds)}


def _seconds_of_product(n, dtype, fp32_precision, device, seconds):
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(n, n, device=device, generator=generator).to(dtype) for _ in range(2))
    with _products_in(fp32_precision):
        return _seconds_of(partial(torch.mm, a, b, out=torch.empty_like(a)), device, seconds)


def _seconds_of(call, device, seconds):
    """Median seconds of ``call``, over as many calls as ``seconds`` allow but at least MIN_CALLS, after one more."""
    times, until = [], time.perf_counter() + seconds
    while len(times) <= MIN_CALLS or time.perf_counter() < until:
        times.append(timed(call, device))
    return statistics.median(times[1:])


@contextmanager
def _products_in(precision):
    """Products of float32 matrices on CUDA in "ieee" or "tf32"; as before afterwards."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before
