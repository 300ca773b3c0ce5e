"""Files written completely or not at all, locks, digests that name files by what made them, and numbers for these."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import math
import operator
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import nn
from tqdm.auto import tqdm

DAY = 24 * 3600  # seconds; a file that is being written changes more often


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Context that yields a temporary path beside `path`, which is renamed to `path` only if the block succeeds.

    Raises OSError with a clear message if the folder cannot be made or written, or if the disk is full. What was there
    before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        with _writable(path):
            temporary.touch(exist_ok=False)
        remove_leftovers(path.parent)
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # a full disk, which libraries tell in their own words
            if getattr(error, "errno", None) == code or re.search(rf"(errno = |os error |Errno ){code}\b", str(error)):
                reason = os.strerror(code)
                raise OSError(f"cannot write {path}: {reason}; make room there and call again") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what :func:`written_whole` has left in `folder` when its process was killed; what is being written stays.

    The process is gone if this machine has none of its number. Of another machine's file only the age tells: a day.
    """
    for path in folder.glob(".*.part"):
        made_by = re.search(r"\.(?:([0-9a-f]{4})-(\d+)-)?[0-9a-f]{8}\.part$", path.name)
        with suppress(OSError):  # another process may be removing the same file
            if made_by and (
                (made_by[1] == _here() and not is_running(int(made_by[2]))) or time.time() - path.stat().st_mtime > DAY
            ):
                path.unlink()


@cache
def _here():
    """Four digits that name this machine or, where it runs several, this container: whose numbers processes have."""
    name = platform.node()
    with suppress(OSError):  # only Linux has it
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:4]


def is_running(process_id: int) -> bool:
    """Whether this machine has a process of this number."""
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    return True


def check_room(path: str | Path, n_bytes: int) -> None:
    """Raise OSError if the disk of `path` has no room for `n_bytes`: better said before hours of work."""
    free = shutil.disk_usage(Path(path).parent).free
    if n_bytes > free:
        sizes = f"it needs {n_bytes / 1e6:.1f} MB and {free / 1e6:.1f} MB are free"
        raise OSError(f"cannot write {path}: {sizes}; make room there and call again")


def check_writable(folder: str | Path) -> None:
    """Make `folder` and test that files can be written there; OSError with a clear message if not."""
    mark = Path(folder) / ".writable"
    with written_whole(mark):
        pass
    mark.unlink(missing_ok=True)


@contextmanager
def locked(path: str | Path, waiting: str = "") -> Iterator[None]:
    """Context that holds the lock file `path`, which only one process can hold at a time.

    Parameters
    ----------
    path : path
        The lock is released at the end of the block or of the process.
    waiting : str
        Printed if another process holds the lock, before waiting for it.

    Raises
    ------
    OSError
        If the folder cannot be made or written.

    Notes
    -----
    Where the file system has no such locks (some network drives) the block runs without one.
    """
    lock = FileLock(path)
    with _writable(path), suppress(NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                tqdm.write(waiting)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writable(path):
    """Make the folder of `path`; an OSError of the block gets a message that says what to do."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to"
        ) from error


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON, completely or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def weights_digest(network: nn.Module) -> str:
    """Digest of the weights of a network, any module of torch."""
    return digest([[key, value.cpu().numpy().tobytes().hex()] for key, value in network.state_dict().items()])


def digest(content: object) -> str:
    """SHA-256 (hex) of anything that JSON can hold, and of paths and NumPy scalars, independent of the order of keys.

    Raises TypeError for anything else, since the text of an array or object may be the same for different ones.
    """

    def for_json(value):
        if isinstance(value, np.generic):
            return plain(value)
        if isinstance(value, os.PathLike):
            return str(value)
        raise TypeError(f"a {type(value).__name__} cannot be part of a key; expected numbers, texts, lists and dicts")

    return hashlib.sha256(json.dumps(content, sort_keys=True, default=for_json).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python number that is written in the same way (0.001 for `np.float32(1e-3)`).

    Anything else is returned as it is.
    """
    if isinstance(value, np.floating):
        return float(str(value))  # by its text, since float() would give 0.0010000000474974513
    return value.item() if isinstance(value, np.generic) else value


def is_whole_number(value: Any, least: int = 1, most: float = math.inf) -> bool:
    """Whether `value` is a whole number from `least` to `most`, of Python or NumPy; True and False are none."""
    try:
        return not isinstance(value, bool | np.bool_) and least <= operator.index(value) <= most
    except TypeError:
        return False


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """The argument `name` as an int, also if it is of NumPy; ValueError unless it is whole and at least `least`."""
    if not is_whole_number(value, least):
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return operator.index(value)


def finite_number(value: Any, name: str) -> int | float:
    """The argument `name` as a number of Python; ValueError unless it is a finite number of at least 0."""
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, Real):
        raise ValueError(f"{name}={value!r} must be a number")
    found = found if isinstance(found, int) else float(found)
    if not 0 <= found < math.inf:
        raise ValueError(f"{name}={value!r} must be finite and not negative")
    return found


