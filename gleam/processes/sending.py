"""Work on its way to new processes: as bytes, with what a notebook's cell or a script has defined in them."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

HAS_JOBLIB = find_spec("joblib") is not None  # `make records` also runs where only torch is installed


def context() -> Any:
    """The kind of new processes: they do not import the script or notebook that starts them, if joblib is there."""
    if not HAS_JOBLIB:
        return multiprocessing.get_context("spawn")
    from joblib.externals.loky.backend import get_context

    return get_context("loky")


def packed(value: Any) -> bytes:
    """`value` as bytes; classes and functions of a notebook's cell or a script are put in, those of modules named.

    Raises ValueError with the reason if it cannot be sent.
    """
    try:
        return _dumps(value)
    except Exception as error:  # each type has errors of its own
        raise _cannot_be_sent(_culprit(value), error) from error


def unpacked(work: bytes) -> Any:
    """The value of :func:`packed`, in the new process; ValueError with the reason if this process cannot make it."""
    try:
        return pickle.loads(work)
    except (AttributeError, ImportError) as error:
        raise _cannot_be_sent("an object of yours", error) from error


def _dumps(value):
    if not HAS_JOBLIB:
        return pickle.dumps(value)
    from joblib.externals.loky.backend import reduction  # cloudpickle, which has no place of its own in all versions

    return bytes(reduction.dumps(value))


def _cannot_be_sent(name, error):
    """The one explanation for work that no new process can get."""
    return ValueError(
        f"{name} cannot be sent to a new process ({error}): define it in a module, a .py file that can be imported, "
        "without locks, open files and generators in it, or work in this process alone (n_jobs=1, n_processes=1)"
    )


def _culprit(value):
    """Name of the innermost class or function in `value` that cannot be sent."""
    name, seen, part = "the work", {id(value)}, value
    while part is not None:
        if not isinstance(part, list | tuple | dict | partial):
            called = getattr(part, "__qualname__", None) or type(part).__qualname__
            module = getattr(part, "__module__", None) or type(part).__module__
            # of a lock or an open file the object that holds it is named
            name = name if module in ("builtins", "_thread", "_io") else f"{module}.{called}"
        # objects may refer to each other in a circle
        parts = (one for one in _parts(part) if id(one) not in seen and not _can_be_sent(one))
        part = next(parts, None)
        seen.add(id(part))
    return name


def _parts(value) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, partial):
        return value.func, *value.args, *value.keywords.values()
    return () if isinstance(value, type) else getattr(value, "__dict__", {}).values()


def _can_be_sent(value):
    try:
        _dumps(value)
    except Exception:
        return False
    return True
