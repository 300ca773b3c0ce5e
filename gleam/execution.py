"""How a step is executed: number format and layout of convolutions, compiled or not. The mathematics does not change.

Data consistency, losses, weights and updates are always float32 and complex64. The state belongs to the whole process,
not to a thread: the threads of autograd repeat checkpointed and inverted iterations and must do so in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gleam.files import whole_number

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class _Execution:
    compiled: bool = False
    channel_multiple: int = 1


_current = _Execution()


def checked_device(device: str | torch.device) -> torch.device:
    """The device as a `torch.device`; ValueError if it is neither the CPU nor an existing GPU."""
    try:
        checked = torch.device(device)
    except (RuntimeError, TypeError):
        checked = None
    if checked is not None and checked.type == "mps":
        # pytorch/pytorch#184379: imaginary parts of conjugates are wrong there, without an error
        raise ValueError("device='mps' is not supported: torch's complex numbers have silent errors there; take 'cpu'")
    if checked is None or checked.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r} must be 'cpu', 'cuda' or a GPU with its number, as 'cuda:1'")
    n_gpus = torch.cuda.device_count() if checked.type == "cuda" else None
    if n_gpus == 0:
        raise ValueError(f"device={str(device)!r} needs a GPU and there is none; take device='cpu' (the quick profile)")
    if n_gpus and (checked.index or 0) >= n_gpus:
        raise ValueError(f"device={str(device)!r} is not there: GPUs are numbered from 0 to {n_gpus - 1}")
    return checked


def numbered_device(device: str | torch.device) -> torch.device:
    """Same as :func:`checked_device`, and "cuda" gets the number of the current GPU of this process."""
    device = checked_device(device)
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


@contextmanager
def using(
    precision: str = "fp32", *, device_type: str, compiled: bool = False, channel_multiple: int = 1
) -> Iterator[None]:
    """Context in which the convolutions of networks run in `precision`.

    Parameters
    ----------
    precision : "fp32", "tf32" or "bf16"
        "fp32": all 24 bits. "tf32": tensor cores round the inputs of a product to 11 bits; only CUDA has it, elsewhere
        it is fp32. "bf16": autocast, which rounds feature maps and weights of a convolution to 8 bits and sums in fp32.
    device_type : "cuda" or "cpu"
    compiled : bool
        Run convolutions, and the sum over coils in data consistency, by `torch.compile`.
    channel_multiple : int
        Pad feature maps with channels of zeros up to a multiple of this. Tensor cores are fast on multiples of 8; the
        paper has 100 features.

    Raises
    ------
    ValueError
        If `precision` is another, or if `channel_multiple` is not a whole number of at least 1.
    """
    global _current
    check(precision, channel_multiple)
    # the replay of a CUDA graph repeats each cast, so none may come from autocast's cache
    autocast = torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    of_cudnn = _cudnn("ieee" if precision == "fp32" else "tf32") if device_type == "cuda" else nullcontext()
    before, _current = _current, _Execution(compiled, channel_multiple)
    try:
        with autocast, of_cudnn:
            yield
    finally:
        _current = before


def check(precision: str, channel_multiple: int = 1) -> None:
    """Raise ValueError unless :func:`using` accepts these."""
    if precision not in PRECISIONS:
        names = ", ".join(PRECISIONS)
        raise ValueError(f"precision={precision!r} of the convolutions must be one of {names} (Fast: or auto)")
    whole_number(channel_multiple, "channel_multiple")


@cache
def bf16_units() -> str | None:
    """Instructions by which this CPU multiplies bf16 faster than fp32: "AMX", "AVX512-BF16" or None.

    Read from the flags of the processor. None also if torch has no oneDNN, whose kernels use them.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def has_fast_bf16(device: str | torch.device) -> bool:
    """Whether convolutions on `device` are faster in bf16 than in fp32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return bf16_units() is not None


def compiles() -> bool:
    """Whether functions that can be compiled are currently to be compiled."""
    return _current.compiled


@cache
def compiled(function: Callable) -> Callable:
    """The function compiled by `torch.compile` for tensors of fixed sizes, cached.

    In one process torch compiles a function for about eight kinds of arguments, and runs it uncompiled for any other;
    `torch.compiler.reset()` clears them.
    """
    return torch.compile(function, dynamic=False)


def padded(n_channels: int) -> int:
    """Number of channels with which a feature map of `n_channels` is currently computed."""
    return -(-n_channels // _current.channel_multiple) * _current.channel_multiple  # -(-a // b) rounds up


def channels_last(x: Tensor, n_features: int) -> bool:
    """Whether the feature maps of a CNN have their channels last in memory.

    Parameters
    ----------
    x : Tensor, shape (batch, [time,] y, x)
        Complex image, the input of the CNN.
    n_features : int
        Channels of the feature maps.

    Returns
    -------
    bool
        In bf16 and TF32 always True, since matrix units read them in this order. In fp32 on CUDA always False.

    Notes
    -----
    In fp32 on a CPU a rule by size decides, so that results do not depend on a timing. In 2D it is False for multiples
    of 16 channels, which fill whole vectors of the processor. In 3D it is True from 32 channels on; for fewer,
    :class:`gleam.networks.convolutions.Conv3d` has a faster way.
    """
    if torch.is_autocast_enabled(x.device.type):  # bf16
        return True
    if x.is_cuda:
        return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    is_series = x.ndim == 4
    return n_features >= 32 if is_series else n_features % 16 != 0


def is_capturing() -> bool:
    """Whether a CUDA graph is being recorded. Then the random state can be neither read nor set."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def autocast_as_now(device_type: str) -> Callable[[], torch.autocast]:
    """Return a function that makes contexts with the current state of autocast, to repeat a computation later."""
    settings: dict[str, Any] = {
        "device_type": device_type,
        "dtype": torch.get_autocast_dtype(device_type),
        "enabled": torch.is_autocast_enabled(device_type),
        "cache_enabled": False,  # as in `using`
    }
    return lambda: torch.autocast(**settings)


@contextmanager
def _cudnn(fp32_precision):
    """Context with or without TF32; with it, cuDNN tries which of its algorithms is fastest for the sizes of a step."""
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.benchmark
    # memory in fp32 is compared with the paper's, so algorithms with ever larger workspaces are not tried there
    cudnn.conv.fp32_precision, cudnn.benchmark = fp32_precision, fp32_precision == "tf32"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.benchmark = before
