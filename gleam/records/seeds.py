"""Archived trainings with several seeds, and two methods compared over all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gleam.records.archive import archived, newest_date
from gleam.records.gaps import gap_text
from gleam.records.scores import MISSING
from gleam.records.storage import Record, load_experiment

Runs = dict[str, list[Record]]  # of method to its records, one per seed


def seeds_text(folder: str | Path, experiment: str, ours: str, theirs: str, metric: str = "psnr") -> str:
    """A difference of two methods over all seeds of the archived run that tables show, as text.

    Parameters
    ----------
    folder : path
        Holds a folder for each device, profile and further seed, as results/ does.
    experiment, ours, theirs : str
        Names of the records.
    metric : str
        Column of the scores.

    Returns
    -------
    str
        Such as "−0.14 dB (−0.15 to −0.12), 3 seeds −0.15 to −0.12"; a dash if no seed has both methods.

    Raises
    ------
    ValueError
        If two records do not belong together (:func:`gleam.records.difference`, :func:`pair_seeds`).
    """
    profiles = {record.profile for record in archived(folder, experiment).values()}
    runs = of_seeds(folder, experiment, *profiles)
    pairs = pair_seeds(runs.get(ours, []), runs.get(theirs, []))
    return gap_text(*pairs, metric) if pairs[0] else MISSING


def of_seeds(folder: str | Path, experiment: str, *profiles: str) -> Runs:
    """Archived records of an experiment and of profiles, of method to one record per seed; empty if there are none.

    All are of one device: the one whose records are newest.
    """
    devices: dict[str, list[Path]] = {}
    for path in sorted(path.parent for path in Path(folder).glob(f"*/{experiment}") if path.is_dir()):
        # folders of one device and profile differ in the seed
        devices.setdefault(re.sub(r"-seed\d+$", "", path.name), []).append(path)
    found: list[tuple[str, Runs]] = []
    for folders in devices.values():
        loaded = [load_experiment(path, experiment) for path in folders]
        runs: Runs = {}
        for of_seed in loaded:
            for method, record in of_seed.items():
                runs.setdefault(method, []).extend([record] if record.profile in profiles else [])
        date = max(map(newest_date, loaded), default="")
        found.append((date, {m: r for m, r in runs.items() if r}))
    return max(filter(lambda one: one[1], found), key=lambda one: one[0], default=("", {}))[1]


def pair_seeds(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Records of two methods, one by one trained with the same seed; a method without training is paired by its data.

    A seed that only one of them has is left out, and so are records without scores. Raises ValueError if each of two
    trained methods has a seed that the other lacks.
    """
    trained = [[record for record in records if record.n_parameters is not None] for records in (ours, theirs)]
    seeds = [{record.settings.get("seed") for record in records} for records in trained]
    if all(trained) and not (seeds[0] <= seeds[1] or seeds[1] <= seeds[0]):
        names = " and ".join(f"{r[0].method} seeds {sorted(s, key=str)}" for r, s in zip(trained, seeds, strict=True))
        raise ValueError(f"{ours[0].experiment}: {names} do not match; expected one to have all of the other's")
    pairs = [(one, _partner(one, theirs)) for one in ours]
    whole = [(one, other) for one, other in pairs if other and one.scores and other.scores]
    return [one for one, _ in whole], [other for _, other in whole]


def _partner(ours, candidates):
    """The run that a run is compared with: trained with its seed; without training, tested on its data. Or None."""
    seed, data = ours.settings.get("seed"), ours.data.get("test", {}).get("fingerprint")
    for one in candidates:
        if one.n_parameters is None and one.data.get("test", {}).get("fingerprint") == data:
            return one
        if one.n_parameters is not None and one.settings.get("seed") == seed:
            return one
    return None
