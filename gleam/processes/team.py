"""The processes of one training run: their ranks, their communication, and the failure of one of them.

They are started by torchrun, by any launcher that sets the same variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT),
or by :func:`gleam.processes.launch`. A process started otherwise is a team of one, in which every method here returns
at once.
"""

from __future__ import annotations

import atexit
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from gleam.processes import reaching
from gleam.processes.watching import BEAT, Watch

_TO_MEET = 600  # seconds that the processes wait for each other at the start
_ATTEMPT = "gleam/attempt"
_FOREVER = timedelta(days=7)  # timeout of collectives: heartbeats detect a dead process, and a slow one is no failure


class TeamError(OSError):
    """Another process of the run failed or died; the message names it and, if known, the reason."""


class Team:
    """The processes of one run, seen from one of them.

    All processes have to call :meth:`merge` and :meth:`wait_for_all` in the same order.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    watch : Watch, optional
        Heartbeats of this process and the others.
    """

    def __init__(self, rank: int = 0, size: int = 1, watch: Watch | None = None) -> None:
        self.rank, self.size = rank, size
        self._watch = watch

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def shows_progress(self) -> bool:
        """Whether this process shows a progress bar; the first does, unless the process that launched the team does."""
        return self.is_first and "GLEAM_LAUNCHED" not in os.environ

    def merge(self, entries: dict) -> dict:
        """Union of the dicts `entries` of all processes, the same in each of them.

        For equal keys the entry of the lowest rank is taken. Tensors are returned on the CPU. Raises
        :class:`TeamError` if another process failed.
        """
        if self.size == 1:
            return dict(entries)
        parts: list[Any] = [None] * self.size
        with self.talking():
            dist.all_gather_object(parts, {k: v.cpu() if torch.is_tensor(v) else v for k, v in entries.items()})
        return {key: value for part in reversed(parts) for key, value in part.items()}  # rank 0 last: its entries stay

    def wait_for_all(self) -> None:
        """Wait until every process has called this."""
        self.merge({})

    def report(self, n_steps_done: int) -> None:
        """Publish the number of training steps done; the process that launched the team can read it."""
        if self._watch:
            self._watch.n_steps_done = n_steps_done

    def leave(self) -> None:
        """Declare that this process has finished; from now on its end is no failure."""
        if self._watch:
            self._watch.leave()

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Context for every communication: a lost connection becomes a :class:`TeamError` with the reason."""
        try:
            yield
        except RuntimeError as error:
            if self._watch is None or isinstance(error, torch.OutOfMemoryError):
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0]  # torch adds its stack
            reason = self._watch.why_lost() or f"an exchange between processes failed: {first_line}"
            raise TeamError(reason) from error

    @contextmanager
    def telling_failures(self) -> Iterator[None]:
        """Context for the work: an exception inside is sent to the other processes, which then stop as well."""
        try:
            yield
        except BaseException as error:
            # an error that only passes on the failure of another process is not told again
            if self._watch and not (isinstance(error, TeamError) and self._watch.failure()):
                message = str(error) if isinstance(error, TeamError) else f"{type(error).__name__}: {error}"
                self._watch.tell(message)
            raise


ALONE = Team()


@cache
def join() -> Team:
    """The :class:`Team` of this process; the first call connects to the other processes and waits for them.

    Raises
    ------
    ValueError
        If the variables of the launcher are incomplete or disagree with `torch.distributed`.
    OSError
        If the others cannot be reached.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"WORLD_SIZE={given!r} must be the number of processes, at least 1; start them with torchrun")
    size = int(given)
    if dist.is_initialized() and dist.get_world_size() != size:
        raise ValueError(
            f"torch.distributed has {dist.get_world_size()} processes, and WORLD_SIZE says {size}; start them with "
            "torchrun"
        )
    if size == 1:
        return ALONE
    try:
        rank, host, port = int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"WORLD_SIZE is set, but RANK, MASTER_ADDR or MASTER_PORT is missing or no number ({error}); "
            "start the processes with torchrun"
        ) from None
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} of WORLD_SIZE={size}: ranks are counted from 0 to {size - 1}")
    if not 0 < port < 65536:
        raise ValueError(f"MASTER_PORT={port} is no port; expected a number from 1 to 65535")
    return _joined(rank, size, host, port)


def _joined(rank, size, host, port):
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or dist.is_initialized()
    # two connections, since one that waits cannot be used meanwhile
    stores = [reaching.connect(host, port, serves, _TO_MEET) for serves in (rank == 0 and not is_served, False)]
    attempt = _meet(stores[0], rank, size)
    watch = Watch(dist.PrefixStore(attempt, stores[0]), rank, size)
    watch.start()
    team = Team(rank, size, watch)
    atexit.register(_leave, team, rank == 0 and not is_served)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    if not dist.is_initialized():
        store = dist.PrefixStore(f"{attempt}/group", stores[1])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_FOREVER)
    return team


def _meet(store, rank, size):
    """Wait for the others and return a name of this attempt, unlike any that an earlier one has left in the store.

    A restart counter would not do: of several nodes only the one whose process died counts.
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
    if serves:  # the others need this store to read that this process has left
        time.sleep(2 * BEAT)
    if dist.is_initialized() and not failed:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def failure(store: dist.Store) -> str:
    """For the launching process: why the first of the processes that meet in `store` failed; empty if none has."""
    return _written(store, "failed")


def n_steps_done(store: dist.Store) -> int:
    """For the launching process: training steps done by the processes that meet in `store`."""
    return int((_written(store, "beat/0") or "0 0").split()[1])


def _written(store, key):
    """The text that the processes of this attempt have written under `key`; empty if none."""
    if not store.check([_ATTEMPT]):
        return ""
    key = f"{store.get(_ATTEMPT).decode()}/{key}"
    return store.get(key).decode() if store.check([key]) else ""
