"""Processes that work on one training run: who is who, what they tell each other, what happens when one of them dies.

They are started by torchrun, by any launcher that sets the same variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT),
or by :func:`launch`. A process that none of these started is a team of one, for which everything here is trivial.
"""

import atexit
import multiprocessing
import os
import pickle
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

from gleam.files import end_with_parent

PATIENCE = 30.0  # seconds without a sign of life after which a process counts as dead
_BEAT = 0.5  # seconds between two signs of life
_FOREVER = timedelta(days=7)  # of a collective: death is noticed by the missing beat, slowness is no failure


class TeamError(OSError):
    """Another process of the run failed or died; the message names it and, where known, its reason."""


class Team:
    """The processes of one run and the place of this one: ``rank`` of ``size``.

    Every process has to call :meth:`merge` and :meth:`wait_for_all` in the same order.
    """

    def __init__(self, rank=0, size=1, watch=None):
        self.rank, self.size = rank, size
        self._watch = watch
        self.n_steps_done = 0

    @property
    def is_first(self):
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def shows_progress(self):
        """Whether a progress bar belongs into this process: not if the one that launched the team shows it."""
        return self.is_first and "GLEAM_LAUNCHED" not in os.environ

    def merge(self, entries):
        """The union of all processes' dicts ``entries``, for all of them; of equal keys that of the lowest rank stays.

        Tensors come back on the CPU.
        """
        if self.size == 1:
            return dict(entries)
        parts = [None] * self.size
        with self.talking():
            dist.all_gather_object(parts, {k: v.cpu() if torch.is_tensor(v) else v for k, v in entries.items()})
        return {key: value for part in reversed(parts) for key, value in part.items()}

    def wait_for_all(self):
        """Go on when every process has come here."""
        self.merge({})

    def report(self, n_steps_done):
        """Note how far training is; whoever launched the team can read it."""
        self.n_steps_done = n_steps_done
        if self._watch:
            self._watch.n_steps_done = n_steps_done

    @contextmanager
    def talking(self):
        """Around every exchange with others: a lost connection becomes a :class:`TeamError` with the reason."""
        try:
            yield
        except RuntimeError as error:
            if self._watch is None:
                raise
            raise TeamError(self._watch.why_lost()) from error

    @contextmanager
    def telling_failures(self):
        """Around the work: what is raised inside is told to the other processes, which then stop as well."""
        try:
            yield
        except BaseException as error:
            if self._watch and not (isinstance(error, TeamError) and self._watch.failure()):
                message = str(error) if isinstance(error, TeamError) else f"{type(error).__name__}: {error}"
                self._watch.tell(message)
            raise


ALONE = Team()


