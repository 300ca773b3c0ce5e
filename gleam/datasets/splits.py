"""Which raw file is in which split: lists by subject, the paper's own or those of a data folder."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
KNEES = "mridata_knee.csv"
BRAINS = "fastmri_brain.csv"
HEARTS = "cine_heart.csv"
PAPER_LISTS = Path(__file__).parent / "lists"


def find_list(data_dir: str | Path, name: str) -> Path:
    """Path of the split list `name`: the one in `data_dir/splits` if there is one, otherwise the paper's."""
    own = Path(data_dir) / "splits" / name
    return own if own.is_file() else PAPER_LISTS / name


def visible(folder: str | Path, pattern: str) -> list[Path]:
    """Sorted paths in `folder` that match, without hidden ones, such as the `._name` a Mac adds to a file."""
    paths = sorted(Path(folder).glob(pattern))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def read_csv(path: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file as dicts.

    As spreadsheets save them: a mark of the byte order, semicolons or tabs, blanks around values and empty rows are
    taken.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If one of `columns` is missing, or the file is not text in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; expected a CSV with the columns {', '.join(columns)}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        separator = max(",;\t", key=lines[0].count) if lines else ","  # whichever the head has most of
        table = [
            [value.strip() for value in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from None
    names, *rows = table or [[]]
    if missing := set(columns) - set(names):
        raise ValueError(f"{path}: has no column {', '.join(sorted(missing))}; expected {', '.join(columns)}")
    # a row may lack its last cells, or have more than the head
    return [dict(itertools.zip_longest(names, row[: len(names)], fillvalue="")) for row in rows if any(row)]


def listed_files(path: str | Path) -> list[str]:
    """Names of the files in the split list `path`."""
    return [row["file"] for row in read_csv(path, ("file",))]


def files_by_split(
    data_dir: str | Path, folder: str | Path = "mridata", split_list: str = KNEES
) -> dict[str, list[Path]]:
    """Raw files of each split, as the split list of a data folder says.

    Parameters
    ----------
    data_dir : path
        Folder of the data set.
    folder : path
        Where the files are, below `data_dir`; "" is `data_dir` itself.
    split_list : str
        Name of a CSV with the columns file and split, found by :func:`find_list`.

    Returns
    -------
    dict
        Of "train", "val" and "test" to paths.

    Raises
    ------
    FileNotFoundError
        If the list, or a file in it, is missing.
    ValueError
        If a split is unknown or empty, or a file is listed twice.
    """
    return files_of_list(find_list(data_dir, split_list), Path(data_dir) / folder)


def files_of_list(path: str | Path, folder: str | Path) -> dict[str, list[Path]]:
    """Same as :func:`files_by_split`, for the split list at `path` whose files are in `folder`."""
    rows = read_csv(path, ("file", "split"))
    names = [row["file"] for row in rows]
    if not all(names):
        raise ValueError(f"{path}: row {names.index('') + 1} below the head names no file; expected one in every row")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} lists {next(n for n in names if names.count(n) > 1)} more than once")
    files = {split: [Path(folder) / row["file"] for row in rows if row["split"] == split] for split in SPLITS}
    # a row of another split is in none of the three
    if sum(map(len, files.values())) < len(rows) or not all(files.values()):
        raise ValueError(f"{path} must have files of the splits train, val and test, and of no other")
    check_exist([file for paths in files.values() for file in paths], f" that {path} lists")
    return files


def check_exist(paths: Sequence[Path], which: str = "") -> None:
    """Raise FileNotFoundError unless all `paths` exist; `which` says in the message which files they are."""
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{len(missing)} of the {len(paths)} files{which} are missing, such as {missing[0]}")


def check_disjoint(subjects: dict[str, set[str]], source: str | Path) -> None:
    """Raise ValueError, naming `source`, if a subject is in two splits; `subjects`: split to its subjects."""
    for (one, first), (other, second) in itertools.combinations(subjects.items(), 2):
        if shared := first & second:
            raise ValueError(f"{source}: subject {min(shared)} is in both {one} and {other}; split by subject")


def folds(n_subjects: int, n_folds: int, *, n_val: int = 1, seed: int = 0) -> list[dict[str, list[int]]]:
    """The splits of a cross-validation.

    Every subject is tested in one fold; the order is drawn with `seed`. The subjects that validate follow those of the
    test in that order, the rest train.

    Parameters
    ----------
    n_subjects, n_folds : int
        Numbers of subjects and of folds.
    n_val : int
        Subjects that validate in each fold.
    seed : int
        Of the order.

    Returns
    -------
    list of dict
        For each fold, "train", "val" and "test" to numbers of subjects, 0 to n_subjects - 1.

    Raises
    ------
    ValueError
        If a split of a fold would be empty.
    """
    largest = -(-n_subjects // max(1, n_folds))  # in a test split: a quotient that is rounded up
    if not (2 <= n_folds <= n_subjects and 1 <= n_val < n_subjects - largest):
        raise ValueError(
            f"{n_subjects} subjects cannot make {n_folds} folds with n_val={n_val}; expected 2 or more folds, each "
            "with subjects to train, validate and test on"
        )
    order = np.random.default_rng(seed).permutation(n_subjects)
    found = []
    for test in np.array_split(order, n_folds):
        others = order[len(test) :]
        parts = {"train": others[n_val:], "val": others[:n_val], "test": test}
        found.append({split: sorted(part.tolist()) for split, part in parts.items()})
        order = np.roll(order, -len(test))  # the next fold begins with the subjects after these
    return found


def fold_files(paths: Sequence[Sequence[Path]], fold: dict[str, list[int]]) -> dict[str, list[Path]]:
    """Files of a fold of a cross-validation whose subjects have several versions, for :func:`gleam.datasets.files`.

    Parameters
    ----------
    paths : sequence of sequences of Path
        The versions of each subject, as :func:`gleam.phantoms.magnitudes.write` returns them.
    fold : dict
        One of :func:`folds`.

    Returns
    -------
    dict
        Of split to files: all versions of the subjects that train, the first version of the others.
    """
    train = [path for subject in fold["train"] for path in paths[subject]]
    return {"train": train} | {split: [paths[subject][0] for subject in fold[split]] for split in ("val", "test")}


def split_by_subject(
    files: Sequence[Path], subject: Callable[[Path], str], shares: Sequence[float]
) -> dict[str, list[Path]]:
    """Split files without a list: by subject, in the order of `files`, without random numbers.

    The first subjects train, the next validate, the last test, so that neighbours stay together.

    Parameters
    ----------
    files : sequence of Path
        The files.
    subject : callable
        File to subject.
    shares : three numbers
        Proportions of the subjects of train, val and test; each split gets at least one.

    Returns
    -------
    dict
        As :func:`files_by_split`.

    Raises
    ------
    ValueError
        If there are fewer than three subjects.
    """
    subjects = list(dict.fromkeys(subject(file) for file in files))  # each once, in the order of the files
    if len(subjects) < len(SPLITS):
        raise ValueError(
            f"{files[0]} and {len(files) - 1} more files show {len(subjects)} subjects; expected 3 or more to split "
            f"into {', '.join(SPLITS)}"
        )
    n_val, n_test = (max(1, round(share / sum(shares) * len(subjects))) for share in shares[1:])
    n_train = len(subjects) - n_val - n_test
    bounds = {"train": (0, n_train), "val": (n_train, n_train + n_val), "test": (n_train + n_val, len(subjects))}
    members = {split: set(subjects[slice(*bound)]) for split, bound in bounds.items()}
    return {split: [file for file in files if subject(file) in members[split]] for split in SPLITS}
