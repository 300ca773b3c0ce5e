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
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from multiprocessing.connection import wait

import torch
import torch.distributed as dist

from gleam.files import end_with_parent

PATIENCE = 30.0  # seconds without a sign of life after which a process counts as dead
_BEAT = 0.5  # seconds between two signs of life
_TO_MEET = 600  # seconds that the processes wait for each other at the start
_ATTEMPT = "gleam/attempt"
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
        if self._watch:
            self._watch.n_steps_done = n_steps_done

    def leave(self):
        """This process has nothing more to do with the others; from here on its end is no failure."""
        if self._watch:
            self._watch.leave()

    @contextmanager
    def talking(self):
        """Around every exchange with others: a lost connection becomes a :class:`TeamError` with the reason."""
        try:
            yield
        except RuntimeError as error:
            if self._watch is None or isinstance(error, torch.OutOfMemoryError):
                raise
            reason = self._watch.why_lost()
            raise TeamError(reason or f"an exchange between processes failed: {_first_line(error)}") from error

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
    size = int(os.environ.get("WORLD_SIZE", 1))
    if dist.is_initialized() and dist.get_world_size() != size:
        raise ValueError(
            f"torch.distributed has {dist.get_world_size()} processes, and WORLD_SIZE says {size}; start them with "
            "torchrun"
        )
    if size == 1:
        return ALONE
    rank, host, port = _place()
    try:
        return _joined(rank, size, host, port)
    except RuntimeError as error:
        raise OSError(f"process {rank} of {size} could not connect to the others: {_first_line(error)}") from error


def _place():
    """(rank, host, port) from the variables of the launcher."""
    try:
        return int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"WORLD_SIZE is set, but RANK, MASTER_ADDR or MASTER_PORT is missing or no number ({error}); "
            "start the processes with torchrun"
        ) from None


def _joined(rank, size, host, port):
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or dist.is_initialized()
    # two connections: one that waits for something cannot be used meanwhile
    stores = [
        dist.TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=timedelta(seconds=_TO_MEET))
        for is_master in (rank == 0 and not is_served, False)
    ]
    attempt = _meet(stores[0], rank, size)
    watch = _Watch(dist.PrefixStore(attempt, stores[0]), rank, size)
    watch.start()
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    if not dist.is_initialized():
        store = dist.PrefixStore(f"{attempt}/group", stores[1])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_FOREVER)
    team = Team(rank, size, watch)
    atexit.register(_leave, team, rank == 0 and not is_served)
    return team


def _meet(store, rank, size):
    """Wait for the others; a name that this attempt alone has, whatever an earlier one left in the store.

    A restart counter cannot be that name: of several nodes only the one whose process died counts.
    """
    me, told, deadline = uuid.uuid4().hex, None, time.monotonic() + _TO_MEET
    if rank == 0:
        store.set(_ATTEMPT, me)
    while time.monotonic() < deadline:
        if store.check([_ATTEMPT]):
            attempt = store.get(_ATTEMPT).decode()
            if attempt != told:
                store.set(f"{attempt}/here/{rank}", me)
                told = attempt
            keys = [f"{attempt}/here/{r}" for r in range(size)]
            if rank == 0 and store.check(keys):
                store.set(f"{attempt}/all", " ".join(one.decode() for one in store.multi_get(keys)))
            if store.check([f"{attempt}/all"]) and me in store.get(f"{attempt}/all").decode().split():
                return attempt
        time.sleep(0.05)
    raise OSError(f"process {rank} of {size}: not all of the others came within {_TO_MEET} s; see why they ended")


