"""Raw files to slices ready for training: coil maps, target and k-space in FFT order, computed once and cached."""

import contextlib
import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from tqdm.auto import tqdm

from gleam.files import described, digest, n_cores, write_json, written_whole
from gleam.fourier import ifft2c, to_fft_order

PREPARATION_VERSION = 2  # part of every key: raise it when what is computed changes
DATASETS = ("kspace", "sens_maps", "target")
HASHES = "hashes.json"


def prepare(paths, *, read, calibrate, cache_dir, settings=None, n_jobs=None, progress=True):
    """Prepare raw files; returns the prepared file of each, in the order of ``paths``.

    ``read``: path to Volume, ``calibrate``: centred (coil, y, x) to maps; top-level functions or ``functools.partial``
    of them, for they are sent to ``n_jobs`` processes (default: one per core that this process may use) of one thread
    each, and their names and arguments are part of the key. ``settings``: anything else that JSON holds, recorded and
    part of the key.

    A prepared file ``<stem>-<key>.h5`` holds, one slice per chunk, ``kspace`` (slice, coil, y, x) in FFT order,
    ``sens_maps`` (slice, coil, y, x) and ``target`` (slice, y, x) = sum_c conj(S_c) m_c, both centred images, all
    complex64. The key covers the raw file's SHA-256, the functions, the settings and PREPARATION_VERSION. A file that
    is already there and whole is not computed again; a damaged one is. Files are written whole, so that a kill loses
    only those in progress.

    Raises OSError if ``cache_dir`` cannot be written, and what ``read`` and ``calibrate`` raise, naming the file.
    """
    paths, cache_dir = [Path(path) for path in paths], Path(cache_dir)
    _check_writable(cache_dir)
    recipe = {"version": PREPARATION_VERSION, "read": described(read), "calibrate": described(calibrate)}
    recipe["settings"] = settings or {}
    hashes = _Hashes(cache_dir / HASHES)
    job = partial(_prepare_one, read=read, calibrate=calibrate, recipe=recipe, cache_dir=cache_dir)
    known = {path: hashes.of(path) for path in dict.fromkeys(paths)}
    done = {path: _cached(path, sha, recipe, cache_dir) for path, sha in known.items() if sha}
    done = {path: prepared for path, prepared in done.items() if is_whole(prepared)}
    missing = [path for path in known if path not in done]
    with tqdm(total=len(missing), desc="preparing", unit="file", disable=not (progress and missing)) as bar:
        for path, prepared, sha in _results(job, missing, n_jobs):
            done[path] = prepared
            hashes.add(path, sha)
            bar.update()
    return [done[path] for path in paths]


def is_whole(path):
    """Whether ``path`` is a complete prepared file.

    Its sets fit together, and their first and last slice can be read (every chunk has a checksum).
    """
    try:
        with h5py.File(path, "r") as file:
            shape = file["kspace"].shape
            for name in DATASETS:
                file[name][0], file[name][-1]
            return (
                file["sens_maps"].shape == shape
                and file["target"].shape == (shape[0], *shape[2:])
                and "source_sha256" in file.attrs
            )
    except (OSError, KeyError, ValueError, IndexError, RuntimeError):
        return False


def _results(job, paths, n_jobs):
    """Yield what ``job`` returns as files finish; on an error the running ones finish, the waiting ones are dropped."""
    n_jobs = min(n_jobs or n_cores(), len(paths))
    if n_jobs <= 1:
        yield from map(job, paths)
        return
    with _one_thread_each(), ProcessPoolExecutor(n_jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(job, path) for path in paths]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise OSError(
                f"a process preparing one of {len(paths)} files, the first {paths[0]}, ended: for want of memory (give "
                f"n_jobs less than {n_jobs}, finished files are kept), or because the calling script lacks "
                'if __name__ == "__main__":, which new processes need'
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each():
    """Numerical libraries read these when a new process loads them."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _prepare_one(path, *, read, calibrate, recipe, cache_dir):
    """Prepare ``path`` unless it is cached; returns (path, prepared file, sha256 of the raw file)."""
    sha = _sha256(path)
    prepared = _cached(path, sha, recipe, cache_dir)
    if not is_whole(prepared):
        volume = read(path)
        with written_whole(prepared) as temporary, h5py.File(temporary, "w") as file:
            _write(file, volume, calibrate, path)
            file.attrs.update(
                subject=volume.subject,
                is_phantom=volume.is_phantom,
                acquisition=volume.acquisition,
                aspect=volume.aspect,
                field_strength=np.nan if volume.field_strength is None else volume.field_strength,
                settings=json.dumps(recipe, sort_keys=True),
                source_file=path.name,
                source_sha256=sha,
            )
    return path, prepared, sha


def _write(file, volume, calibrate, path):
    shape = volume.kspace.shape
    for name, one in zip(DATASETS, (shape[1:], shape[1:], shape[2:]), strict=True):
        file.create_dataset(name, (shape[0], *one), np.complex64, chunks=(1, *one), fletcher32=True)
    for s, kspace in enumerate(volume.kspace):
        try:
            sens_maps = calibrate(kspace)
        except ValueError as error:
            raise ValueError(f"{path}, slice {s}: {error}") from None
        if np.shape(sens_maps) != shape[1:]:
            raise ValueError(f"{path}, slice {s}: calibrate gave maps {np.shape(sens_maps)}; expected {shape[1:]}")
        file["sens_maps"][s] = sens_maps
        file["target"][s] = np.sum(np.conj(sens_maps) * ifft2c(kspace), axis=0)
        file["kspace"][s] = to_fft_order(kspace)


def _cached(path, sha, recipe, cache_dir):
    return cache_dir / f"{path.stem}-{digest({'raw': sha, **recipe})[:12]}.h5"


def _check_writable(folder):
    with written_whole(folder / ".writable"):
        pass
    (folder / ".writable").unlink(missing_ok=True)


def _sha256(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a raw data file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Hashes:
    """SHA-256 of raw files that kept their size and time since they were last read, which spares reading gigabytes."""

    def __init__(self, path):
        self.path = path
        try:
            self.entries = json.loads(path.read_text())
        except (OSError, ValueError):
            self.entries = {}

    def of(self, path):
        """The hash of ``path`` if it is known and the file unchanged, else None."""
        entry = self.entries.get(str(path.resolve()))
        return entry[1] if path.is_file() and entry and entry[0] == self._stamp(path) else None

    def add(self, path, sha):
        self.entries[str(path.resolve())] = [self._stamp(path), sha]
        write_json(self.path, self.entries)

    @staticmethod
    def _stamp(path):
        status = path.stat()
        return [status.st_size, status.st_mtime_ns]
