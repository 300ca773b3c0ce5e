"""What a training step would cost elsewhere: memory at any depth, and the speed of P-GLEAM on any number of devices.

Both start from measurements, of :mod:`gleam.cost.step` and :mod:`gleam.cost.timing`, and add arithmetic, so what they
give is to be drawn as a prediction. :func:`explained` uses the first to say what would fit when memory has run out.
"""

import traceback
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gleam.cost.step import copied, is_cuda, peak_split
from gleam.networks.unrolled import split
from gleam.strategies.base import Checkpointed, EndToEnd
from gleam.strategies.fast import Fast


@dataclass(frozen=True)
class MemoryModel:
    """Peak bytes of a training step for any number of iterations and modules, from measurements with one and with two.

    Per iteration of the network a step holds its weights and Adam's state; per iteration of the longest module its
    gradients and what is kept for the way back. So memory is a straight line in N and a stair in M. The numbers are of
    one batch on one device and of iterations that are all alike.
    """

    n_iterations: int
    fixed_bytes: int
    weight_bytes: int
    plain: tuple
    checkpointed: tuple
    image_bytes: int
    gradient_bytes: int

    @classmethod
    def measured(cls, network, batch, *, device="cpu", strategy=None):
        """The model of ``network``, measured on one and two of its iterations, plain and checkpointed.

        If ``strategy`` is a :class:`gleam.Fast`, steps are in its precision.
        """
        short = [_shortened(network, n) for n in (1, 2)]
        ways = [replace(strategy, strategy=s, compiled=False) if isinstance(strategy, Fast) else s for s in _WAYS]
        plain, checkpointed = ([peak_split(n, s, batch, device=device) for n in short] for s in ways)
        held = [s["weights"] + s["optimizer"] for s in plain]
        working = [tuple(sum(s.values()) - h for s, h in zip(way, held, strict=True)) for way in (plain, checkpointed)]
        weights = [s["weights"] for s in plain]
        return cls(
            len(network.iterations), fixed_bytes=2 * held[0] - held[1], weight_bytes=held[1] - held[0],
            plain=working[0], checkpointed=working[1], image_bytes=batch.target.nbytes,
            gradient_bytes=weights[1] - weights[0],
        )  # fmt: skip

    def peak_bytes(self, n_iterations=None, n_modules=1, *, checkpointed=False):
        """Peak of a step of ``n_iterations`` (by default the network's) in ``n_modules``, each module plain or
        checkpointed.

        ValueError if there are fewer iterations than modules.
        """
        n_iterations = self.n_iterations if n_iterations is None else n_iterations
        longest = len(split(range(n_iterations), n_modules)[0])
        received = self.image_bytes * (n_modules > 1)  # a later module's input is not the batch's own image
        held = self.fixed_bytes + n_iterations * self.weight_bytes
        return held + received + self._working_bytes(longest, checkpointed)

    def modules_that_fit(self, available_bytes, n_iterations=None, *, checkpointed=False):
        """The smallest number of modules whose step fits into ``available_bytes``; None if even one iteration per
        module is too much."""
        n_iterations = self.n_iterations if n_iterations is None else n_iterations
        fitting = (
            m
            for m in range(1, n_iterations + 1)
            if self.peak_bytes(n_iterations, m, checkpointed=checkpointed) <= available_bytes
        )
        return next(fitting, None)

    def _working_bytes(self, length, checkpointed):
        """Bytes beside weights and optimizer for a module of ``length`` iterations."""
        one, two = self.checkpointed if checkpointed else self.plain
        if length == 1:
            return one
        if checkpointed:  # at the end of the way back all gradients are there, at its beginning all inputs
            return two + (length - 2) * max(self.image_bytes, self.gradient_bytes)
        # that an iteration's input has a gradient, an image, is new with the second iteration and stays so
        return two + (length - 2) * (two - one - self.image_bytes)


_WAYS = EndToEnd(), Checkpointed()


def _shortened(network, n_iterations):
    """A copy on the CPU with the first ``n_iterations``, the last one again where there are too few."""
    short, last = copied(network, "cpu"), len(network.iterations) - 1
    short.iterations = nn.ModuleList(copied(network.iterations[min(i, last)], "cpu") for i in range(n_iterations))
    return short


