"""Signs of life between the processes of one run, and the end of a process when one of the others has failed."""

import os
import sys
import threading
import time
from contextlib import suppress

PATIENCE = 30.0  # seconds without a sign of life after which a process counts as dead
BEAT = 0.5  # seconds between two signs of life


class Watch(threading.Thread):
    """Gives signs of life, listens for those of the others, and ends the process when one of them has failed.

    A thread of its own, because the main thread may be waiting inside a library for one that is dead. Silence is
    counted in rounds of this thread: when the whole machine sleeps, nobody has been silent. ``store``: where process
    ``rank`` of ``size`` and the others write; that of this attempt alone.
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
            time.sleep(BEAT)
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
        silent = [r for r, n in self.silent_rounds.items() if n * BEAT >= seconds and r not in self.left]
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
            time.sleep(BEAT / 2)
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
            if n_rounds * BEAT >= PATIENCE:
                self._end("the store where the processes meet does not answer: its process or machine has stopped")
            time.sleep(BEAT)

    def _end(self, failure):
        with suppress(OSError, ValueError):
            print(f"gleam: process {self.rank} ends, because {failure}", file=sys.stderr, flush=True)
        os._exit(1)
