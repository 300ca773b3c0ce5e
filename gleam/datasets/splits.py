"""Which raw file is in which split: lists by subject, the paper's own or a data folder's."""

import csv
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
KNEES = "mridata_knee.csv"
BRAINS = "fastmri_brain.csv"
HEARTS = "cine_heart.csv"
PAPER_LISTS = Path(__file__).parent / "lists"


def find_list(data_dir, name):
    """Path of the split list ``name``: the one in ``data_dir/splits`` if there is one, else the paper's."""
    own = Path(data_dir) / "splits" / name
    return own if own.is_file() else PAPER_LISTS / name


def read_csv(path, columns):
    """Rows of a CSV as dicts. Raises FileNotFoundError or, if one of ``columns`` is missing, ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; expected a CSV with the columns {', '.join(columns)}")
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise ValueError(f"{path}: has no column {', '.join(sorted(missing))}; expected {', '.join(columns)}")
    return rows


def listed_files(path):
    """Names of the files in the split list ``path``."""
    return [row["file"] for row in read_csv(path, ("file",))]


def files_by_split(data_dir, folder="mridata", split_list=KNEES):
    """Raw files of each split, as a dict of "train", "val", "test" to paths in ``data_dir/folder``.

    ``split_list``: name of a CSV with columns file and split (:func:`find_list`); its files lie in ``folder``, "" being
    ``data_dir`` itself. Raises FileNotFoundError if the
    list or a file in it is missing, ValueError if a split is unknown or empty, or a file stands in it twice.
    """
    return files_of_list(find_list(data_dir, split_list), Path(data_dir) / folder)


def files_of_list(path, folder):
    """As :func:`files_by_split`, of the split list at ``path`` whose files lie in ``folder``."""
    rows = read_csv(path, ("file", "split"))
    names = [row["file"] for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} lists {next(n for n in names if names.count(n) > 1)} more than once")
    files = {split: [Path(folder) / row["file"] for row in rows if row["split"] == split] for split in SPLITS}
    if sum(map(len, files.values())) < len(rows) or not all(files.values()):
        raise ValueError(f"{path} must have files of the splits train, val and test, and of no other")
    missing = [file for paths in files.values() for file in paths if not file.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(rows)} files that {path} lists are missing, such as {missing[0]}"
        )
    return files


def folds(n_subjects, n_folds, *, n_val=1, seed=0):
    """Cross-validation: ``n_folds`` dicts of "train", "val" and "test" to numbers of subjects, 0 to n_subjects - 1.

    Every subject is tested in one fold; the order is drawn with ``seed``. Those that validate follow those of the test
    in that order, the rest train. Raises ValueError if a split of a fold would be empty.
    """
    largest = -(-n_subjects // max(1, n_folds))
    if not (2 <= n_folds <= n_subjects and 1 <= n_val < n_subjects - largest):
        raise ValueError(
            f"{n_subjects} subjects cannot make {n_folds} folds of which each validates on {n_val}; expected 2 or more "
            "folds, each with subjects of its own to train, validate and test on"
        )
    order = np.random.default_rng(seed).permutation(n_subjects)
    found = []
    for test in np.array_split(order, n_folds):
        others = order[len(test) :]
        parts = {"train": others[n_val:], "val": others[:n_val], "test": test}
        found.append({split: sorted(part.tolist()) for split, part in parts.items()})
        order = np.roll(order, -len(test))
    return found


def split_by_subject(files, subject, shares):
    """Split ``files`` where no list says how: by subject, in the order of ``files``, without chance.

    ``subject``: file to subject; ``shares``: subjects of train, val and test in proportion, each split having one at
    least. The first subjects train, the next validate, the last test, so that neighbours stay together. Returns a dict
    like :func:`files_by_split`. Raises ValueError if there are fewer than three subjects.
    """
    subjects = list(dict.fromkeys(subject(file) for file in files))
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