@contextmanager
def explained(network, strategy, make_batch, *, device, n_devices=1, note=None):
    """Context around training: a ``torch.OutOfMemoryError`` becomes a MemoryError of one sentence.

    It says what a step of ``strategy`` on the batch that ``make_batch()`` gives would need, what ``device`` has, and
    which number of modules fits there, by a :class:`MemoryModel` measured on the CPU, as the device is full. The model
    has no number for strategies that keep something else than activations or checkpoints, nor for the share of one of
    ``n_devices``. ``note()`` is added, if it says anything.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # what a failed step keeps would stay as long as the error
        model = None if n_devices > 1 else _model(network, strategy, make_batch)
        text = _does_not_fit(model, strategy, *_room(device), n_modules=len(strategy.modules(network)))
        raise MemoryError("; ".join(part for part in (text, note and note()) if part)) from error


def _model(network, strategy, make_batch):
    """Measured without numbers, in no time and memory; with them where code needs them; None if it does not run."""
    try:
        batch = make_batch()
    except Exception:  # whatever goes wrong here and below must not hide what went wrong there
        return None
    for shapes_only in (FakeTensorMode(allow_non_fake_inputs=True), nullcontext()):
        with suppress(Exception), shapes_only:
            copied = type(batch)(*(getattr(batch, f.name).to("cpu", copy=True) for f in fields(batch)))
            return MemoryModel.measured(network, copied, strategy=strategy)
    return None


def _room(device):
    """(name of ``device``, bytes that this process has or could have there; None where that is not known)."""
    if not is_cuda(device):
        return str(device), None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.cuda.get_device_name(device), free + torch.cuda.memory_reserved(device)


def _does_not_fit(model, strategy, device, available_bytes, *, n_modules):
    """The sentence of :func:`explained`, with fewer numbers where ``model`` is None or does not know ``strategy``."""
    within = strategy.propagation
    is_known = isinstance(within, EndToEnd | Checkpointed)
    if model is None or not (is_known or available_bytes):
        start = _need_and_room(None, device, available_bytes)
        return f"a step of {strategy} {start}: more modules or devices, a smaller batch or fewer features need less"
    checkpointed = isinstance(within, Checkpointed)
    peak = partial(model.peak_bytes, checkpointed=checkpointed)
    need = peak(n_modules=n_modules) if is_known else None
    start = f"a step of {strategy} {_need_and_room(need, device, available_bytes)}"
    limit = min(n for n in (available_bytes, need and need - 1) if n)
    fewest = model.modules_that_fit(limit, checkpointed=checkpointed)
    m = fewest or model.n_iterations
    gleam = f"{_greedy(m, strategy, checkpointed)} needs {_gb(peak(n_modules=m))}"
    if fewest:
        return f"{start}: GLEAM with {gleam}"
    least = "its modules are single iterations" if n_modules == m else f"even one iteration per module, {gleam}"
    return f"{start}: {least}, so take checkpoints inside the iterations, a smaller batch or fewer features"


def _need_and_room(need, device, available_bytes):
    if need is None:
        return f"does not fit into the {_gb(available_bytes) if available_bytes else 'memory'} of {device}"
    if available_bytes is None:
        return f"needs about {_gb(need)}, more than {device} has"
    found = f"needs about {_gb(need)} and {device} has {_gb(available_bytes)}"
    return found if need > available_bytes else f"{found}, the rest of it taken by other tensors or by kernels"


def _greedy(n_modules, strategy, checkpointed):
    """How to write the strategy with that many modules, the rest as in ``strategy``."""
    written = f"gleam.Greedy({n_modules}{', within=gleam.Checkpointed()' if checkpointed else ''})"
    return f"gleam.Fast({written}, {strategy.precision!r})" if isinstance(strategy, Fast) else written


def _gb(n_bytes):
    return f"{n_bytes / 1e9:.3g} GB"


def simulate(module_seconds, n_devices, *, pipelined, message_seconds=0.0, n_in_flight=2, n_steps=64):
    """Seconds per training step of P-GLEAM on ``n_devices``, from (forward, backward) seconds of each module.

    A module starts on step k when its input has come and its device is free. It runs forward, sends its output, and
    then runs backward with its update. A message takes ``message_seconds`` on its way, one after the other, and a
    sender waits until at most ``n_in_flight`` of its messages have not been taken up. If ``pipelined``, a device has
    consecutive modules; else module m is on device m mod D, Algorithm 2 as printed: a chain of forward passes, each
    device's backward pass behind its own, and no waiting for each other between steps.

    Devices are equally fast and share nothing. The result is that of the steady state, without the filling of the
    pipeline: the mean over the second half of ``n_steps``. Raises ValueError if there are more devices than modules.
    """
    device_of = _devices(len(module_seconds), n_devices, pipelined)
    done = _finish_times(module_seconds, device_of, message_seconds, n_in_flight, max(2, n_steps))
    first = len(done) // 2 - 1
    return (done[-1] - done[first]) / (len(done) - 1 - first)


def _devices(n_modules, n_devices, pipelined):
    """Device of each module."""
    if not 1 <= n_devices <= n_modules:
        raise ValueError(f"n_devices={n_devices} must be between 1 and the number of modules, {n_modules}")
    if not pipelined:
        return [m % n_devices for m in range(n_modules)]
    return [d for d, modules in enumerate(split(range(n_modules), n_devices)) for _ in modules]


def _finish_times(module_seconds, device_of, message_seconds, n_in_flight, n_steps):
    """When each step is finished by all devices."""
    devices = range(max(device_of) + 1)
    free, link_free, taken_up, done = [0.0 for _ in devices], [0.0 for _ in devices], [[] for _ in devices], []
    senders = [a if a != b else None for a, b in pairwise([*device_of, device_of[-1]])]  # of each module's output
    for _ in range(n_steps):
        arrival, sender = 0.0, None
        for (forward, backward), d, sends in zip(module_seconds, device_of, senders, strict=True):
            start = max(arrival, free[d])
            if sender is not None:
                taken_up[sender].append(start)
            arrival = free[d] = start + forward
            if sends is not None:
                if len(taken_up[d]) >= n_in_flight:
                    free[d] = max(free[d], taken_up[d][-n_in_flight])
                arrival = link_free[d] = max(free[d], link_free[d]) + message_seconds
            free[d] += backward
            sender = sends
        done.append(max(free))
    return done
