"""HDF5 files opened for reading or writing, with clear messages for all that can be wrong with them."""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gleam.files import check_room, written_whole

LARGEST_RATIO = 2000  # of the size of data to that of their file: the best compression of HDF5 makes 1030
LARGEST_VALUE = 1e18  # of raw samples: squares and sums of larger ones do not fit a float32
HEAP = b"GCOL\x01\x00\x00\x00"  # first bytes of a global heap; its size follows, and then its objects
OBJECT = struct.Struct("<H6xQ")  # number and size before each object
BEYOND_OPEN_FILES = "too many files are open; close some, or allow more (ulimit -n)"
CAUSES = {  # of errors that are none of the file's
    errno.ENOENT: "there is no such file",
    errno.EAGAIN: (
        "another program writes to it; close that program, or set HDF5_USE_FILE_LOCKING=FALSE in the environment if "
        "there is none"
    ),
    errno.EACCES: "you have no permission to read it",
    errno.EPERM: "you have no permission to read it",
    errno.EMFILE: BEYOND_OPEN_FILES,
    errno.ENFILE: BEYOND_OPEN_FILES,
}


@contextmanager
def opened(path: str | Path, *, expected: str, cure: str = "download or copy it again") -> Iterator[h5py.File]:
    """Context manager: open an HDF5 file for reading.

    Parameters
    ----------
    path : path
        The file.
    expected : str
        Name of the format, for messages.
    cure : str
        What to do if the file is damaged.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is not HDF5, or truncated or damaged, also while it is read; its `errno` is None. If the file cannot be
        read for another reason, such as a lock or a missing permission, the message and `errno` say so.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:  # h5py raises each for damaged files
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise  # the reader's own message names the file
        raise explained(error, path, f"expected {expected}, {cure}") from None


@contextmanager
def written(path: str | Path, n_bytes: int = 0) -> Iterator[h5py.File]:
    """Context manager: an HDF5 file that is written whole or not at all.

    Parameters
    ----------
    path : path
        The file.
    n_bytes : int
        What it will take at least.

    Raises
    ------
    OSError
        If the disk has less than `n_bytes` free, or becomes full meanwhile. What was there before stays.
    """
    with written_whole(path) as temporary:
        check_room(path, n_bytes)
        with _Stream(temporary, "w+") as stream:
            try:
                with h5py.File(stream, "w") as file:
                    yield file
            finally:
                if stream.error is not None:
                    raise stream.error


class _Stream(io.FileIO):
    """A file that keeps the first error of writing to itself: HDF5 ends the process when it meets one."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(content)  # even if it failed: HDF5 shall go on, and `written` raises the error

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.tell() if size is None else size


def explained(error: Exception, path: str | Path, cure: str) -> OSError:
    """What an `error` of h5py means for the file `path`, as an OSError: what the system refuses, or else damage.

    Parameters
    ----------
    error : Exception
    path : path
    cure : str
        What to do about damage.
    """
    number = getattr(error, "errno", None)
    if number is None:
        what = "is truncated or damaged" if h5py.is_hdf5(path) else "is not an HDF5 file"
        return OSError(f"{path}: {what}; {cure} ({error})")
    kind = type(error) if isinstance(error, OSError) else OSError
    found = kind(f"{path}: cannot be read, {CAUSES.get(number, os.strerror(number))}")
    found.errno = number
    return found


def dataset(file: h5py.File, name: str, path: str | Path, expected: str) -> h5py.Dataset:
    """The data set `name` of an opened file, checked but not read.

    Raises
    ------
    ValueError
        If there is none, if its values lie in other files (HDF5 reads zeros where such a file is missing), if they were
        never written, or if they are far more than the file can hold.
    """
    # every group on the way, since each may be a link to another file
    places = ["/".join(name.split("/")[: i + 1]) for i in range(name.count("/") + 1)]
    for place in places:
        link = file.get(place, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{path}: '{place}' is a link to {link.filename}; expected the data in the file itself")
        if link is None or place not in file or (found := file.get(place)) is None:
            raise ValueError(f"{path}: holds no '{place}' but {sorted(file)}; expected {expected}")
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        kind = "a group" if isinstance(found, h5py.Group) else "empty"
        raise ValueError(f"{path}: '{name}' is {kind}; expected a data set of {expected}")
    if found.file.filename != file.filename or found.is_virtual or found.external:
        raise ValueError(
            f"{path}: the values of '{name}' lie in other files; expected them in the file itself (as h5repack does)"
        )
    check_size(math.prod(found.shape) * found.dtype.itemsize, path, f"'{name}', {found.shape},")
    # HDF5 would fill them in with zeros
    if found.size and not found.id.get_storage_size():
        raise ValueError(f"{path}: the values of '{name}' were never written; expected {expected}")
    return found


def check_size(n_bytes: float, path: str | Path, what: str) -> None:
    """Raise ValueError if `what` takes far more bytes than the file `path` can hold, before memory is taken for it."""
    n_held = Path(path).stat().st_size
    if n_bytes > LARGEST_RATIO * n_held:
        raise ValueError(
            f"{path}: {what} would take {n_bytes / 1e9:.3g} GB, and the file has {n_held / 1e9:.3g}; expected sizes "
            "that fit its contents"
        )


def check_values(values: np.ndarray, path: str | Path, where: str) -> None:
    """Raise ValueError if samples, contiguous in memory, are NaN, infinite, or too large to compute with."""
    parts = values.view(values.real.dtype)
    if not max(parts.max(initial=0), -parts.min(initial=0)) < LARGEST_VALUE:  # also for NaN
        raise ValueError(
            f"{path}: the k-space{where} holds NaN or infinite values, or larger ones than {LARGEST_VALUE:.0e}; "
            "expected finite ones"
        )


def first(dataset: h5py.Dataset) -> Any:
    """The only value of a small data set, or its first, such as a text that was written as an array of one."""
    values = np.ravel(dataset[()])
    return values[0] if len(values) else b""


def text(value: Any) -> str:
    """A string that HDF5 holds as text, as bytes, or as an array with one of these."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def attribute(file: h5py.File, name: str, default: Any = None) -> Any:
    """The attribute `name` of an opened file as text, or the default if there is none or an empty one."""
    value = file.attrs.get(name)
    return default if value is None or isinstance(value, h5py.Empty) else text(value)


def check_heaps(path: str | Path, cure: str = "download or copy it again") -> None:
    """Raise OSError if zeros were written over the strings or the lines of different length in an HDF5 file.

    HDF5 2.0 loops for ever where it reads such a place: an object number 0, free space, of size 0. The whole file is
    searched, about 1 GB a second, and only once while it is unchanged.
    """
    status = Path(path).stat()
    _check_heaps(path, cure, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _check_heaps(path, cure, *_):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(HEAP)
        while at >= 0:
            end = min(at + int.from_bytes(content[at + 8 : at + 16], "little"), len(content))
            at += OBJECT.size
            while at + OBJECT.size <= end:
                number, size = OBJECT.unpack_from(content, at)
                if number == size == 0:
                    raise OSError(f"{path}: is damaged, zeros lie over its contents at byte {at}; {cure}")
                # free space counts its own head; an object does not, and is padded to 8 bytes
                at += size if number == 0 else OBJECT.size + -(-size // 8) * 8
            at = content.find(HEAP, min(max(at, 0), end))
