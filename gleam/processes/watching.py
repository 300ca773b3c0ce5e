"""Heartbeats between the processes of one run, and the end of a process when another one has failed."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress

import torch.distributed as dist

PATIENCE = 30.0  # seconds without a heartbeat after which a process counts as dead
BEAT = 0.5  # seconds between two heartbeats


class Watch(threading.Thread):
    """A thread that sends heartbeats, reads those of the others, and ends the process when another one has failed.

    A separate thread is needed because the main thread may wait inside a library for a dead process. Silence is counted
    in rounds of this thread, so that no process counts as silent when the whole machine sleeps.

    Parameters
    ----------
    store : torch.distributed.Store
        Where the processes write, for this attempt only.
    rank, size : int
        Number of this process, and of all processes.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        super().__init__(daemon=True)
        self.store, self.rank, self.size = store, rank, size
        self.n_steps_done = self.n_rounds = 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.beats: dict[int, bytes | None] = {}
        self.silent_rounds: dict[int, int] = {}
        self.left: set[int] = set()
        self.beat()

    def start(self) -> None:
        """Start this thread and a second one that ends the process if the store hangs: it then raises no error."""
        super().start()
        threading.Thread(target=self._guard, daemon=True).start()

    def run(self) -> None:
        """Send and read heartbeats until :meth:`leave`, or until the first process has left."""
        while not self.over.wait(BEAT):
            try:
                self.beat()
                self.listen()
                failure = self.failure() or self.silence(PATIENCE)
                if failure and not self.over.is_set():
                    self._note(failure)  # so that all processes name the same reason
            except RuntimeError:
                failure = "" if 0 in self.left else "the store where the processes meet is gone"
            if failure and not self.over.is_set():
                self._end(failure)
            if 0 in self.left:  # the store may end with the first process
                return

    def beat(self) -> None:
        """Send a heartbeat with the number of steps done so far."""
        self.n_rounds += 1
        with self.lock:
            self.store.set(f"beat/{self.rank}", f"{self.n_rounds} {self.n_steps_done}")

    def listen(self) -> None:
        """Count for how many rounds each of the others has been silent."""
        for rank in (r for r in range(self.size) if r != self.rank and r not in self.left):
            key = f"beat/{rank}"
            with self.lock:
                beat = self.store.get(key) if self.store.check([key]) else None
                if self.store.check([f"left/{rank}"]):
                    self.left.add(rank)
            self.silent_rounds[rank] = self.silent_rounds.get(rank, 0) + 1 if beat == self.beats.get(rank) else 0
            self.beats[rank] = beat

    def silence(self, seconds: float) -> str:
        """Message that names the processes without a heartbeat for `seconds`; empty if there are none."""
        silent = [r for r, n in self.silent_rounds.items() if n * BEAT >= seconds and r not in self.left]
        if not silent:
            return ""
        names = " and ".join(f"process {r}" for r in silent)
        return (
            f"{names} of {self.size} gave no sign of life for {seconds:g} s: killed (out of memory?), stopped, or "
            "its machine is gone"
        )

    def failure(self) -> str:
        """Message of the first process that failed; empty if none has or if it is this one."""
        with self.lock, suppress(RuntimeError):
            if self.store.check(["failed"]):
                told = self.store.get("failed").decode()
                return "" if told.startswith(f"process {self.rank} of {self.size} stopped") else told
        return ""

    def tell(self, reason: str) -> None:
        """Tell all processes that this one failed; only the first failure of a run is kept."""
        self._note(f"process {self.rank} of {self.size} stopped: {reason}")

    def why_lost(self, seconds: float = 4.0) -> str:
        """Why a connection broke: the message of a process that failed, or the processes without a heartbeat.

        Waits up to `seconds` for such a message.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if told := self.failure():
                return told
            time.sleep(BEAT / 2)
        return self.silence(seconds / 2)

    def leave(self) -> None:
        """Declare that this process ends normally, so that its silence is no failure, and end the watching thread.

        A thread that is inside the store while the interpreter ends aborts the process.
        """
        self.over.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(PATIENCE)
        with self.lock, suppress(RuntimeError):
            self.store.set(f"left/{self.rank}", "")

    def _note(self, failure):
        with self.lock, suppress(RuntimeError):
            self.store.compare_set("failed", "", failure)  # writes only if nothing is there

    def _guard(self):
        """End the process if the rounds of the watching thread have stopped: its store does not answer."""
        seen, n_rounds = None, 0
        while not self.over.wait(BEAT) and self.is_alive():
            n_rounds, seen = (n_rounds + 1 if seen == self.n_rounds else 0), self.n_rounds
            if n_rounds * BEAT >= PATIENCE:
                self._end("the store where the processes meet does not answer: its process or machine has stopped")

    def _end(self, failure):
        with suppress(OSError, ValueError):
            print(f"gleam: process {self.rank} ends, because {failure}", file=sys.stderr, flush=True)
        os._exit(1)
