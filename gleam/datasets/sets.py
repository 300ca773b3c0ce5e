"""The data sets of the book: where their raw files lie in a folder, which are missing, and how to get them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gleam.datasets import cine, fastmri
from gleam.datasets.splits import BRAINS, HEARTS, KNEES, find_list, listed_files, visible


@dataclass(frozen=True)
class DataSet:
    """A data set: the folder of its raw files inside a data folder, its list of files, and where it comes from.

    Parameters
    ----------
    name : str
    raw : str
        Folder of the raw files in a data folder.
    splits : str
        Name of the split list; empty if there is none.
    source, size, cure : str
        Who publishes the set, how large it is, and how to get it, with `{folder}` for the data folder.
    also : str
        A further pattern of raw files, relative to the data folder.
    either : bool
        Whether raw files of one pattern are enough.
    ending : str
        Of raw files.
    has_phantoms : bool
        Whether phantoms stand in where there is no file.
    label : str
        What captions say of the data; empty: phantom or measurement, as it is.
    takes : callable, optional
        Whether the loader takes a file that no list names, by its path in the data folder; None: it takes all.
    not_taken : str
        What the other files are.
    """

    name: str
    raw: str
    splits: str
    source: str
    size: str
    cure: str
    also: str = ""
    either: bool = False
    ending: str = ".h5"
    has_phantoms: bool = True
    label: str = ""
    takes: Callable[[Path], bool] | None = None
    not_taken: str = ""

    @property
    def parameter(self) -> str:
        """Name of the chapter parameter that receives the data folder."""
        return f"{self.name}_dir"

    @property
    def patterns(self) -> list[str]:
        """Patterns of raw files, relative to a data folder."""
        return [pattern for pattern in (f"{self.raw}/*{self.ending}", self.also) if pattern]

    def files(self, folder: str | Path) -> list[Path]:
        """Raw files of this set in a data folder, sorted by name, but for those that the loader leaves out."""
        there = self._there(folder)
        left_out = set(self._not_taken(there, folder))
        return [path for path in there if path not in left_out]

    def left_out(self, folder: str | Path) -> list[Path]:
        """Files in the folder that the loader does not take by their names, and that no split list names."""
        return self._not_taken(self._there(folder), folder) if self.takes else []

    def _there(self, folder):
        return sorted({path for pattern in self.patterns for path in visible(folder, pattern)})

    def _not_taken(self, there, folder):
        others = [path for path in there if self.takes and not self.takes(path.relative_to(folder))]
        listed = set(self.listed(folder)) if others else set()
        return [path for path in others if not _names(path, folder) & listed]

    def files_of_list(self, folder: str | Path) -> list[Path]:
        """Raw files in the folder that its split list names; without a list, all of them."""
        files, listed = self.files(folder), set(self.listed(folder))
        return files if self.list_in(folder) is None else [path for path in files if _names(path, folder) & listed]

    def list_in(self, folder: str | Path) -> Path | None:
        """Path of the split list that holds for a data folder, None if there is none for this set."""
        path = find_list(folder, self.splits)
        return path if path.is_file() else None

    def listed(self, folder: str | Path) -> list[str]:
        """Names in the split list; none without a list."""
        splits = self.list_in(folder)
        return [] if splits is None else listed_files(splits)

    def missing(self, folder: str | Path) -> list[str]:
        """Listed files that are not in the folder; without a list, patterns that no file matches."""
        if self.list_in(folder) is None:
            files = set(self.files(folder))
            if self.either and files:  # OCMR or CMRxRecon
                return []
            return [pattern for pattern in self.patterns if files.isdisjoint(visible(folder, pattern))]
        there: set[str] = set().union(*(_names(path, folder) for path in self.files(folder)))
        return [name for name in self.listed(folder) if name not in there]

    def is_complete(self, folder: str | Path) -> bool:
        """Whether every file of the split list is in the folder; without a list, whether there are any files."""
        if self.list_in(folder) is None:
            return bool(self.files(folder))
        # an empty list lacks nothing, and is not complete
        return bool(self.listed(folder)) and not self.missing(folder)


def _names(path, folder):
    """How a split list may name a file."""
    return {path.name, path.stem, path.relative_to(folder).as_posix()}


SETS = (
    DataSet(
        "knee", raw="mridata", splits=KNEES, source="mridata.org, Stanford Fullysampled 3D FSE Knees",
        size="32 GB in 19 files", cure="python -m gleam.datasets.download mridata {folder}",
    ),
    DataSet(
        "brain", raw=fastmri.FOLDER.as_posix(), splits=BRAINS, source="fastMRI, multicoil brain validation set",
        size="89 GB in the 154 listed files; the whole set is larger",
        cure="sign the agreement at https://fastmri.med.nyu.edu and put the listed files into "
             f"{{folder}}/{fastmri.FOLDER.as_posix()}",
    ),
    DataSet(
        "heart", raw=cine.OCMR, splits=HEARTS, also=f"{cine.CMRXRECON}/**/cine_*.mat", either=True,
        source="OCMR or CMRxRecon; either is enough",
        size="OCMR: 53 fully sampled series; neither publisher states it in GB",
        cure="read the terms at https://www.ocmr.info/download, then python -m gleam.datasets.download ocmr {folder}; "
             "or register at https://cmrxrecon.github.io and put the multi-coil, fully sampled cine files into "
             f"{{folder}}/{cine.CMRXRECON}",
        takes=cine.looks_full, not_taken="undersampled, single-coil or masks",
    ),
    DataSet(
        "anatomy", raw="knees", splits="", also=f"{fastmri.FOLDER.as_posix()}/*.h5", ending=".npy", has_phantoms=False,
        source="magnitudes of 14 knees of mridata.org (github.com/LarsonLab/dnlinv), and any fastMRI brains",
        size="2.3 MB as float16",
        cure="make magnitude_14x320x256.npy as data/README.md says and put it into {folder}/knees; put "
             f"fastMRI multicoil brains of any kind into {{folder}}/{fastmri.FOLDER.as_posix()}",
        label="Real anatomy, simulated coils and noise.",
    ),
)  # fmt: skip


def report(
    folder: str | Path,
    sets: Sequence[DataSet] = SETS,
    *,
    place: str | None = None,
    chapters: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """What is there of each data set, what is missing, how large it is, and what to do next.

    Parameters
    ----------
    folder : path
        The data folder; it need not exist.
    sets : sequence of DataSet
    place : str, optional
        Name of the folder in the text; default: `folder`.
    chapters : dict, optional
        Of a set's name to the chapters that need it, which are told then.

    Returns
    -------
    str
    """
    return "\n".join(line for one in sets for line in _lines(one, Path(folder), place or str(folder), chapters))


def _lines(one, folder, place, chapters):
    yield f"{one.name}: {one.source}"
    facts = _facts(one, folder, place)
    if chapters is not None:
        facts["chapters"] = ", ".join(chapters.get(one.name, ())) or "none"
    if one.missing(folder):
        facts["next"] = one.cure.format(folder=place)
    if not one.files_of_list(folder):
        facts["until then"] = "phantoms stand in" if one.has_phantoms else "archived records are shown"
    for what, how in facts.items():
        # commands and addresses stay whole, so that they can be copied
        yield textwrap.fill(
            f"  {what + ':':12}{how}", 116, subsequent_indent=14 * " ", break_long_words=False, break_on_hyphens=False
        )


def _facts(one, folder, place):
    files, missing, listed = one.files_of_list(folder), one.missing(folder), one.list_in(folder)
    n_bytes = sum(path.stat().st_size for path in files)
    of_list = f" of the {len(one.listed(folder))} that {listed.name} names" if listed else ""
    n_others = len(one.files(folder)) - len(files)
    others = f"; {n_others} more that it does not name" if n_others else ""
    where = " and ".join(f"{place}/{pattern}" for pattern in one.patterns)
    lacks = f"{len(missing)} files: {_some(missing)}" if listed else f"no file {_some(missing)}"
    facts = {
        "there": f"{len(files)} files{of_list}, {n_bytes / 1e6:.0f} MB, in {where}{others}",
        "missing": lacks if missing else "nothing",
        "size": one.size,
    }
    if left_out := [path.relative_to(folder).as_posix() for path in one.left_out(folder)]:
        facts["left out"] = f"{len(left_out)} files, by their names {one.not_taken}: {_some(left_out)}"
    return facts


def _some(names):
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
