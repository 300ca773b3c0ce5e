"""Independent calls of one function, spread over worker processes: training several networks, preparing files."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed, wait
from contextlib import suppress
from typing import Any

import torch
from tqdm import tqdm

from gleam.processes.sending import HAS_JOBLIB, packed, unpacked

PATIENCE = 2.0  # seconds that a worker has to remove its unfinished files
_is_over = threading.Event()  # in a worker: the call that started it has ended


def in_processes(
    function: Callable, arguments: dict, n_jobs: int, *, work: str, n_threads: int = 1
) -> Iterator[tuple[Any, Future]]:
    """Call `function(argument)` for each of several arguments, `n_jobs` at a time, and yield them as they finish.

    A function, and classes in its arguments, may be defined anywhere: in a notebook's cell, or in a script without
    `if __name__ == "__main__":`. No process outlives the loop over the results: if it ends early, by an exception, an
    interrupt or `break`, calls in progress get a KeyboardInterrupt and the others are not begun.

    Parameters
    ----------
    function : callable
        Of one argument. In another process it gets a copy of it.
    arguments : dict
        Of key to argument.
    n_jobs : int
        Processes at most. With 1 each call is made in this process, when the loop asks for it.
    work : str
        What the calls do, for the message if a process dies: "training".
    n_threads : int
        Threads of the numerical libraries in each process.

    Yields
    ------
    key, Future
        The future is done: its `result()` is that of the call, or raises the exception of the call.

    Raises
    ------
    ValueError
        If an argument cannot be sent to another process.
    OSError
        If a process died. Calls that had finished are yielded before.
    """
    n_jobs = min(n_jobs, len(arguments))
    if n_jobs <= 1 or not HAS_JOBLIB:
        yield from ((key, _call_here(function, argument)) for key, argument in arguments.items())
        return
    from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError

    work_of = {key: _Work((function, argument)) for key, argument in arguments.items()}
    for one in work_of.values():  # refused before anything starts
        one.__reduce__()
    caller, ours = multiprocessing.Pipe(duplex=False)  # nothing is sent: it closes with this call, or this process
    variables = {f"{library}_NUM_THREADS": str(n_threads) for library in ("OMP", "OPENBLAS", "MKL")}
    keys: dict[Future, Any] = {}
    has_died = False
    worker: dict[str, Any] = {"initializer": _start, "initargs": (caller, n_threads), "env": variables}
    with caller, ours, ProcessPoolExecutor(n_jobs, **worker) as pool:
        try:
            for key, one in work_of.items():  # one by one: an interrupt in between finds those that were begun
                keys[pool.submit(_call_in_worker, one)] = key
            for future in as_completed(keys):
                if isinstance(future.exception(), TerminatedWorkerError):
                    has_died = True
                else:
                    yield keys.pop(future), future
        finally:
            if not all(future.done() for future in keys):
                ours.close()
                wait([future for future in keys if future.running()], PATIENCE)
                pool.shutdown(kill_workers=True)
    if has_died:
        raise OSError(
            f"a process that was {work} died, probably for want of memory: give n_jobs below {n_jobs}; finished files "
            "and checkpoints are kept"
        )


class _Work:
    """A call, packed only when it is sent: a queue of calls holds no copies of their data."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return bytes, (packed(self.call),)


def _call_here(function, argument):
    future = Future()
    try:
        future.set_result(function(argument))
    except Exception as error:
        future.set_exception(error)
    return future


def _start(caller, n_threads):
    """Make this process a worker that ends when the pipe `caller` is closed."""
    from joblib.externals.loky import process_executor

    process_executor._USE_PSUTIL = False  # it would replace a worker that has grown, with a warning
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; `caller` closes then
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(n_threads)
    tqdm.set_lock(threading.RLock())  # the usual one is a semaphore of the system, which a process that is killed leaks
    threading.Thread(target=_end_with, args=(caller,), daemon=True).start()


def _end_with(caller):
    with suppress(EOFError, OSError):
        caller.recv()
    _is_over.set()
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _call_in_worker(work):
    if _is_over.is_set():  # it was in the queue already
        raise KeyboardInterrupt
    function, argument = unpacked(work)
    return function(argument)
