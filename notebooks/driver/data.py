"""Which data the chapters read: real files where they are given, phantoms in the same layout where they are not."""

import csv
import hashlib
import importlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from driver.files import digest, write_text

PROFILES = ("quick", "paper")


@dataclass(frozen=True)
class DataSet:
    """A data set as a chapter knows it: the folder with raw files inside a data folder, and its list of files."""

    name: str
    raw: str
    splits: str

    @property
    def parameter(self):
        """Name of the chapter parameter that receives the data folder."""
        return f"{self.name}_dir"

    def files(self, folder):
        """Raw files of this set in a data folder, sorted by name."""
        return sorted((Path(folder) / self.raw).glob("*.h5"))

    def is_complete(self, folder, root):
        """Whether every file of the split list is in the folder."""
        lists = [Path(folder) / "splits" / self.splits, root / "gleam" / "datasets" / "splits" / self.splits]
        found = next((path for path in lists if path.is_file()), None)
        if found is None:
            return False
        with found.open(newline="") as lines:
            listed = {row["file"] for row in csv.DictReader(lines)}
        here = {path.name for path in self.files(folder)} | {path.stem for path in self.files(folder)}
        return bool(listed) and listed <= here


SETS = (
    DataSet("knee", raw="mridata", splits="mridata_knee.csv"),
    DataSet("brain", raw="fastmri/multicoil_val", splits="fastmri_brain.csv"),
)


def needed_by(selected):
    """Data sets that at least one of the chapters declares a parameter for."""
    return [dataset for dataset in SETS if any(dataset.parameter in chapter.declared for chapter in selected)]


def choose_profile(requested, needed, data_dir, root):
    """Return (profile, why): as asked, else paper if there are a GPU and the real data that is needed, else quick."""
    if requested:
        if requested not in PROFILES:
            raise ValueError(f"Unknown profile '{requested}': PROFILE is {' or '.join(PROFILES)}.")
        return requested, "as asked"
    missing = [dataset.name for dataset in needed if not dataset.is_complete(data_dir, root)]
    reasons = [f"the real {' and '.join(missing)} data are not complete in {_shown(data_dir, root)}"] if missing else []
    if not has_gpu():
        reasons.insert(0, "there is no GPU")
    if reasons:
        return "quick", f"{' and '.join(reasons)}; PROFILE=paper overrides"
    return "paper", "there are a GPU and the real data; PROFILE=quick overrides"


def has_gpu():
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def provide(needed, data_dir, profile, phantoms, root, jobs):
    """Return {parameter: data folder}; sets without any real file get phantoms, written first if they are missing."""
    folders = {}
    for dataset in needed:
        n_files = len(dataset.files(data_dir))
        if n_files:
            print(f"{dataset.name} data: {n_files} real files in {_shown(data_dir, root)}", flush=True)
            folders[dataset.parameter] = Path(data_dir)
        else:
            folders[dataset.parameter] = _phantom(dataset, profile, phantoms, root, jobs)
    return folders


def _phantom(dataset, profile, phantoms, root, jobs):
    folder = root / "data" / "phantoms" / profile
    settings = phantoms.get(dataset.name)
    if settings is None:
        raise ValueError(
            f"notebooks/{profile}.yaml has no section '{dataset.name}' under 'phantoms', nor are there real data."
        )
    sources = sorted((root / "gleam" / "datasets" / "phantoms").rglob("*.py"))
    manifest = json.dumps({"settings": settings, "code": digest(*sources)}, sort_keys=True)
    stamp = folder / f"{dataset.name}.json"
    shown = f"{dataset.name} data: phantoms in {_shown(folder, root)}"
    if stamp.is_file() and stamp.read_text() == manifest and dataset.is_complete(folder, root):
        print(f"{shown}, up to date", flush=True)
        return folder
    print(f"{shown}, writing", flush=True)
    begun = folder / f".{dataset.name}.begun.json"
    if not (begun.is_file() and begun.read_text() == manifest):  # else the files of an interrupted run can stay
        shutil.rmtree(folder / dataset.raw, ignore_errors=True)
    write_text(begun, manifest)
    write = getattr(importlib.import_module("gleam.datasets.phantoms"), dataset.name)
    write(folder, **{"n_jobs": jobs} | settings)
    write_text(stamp, manifest)
    return folder


def identity(parameter, folder, root):
    """What a chapter's key keeps of a data folder: the phantoms' manifest, or names, sizes and times of real files."""
    dataset = next(dataset for dataset in SETS if dataset.parameter == parameter)
    stamp = folder / f"{dataset.name}.json"
    if folder.is_relative_to(root / "data" / "phantoms") and stamp.is_file():
        return digest(stamp)
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in dataset.files(folder)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def relative(folder, profile, root):
    """Path of a data folder from notebooks/; one outside the project gets a link, so that no page names its place."""
    if folder.is_relative_to(root):
        return f"../{folder.relative_to(root).as_posix()}"
    link = root / "_work" / profile / "real_data"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() == folder:
        return f"../{link.relative_to(root).as_posix()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder, target_is_directory=True)
    return f"../{link.relative_to(root).as_posix()}"


def _shown(folder, root):
    folder = Path(folder)
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)