def _leave(team, serves):
    failed = team._watch.failure()
    team.leave()
    if serves:  # the others read here that this process has left
        time.sleep(2 * _BEAT)
    if dist.is_initialized() and not failed:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Watch(threading.Thread):
    """Gives signs of life, listens for those of the others, and ends the process when one of them has failed.

    A thread of its own, because the main thread may be waiting inside a library for one that is dead. Silence is
    counted in rounds of this thread: when the whole machine sleeps, nobody has been silent.
    """

    def __init__(self, store, rank, size):
        super().__init__(daemon=True)
        self.store, self.rank, self.size = store, rank, size
        self.n_steps_done = self.n_rounds = 0
        self.is_over = False
        self.lock = threading.Lock()
        self.beats, self.silent_rounds, self.left = {}, {}, set()
        self.beat()

    def start(self):
        """Start this thread, and one that looks after it: a store that has stopped answers nobody, not even by an
        error."""
        super().start()
        threading.Thread(target=self._guard, daemon=True).start()

    def run(self):
        while not self.is_over:
            time.sleep(_BEAT)
            try:
                self.beat()
                self.listen()
                failure = self.failure() or self.silence(PATIENCE)
                if failure and not self.is_over:
                    self._note(failure)
            except RuntimeError:
                failure = "" if 0 in self.left else "the store where the processes meet is gone"
            if failure and not self.is_over:
                self._end(failure)
            if 0 in self.left:
                return

    def beat(self):
        """Give a sign of life, with the steps done so far."""
        self.n_rounds += 1
        with self.lock:
            self.store.set(f"beat/{self.rank}", f"{self.n_rounds} {self.n_steps_done}")

    def listen(self):
        """Count for how many rounds each of the others has been silent."""
        for rank in (r for r in range(self.size) if r != self.rank and r not in self.left):
            key = f"beat/{rank}"
            with self.lock:
                beat = self.store.get(key) if self.store.check([key]) else None
                if self.store.check([f"left/{rank}"]):
                    self.left.add(rank)
            self.silent_rounds[rank] = self.silent_rounds.get(rank, 0) + 1 if beat == self.beats.get(rank) else 0
            self.beats[rank] = beat

    def silence(self, seconds):
        """Who has given no sign of life for that long, as a sentence; empty if nobody."""
        silent = [r for r, n in self.silent_rounds.items() if n * _BEAT >= seconds and r not in self.left]
        if not silent:
            return ""
        names = " and ".join(f"process {r}" for r in silent)
        return (
            f"{names} of {self.size} gave no sign of life for {seconds:g} s: killed (out of memory?), stopped, or "
            "its machine is gone"
        )

    def failure(self):
        """What the first process to fail told, or an empty string."""
        with self.lock, suppress(RuntimeError):
            if self.store.check(["failed"]):
                told = self.store.get("failed").decode()
                return "" if told.startswith(f"process {self.rank} of {self.size} stopped") else told
        return ""

    def tell(self, reason):
        """Tell all processes that this one failed; only the first word counts."""
        self._note(f"process {self.rank} of {self.size} stopped: {reason}")

    def why_lost(self, seconds=4.0):
        """After a connection broke: the reason, if a process gave one, or which of them gives no sign of life."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if told := self.failure():
                return told
            time.sleep(_BEAT / 2)
        return self.silence(seconds / 2)

    def leave(self):
        """The process ends as it should; its silence is no failure."""
        self.is_over = True
        with self.lock, suppress(RuntimeError):
            self.store.set(f"left/{self.rank}", "")

    def _note(self, failure):
        with self.lock, suppress(RuntimeError):
            self.store.compare_set("failed", "", failure)

    def _guard(self):
        seen, n_rounds = None, 0
        while not self.is_over and self.is_alive():
            n_rounds, seen = (n_rounds + 1 if seen == self.n_rounds else 0), self.n_rounds
            if n_rounds * _BEAT >= PATIENCE:
                self._end("the store where the processes meet does not answer: its process or machine has stopped")
            time.sleep(_BEAT)

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
            function, args = _loaded(work)
            answer = pickle.dumps((True, function(*args)))
        team.wait_for_all()
        team.leave()
    except BaseException as error:
        answer = _pickled_failure(error)
    results.send_bytes(answer)


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
        if isinstance(pickle.loads(answer)[1], Exception):  # one that ends a program must not end the caller's
            return answer
    except Exception:  # it cannot be pickled
        pass
    return pickle.dumps((False, OSError(f"{type(error).__name__}: {error}")))


def _collect(members, store, on_progress):
    """Results by rank; raises the failure of the first process that failed by itself, not in the wake of another."""
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
            on_progress(_steps_done(store))
    if failures:
        raise min(failures, key=lambda error: isinstance(error, TeamError))
    return [results[rank] for rank in range(len(members))]


def _answer(pipe, rank, process, size, store):
    """(whether it is a result, the result or the failure) of a process that has sent it, or has ended."""
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join(5)
    code = process.exitcode
    if code == 1:  # its watch ended it, in the wake of another, or it never began
        reason = _read(store, "failed") or (
            f"process {rank} of {size} ended with exit code 1; a calling script needs "
            'if __name__ == "__main__":, which new processes rely on'
        )
        return False, TeamError(reason)
    how = f"was killed by signal {-code} (out of memory?)" if code and code < 0 else f"ended with exit code {code}"
    return False, OSError(
        f"process {rank} of {size} {how}; training goes on from its checkpoint when it is called again"
    )


def _steps_done(store):
    return int((_read(store, "beat/0") or "0 0").split()[1])


def _read(store, key):
    """What the processes of this attempt have written under ``key``; empty if nothing."""
    if not store.check([_ATTEMPT]):
        return ""
    key = f"{store.get(_ATTEMPT).decode()}/{key}"
    return store.get(key).decode() if store.check([key]) else ""
