"""Fetch mridata.org's knees and OCMR's hearts, and say which of fastMRI's and CMRxRecon's files are missing.

``python -m gleam.datasets.download mridata DIR`` and ``... ocmr DIR`` download; ``... fastmri DIR`` and ``... cmrxrecon
DIR`` check.
"""

import argparse
import csv
import hashlib
import logging
import re
import sys
from pathlib import Path
from uuid import UUID

import h5py
from tqdm.auto import tqdm

from gleam.datasets import cine
from gleam.datasets.fastmri import FOLDER
from gleam.datasets.splits import BRAINS, HEARTS, KNEES, find_list, listed_files, read_csv
from gleam.files import written_whole

MRIDATA_URL = "http://mridata.org/download"
OCMR_URL = "https://ocmr.s3.amazonaws.com"
OCMR_ATTRIBUTES = "ocmr_data_attributes.csv"
OCMR_NAME = re.compile(r"(ocmr/)?(?P<name>fs_\d{4}[0-9A-Za-z_]*\.h5)")
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
    files = listed_files(find_list(data_dir, KNEES)) if files is None else files
    names = [_name(file) for file in files]
    urls = {name: f"{base_url.rstrip('/')}/{Path(name).stem}" for name in names}
    return _download(urls, Path(data_dir) / "mridata", checksums, "mridata.org", progress)


def ocmr(data_dir, files=None, *, checksums=None, base_url=OCMR_URL, progress=True):
    """Download OCMR's fully sampled cine series ``fs_*.h5`` into ``data_dir``/ocmr; returns their paths.

    ``files``: default those of ``data_dir``/splits/cine_heart.csv that are OCMR's or, without that list, all that
    OCMR's own table of attributes calls fully sampled; the table is kept beside them. OCMR publishes no checksums
    either: the rest is as for :func:`mridata`. Its terms are at https://www.ocmr.info/download.

    Raises ValueError on a name that is none of OCMR's fully sampled series or a file that changed, OSError if a
    download fails or is no HDF5.
    """
    folder, base_url = Path(data_dir) / cine.OCMR, base_url.rstrip("/")
    if files is None:
        files = _ocmr_listed(data_dir) or _ocmr_fully_sampled(folder / OCMR_ATTRIBUTES, base_url, progress)
    urls = {name: f"{base_url}/data/{name}" for name in map(_ocmr_name, files)}
    return _download(urls, folder, checksums, "OCMR", progress)


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


def check_cmrxrecon(data_dir):
    """Raise FileNotFoundError, saying where to register for them, unless CMRxRecon's files are there.

    All of them that ``data_dir``/splits/cine_heart.csv lists or, without that list, any.
    """
    listed = [name for name in _hearts_listed(data_dir) if name.startswith(f"{cine.CMRXRECON}/")]
    missing = [name for name in listed if not (Path(data_dir) / name).is_file()]
    if missing or not (listed or any((Path(data_dir) / cine.CMRXRECON).rglob("cine_*.mat"))):
        which = f"{len(missing)} files are missing, such as {missing[0]}" if missing else "no cine_*.mat is there"
        raise FileNotFoundError(
            f"{Path(data_dir) / cine.CMRXRECON}: {which}; CMRxRecon's data need registration: ask at "
            "https://cmrxrecon.github.io for the multi-coil, fully sampled training set"
        )


def _hearts_listed(data_dir):
    path = find_list(data_dir, HEARTS)
    return listed_files(path) if path.is_file() else []


def _ocmr_listed(data_dir):
    return [name for name in _hearts_listed(data_dir) if name.startswith(f"{cine.OCMR}/")]


def _ocmr_fully_sampled(path, base_url, progress):
    """Names of the fully sampled series in OCMR's table, fetched to ``path`` unless it is there."""
    if not path.exists():
        _fetch(f"{base_url}/{path.name}", path, progress)
    try:
        return [row["file name"] for row in read_csv(path, ("file name", "smp")) if row["smp"] == "fs"]
    except ValueError:
        path.unlink()  # a page that says something else; the next run asks again
        raise


def _ocmr_name(file):
    if not (match := OCMR_NAME.fullmatch(str(file))):
        raise ValueError(f"{file!r} is none of OCMR's fully sampled series; expected a name such as fs_0001_1_5T.h5")
    return match["name"]


def _name(file):
    stem = str(file).removesuffix(".h5")
    try:
        return f"{UUID(stem)}.h5"
    except ValueError:
        raise ValueError(f"{file!r} is no file of mridata.org; expected a UUID, as in its download links") from None


def _download(urls, folder, checksums, source, progress):
    """Fetch the files that ``folder`` lacks, record and verify the hashes of all; returns the paths.

    ``urls``: file name to address.
    """
    recorded = _checksums(folder / CHECKSUMS)
    trusted = recorded | (_checksums(checksums, required=True) if checksums else {})
    for name, url in tqdm(urls.items(), desc=source, unit="file", disable=not progress):
        path = folder / name
        if not path.exists():
            _fetch(url, path, progress)
            if not h5py.is_hdf5(path):
                path.unlink()
                raise OSError(f"{url} did not give an HDF5 file; is it the address of a data set of {source}?")
        found = _verified(path, trusted.get(name))
        if recorded.get(name) != found:
            recorded[name] = trusted[name] = found
            _write_checksums(folder / CHECKSUMS, recorded)
    return [folder / name for name in urls]


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


DOWNLOADS = {"mridata": mridata, "ocmr": ocmr}
CHECKS = {"fastmri": check_fastmri, "cmrxrecon": check_cmrxrecon}


def main(arguments=None):
    """The command line. Exits with one sentence if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m gleam.datasets.download", description=__doc__.splitlines()[0])
    parser.add_argument(
        "data",
        choices=(*DOWNLOADS, *CHECKS),
        help="what to download (mridata, ocmr) or check (fastmri, cmrxrecon)",
    )
    parser.add_argument("data_dir", type=Path, metavar="DIR", help="data directory, laid out as data/README.md says")
    parser.add_argument("files", nargs="*", help="mridata: UUIDs, ocmr: names, instead of those of the list")
    parser.add_argument("--base-url", help=f"where the files are (mridata: {MRIDATA_URL}, ocmr: {OCMR_URL})")
    given = parser.parse_args(arguments)
    try:
        if given.data in DOWNLOADS:
            where = {"base_url": given.base_url} if given.base_url else {}
            DOWNLOADS[given.data](given.data_dir, given.files or None, **where)
        else:
            CHECKS[given.data](given.data_dir)
            print(f"The files of {given.data} are there.")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
