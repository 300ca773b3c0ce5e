"""One file of another server, fetched whole or not at all, and whether an HDF5 file is whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import h5py
from tqdm.auto import tqdm

from gleam.files import written_whole

MAX_BYTES, MAX_SECONDS = 64e9, 12 * 3600  # of one file: many times what the sets have


def check_whole(path: Path, source: str) -> None:
    """Raise OSError unless `path` is an HDF5 file that can be opened and is as long as it says."""
    if not h5py.is_hdf5(path):
        raise OSError(f"it did not give an HDF5 file; is it the address of a data set of {source}?")
    check_opens(path, "it did not give", "it was cut short or damaged on the way")
    size, expected = path.stat().st_size, _length_in_superblock(path)
    if size != expected:
        raise OSError(f"it gave {size} bytes, and the HDF5 file in them has {expected} according to its superblock")


def check_opens(path: Path, said: str, advice: str) -> None:
    """Raise OSError, "`said` a whole HDF5 file (reason); `advice`", unless `path` is one that can be opened."""
    try:
        with h5py.File(path, "r") as file:
            list(file)
    except (OSError, RuntimeError, KeyError) as error:
        raise OSError(f"{said} a whole HDF5 file ({error}); {advice}") from None


def _length_in_superblock(path):
    """Bytes of an HDF5 file according to itself (HDF5 File Format Specification, II.A)."""
    with open(path, "rb") as file:
        start = 0
        while file.read(8) != b"\x89HDF\r\n\x1a\n":  # after a user block of 512, 1024, 2048, ... bytes
            start = max(512, 2 * start)
            file.seek(start)
        block = file.read(64)
    sizes, end = (block[5], 16 + 2 * block[5]) if block[0] < 2 else (block[1], 4 + 2 * block[1])
    if block[0] == 1:
        end += 4
    return int.from_bytes(block[end : end + sizes], "little")


def fetch(url: str, path: Path, progress: bool, check: Callable[[Path], None] = lambda path: None) -> None:
    """Write what `url` gives to `path`, whole or not at all; `check` raises OSError if the content is wrong."""
    import requests
    from urllib3.exceptions import HTTPError

    started = time.monotonic()
    try:
        with written_whole(path) as temporary:
            with requests.get(url, stream=True, timeout=60) as answer, open(temporary, "wb") as file:
                answer.raise_for_status()
                if answer.status_code != 200:
                    raise OSError(f"the server answered with status {answer.status_code}, not with the whole file")
                n_bytes = int(answer.headers.get("Content-Length", 0))
                with tqdm(
                    total=n_bytes or None, desc=path.name, unit="B", unit_scale=True, disable=not progress
                ) as bar:
                    while piece := answer.raw.read1(2**20, decode_content=True):  # what is there, without waiting
                        bar.update(file.write(piece))
                        if max(file.tell(), n_bytes) > MAX_BYTES:
                            raise OSError(f"the file is larger than {MAX_BYTES / 1e9:g} GB, the most that is expected")
                        if time.monotonic() - started > MAX_SECONDS:
                            raise OSError(f"it was not complete after {MAX_SECONDS / 3600:g} hours")
            check(temporary)
    except (OSError, ValueError, HTTPError) as error:  # requests' own errors are OSErrors too
        raise OSError(f"{url} could not be downloaded to {path}: {error}; run again to go on from this file") from None
