"""Files written whole or not at all, and names for what made them."""

import hashlib
import inspect
import json
import multiprocessing
import os
import sys
import threading
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm


@contextmanager
def written_whole(path):
    """Yield a temporary path beside ``path``; it takes the name ``path`` only if the block succeeds.

    Raises OSError, with a sentence, if the folder cannot be made or written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with _writable(path):
        temporary.touch(exist_ok=False)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder):
    """Make ``folder`` and see that files can be written there. Raises OSError, with a sentence, if not."""
    mark = Path(folder) / ".writable"
    with written_whole(mark):
        pass
    mark.unlink(missing_ok=True)


@contextmanager
def locked(path, waiting=""):
    """Hold the lock file ``path`` alone among processes; it ends with its process.

    Whoever comes second waits, and prints ``waiting``.

    Where the system has no such locks (Windows, some network drives) nobody waits. Raises OSError as above.
    """
    path = Path(path)
    with _writable(path):
        file = open(path, "w")
    with file:
        with suppress(ImportError, OSError):
            from fcntl import LOCK_EX, LOCK_NB, flock

            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if waiting:
                    tqdm.write(waiting)
                flock(file, LOCK_EX)
        yield


@contextmanager
def _writable(path):
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to"
        ) from error


def write_json(path, content):
    """Write ``content`` as indented JSON, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def digest(content):
    """SHA-256 (hex) of anything that JSON can hold, paths and NumPy's single numbers too, independent of key order.

    Raises TypeError for anything else: the text of an array or an object need not tell it from another.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be part of a key; expected numbers, texts, lists and dicts")


def described(function):
    """Name and arguments, defaults included, of a function or a partial of one: what makes its results, for JSON.

    Raises ValueError for a lambda or a local function, which has no name that lasts.
    """
    partials = []
    inner = function
    while isinstance(inner, partial):
        partials.append(inner)
        inner = inner.func
    module = getattr(inner, "__module__", "?")
    short = f"gleam.{module.rpartition('.')[2]}"  # the name that users import it by, whatever room it is in
    if module.startswith("gleam.") and short in sys.modules:
        module = short
    name = f"{module}.{getattr(inner, '__qualname__', repr(inner))}"
    if "<" in name:
        raise ValueError(f"{name} cannot be named in a cache; expected a function of a module or a partial of one")
    parameters = inspect.signature(function).parameters.values()
    arguments = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {"function": name, "arguments": arguments, "positional": [list(p.args) for p in partials if p.args]}


def end_with_parent():
    """For the start of a worker process: end with the process that started it, even if that one was killed."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def n_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
