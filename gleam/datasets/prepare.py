"""From raw files to slices ready for training: coil maps, target and k-space in FFT order, computed once and cached."""

from __future__ import annotations

import glob
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from tqdm.auto import tqdm

from gleam.datasets import cine, hdf5
from gleam.datasets.padding import whole
from gleam.datasets.volume import ARRAYS, Volume, array_shapes
from gleam.files import check_writable, described, digest, locked, n_cores, write_json
from gleam.physics.calibration import EmptyMapsError
from gleam.physics.fourier import ifft2c, to_fft_order
from gleam.processes.pool import in_processes

PREPARATION_VERSION = 3  # part of every key: raise it when the results of a preparation change
HASHES = "hashes.json"  # in the folder of the prepared files


def prepare(
    paths: Iterable[str | Path],
    *,
    read: Callable[[Path], Volume],
    calibrate: Callable[[np.ndarray], np.ndarray],
    cache_dir: str | Path,
    settings: dict | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Prepare raw files.

    A file that is already prepared and whole is not computed again, and the cache may then be read-only; a damaged one
    is. Files are written whole, so an interruption loses only those in progress. A file that cannot be prepared, or of
    which no slice is left, does not stop the others: its error is raised when they are done.

    Parameters
    ----------
    paths : iterable of paths
        Raw files.
    read, calibrate : callable
        Path to :class:`gleam.datasets.volume.Volume`, and centred k-space (coil, y, x) to sensitivity maps. They must
        be top-level functions, which a notebook's cell may define, or `functools.partial` of them, because their names
        and arguments are part of the key of the cache.
    cache_dir : path
        Folder of the prepared files.
    settings : dict, optional
        Anything else that JSON can hold; recorded, and part of the key.
    n_jobs : int, optional
        Number of processes, of one thread each; default: one per core that this process may use.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of Path
        The prepared file of each raw file, in the order of `paths`.

    Raises
    ------
    OSError
        If a file is not prepared and `cache_dir` cannot be written, or has no room for it.
    Exception
        Any error of `read` and `calibrate`; its message names the file.

    Notes
    -----
    A prepared file `<stem>-<key>.h5` holds, all complex64 and one slice per chunk: `kspace` (slice, coil, [time,] y, x)
    in FFT order, `sens_maps` (slice, coil, [1,] y, x) and `target` (slice, [time,] y, x) = sum_c conj(S_c) m_c, both
    centred images. Its attribute `measured` is that of :class:`gleam.datasets.volume.Volume`, in centred k-space. The
    maps of a series are computed from its k-space averaged over time. The file of an undersampled scan also holds
    `mask` (slice, [time,] y, x), centred, and its target is the zero-filled image.

    The key covers the raw file's SHA-256, the two functions, the settings, PREPARATION_VERSION and, where folders name
    the subject (CMRxRecon), the subject.

    A slice without signal, whose maps are empty, has no target. It is left out of the prepared file, whose attribute
    `left_out` holds its number, and a message says so.
    """
    paths, cache_dir = [Path(path) for path in paths], Path(cache_dir)
    recipe = {"version": PREPARATION_VERSION, "read": described(read), "calibrate": described(calibrate)}
    recipe["settings"] = settings or {}
    hashes = _Hashes(cache_dir / HASHES)
    job = partial(_prepare_one, read=read, calibrate=calibrate, recipe=recipe, cache_dir=cache_dir)
    known = {path: hashes.of(path) for path in dict.fromkeys(paths)}
    done = {path: _cached(path, sha, recipe, cache_dir) for path, sha in known.items() if sha}
    done = {path: prepared for path, prepared in done.items() if is_whole(prepared)}  # damaged ones are prepared again
    missing = [path for path in known if path not in done]
    # a raw file that was not hashed yet may be prepared all the same, and then the cache may be read-only
    if any(known[path] or not any(cache_dir.glob(f"{glob.escape(Path(path).stem)}-*.h5")) for path in missing):
        check_writable(cache_dir)
    with tqdm(total=len(missing), desc="preparing", unit="file", disable=not (progress and missing)) as bar:
        errors: list[Exception] = []
        files = {path: path for path in missing}
        for path, one in in_processes(job, files, n_jobs or n_cores(), work="preparing files"):
            try:
                done[path], sha = one.result()
            except (ValueError, OSError) as error:
                errors.append(error)
                continue
            hashes.add(path, sha)
            bar.update()
            for note in _notes(done[path]) if progress else ():
                tqdm.write(f"{path}: {note}")
    _raise_first(errors)
    return [done[path] for path in paths]


def _notes(path):
    """What a user should know about the prepared file `path`: notes of its reader, and slices that it lacks."""
    with h5py.File(path, "r") as file:
        notes, left_out = list(file.attrs.get("notes", ())), ", ".join(map(str, file.attrs.get("left_out", ())))
    return notes + ([f"no sensitivity map is left of slice {left_out}: left out"] if left_out else [])


def is_whole(path: str | Path) -> bool:
    """Whether `path` is a complete prepared file.

    Its data sets fit together, and their first and last slice can be read (every chunk has a checksum). OSError if it
    is there but the system does not let it be read, because of a lock or a missing permission.
    """
    if not Path(path).is_file():
        return False
    try:
        with hdf5.opened(path, expected="a prepared file") as file:
            shape = file["kspace"].shape
            for name in ARRAYS:
                values = hdf5.dataset(file, name, path, "a prepared file")
                values[0], values[-1]
            return (
                file["sens_maps"].shape == (shape[0], *_maps_shape(shape[1:]))
                and file["target"].shape == (shape[0], *shape[2:])
                and "source_sha256" in file.attrs
            )
    except (OSError, ValueError, IndexError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        return False


def _raise_first(errors):
    if len(errors) == 1:
        raise errors[0]
    if errors:
        # of a plain kind, since a subclass may need more than a text
        kind = next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(errors[0], kind))
        raise kind(f"{errors[0]} (and {len(errors) - 1} more files cannot be prepared; finished files are kept)")


def _prepare_one(path, *, read, calibrate, recipe, cache_dir):
    """Prepare `path` unless it is cached; returns (prepared file, sha256 of the raw file)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a raw data file")
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    prepared = _cached(path, sha, recipe, cache_dir)
    if not is_whole(prepared):
        with locked(prepared.with_name(f".{prepared.stem}.lock")):  # chapters that run at the same time share a cache
            if not is_whole(prepared):  # another process may have been faster
                _write_prepared(prepared, path, sha, read(path), calibrate, recipe)
    return prepared, sha


def _write_prepared(prepared, path, sha, volume, calibrate, recipe):
    n_values = sum(math.prod(shape) for shape in array_shapes(volume.kspace.shape).values())
    with hdf5.written(prepared, 8 * n_values) as file:
        left_out = _write(file, volume, calibrate, path)
        file.attrs.update(
            subject=volume.subject,
            is_phantom=volume.is_phantom,
            acquisition=volume.acquisition,
            aspect=volume.aspect,
            measured=volume.measured or whole(volume.kspace.shape),
            spacing=volume.spacing,
            field_strength=np.nan if volume.field_strength is None else volume.field_strength,
            settings=json.dumps(recipe, sort_keys=True),
            source_file=path.name,
            source_sha256=sha,
        )
        if left_out:
            file.attrs["left_out"] = left_out
        if volume.notes:
            file.attrs["notes"] = volume.notes


def _write(file, volume, calibrate, path):
    """Write the slices that have maps; returns the numbers of the others."""
    shape, left_out = volume.kspace.shape, []
    for name, full in array_shapes(shape).items():
        file.create_dataset(name, full, np.complex64, maxshape=full, chunks=(1, *full[1:]), fletcher32=True)
    for s, kspace in enumerate(volume.kspace):
        try:
            sens_maps = coil_maps(kspace, calibrate, volume.is_full)
        except EmptyMapsError as error:
            left_out.append(s)
            if len(left_out) == shape[0]:
                raise ValueError(f"{path}: none of its {shape[0]} slices can be prepared, slice {s}: {error}") from None
            continue
        except ValueError as error:
            raise ValueError(f"{path}, slice {s}: {error}") from None
        k = s - len(left_out)
        file["sens_maps"][k] = sens_maps
        file["target"][k] = np.sum(np.conj(sens_maps) * ifft2c(kspace), axis=0)
        file["kspace"][k] = to_fft_order(kspace)
    # they were created for all slices, before it was known which ones have maps
    for name in ARRAYS if left_out else ():
        file[name].resize(shape[0] - len(left_out), axis=0)
    if not volume.is_full:
        file["mask"] = np.delete(volume.kspace.any(axis=1), left_out, axis=0)  # where any coil measured
    return left_out


def coil_maps(kspace: np.ndarray, calibrate: Callable[[np.ndarray], np.ndarray], is_full: bool = True) -> np.ndarray:
    """Maps (coil, [1,] y, x) of one slice or, from its mean over the frames that measured a sample, of one series.

    `kspace` is centred. Raises EmptyMapsError if no map is left, ValueError if `calibrate` returns none of this shape.
    """
    mean = kspace if kspace.ndim == 3 else kspace.mean(axis=1)
    if kspace.ndim == 4 and not is_full:
        # the mean over the frames that measured a sample; clipped, since 0 / 0 would be NaN
        mean /= kspace.any(axis=0).mean(axis=0, dtype=np.float32).clip(1 / kspace.shape[1])
    sens_maps = calibrate(mean)
    expected = (kspace.shape[0], *kspace.shape[-2:])
    if np.shape(sens_maps) != expected:
        raise ValueError(f"calibrate gave maps {np.shape(sens_maps)}; expected {expected}")
    if not np.any(sens_maps):
        raise EmptyMapsError("its sensitivity maps are empty")
    return np.reshape(sens_maps, _maps_shape(kspace.shape))


def _maps_shape(shape):
    """Shape of the maps that go with k-space of `shape` (coil, [time,] y, x)."""
    return (shape[0], *([1] * (len(shape) - 3)), *shape[-2:])


def _cached(path, sha, recipe, cache_dir):
    subject = cine.subject(path)
    told = {"subject": subject} if subject != path.stem else {}  # by folders; a stem is in the name of the file
    return cache_dir / f"{path.stem}-{digest({'raw': sha, **told, **recipe})[:12]}.h5"


class _Hashes:
    """SHA-256 of raw files by size, place and times of change, so that unchanged gigabytes are not read again."""

    def __init__(self, path):
        self.path = path
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            found = None
        self.entries = {}
        for name, entry in found.items() if isinstance(found, dict) else ():
            match entry:  # another version, or somebody else, may have written something different
                case [_, str(sha)] if len(sha) == 64:
                    self.entries[name] = entry

    def of(self, path):
        """The hash of `path` if it is known and the file is unchanged, else None."""
        entry = self.entries.get(str(path.resolve()))
        return entry[1] if path.is_file() and entry and entry[0] == self._stamp(path) else None

    def add(self, path, sha):
        self.entries[str(path.resolve())] = [self._stamp(path), sha]
        with suppress(OSError):  # of a cache that is read-only: the hash is computed again next time
            write_json(self.path, self.entries)

    @staticmethod
    def _stamp(path):
        status = path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]  # copies keep the first two
