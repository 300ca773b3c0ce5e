"""Start new processes on this machine that work as one team, in the same way as torchrun does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait

import torch
import torch.distributed as dist
from tqdm import tqdm

from gleam.files import whole_number
from gleam.processes.sending import context, packed, unpacked
from gleam.processes.team import TeamError, failure, join, n_steps_done


def launch(
    function: Callable,
    n_processes: int,
    *args: object,
    n_threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list:
    """Run `function(*args)` in `n_processes` new processes of one team on this machine, as torchrun would.

    Parameters
    ----------
    function : callable
        It may be defined anywhere, as the classes of its arguments: also in a notebook's cell.
    n_processes : int
        At least 1.
    args
        Arguments of `function`; every process gets copies.
    n_threads : int, optional
        Threads of torch in each process. Default: those of this process divided by `n_processes`.
    on_progress : callable, optional
        `on_progress(n_steps_done)` is called several times a second.

    Returns
    -------
    list
        The result of each process, in the order of ranks.

    Raises
    ------
    ValueError
        If `n_processes` is not a whole number of at least 1, or if an argument cannot be sent to another process.
    OSError
        If a process died.
    Exception
        The exception of the process that failed first. The others are then ended.

    Notes
    -----
    No process outlives this call. The processes talk over the loopback interface only.
    """
    n_processes = whole_number(n_processes, "n_processes")
    work = packed((function, args))  # torch.multiprocessing would share tensors instead of copying
    n_threads = n_threads or max(1, torch.get_num_threads() // n_processes)
    store, kind, members = _local_store(), context(), []
    caller, our_end = multiprocessing.Pipe(duplex=False)  # nothing is sent: it closes with this call, or this process
    for rank in range(n_processes):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        place = {"RANK": rank, "WORLD_SIZE": n_processes, "MASTER_PORT": store.port}
        process = kind.Process(target=_member, args=(theirs, caller, place, n_threads, work), daemon=True)
        members.append((process, ours, theirs))
    try:
        for process, _, theirs in members:
            process.start()
            theirs.close()  # then the pipe ends when the process ends
        results = _collect([(process, ours) for process, ours, _ in members], store, on_progress)
        for process, _, _ in members:
            process.join(5)  # it is ending by itself
        return results
    finally:
        our_end.close()
        caller.close()
        for process, ours, _ in members:
            if process.pid is not None:
                process.terminate()
                process.join(5)
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
                process.join()
            ours.close()


def _local_store():
    """A store on the loopback interface: what comes from it is unpickled, and torch's own socket is open to all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, descriptor = listening.getsockname()[1], listening.detach()
    return dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)


def _member(results, caller, place, n_threads, work):
    threading.Thread(target=_end_with, args=(caller,), daemon=True).start()
    place |= {"LOCAL_RANK": place["RANK"], "LOCAL_WORLD_SIZE": place["WORLD_SIZE"]}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "GLEAM_LAUNCHED": "1"}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback)
    torch.set_num_threads(n_threads)
    tqdm.set_lock(threading.RLock())  # the usual one is a semaphore of the system, which a process that is killed leaks
    try:
        team = join()
        with team.telling_failures():
            function, args = unpacked(work)
            answer = packed((True, function(*args)))
        team.wait_for_all()
        team.leave()
    except BaseException as error:
        answer = _pickled_failure(error)
    results.send_bytes(answer)


def _end_with(caller):
    with suppress(EOFError, OSError):
        caller.recv()
    os._exit(1)


def _pickled_failure(error):
    try:
        answer = packed((False, error))
        if isinstance(pickle.loads(answer)[1], Exception):  # SystemExit and its like must not end the caller's program
            return answer
    except Exception:  # it cannot be pickled
        pass
    return pickle.dumps((False, OSError(f"{type(error).__name__}: {error}")))


def _collect(members, store, on_progress):
    """Results by rank; or raises the first failure, preferring one that is not the consequence of another."""
    waiting = {ours: (rank, process) for rank, (process, ours) in enumerate(members)}
    results, failures, deadline = {}, [], None  # after a first failure the others have ten seconds to tell theirs
    while waiting and (deadline is None or time.monotonic() < deadline):
        for pipe in wait(list(waiting), timeout=0.2):
            rank, process = waiting.pop(pipe)
            is_good, value = _answer(pipe, rank, process, len(members), store)
            if is_good:
                results[rank] = value
            else:
                failures.append(value)
                deadline = deadline or time.monotonic() + 10
        if on_progress:
            on_progress(n_steps_done(store))
    if failures:
        raise min(failures, key=lambda error: isinstance(error, TeamError))
    return [results[rank] for rank in range(len(members))]


def _answer(pipe, rank, process, size, store):
    """(True, result) or (False, failure) of a process that has sent it or has ended."""
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join(5)
    code = process.exitcode
    if code == 1:  # its Watch ended it because another failed, or it never started
        reason = failure(store) or f"process {rank} of {size} ended with exit code 1; what it printed says why"
        return False, TeamError(reason)
    how = f"was killed by signal {-code} (out of memory?)" if code and code < 0 else f"ended with exit code {code}"
    return False, OSError(
        f"process {rank} of {size} {how}; training goes on from its checkpoint when it is called again"
    )
