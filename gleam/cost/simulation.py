"""The speed of P-GLEAM on any number of devices, played from the seconds of every module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gleam.networks.unrolled import split


def simulate(
    module_seconds: Sequence[tuple[float, float]],
    n_devices: int,
    *,
    pipelined: bool,
    message_seconds: float = 0.0,
    n_in_flight: int = 2,
    n_steps: int = 64,
) -> float:
    """Seconds per training step of P-GLEAM on `n_devices` devices.

    Parameters
    ----------
    module_seconds : sequence of (float, float)
        Seconds of the forward and of the backward pass, with update, of each module.
    n_devices : int
        D, at most the number of modules.
    pipelined : bool
        If True, a device has consecutive modules. Else module m is on device m mod D, Algorithm 2 as printed: a chain
        of forward passes, the backward pass of each device after its own, and no waiting between steps.
    message_seconds : float
        Time of a message on its way. The messages of a device are sent one after the other.
    n_in_flight : int
        A sender waits until at most this many of its messages have not been received.
    n_steps : int
        Steps to simulate.

    Returns
    -------
    float
        The mean over the second half of the steps: the steady state, without the filling of the pipeline.

    Raises
    ------
    ValueError
        If `n_devices` is not between 1 and the number of modules.

    Notes
    -----
    A module starts step k when its input has arrived and its device is free. It runs forward, sends its output, and
    then runs backward with its update. Devices are equally fast and share nothing.
    """
    n_modules = len(module_seconds)
    if not 1 <= n_devices <= n_modules:
        raise ValueError(f"n_devices={n_devices} must be between 1 and the number of modules, {n_modules}")
    if pipelined:
        device_of = [d for d, modules in enumerate(split(range(n_modules), n_devices)) for _ in modules]
    else:
        device_of = [m % n_devices for m in range(n_modules)]
    done = _finish_times(module_seconds, device_of, message_seconds, n_in_flight, max(2, n_steps))
    first = len(done) // 2 - 1
    return (done[-1] - done[first]) / (len(done) - 1 - first)


def _finish_times(module_seconds, device_of, message_seconds, n_in_flight, n_steps):
    """When all devices have finished each step."""
    devices = range(max(device_of) + 1)
    free, link_free, taken_up, done = [0.0 for _ in devices], [0.0 for _ in devices], [[] for _ in devices], []
    # device that sends a module's output, if the next module is on another one; the last module sends nothing
    senders = [a if a != b else None for a, b in pairwise([*device_of, device_of[-1]])]
    for _ in range(n_steps):
        arrival, sender = 0.0, None
        for (forward, backward), d, sends in zip(module_seconds, device_of, senders, strict=True):
            start = max(arrival, free[d])
            if sender is not None:
                taken_up[sender].append(start)  # when the message of this sender was received
            arrival = free[d] = start + forward
            if sends is not None:
                if len(taken_up[d]) >= n_in_flight:  # as `Place.wait_for_sent`
                    free[d] = max(free[d], taken_up[d][-n_in_flight])
                arrival = link_free[d] = max(free[d], link_free[d]) + message_seconds
            free[d] += backward
            sender = sends
        done.append(max(free))
    return done
