"""What a training step would cost elsewhere: memory at any depth, and the speed of P-GLEAM on any number of devices.

Both start from measurements of :mod:`gleam.cost` and add arithmetic, so what they give is to be drawn as a prediction.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from gleam.cost import peak_split
from gleam.strategies import Checkpointed, EndToEnd
from gleam.unrolled import split


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
    def measured(cls, network, batch, *, device="cpu"):
        """The model of ``network``, of which four steps are run: one and two iterations, plain and checkpointed."""
        short = [_shortened(network, n) for n in (1, 2)]
        plain, checkpointed = ([peak_split(n, s, batch, device=device) for n in short] for s in _WAYS)
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
    """A copy with the first ``n_iterations``, the last one again where there are too few."""
    short = copy.deepcopy(network)
    last = len(network.iterations) - 1
    short.iterations = nn.ModuleList(copy.deepcopy(network.iterations[min(i, last)]) for i in range(n_iterations))
    return short


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