@cache
def join():
    """The :class:`Team` of this process; the first call connects to the others and waits for them.

    Raises ValueError if the variables of the launcher are incomplete, OSError if the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE
    rank, size, store = _place()
    watch = _Watch(store(), rank, size)
    if not dist.is_initialized():
        try:
            _connect(rank, size, store())
        except RuntimeError as error:
            raise OSError(f"process {rank} of {size} could not connect to the others: {error}") from error
    watch.start()
    atexit.register(_leave, watch)
    return Team(rank, size, watch)


def _place():
    """(rank, size, function that opens a connection to the common store) from the variables of the launcher."""
    try:
        rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        host = os.environ["MASTER_ADDR"]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"WORLD_SIZE is set, but RANK, MASTER_ADDR or MASTER_PORT is missing or no number ({error}); "
            "start the processes with torchrun"
        ) from None
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or dist.is_initialized()
    opened = []

    def store():
        serves = rank == 0 and not served and not opened
        opened.append(dist.TCPStore(host, port, is_master=serves, wait_for_workers=False, timeout=timedelta(minutes=5)))
        return dist.PrefixStore(f"gleam/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", opened[-1])

    return rank, size, store


def _connect(rank, size, store):
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_FOREVER)


def _leave(watch):
    watch.leave()
    if dist.is_initialized() and not watch.failure():
        with suppress(RuntimeError):
            dist.destroy_process_group()


class _Watch(threading.Thread):
    """Gives signs of life, listens for those of the others, and ends the process when one of them has failed.

    A thread of its own, because the main thread may be waiting inside a library for one that is dead. It has a
    connection of its own to the store, too: one that waits cannot be used for anything else.
    """

    def __init__(self, store, rank, size):
        super().__init__(daemon=True)
        self.store, self.rank, self.size = store, rank, size
        self.n_steps_done = 0
        self.is_over = False
        self.lock = threading.Lock()
        self.last = {}  # of each other process: its beat, and when that was first seen
        self._beat(0)

    def run(self):
        beat = 0
        while not self.is_over:
            time.sleep(_BEAT)
            beat += 1
            try:
                self._beat(beat)
                failure = self.failure() or self._silent(PATIENCE)
            except RuntimeError:  # the store is gone: so is the launcher, or the run is over
                return
            if failure and not self.is_over:
                self._end(failure)

    def failure(self):
        """What the first process to fail told, or an empty string."""
        with self.lock, suppress(RuntimeError):
            if self.store.check(["failed"]):
                told = self.store.get("failed").decode()
                return "" if told.startswith(f"process {self.rank} ") else told
        return ""

    def tell(self, reason):
        """Tell all processes that this one failed; only the first word counts."""
        with self.lock, suppress(RuntimeError):
            self.store.compare_set("failed", "", f"process {self.rank} of {self.size} stopped: {reason}")

    def why_lost(self, seconds=4.0):
        """After a connection broke: the reason, if a process gave one, or which of them gives no sign of life."""
        deadline = time.monotonic() + seconds
        with self.lock:
            self.last.clear()
        while time.monotonic() < deadline:
            time.sleep(_BEAT / 2)
            with suppress(RuntimeError):
                if told := self.failure():
                    return told
                self._silent(PATIENCE)
        with suppress(RuntimeError):
            if told := self._silent(seconds / 2):
                return told
        return "the connection to another process is lost: it was killed (out of memory?), or its machine is gone"

    def leave(self):
        """The process ends as it should; its silence is no failure."""
        self.is_over = True
        with self.lock, suppress(RuntimeError):
            self.store.set(f"left/{self.rank}", "")

    def _beat(self, beat):
        with self.lock:
            self.store.set(f"beat/{self.rank}", f"{beat} {self.n_steps_done}")

    def _silent(self, seconds):
        others = [r for r in range(self.size) if r != self.rank]
        keys, now, silent = [f"beat/{r}" for r in others], time.monotonic(), []
        with self.lock:
            if not self.store.check(keys):  # they have not all come yet
                return ""
            beats = self.store.multi_get(keys)
            for rank, beat in zip(others, beats, strict=True):
                known, since = self.last.get(rank, (None, now))
                self.last[rank] = (beat, since if beat == known else now)
                if now - self.last[rank][1] > seconds and not self.store.check([f"left/{rank}"]):
                    silent.append(rank)
        if not silent:
            return ""
        names = " and ".join(f"process {r}" for r in silent)
        return (
            f"{names} of {self.size} gave no sign of life for {seconds:g} s: killed (out of memory?), stopped, or "
            "its machine is gone"
        )

    def _end(self, failure):
        with suppress(OSError, ValueError):
            print(f"gleam: process {self.rank} ends, because {failure}", file=sys.stderr, flush=True)
        os._exit(1)


def launch(function, n_processes, *args, n_threads=None, on_progress=None):
    """Run ``function(*args)`` in ``n_processes`` new processes of one team on this machine, as torchrun would.

    ``n_threads``: of torch in each, by default those of this process shared out; ``on_progress(n_steps_done)`` is
    called now and then. Returns the list of their results. If one of them raises or dies, the others are ended, and it
    is raised here: an exception as it was, a death as OSError. No process outlives this call. ``function`` has to be
    importable, and a script that calls this needs ``if __name__ == "__main__":``.
    """
    if not hasattr(n_processes, "__index__") or n_processes < 1:
        raise ValueError(f"n_processes={n_processes!r} must be a whole number of at least 1")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    n_threads = n_threads or max(1, torch.get_num_threads() // n_processes)
    context = multiprocessing.get_context("spawn")
    members, work = [], pickle.dumps((function, args))  # torch's own way would share the tensors, not copy them
    for rank in range(n_processes):
        ours, theirs = context.Pipe(duplex=False)
        place = {"RANK": rank, "WORLD_SIZE": n_processes, "MASTER_PORT": store.port}
        process = context.Process(target=_member, args=(theirs, place, n_threads, work), daemon=True)
        members.append((process, ours, theirs))
    try:
        for process, _, theirs in members:
            process.start()
            theirs.close()  # so that the end of the process is the end of its pipe
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
    end_with_parent()
    place |= {"LOCAL_RANK": place["RANK"], "LOCAL_WORLD_SIZE": place["WORLD_SIZE"]}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "GLEAM_LAUNCHED": "1"}
    torch.set_num_threads(n_threads)
    try:
        team = join()
        with team.telling_failures():
            function, args = pickle.loads(work)
            answer = pickle.dumps((True, function(*args)))
        team.wait_for_all()
    except BaseException as error:
        answer = _pickled_failure(error)
    results.send_bytes(answer)


def _pickled_failure(error):
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
        return answer
    except Exception:
        return pickle.dumps((False, OSError(f"{type(error).__name__}: {error}")))


def _collect(members, store, on_progress):
    """Results by rank; raises the failure of the first process that failed by itself, not in the wake of another."""
    waiting = {ours: (rank, process) for rank, (process, ours) in enumerate(members)}
    results, failures, deadline = {}, [], None
    while waiting and (deadline is None or time.monotonic() < deadline):
        for pipe in wait(list(waiting), timeout=0.2):
            rank, process = waiting.pop(pipe)
            is_good, value = _answer(pipe, rank, process, len(members))
            if is_good:
                results[rank] = value
            else:
                failures.append(value)
                deadline = deadline or time.monotonic() + 10
        if on_progress:
            on_progress(_steps_done(store))
    if failures:
        raise min(failures, key=lambda error: isinstance(error, TeamError))
    return [results[rank] for rank in range(len(members))]


def _answer(pipe, rank, process, size):
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join(5)
        code = process.exitcode
        how = f"was killed by signal {-code} (out of memory?)" if code and code < 0 else f"ended with exit code {code}"
        kind = TeamError if code == 1 else OSError  # 1: ended by its watch, in the wake of another
        return False, kind(
            f'process {rank} of {size} {how}; a calling script needs if __name__ == "__main__":, which new processes '
            "rely on"
            if code == 1
            else f"process {rank} of {size} {how}; training goes on from its checkpoint when it is called again"
        )


def _steps_done(store):
    key = "gleam/0/beat/0"
    return int(store.get(key).split()[1]) if store.check([key]) else 0
