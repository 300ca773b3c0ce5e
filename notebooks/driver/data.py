"""Which data the chapters read: real files where they are given, phantoms in the same layout where they are not."""

import hashlib
import importlib
import inspect
import json
import shutil
from pathlib import Path

from driver.files import check_writable, digest, shown, write_text

PROFILES = ("quick", "standard", "paper")


def sets():
    """The data sets of the book."""
    from gleam.datasets.sets import SETS  # here and not above: it brings torch along

    return SETS


def needed_by(selected):
    """Data sets that at least one of the chapters declares a parameter for."""
    return [dataset for dataset in sets() if any(dataset.parameter in chapter.declared for chapter in selected)]


def report(selected, data_dir, root):
    """What is there, what is missing and what to do, for each data set that the chapters need."""
    from gleam.datasets.sets import report

    needed = needed_by(selected)
    chapters = {one.name: [chapter.name for chapter in selected if one.parameter in chapter.declared] for one in needed}
    return report(data_dir, needed, place=shown(data_dir, root), chapters=chapters)


def choose_profile(requested, needed, data_dir, root):
    """Return (profile, why): as asked, else paper if there are a GPU and the real data that is needed, else quick."""
    if requested:
        if requested not in PROFILES:
            raise ValueError(f"Unknown profile '{requested}': PROFILE is {', '.join(PROFILES[:-1])} or {PROFILES[-1]}.")
        return requested, "as asked"
    missing = [dataset.name for dataset in needed if dataset.has_phantoms and not dataset.is_complete(data_dir)]
    reasons = [f"the real {' and '.join(missing)} data are not complete in {shown(data_dir, root)}"] if missing else []
    if not has_gpu():
        return "quick", " and ".join(["there is no GPU", *reasons])
    if reasons:
        return "quick", f"{reasons[0]}; PROFILE=paper overrides"
    return "paper", "there are a GPU and the real data; PROFILE=quick overrides"


def check_folder(given, data_dir, needed):
    """Raise ValueError, with a sentence, unless DATA=`given` is a folder with a raw file of a set that is needed."""
    if not data_dir.exists():
        raise ValueError(f"The data folder '{given}' does not exist (DATA=dir, see data/README.md).")
    if not data_dir.is_dir():
        raise ValueError(f"The data folder '{given}' is not a folder (DATA=dir, see data/README.md).")
    if needed and not any(dataset.files(data_dir) for dataset in needed):
        names = " or ".join(dict.fromkeys(place for dataset in needed for place in dataset.patterns))
        why = "".join(f" {said}" for dataset in needed if (said := _left_out(dataset, data_dir)))
        raise ValueError(f"The data folder '{given}' has no raw file {names} (DATA=dir, see data/README.md).{why}")


def _left_out(dataset, data_dir):
    """Sentence on the files that a loader leaves out; empty without such files."""
    n = len(dataset.left_out(data_dir))
    return f"{n} files are left out: by their names they are {dataset.not_taken}." if n else ""


def fast_precision(device):
    """The number format in which convolutions are fastest on ``device``, "cpu" or "cuda": bf16 or fp32."""
    from gleam.execution import has_fast_bf16  # here and not above: it brings torch along

    return "bf16" if has_fast_bf16(device) else "fp32"


