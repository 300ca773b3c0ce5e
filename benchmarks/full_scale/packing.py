"""Records and checkpoints in a few files of limited size, and back."""

import gzip
import io
import itertools
import os
import tarfile
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

from gleam.files import written_whole
from gleam.training.checkpoints import load, load_fit

RECORDS, VOLUME = "records.tar.gz", "checkpoints.tar.{:03d}"
MEBIBYTE = 2**20


def pack(folder, records, checkpoints, *, n_files=8, file_bytes=16 * MEBIBYTE - 1, total_bytes=58 * MEBIBYTE):
    """Write `records` and as many `checkpoints` as fit into at most `n_files` files under `folder`.

    Both are dicts of name to path. The records are one tar, compressed; the checkpoints, each that still fits in their
    order, another one, cut into volumes. Returns the names of those that did not fit. Raises ValueError if the records
    alone are too large.
    """
    with written_whole(folder / RECORDS) as temporary:
        temporary.write_bytes(_tar(records, "w:gz"))
        size = temporary.stat().st_size
        if size > min(file_bytes, total_bytes):
            raise ValueError(f"the records take {size} bytes, more than one file may have ({file_bytes})")
    room = min(total_bytes - size, (n_files - 1) * file_bytes) - tarfile.RECORDSIZE  # of padding at the end
    chosen = {}
    for name, path in checkpoints.items():
        size = path.stat().st_size + 4 * tarfile.BLOCKSIZE  # headers of a long name, and padding
        if size <= room:
            chosen[name] = path
            room -= size
    for volume in folder.glob("checkpoints.tar.*"):
        volume.unlink()
    content = _tar(chosen, "w") if chosen else b""
    for i, start in enumerate(range(0, len(content), file_bytes)):
        (folder / VOLUME.format(i)).write_bytes(content[start : start + file_bytes])
    return [name for name in checkpoints if name not in chosen]


def _tar(files, mode):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, path in files.items():
            tar.add(path, name)
    return stream.getvalue()


def unpack(folder, results, work):
    """Bring what :func:`pack` wrote back; returns names of checkpoints that are not whole.

    Records replace those that lie under `results`. A checkpoint under `work` is replaced unless it is further. Raises
    OSError if `folder` holds nothing of the kind.
    """
    if not (folder / RECORDS).is_file():
        raise OSError(f"{folder} holds no {RECORDS}; give the folder that a call with --out has filled")
    try:
        content = gzip.decompress((folder / RECORDS).read_bytes())  # all of it: the checksum comes last
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(results, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{folder / RECORDS} is damaged: {error}") from error
    volumes = itertools.takewhile(Path.is_file, (folder / VOLUME.format(i) for i in itertools.count()))
    stream, damaged = io.BytesIO(b"".join(volume.read_bytes() for volume in volumes)), []
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        with suppress(tarfile.TarError), tarfile.open(fileobj=stream) as tar:  # the last one may be cut short
            tar.extractall(scratch, filter="data")
        for path in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            name = path.relative_to(scratch)
            is_checkpoint = path.suffix == ".safetensors"
            if is_checkpoint and not _is_whole(path):
                damaged.append(str(name))
            elif not is_checkpoint or _n_steps(path) >= _n_steps(work / name):
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, work / name)
    return damaged


def _n_steps(path):
    """Steps of a checkpoint; -1 if there is none, or a damaged one."""
    try:
        return load_fit(path).n_steps_done
    except (ValueError, FileNotFoundError):
        return -1


def _is_whole(path):
    """Whether the digest of a checkpoint is that of its content."""
    try:
        return bool(load(path))
    except ValueError:
        return False
