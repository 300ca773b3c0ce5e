"""Start new processes on this machine that work as one team, in the same way as torchrun does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

from gleam.files import whole_number
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
        It has to be importable: a function of a module.
    n_processes : int
        At least 1.
    args
        Arguments of `function`; they are pickled.
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
        If `n_processes` is not a whole number of at least 1.
    OSError
        If a process died.
    Exception
        The exception of the process that failed first. The others are then ended.

    Notes
    -----
    No process outlives this call. A script that calls this needs `if __name__ == "__main__":`.
    """
    n_processes = whole_number(n_processes, "n_processes")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    n_threads = n_threads or max(1, torch.get_num_threads() // n_processes)
    context = multiprocessing.get_context("spawn")
    members, work = [], pickle.dumps((function, args))  # torch.multiprocessing would share tensors instead of copying
    for rank in range(n_processes):
        ours, theirs = context.Pipe(duplex=False)
        place = {"RANK": rank, "WORLD_SIZE": n_processes, "MASTER_PORT": store.port}
        process = context.Process(target=_member, args=(theirs, place, n_threads, work), daemon=True)
        members.append((process, ours, theirs))
    try:
        for process, _, theirs in members:
            process.start()
            theirs.close()  # then the pipe ends when the process ends
        return _collect([(process, ours) for process, ours, _ in members], store, on_progress)
    finally:
        for process, ours, _ in members:
            if process.pid is not None:
                process.terminate()
                process.join(5)
                process.kill()
                process.join()
            ours.close()


def _member(results, place, n_threads, work):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place |= {"LOCAL_RANK": place["RANK"], "LOCAL_WORLD_SIZE": place["WORLD_SIZE"]}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "GLEAM_LAUNCHED": "1"}
    torch.set_num_threads(n_threads)
    try:
        team = join()
        with team.telling_failures():
            function, args = _loaded(work)
            answer = pickle.dumps((True, function(*args)))
        team.wait_for_all()
        team.leave()
    except BaseException as error:
        answer = _pickled_failure(error)
    results.send_bytes(answer)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _loaded(work):
    try:
        return pickle.loads(work)
    except (AttributeError, ImportError) as error:
        raise ValueError(
            f"a new process cannot load its work ({error}); networks, masks and data sets of your own have to be in a "
            ".py file that it can import, not in a notebook's cell"
        ) from error


def _pickled_failure(error):
    try:
        answer = pickle.dumps((False, error))
        if isinstance(pickle.loads(answer)[1], Exception):  # SystemExit and its like must not end the caller's program
            return answer
    except Exception:  # it cannot be pickled
        pass
    return pickle.dumps((False, OSError(f"{type(error).__name__}: {error}")))


def _collect(members, store, on_progress):
    """Results by rank; or raises the first failure, preferring one that is not the consequence of another."""
    waiting = {ours: (rank, process) for rank, (process, ours) in enumerate(members)}
    results, failures, deadline = {}, [], None
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
        reason = failure(store) or (
            f"process {rank} of {size} ended with exit code 1; a calling script needs "
            'if __name__ == "__main__":, which new processes rely on'
        )
        return False, TeamError(reason)
    how = f"was killed by signal {-code} (out of memory?)" if code and code < 0 else f"ended with exit code {code}"
    return False, OSError(
        f"process {rank} of {size} {how}; training goes on from its checkpoint when it is called again"
    )