def has_gpu():
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def provide(needed, data_dir, profile, phantoms, root, jobs):
    """Return {parameter: data folder}; sets without any real file get phantoms, written first if they are missing.

    Files that the split list of their set does not name are none of its files. A set without files and without phantoms
    to stand in has no folder.
    """
    for dataset in needed:
        if dataset.has_phantoms and not dataset.files_of_list(data_dir):
            _check_settings(dataset, profile, phantoms)  # all of them, before the first is written
    folders = {}
    for dataset in needed:
        n_files, n_listed = len(dataset.files(data_dir)), len(dataset.files_of_list(data_dir))
        place = shown(data_dir, root)
        if n_listed:
            print(f"{dataset.name} data: {n_files} real files in {place}", flush=True)
            folders[dataset.parameter] = Path(data_dir)
        elif dataset.has_phantoms:
            if n_files:
                print(f"{dataset.name} data: {n_files} real files in {place}, none on {dataset.splits}", flush=True)
            elif said := _left_out(dataset, data_dir):
                print(f"{dataset.name} data: none in {place}. {said}", flush=True)
            folders[dataset.parameter] = _phantom(dataset, profile, phantoms, root, jobs)
        else:
            print(f"{dataset.name} data: none in {place}, so archived records are shown", flush=True)
    return folders


def _check_settings(dataset, profile, phantoms):
    """Raise ValueError, with a sentence, if the phantoms' generator does not take the settings of the YAML file."""
    settings = phantoms.get(dataset.name)
    if settings is None:
        raise ValueError(
            f"notebooks/{profile}.yaml has no section '{dataset.name}' under 'phantoms', nor are there real data."
        )
    where = f"notebooks/{profile}.yaml, phantoms, {dataset.name}"
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: expected 'name: value', not {settings!r}.")
    parameters = inspect.signature(_generator(dataset)).parameters
    named = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    takes = ", ".join(named)
    for name in settings:
        if name not in named:
            raise ValueError(f"{where}: '{name}' is unknown; expected {takes}.")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in settings:
            raise ValueError(f"{where}: '{name}' is missing; expected {takes}.")


def _generator(dataset):
    return getattr(importlib.import_module("gleam.phantoms"), dataset.name)


def _phantom(dataset, profile, phantoms, root, jobs):
    from gleam.training.identity import RESULTS_VERSION  # here and not above: it brings torch along

    folder = root / "data" / "phantoms" / profile
    settings = phantoms[dataset.name]
    manifest = json.dumps({"settings": settings, "results_version": RESULTS_VERSION}, sort_keys=True)
    stamp = folder / f"{dataset.name}.json"
    line = f"{dataset.name} data: phantoms in {shown(folder, root)}"
    if stamp.is_file() and stamp.read_text() == manifest and dataset.is_complete(folder):
        print(f"{line}, up to date", flush=True)
        return folder
    check_writable(folder / dataset.raw, root)
    print(f"{line}, writing", flush=True)
    # the stamp is written last, and a note of what was begun first
    begun = folder / f".{dataset.name}.begun.json"
    if not (begun.is_file() and begun.read_text() == manifest):  # else the files of an interrupted run can stay
        shutil.rmtree(folder / dataset.raw, ignore_errors=True)
    write_text(begun, manifest)
    _generator(dataset)(folder, **{"n_jobs": jobs} | settings)
    write_text(stamp, manifest)
    return folder


def identity(parameter, folder, root):
    """What a chapter's key keeps of a data folder: the split list, and the phantoms' manifest or facts of real
    files."""
    dataset = next(dataset for dataset in sets() if dataset.parameter == parameter)
    stamp = folder / f"{dataset.name}.json"
    if folder.is_relative_to(root / "data" / "phantoms") and stamp.is_file():
        facts = digest(stamp)
    else:
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in dataset.files(folder)]
    splits = dataset.list_in(folder)
    text = json.dumps([facts, splits and digest(splits)])
    return hashlib.sha256(text.encode()).hexdigest()


def relative(folder, profile, root):
    """Path of a data folder from notebooks/; one outside the project gets a link, so that no page names its place."""
    if folder.is_relative_to(root):
        return f"../{folder.relative_to(root).as_posix()}"
    link = root / "_work" / profile / "real_data"
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() == folder:
        return f"../{link.relative_to(root).as_posix()}"
    link.unlink(missing_ok=True)  # to another folder
    link.symlink_to(folder, target_is_directory=True)
    return f"../{link.relative_to(root).as_posix()}"
