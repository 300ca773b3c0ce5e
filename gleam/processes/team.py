"""Processes that work on one training run: who is who, what they tell each other, what happens when one of them dies.

They are started by torchrun, by any launcher that sets the same variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT),
or by :func:`gleam.processes.launch`. A process that none of these started is a team of one, for which everything here
is trivial.
"""

import atexit
import os
import time
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from gleam.processes.watching import BEAT, Watch

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
    watch = Watch(dist.PrefixStore(attempt, stores[0]), rank, size)
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
        time.sleep(2 * BEAT)
    if dist.is_initialized() and not failed:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def failure(store):
    """For who launched the processes that meet in ``store``: why the first of them failed; empty if none has."""
    return _written(store, "failed")


def n_steps_done(store):
    """For who launched them: how far the training of the processes that meet in ``store`` is."""
    return int((_written(store, "beat/0") or "0 0").split()[1])


def _written(store, key):
    """What the processes of this attempt have written under ``key``; empty if nothing."""
    if not store.check([_ATTEMPT]):
        return ""
    key = f"{store.get(_ATTEMPT).decode()}/{key}"
    return store.get(key).decode() if store.check([key]) else ""
