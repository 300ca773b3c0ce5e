"""Records and checkpoints in a few files of limited size, and back."""

import gzip
import io
import itertools
import shutil
import tarfile
import zlib
from pathlib import Path

from gleam.files import written_whole

RECORDS, VOLUME = "records.tar.gz", "checkpoints.tar.{:03d}"
MEBIBYTE = 2**20


def pack(folder, records, checkpoints, *, n_files=8, file_bytes=16 * MEBIBYTE - 1, total_bytes=58 * MEBIBYTE):
    """Write ``records`` and as many ``checkpoints`` as fit into at most ``n_files`` files under ``folder``.

    Both are dicts of name to path. The records are one ``records.tar.gz``; the checkpoints, in their order, one tar cut
    into volumes ``checkpoints.tar.000`` and so on. Volumes of before are removed. Returns the names of checkpoints that
    did not fit. Raises ValueError if the records alone are too much.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / RECORDS) as temporary:
        with tarfile.open(temporary, "w:gz") as tar:
            _add(tar, records)
        used = temporary.stat().st_size
        if used > min(file_bytes, total_bytes):
            raise ValueError(f"the records take {used} bytes, more than one file may have ({file_bytes})")
    chosen = _that_fit(checkpoints, min(total_bytes - used, (n_files - 1) * file_bytes))
    stream = io.BytesIO()
    if chosen:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            _add(tar, chosen)
    _write_volumes(folder, stream.getbuffer(), file_bytes)
    return [name for name in checkpoints if name not in chosen]


def _write_volumes(folder, content, file_bytes):
    for volume in folder.glob("checkpoints.tar.*"):
        volume.unlink()
    for i, start in enumerate(range(0, len(content), file_bytes)):
        (folder / VOLUME.format(i)).write_bytes(content[start : start + file_bytes])


def unpack(folder, records_folder, checkpoints_folder):
    """Bring what :func:`pack` wrote back under two folders; returns names of checkpoints that were cut short.

    What lies there under the same names is replaced. Raises OSError if ``folder`` holds nothing of the kind.
    """
    folder = Path(folder)
    if not (folder / RECORDS).is_file():
        raise OSError(f"{folder} holds no {RECORDS}; give the folder that a call with --out has filled")
    try:
        with tarfile.open(folder / RECORDS, "r:gz") as tar:
            for member in tar:
                _extract(tar, member, records_folder)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise OSError(f"{folder / RECORDS} is damaged: {error}") from error
    volumes = list(itertools.takewhile(Path.is_file, (folder / VOLUME.format(i) for i in itertools.count())))
    stream = io.BytesIO(b"".join(volume.read_bytes() for volume in volumes))
    return _checkpoints(stream, checkpoints_folder) if volumes else []


def _checkpoints(stream, folder):
    damaged = []
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in _members(tar):
                try:
                    _extract(tar, member, folder)
                except (tarfile.TarError, EOFError):
                    damaged.append(member.name)
    except tarfile.TarError:
        damaged.append("what checkpoints.tar.* hold")
    return damaged


def _members(tar):
    """Members up to the end of what is there."""
    try:
        yield from tar
    except tarfile.ReadError:
        return


def _extract(tar, member, folder):
    if not member.isfile() or ".." in Path(member.name).parts or Path(member.name).is_absolute():
        raise tarfile.TarError(f"{member.name} is no file of ours")
    with written_whole(Path(folder) / member.name) as temporary, open(temporary, "wb") as target:
        shutil.copyfileobj(tar.extractfile(member), target)
        if target.tell() != member.size:
            raise EOFError(f"{member.name} is cut short")


def _add(tar, files):
    for name, path in files.items():
        tar.add(path, name, recursive=False)


def _that_fit(files, n_bytes):
    """Those whose tar takes at most ``n_bytes``, each that still fits, in their order."""
    chosen, room = {}, n_bytes - 20 * tarfile.BLOCKSIZE  # the end of a tar is padded to 20 blocks
    for name, path in files.items():
        size = (-(-Path(path).stat().st_size // tarfile.BLOCKSIZE) + 3) * tarfile.BLOCKSIZE  # a long name takes two
        if size <= room:
            chosen[name] = path
            room -= size
    return chosen
