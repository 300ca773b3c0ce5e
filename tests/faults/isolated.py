"""Calls in processes of their own, whose end, time and memory are seen from outside."""

import os
import pickle
import resource
import select
import signal
import time
import traceback
from dataclasses import dataclass

GIGABYTE = 10**9


@dataclass(frozen=True)
class Outcome:
    """What became of a call: "value", "error" (one of ours, that names the file), or what must not be."""

    kind: str
    value: object = None
    words: str = ""

    @property
    def is_good(self):
        return self.kind in ("value", "error")


def isolated(function, *arguments, named="", seconds=20.0, limit=None):
    """Call a function in a forked process; `limit` is called there first."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _answer(writing, function, arguments, named, limit)
    os.close(writing)
    content, is_over = _read(reading, time.monotonic() + seconds)
    if not is_over:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    if not is_over:
        return Outcome("hang", words=f"longer than {seconds:g} s")
    if not content:
        return Outcome("died", words=f"status {status}")
    outcome = pickle.loads(content)
    if used.ru_maxrss * 1024 > 2 * GIGABYTE:
        return Outcome("memory", words=f"{used.ru_maxrss / 1e6:.1f} GB, {outcome.words}")
    return outcome


def _answer(writing, function, arguments, named, limit):
    try:
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 3 * GIGABYTE,) * 2)
        if limit:
            limit()
        outcome = Outcome("value", function(*arguments))
    except (ValueError, OSError) as error:
        is_ours = named in str(error) and type(error).__module__ == "builtins" and str(error).count("\n") == 0
        outcome = Outcome("error" if is_ours else "cryptic", words=f"{type(error).__name__}: {error}")
    except MemoryError as error:
        outcome = Outcome("memory", words=str(error))
    except BaseException:
        outcome = Outcome("cryptic", words=" | ".join(traceback.format_exc().strip().splitlines()[-3:]))
    with os.fdopen(writing, "wb") as stream:
        stream.write(pickle.dumps(outcome))
    os._exit(0)


def _read(reading, deadline):
    content = b""
    with os.fdopen(reading, "rb", buffering=0) as stream:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([stream], [], [], left)[0]:
                piece = stream.read(65536)
                if not piece:
                    return content, True
                content += piece
    return content, False
