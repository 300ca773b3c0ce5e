"""Fetch mridata.org's knees, and say which of fastMRI's files are missing.

``python -m gleam.datasets.download mridata DIR`` downloads; ``python -m gleam.datasets.download fastmri DIR`` checks.
"""

import argparse
import csv
import hashlib
import logging
import sys
from pathlib import Path
from uuid import UUID

import h5py
from tqdm.auto import tqdm

from gleam.datasets.fastmri import FOLDER
from gleam.datasets.splits import BRAINS, KNEES, find_list, listed_files, read_csv
from gleam.files import written_whole

MRIDATA_URL = "http://mridata.org/download"
CHECKSUMS = "checksums.csv"


def mridata(data_dir, files=None, *, checksums=None, base_url=MRIDATA_URL, progress=True):
    """Download the files (UUIDs, or names ``<uuid>.h5``) into ``data_dir``/mridata; returns their paths.

    ``files``: default those of the split list, ``data_dir``/splits/mridata_knee.csv or the paper's. A file that is
    there is not fetched again, so an interrupted download goes on with the first missing one. mridata.org publishes
    no checksums: the SHA-256 of a file is recorded in ``data_dir``/mridata/checksums.csv (file, sha256) when it is
    first seen, and verified ever after. ``checksums``: a CSV of the same form whose hashes go before the recorded
    ones.

    Raises ValueError on what is no UUID or a file that changed, OSError if a download fails or is no HDF5.
    """
    folder = Path(data_dir) / "mridata"
    names = [_name(file) for file in (listed_files(find_list(data_dir, KNEES)) if files is None else files)]
    recorded = _checksums(folder / CHECKSUMS)
    trusted = recorded | (_checksums(checksums, required=True) if checksums else {})
    for name in tqdm(names, desc="mridata.org", unit="file", disable=not progress):
        path = folder / name
        if not path.exists():
            _fetch(f"{base_url.rstrip('/')}/{path.stem}", path, progress)
        found = _verified(path, trusted.get(name))
        if recorded.get(name) != found:
            recorded[name] = trusted[name] = found
            _write_checksums(folder / CHECKSUMS, recorded)
    return [folder / name for name in names]


def fastmri_missing(data_dir, split_list=None):
    """Names of the files of ``split_list`` (default: ``data_dir``'s own or the paper's) that are not there."""
    names = listed_files(split_list or find_list(data_dir, BRAINS))
    return [name for name in names if not (Path(data_dir) / FOLDER / name).is_file()]


def check_fastmri(data_dir, split_list=None):
    """Raise FileNotFoundError, saying which files are missing and where to ask for them, unless all are there."""
    if missing := fastmri_missing(data_dir, split_list):
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{Path(data_dir) / FOLDER}: {len(missing)} files are missing ({some}); fastMRI's data need a "
            "signed agreement: ask at https://fastmri.med.nyu.edu for the multicoil brain validation set"
        )


def _name(file):
    stem = str(file).removesuffix(".h5")
    try:
        return f"{UUID(stem)}.h5"
    except ValueError:
        raise ValueError(f"{file!r} is no file of mridata.org; expected a UUID, as in its download links") from None


def _fetch(url, path, progress):
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(
            url,
            known_hash=None,
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=progress, timeout=60),
        )
    except OSError as error:  # requests' own errors are OSErrors too
        raise OSError(f"{url} could not be downloaded to {path}: {error}; run again to go on from this file") from None
    if not h5py.is_hdf5(path):
        path.unlink()
        raise OSError(f"{url} did not give an HDF5 file; is it the address of a data set on mridata.org?")


def _verified(path, expected):
    """SHA-256 of ``path``. Raises ValueError if another was ``expected``."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and found != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {found[:12]}..., but {expected[:12]}... is on record; delete it and run again"
        )
    return found


def _checksums(path, required=False):
    if not required and not Path(path).is_file():
        return {}
    return {row["file"]: row["sha256"] for row in read_csv(path, ("file", "sha256"))}


def _write_checksums(path, checksums):
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "sha256"))
        writer.writerows(sorted(checksums.items()))


def main(arguments=None):
    """The command line. Exits with one sentence if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m gleam.datasets.download", description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("mridata", "fastmri"), help="what to download (mridata) or check (fastmri)")
    parser.add_argument("data_dir", type=Path, metavar="DIR", help="data directory, laid out as data/README.md says")
    parser.add_argument("files", nargs="*", help="mridata: UUIDs, instead of those of the list")
    parser.add_argument("--base-url", default=MRIDATA_URL, help="where mridata's files are (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        if given.data == "mridata":
            mridata(given.data_dir, given.files or None, base_url=given.base_url)
        else:
            check_fastmri(given.data_dir)
            print("All files of fastMRI's list are there.")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
