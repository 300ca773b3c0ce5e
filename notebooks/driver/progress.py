"""What the reader sees while chapters run: one live line for each on a terminal, an occasional line elsewhere."""

import shutil
import sys
import threading
import time


class Progress:
    """Shows the last line of output of every running chapter; safe to call from several threads."""

    def __init__(self, stream=None, every_seconds=20):
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._every_seconds = every_seconds
        self._lock = threading.Lock()
        self._last, self._printed, self._n_drawn = {}, {}, 0

    def show(self, name, line):
        """Note a chapter's newest line of output."""
        with self._lock:
            self._last[name] = line
            now = time.monotonic()
            if self._live:
                if now - self._printed.get("", 0) > 0.1:  # ten times a second at most
                    self._printed[""] = now
                    self._draw()
            # the first line after a while too: short chapters say nothing
            elif now - self._printed.setdefault(name, now) >= self._every_seconds:
                self._printed[name] = now
                print(f"{name}: {line}", file=self._stream, flush=True)

    def done(self, name, sentence):
        """Say how a chapter ended; its live line goes away."""
        with self._lock:
            self._last.pop(name, None)
            self._erase()
            print(f"{name}: {sentence}", file=self._stream, flush=True)
            if self._live:
                self._draw()

    def _erase(self):
        if self._n_drawn:
            # up to the first line that was drawn, and clear all below
            self._stream.write(f"\x1b[{self._n_drawn}A\x1b[J")
            self._n_drawn = 0

    def _draw(self):
        self._erase()
        width = shutil.get_terminal_size().columns - 1
        for name, line in self._last.items():
            self._stream.write(f"{name}: {line}"[:width] + "\n")
        self._n_drawn = len(self._last)
        self._stream.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            self._erase()
