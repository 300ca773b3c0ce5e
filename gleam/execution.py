"""How a step is carried out: number format and layout of convolutions, compiled or not. The mathematics stays.

Data consistency, losses, weights and updates are always float32 and complex64. The state is that of the whole process,
not of a thread: autograd's own threads run checkpointed and inverted iterations again and must do so alike.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class _Execution:
    compiled: bool = False
    channel_multiple: int = 1


_current = _Execution()


def checked_device(device):
    """``device`` as a torch.device. Raises ValueError if that is no CPU and no GPU that is there."""
    try:
        checked = torch.device(device)
    except (RuntimeError, TypeError):
        checked = None
    if checked is None or checked.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r} must be 'cpu', 'cuda' or a GPU with its number, as 'cuda:1'")
    n_gpus = torch.cuda.device_count() if checked.type == "cuda" else None
    if n_gpus == 0:
        raise ValueError(f"device={str(device)!r} needs a GPU and there is none; take device='cpu' (the quick profile)")
    if n_gpus and (checked.index or 0) >= n_gpus:
        raise ValueError(f"device={str(device)!r} is not there: GPUs are numbered from 0 to {n_gpus - 1}")
    return checked


def numbered_device(device):
    """As :func:`checked_device`, with the number that a bare "cuda" stands for in this process."""
    device = checked_device(device)
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


@contextmanager
def using(precision="fp32", *, device_type, compiled=False, channel_multiple=1):
    """Context in which the networks' convolutions run in ``precision`` on ``device_type``, "cuda" or "cpu".

    "fp32": all 24 bits of it. "tf32": the inputs of a product rounded to 11 bits by tensor cores; CUDA alone has it,
    elsewhere it is fp32. "bf16": autocast, feature maps and weights of a convolution rounded to 8 bits, sums in fp32.
    ``compiled``: by ``torch.compile``, and the sum over coils in data consistency as well. ``channel_multiple``:
    feature maps are padded with channels of zeros up to a multiple of it, since tensor cores are fast on multiples of 8
    (the paper has 100 features). Raises ValueError for another precision.
    """
    check(precision, channel_multiple)
    with ExitStack() as stack:
        stack.enter_context(_state(_Execution(compiled, channel_multiple)))
        # without a cache each cast is an operation of its own, as the replay of a CUDA graph needs
        stack.enter_context(
            torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
        )
        if device_type == "cuda":
            stack.enter_context(_cudnn("ieee" if precision == "fp32" else "tf32"))
        yield


def check(precision, channel_multiple=1):
    """Raise ValueError unless :func:`using` would take these."""
    if precision not in PRECISIONS:
        names = ", ".join(PRECISIONS)
        raise ValueError(f"precision={precision!r} of the convolutions must be one of {names} (Fast: or auto)")
    if not hasattr(channel_multiple, "__index__") or channel_multiple < 1:
        raise ValueError(f"channel_multiple={channel_multiple!r} must be a whole number of at least 1")


@cache
def bf16_units():
    """Instructions by which this CPU multiplies bf16 faster than fp32: "AMX", "AVX512-BF16" or None.

    From the processor's flags. None also where torch has no oneDNN, whose kernels use them.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def has_fast_bf16(device):
    """Whether convolutions on ``device``, by name or as ``torch.device``, are faster in bf16 than in fp32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return bf16_units() is not None


def compiles():
    """Whether functions that can be compiled are to be compiled now."""
    return _current.compiled


@cache
def compiled(function):
    """``function`` by ``torch.compile``, for tensors of fixed sizes; made once.

    In one process torch compiles a function for some eight kinds of arguments, and runs it as it is for any other;
    ``torch.compiler.reset()`` begins anew.
    """
    return torch.compile(function, dynamic=False)


def padded(n_channels):
    """Number of channels with which a feature map of ``n_channels`` is computed now."""
    return -(-n_channels // _current.channel_multiple) * _current.channel_multiple


def channels_last(x, n_features):
    """Whether the feature maps of a CNN with ``n_features`` channels on image ``x`` have their channels last in memory.

    In bf16 and TF32 they have: matrix units read them so. In fp32 on a CPU a rule by size decides, so that results do
    not depend on a timing. In 2D it is no for multiples of 16 channels, which fill whole vectors of the processor. In
    3D it is yes from 32 channels on; for fewer :class:`gleam.networks.convolutions.Conv3d` has a faster way.
    """
    if torch.is_autocast_enabled(x.device.type):
        return True
    if x.is_cuda:
        return torch.backends.cudnn.conv.fp32_precision == "tf32"
    is_series = x.ndim == 4
    return n_features >= 32 if is_series else n_features % 16 != 0


def is_capturing():
    """Whether a CUDA graph is being recorded: the state of random numbers cannot be read or set then."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def autocast_as_now(device_type):
    """A function that makes contexts with the autocast state of this moment: for work that is done again later."""
    settings = {
        "device_type": device_type, "dtype": torch.get_autocast_dtype(device_type),
        "enabled": torch.is_autocast_enabled(device_type), "cache_enabled": False,
    }  # fmt: skip
    return lambda: torch.autocast(**settings)


@contextmanager
def _state(new):
    global _current
    before, _current = _current, new
    try:
        yield
    finally:
        _current = before


@contextmanager
def _cudnn(fp32_precision):
    """TF32 or not; with it the fastest of cuDNN's algorithms by trial, since sizes do not change from step to step."""
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.benchmark
    # in full fp32, where memory is compared with the paper's, no trial of algorithms with ever larger workspaces
    cudnn.conv.fp32_precision, cudnn.benchmark = fp32_precision, fp32_precision == "tf32"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.benchmark = before