def described(function: Callable) -> dict:
    """Name and arguments of a function of a module, or of a `functools.partial` of one, for JSON: a key of its results.

    Returns
    -------
    dict
        `function`: its name with the module; `arguments`: defaults and the keywords of partials; `positional`: the
        positional arguments of partials; `code`: a digest of a function that is not of this project, whose name may
        stand for another one tomorrow.

    Raises
    ------
    ValueError
        For a lambda or a local function, whose name is not unique.
    """
    partials = []  # Python joins a partial of a partial to one, unless it has attributes
    inner = function
    while isinstance(inner, partial):
        partials.append(inner)
        inner = inner.func
    module = getattr(inner, "__module__", "?")
    short = f"gleam.{module.rpartition('.')[2]}"  # users import it by this name; it stays when a module moves
    if module.startswith("gleam.") and short in sys.modules:
        module = short
    name = f"{module}.{getattr(inner, '__qualname__', repr(inner))}"
    if "<" in name:  # <lambda>, <locals>
        raise ValueError(f"{name} cannot be named in a cache; expected a function of a module or a partial of one")
    parameters = inspect.signature(function).parameters.values()
    arguments = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    positional = [list(p.args) for p in partials if p.args]
    code = {} if module.startswith("gleam.") else {"code": digest(_code(getattr(inner, "__code__", None)))[:16]}
    return {"function": name, "arguments": arguments, "positional": positional} | code


def _code(made):
    """What a function does, as bytecode: that of a notebook's cell has no source in another process."""
    if inspect.iscode(made):
        return [made.co_code.hex(), made.co_names, _code(made.co_consts)]
    if isinstance(made, tuple):
        return [_code(part) for part in made]
    return sorted(map(repr, made)) if isinstance(made, frozenset) else repr(made)  # whose order is not the same twice


def named(value: Any) -> str:
    """A name of a callable that is the same in every process, for the name of a training run.

    That of a function or class is its own; a partial function is named with its arguments, a module of torch with a
    digest of its weights and attributes; others have their `repr`, and several are a list. Raises ValueError for what
    cannot be named: a lambda, a function inside another one, a bound method, a partial with an array, or a `repr` with
    an address in memory.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(named, value))}]"
    if isinstance(value, nn.Module):
        simple = {key: v for key, v in sorted(vars(value).items()) if isinstance(v, int | float | str)}
        return f"{type(value).__qualname__} {digest([repr(value), simple, weights_digest(value)])[:12]}"
    if isinstance(value, partial):
        given = [*value.args, *value.keywords.values()]
        keys = [*[""] * len(value.args), *(f"{key}=" for key in value.keywords)]
        texts = [f"{key}{named(one) if callable(one) else repr(one)}" for key, one in zip(keys, given, strict=True)]
        is_name = not any(hasattr(one, "shape") and hasattr(one, "dtype") for one in given)  # an array's text has gaps
        name = f"partial({', '.join([named(value.func), *texts])})" if is_name else repr(value)
    else:
        name = getattr(value, "__qualname__", "") or repr(value)
        is_name = not ("<l" in name or " at 0x" in name or inspect.ismethod(value))  # <lambda>, <locals>
    if not is_name:
        raise ValueError(
            f"{name} cannot be named, so the training run could not be found again; expected a function defined with "
            "def outside of others, or an object with a repr of its own"
        )
    return name


def n_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
