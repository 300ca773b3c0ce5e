"""Runs that are kept: archived ones, which the tables of the book show, and complete ones of earlier builds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gleam.datasets.slices import Slices
from gleam.files import written_whole
from gleam.records.recording import network_settings
from gleam.records.schema import FULL_SCALE
from gleam.records.storage import Record, load, load_experiment, slug
from gleam.strategies.fast import AUTO
from gleam.training.arguments import settings as settings_of_fit
from gleam.training.experiments import Experiment
from gleam.training.identity import RESULTS_VERSION

ARCHIVED_PROFILES = (FULL_SCALE, "standard")  # tables show the first of them that has records


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
    # all CPUs share a folder: their names list units for bf16
    devices = {"cpu" if name.startswith("CPU") else slug(name) for name in names}
    if len(devices) > 1:
        raise ValueError(f"{source}: its records are of {' and '.join(sorted(devices))}; expected one device")
    name = devices.pop() + ("" if profile == "paper" else f"-{profile}") + (f"-seed{seed}" if seed else "")
    folder = Path(results) / name
    # records that this build replaces need not fit the others
    kept = [path for path in sorted(folder.glob("*/*.json")) if Path(source) / path.relative_to(folder) not in found]
    _check_together({**found, **{path: load(path) for path in kept}}, profile, seed)  # before anything is copied
    for path in [*paths, *sorted(Path(source).glob("*/*.png"))]:
        with written_whole(folder / path.relative_to(source)) as temporary:
            temporary.write_bytes(path.read_bytes())
    return folder, len(paths)


def _check_together(found, profile, seed):
    """Raise ValueError, naming the first record that does not fit the others."""
    data = {}
    for path, record in found.items():
        # a method without training has no seed
        theirs = record.profile, record.settings.get("seed", seed), record.results_version
        for what, value, expected in zip(
            ("profile", "seed", "results version"), theirs, (profile, seed, RESULTS_VERSION), strict=True
        ):
            if value != expected:
                raise ValueError(f"{path}: is of {what} {value}, not {expected}; move it away, then archive again")
        test = record.data.get("test", {}).get("fingerprint")
        if data.setdefault(record.experiment, test) != test:  # the first record of an experiment decides
            raise ValueError(
                f"{path}: was tested on other data than the records of {record.experiment} before it (sizes, subjects "
                "or masks); move the older ones away, then archive again"
            )


def archived(folder: str | Path, experiment: str, methods: Sequence[str] = ()) -> dict[str, Record]:
    """The archived run of an experiment that the tables show.

    Parameters
    ----------
    folder : path
        Holds a folder for each device and profile, as results/ does.
    experiment : str
        Its name.
    methods : sequence of str
        Only a run that has all of these, scored and trained to the end. Without it, an unfinished run counts.

    Returns
    -------
    dict
        Of method to :class:`gleam.Record`; empty if no such run is archived.

    Notes
    -----
    All rows are of one device and profile, so that they belong together. The profile "paper" goes before "standard",
    then the newest results version, then the newest date. Folders of further seeds (<device>-<profile>-seed1) are
    ignored.
    """
    return _first(folder, experiment, ARCHIVED_PROFILES, methods)[1]


def archived_seeds(
    folder: str | Path, experiment: str, profiles: Sequence[str] = ARCHIVED_PROFILES, methods: Sequence[str] = ()
) -> dict[str, list[Record]]:
    """The run that :func:`archived` returns, and its further seeds, of the same profile and results version.

    Parameters
    ----------
    folder, experiment, methods
        As in :func:`archived`. A further seed need not have all methods.
    profiles : sequence of str
        The first of them that has records is taken.

    Returns
    -------
    dict
        Of method to a record for each seed that has it; empty if no such run is archived.
    """
    path, first = _first(folder, experiment, profiles, methods)
    if path is None:
        return {}
    kind = {(record.profile, record.results_version) for record in first.values()}
    further = (load_experiment(one, experiment) for one in sorted(path.parent.glob(f"{path.name}-seed*")))
    alike = ({m: r for m, r in run.items() if (r.profile, r.results_version) in kind} for run in further)
    seeds = [first, *alike]
    found = dict.fromkeys(method for run in seeds for method in run)
    return {method: [run[method] for run in seeds if method in run] for method in found}


def _first(folder, experiment, profiles, methods):
    """Folder and records of the archived run; None and {} if there is none."""
    runs = []
    for path in sorted(path.parent for path in Path(folder).glob(f"*/{experiment}") if path.is_dir()):
        if not re.search(r"-seed\d+$", path.name):
            found = load_experiment(path, experiment)
            # rows of two profiles never stand in one block
            runs += [(path, {m: r for m, r in found.items() if r.profile == profile}) for profile in profiles]

    def rank(run):
        first = next(iter(run[1].values()))
        return -profiles.index(first.profile), first.results_version, newest_date(run[1])

    whole = [run for run in runs if run[1] and all(m in run[1] and run[1][m].is_whole for m in methods)]
    return max(whole, key=rank, default=(None, {}))


def newest_date(records: dict[Any, Record]) -> str:
    """The newest date (ISO) in a dict of records; empty if there is none."""
    # ISO dates sort as text
    return max((record.environment.get("date", "") for record in records.values()), default="")


def finished(folder: str | Path, experiment: Experiment, data: tuple[Slices, ...]) -> dict[str, Record]:
    """Records of complete trainings of an experiment on the same data, which need not be repeated.

    A training is complete if all planned steps were taken, under today's results version. Such records may be left from
    an earlier build, also one on another machine.

    Parameters
    ----------
    folder : path
        Holds <experiment>/<method>.json.
    experiment : Experiment
        Network, strategy and settings of each method must agree with its record, as far as that holds them: older ones
        say of the network only how many parameters it has.
    data : tuple of Slices
        (train, val, test). Fingerprints must agree.

    Returns
    -------
    dict
        Of method to :class:`gleam.Record`.
    """
    fingerprints = {part.name: part.fingerprint for part in data}
    return {
        method: record
        for method, record in load_experiment(folder, experiment.name).items()
        if record.n_steps_done is not None
        and record.n_steps_done == record.settings.get("n_steps")
        and record.results_version == RESULTS_VERSION
        and all(record.data.get(name, {}).get("fingerprint") == one for name, one in fingerprints.items())
        and _is_planned(record, experiment)
    }


def _is_planned(record, experiment):
    """Whether network, strategy and settings of a record are those of its method in an experiment."""
    method = experiment.methods.get(record.method)
    if method is None:
        return False
    network = experiment.make_network(method.n_iterations)
    formats = ("bf16", "fp32") if method.precision == AUTO else (method.precision,)  # "auto": that of either machine
    # None: settings leave out n_accumulated if it is 1
    planned = {"n_accumulated": None} | settings_of_fit(n_steps=method.n_steps, **experiment.training)
    planned["optimizer"] = experiment.training.get("optimizer")  # records hold text: one of your own never agrees
    return (
        record.settings.get("strategy") in {repr(replace(method.fast, precision=one).equivalent) for one in formats}
        and all(record.settings.get(name) == value for name, value in planned.items())
        and record.n_parameters == sum(p.numel() for p in network.parameters())
        and record.network in ({}, network_settings(network))  # {}: an older record
    )
