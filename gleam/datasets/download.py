"""Download mridata.org's knees and OCMR's hearts, and report which files of fastMRI and CMRxRecon are missing.

`python -m gleam.datasets.download mridata DIR` and `... ocmr DIR` download; `... fastmri DIR` and `... cmrxrecon DIR`
check.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from tqdm.auto import tqdm

from gleam.datasets import cine
from gleam.datasets.fastmri import FOLDER
from gleam.datasets.fetching import check_opens, check_whole, fetch
from gleam.datasets.splits import BRAINS, HEARTS, KNEES, find_list, listed_files, read_csv
from gleam.files import remove_leftovers, written_whole

MRIDATA_URL = "http://mridata.org/download"
OCMR_URL = "https://ocmr.s3.amazonaws.com"
OCMR_ATTRIBUTES = "ocmr_data_attributes.csv"
OCMR_NAME = re.compile(r"(ocmr/)?(?P<name>fs_\d{4}[0-9A-Za-z_]*\.h5)")  # fs_: fully sampled
CHECKSUMS = "checksums.csv"


def mridata(
    data_dir: str | Path,
    files: Iterable[str] | None = None,
    *,
    checksums: str | Path | None = None,
    base_url: str = MRIDATA_URL,
    progress: bool = True,
) -> list[Path]:
    """Download files of mridata.org into `data_dir`/mridata.

    A file that is already there is not fetched again, so an interrupted download goes on with the first missing one.

    Parameters
    ----------
    data_dir : path
        Folder of the data set.
    files : iterable of str, optional
        UUIDs, or names `<uuid>.h5`. Default: those of the split list, `data_dir`/splits/mridata_knee.csv or the
        paper's.
    checksums : path, optional
        A CSV (file, sha256) whose hashes take precedence over the recorded ones.
    base_url : str
        Address to download from.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        If a name is not a UUID, or a file has changed.
    OSError
        If a download fails, or is not a whole HDF5 file. Nothing of it is kept.

    Notes
    -----
    mridata.org publishes no checksums. The SHA-256 of a file is recorded in `data_dir`/mridata/checksums.csv (file,
    sha256) when it is first seen, and verified from then on.
    """
    files = listed_files(find_list(data_dir, KNEES)) if files is None else files
    urls = {}
    for file in files:
        try:
            number = UUID(str(file).removesuffix(".h5"))
        except ValueError:
            raise ValueError(f"{file!r} is no file of mridata.org; expected a UUID, as in its download links") from None
        urls[f"{number}.h5"] = f"{base_url.rstrip('/')}/{number}"
    return _download(urls, Path(data_dir) / "mridata", checksums, "mridata.org", progress)


def ocmr(
    data_dir: str | Path,
    files: Iterable[str] | None = None,
    *,
    checksums: str | Path | None = None,
    base_url: str = OCMR_URL,
    progress: bool = True,
) -> list[Path]:
    """Download OCMR's fully sampled cine series `fs_*.h5` into `data_dir`/ocmr.

    Parameters
    ----------
    data_dir : path
        Folder of the data set.
    files : iterable of str, optional
        Names. Default: those of `data_dir`/splits/cine_heart.csv that are OCMR's or, without that list, all that
        OCMR's own table of attributes calls fully sampled. The table is kept beside the files.
    checksums, base_url, progress
        As in :func:`mridata`.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        If a name is not that of a fully sampled series of OCMR, or a file has changed.
    OSError
        If a download fails, or is not a whole HDF5 file. Nothing of it is kept.

    Notes
    -----
    OCMR publishes no checksums either; files are verified as in :func:`mridata`. Its terms are at
    https://www.ocmr.info/download.
    """
    folder, base_url = Path(data_dir) / cine.OCMR, base_url.rstrip("/")
    if files is None:
        files = [name for name in _hearts_listed(data_dir) if name.startswith(f"{cine.OCMR}/")]
        files = files or _ocmr_fully_sampled(folder / OCMR_ATTRIBUTES, base_url, progress)
    urls = {}
    for file in files:
        if not (match := OCMR_NAME.fullmatch(str(file))):
            raise ValueError(
                f"{file!r} is none of OCMR's fully sampled series; expected a name such as fs_0001_1_5T.h5"
            )
        urls[match["name"]] = f"{base_url}/data/{match['name']}"
    return _download(urls, folder, checksums, "OCMR", progress)


def fastmri_missing(data_dir: str | Path, split_list: str | Path | None = None) -> list[str]:
    """Names of the files of `split_list` (default: the list of `data_dir` or the paper's) that are missing."""
    names = listed_files(split_list or find_list(data_dir, BRAINS))
    return [name for name in names if not (Path(data_dir) / FOLDER / name).is_file()]


def check_fastmri(data_dir: str | Path, split_list: str | Path | None = None) -> None:
    """Raise FileNotFoundError, saying which files are missing and where to ask for them, unless all are there."""
    if missing := fastmri_missing(data_dir, split_list):
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{Path(data_dir) / FOLDER}: {len(missing)} files are missing ({some}); fastMRI's data need a "
            "signed agreement: ask at https://fastmri.med.nyu.edu for the multicoil brain validation set"
        )


