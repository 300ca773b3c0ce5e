"""Copies the records of a finished build to where the tables of the book find archived runs."""

from __future__ import annotations

from pathlib import Path

from gleam.files import written_whole
from gleam.records.record import load, slug
from gleam.training.identity import RESULTS_VERSION


def archive(source: str | Path, results: str | Path, *, profile: str, seed: int = 0) -> tuple[Path, int]:
    """Copy all records of a build to the folder `results`/<device>-<profile>[-seed<n>].

    A run of the paper's profile has the name of the device alone, like those of `make records`. Files that are already
    in the folder are replaced or kept.

    Parameters
    ----------
    source : path
        Holds <experiment>/<method>.json, possibly with pictures beside them.
    results : path
        Folder of all archived runs.
    profile : str
        Profile of the build.
    seed : int
        Seed of the build.

    Returns
    -------
    folder : Path
        Where the records are now.
    n_records : int
        How many were copied.

    Raises
    ------
    FileNotFoundError
        If there is no record.
    ValueError
        If the records do not belong together: another profile, seed, results version or device, or methods of one
        experiment that were tested on different data.
    """
    paths = sorted(Path(source).glob("*/*.json"))
    if not paths:
        raise FileNotFoundError(f"{source}: holds no record; expected those of a build of the profile {profile}")
    found = {path: load(path) for path in paths}
    names = [record.environment.get("device", "") for record in found.values()]
    devices = {"cpu" if name.startswith("CPU") else slug(name) for name in names}
    if len(devices) > 1:
        raise ValueError(f"{source}: its records are of {' and '.join(sorted(devices))}; expected one device")
    name = devices.pop() + ("" if profile == "paper" else f"-{profile}") + (f"-seed{seed}" if seed else "")
    folder = Path(results) / name
    kept = [path for path in sorted(folder.glob("*/*.json")) if Path(source) / path.relative_to(folder) not in found]
    _check_together({**found, **{path: load(path) for path in kept}}, profile, seed)
    for path in [*paths, *sorted(Path(source).glob("*/*.png"))]:
        with written_whole(folder / path.relative_to(source)) as temporary:
            temporary.write_bytes(path.read_bytes())
    return folder, len(paths)


def _check_together(found, profile, seed):
    """Raise ValueError, naming the first record that does not fit the others."""
    data = {}
    for path, record in found.items():
        theirs = record.profile, record.settings.get("seed", seed), record.results_version
        for what, value, expected in zip(
            ("profile", "seed", "results version"), theirs, (profile, seed, RESULTS_VERSION), strict=True
        ):
            if value != expected:
                raise ValueError(f"{path}: is of {what} {value}, not {expected}; move it away, then archive again")
        test = record.data.get("test", {}).get("fingerprint")
        if data.setdefault(record.experiment, test) != test:
            raise ValueError(
                f"{path}: was tested on other data than the records of {record.experiment} before it (sizes, subjects "
                "or masks); move the older ones away, then archive again"
            )
