"""Connections to the store where the processes of a run meet, or the reason why there is none, within half a minute."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from datetime import timedelta

import torch.distributed as dist

PATIENCE = 20.0  # seconds until a machine has to be found, or a store has to answer


def connect(host: str, port: int, serves: bool, seconds: float) -> dist.TCPStore:
    """A connection to the store at `host`:`port`, which this process makes if it `serves`.

    Waits up to `seconds` for the process that serves, once its machine is known. Raises OSError with the reason.
    """
    _wait_for_port(host, port, 0 if serves else seconds)
    try:
        store = _made(host, port, serves)
    except (RuntimeError, TimeoutError) as error:
        if serves and "EADDRINUSE" in str(error):
            reason = "is taken by another program on this machine"
        else:
            reason = f"of {host} does not answer as a run of several processes; another program may use it"
        raise OSError(f"MASTER_PORT={port} {reason}: choose another port for all processes") from error
    store.set_timeout(timedelta(seconds=seconds))
    return store


def _made(host, port, serves):
    """The store; TimeoutError if it takes too long, since torch waits for ever for a program that never answers."""
    made: Future = Future()

    def make():
        try:
            options = {"wait_for_workers": False, "timeout": timedelta(seconds=PATIENCE)}
            made.set_result(dist.TCPStore(host, port, is_master=serves, **options))
        except RuntimeError as error:
            made.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    return made.result(PATIENCE + 5)  # longer than torch's own timeout, whose error says more


def _wait_for_port(host, port, seconds):
    """Wait up to `seconds` for a port that is closed, and at most `PATIENCE` for a machine that cannot be reached."""
    start = time.monotonic()
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except ConnectionRefusedError as error:  # the machine is there, and its process will come
            failure, patience = error, seconds
        except OSError as error:
            failure, patience = error, PATIENCE
        if time.monotonic() - start >= patience:
            break
        time.sleep(min(0.2, patience))
    if not isinstance(failure, ConnectionRefusedError):
        why = f"MASTER_ADDR={host} cannot be reached ({failure.strerror or failure})"
        raise OSError(f"{why}: expected the name or address of the machine of process 0") from failure
    if seconds:
        raise OSError(f"process 0 did not come to {host}:{port} within {seconds:g} s; see why it ended") from failure
