"""Records and checkpoints in a few files of limited size, and back."""

import gzip
import io
import tarfile
import zlib
from contextlib import suppress

from gleam.files import written_whole
from gleam.training.checkpoints import load

RECORDS, VOLUMES = "records.tar.gz", "checkpoints.tar.*"
MEBIBYTE = 2**20


def pack(folder, records, checkpoints, *, n_files=8, file_bytes=16 * MEBIBYTE - 1, total_bytes=58 * MEBIBYTE):
    """Write `records` and as many `checkpoints` as fit into at most `n_files` files under `folder`.

    Both are dicts of name to path. The records are one tar, compressed; the checkpoints, each that still fits in their
    order, another one, cut into volumes. Returns the names of those that did not fit. Raises ValueError if the records
    alone are too large.
    """
    packed = _tar(records, "w:gz")
    if len(packed) > min(file_bytes, total_bytes):
        raise ValueError(f"the records take {len(packed)} bytes, more than one file may have ({file_bytes})")
    with written_whole(folder / RECORDS) as temporary:
        temporary.write_bytes(packed)
    room = min(total_bytes - len(packed), (n_files - 1) * file_bytes) - tarfile.RECORDSIZE  # of padding at the end
    chosen = {}
    for name, path in checkpoints.items():
        size = path.stat().st_size + 4 * tarfile.BLOCKSIZE  # headers of a long name, and padding
        if size <= room:
            chosen[name] = path
            room -= size
    for volume in folder.glob(VOLUMES):
        volume.unlink()
    content = _tar(chosen, "w") if chosen else b""
    for i, start in enumerate(range(0, len(content), file_bytes)):
        (folder / f"checkpoints.tar.{i:03d}").write_bytes(content[start : start + file_bytes])
    return [name for name in checkpoints if name not in chosen]


def _tar(files, mode):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, path in files.items():
            tar.add(path, name)
    return stream.getvalue()


def unpack(folder, results, work):
    """Bring what :func:`pack` wrote back; returns names of checkpoints that are not whole, which are removed.

    Records replace those that lie under `results`. A file under `work` that was written later stays. Raises OSError if
    `folder` holds nothing of the kind.
    """
    if not (folder / RECORDS).is_file():
        raise OSError(f"{folder} holds no {RECORDS}; give the folder that a call with --out has filled")
    try:
        content = gzip.decompress((folder / RECORDS).read_bytes())  # all of it: the checksum comes last
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(results, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{folder / RECORDS} is damaged: {error}") from error
    taken = []

    def unless_older(member, place):
        path = work / member.name
        if path.exists() and path.stat().st_mtime > member.mtime:
            return None
        taken.append(path)
        return tarfile.data_filter(member, place)

    stream = io.BytesIO(b"".join(volume.read_bytes() for volume in sorted(folder.glob(VOLUMES))))
    with suppress(tarfile.TarError, ValueError), tarfile.open(fileobj=stream) as tar:  # the last may be cut short
        tar.extractall(work, filter=unless_older)
    damaged = [path for path in taken if path.suffix == ".safetensors" and path.is_file() and not _is_whole(path)]
    for path in damaged:
        path.unlink()
    return [str(path.relative_to(work)) for path in damaged]


def _is_whole(path):
    """Whether the digest of a checkpoint is that of its content."""
    with suppress(ValueError):
        return bool(load(path))