def check_cmrxrecon(data_dir: str | Path) -> None:
    """Raise FileNotFoundError, saying where to register for them, unless CMRxRecon's files are there.

    Checked are all that `data_dir`/splits/cine_heart.csv lists or, without that list, whether there is any that is
    fully sampled by its name.
    """
    folder = Path(data_dir) / cine.CMRXRECON
    listed = [name for name in _hearts_listed(data_dir) if name.startswith(f"{cine.CMRXRECON}/")]
    missing = [name for name in listed if not (Path(data_dir) / name).is_file()]
    full = (path for path in folder.rglob("cine_*.mat") if cine.looks_full(path.relative_to(folder)))
    if missing or not (listed or any(full)):
        some = f"{len(missing)} files are missing, such as {missing[0]}" if missing else ""
        raise FileNotFoundError(
            f"{folder}: {some or 'no fully sampled cine_*.mat is there'}; CMRxRecon's data need registration: ask at "
            "https://cmrxrecon.github.io for the multi-coil, fully sampled training set"
        )


def _hearts_listed(data_dir):
    path = find_list(data_dir, HEARTS)
    return listed_files(path) if path.is_file() else []


def _ocmr_fully_sampled(path, base_url, progress):
    """Names of the fully sampled series in OCMR's table, fetched to `path` unless it is there."""
    if not path.exists():
        fetch(f"{base_url}/{path.name}", path, progress)
    try:
        return [row["file name"] for row in read_csv(path, ("file name", "smp")) if row["smp"] == "fs"]
    except ValueError:
        path.unlink()  # not the table but another page; the next run asks again
        raise


def _download(urls, folder, checksums, source, progress):
    """Fetch the files (`urls`: name to address) that `folder` lacks, record and verify all hashes; return the paths."""
    recorded = _checksums(folder / CHECKSUMS)
    # hashes that the caller gives take precedence
    trusted = recorded | (_checksums(checksums, required=True) if checksums else {})
    remove_leftovers(folder)  # of downloads that were killed
    for name, url in tqdm(urls.items(), desc=source, unit="file", disable=not progress):
        path = folder / name
        if not path.exists():
            fetch(url, path, progress, check=partial(check_whole, source=source))
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if (expected := trusted.get(name)) and found != expected:
            raise ValueError(
                f"{path}: its SHA-256 is {found[:12]}..., but {expected[:12]}... is on record; delete it and run again"
            )
        check_opens(path, f"{path} is not", f"delete it to fetch it again from {source}")
        # after every file, so that an interrupted download keeps what it knows
        if recorded.get(name) != found:
            recorded[name] = trusted[name] = found
            with written_whole(folder / CHECKSUMS) as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file).writerows([("file", "sha256"), *sorted(recorded.items())])
    return [folder / name for name in urls]


def _checksums(path, required=False):
    if not required and not Path(path).is_file():
        return {}
    return {row["file"]: row["sha256"] for row in read_csv(path, ("file", "sha256"))}


DOWNLOADS = {"mridata": mridata, "ocmr": ocmr}
CHECKS = {"fastmri": check_fastmri, "cmrxrecon": check_cmrxrecon}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exits with a message if something is wrong."""
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
