"""Archived trainings with several seeds, and two methods compared over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gleam.records.archive import archived_seeds
from gleam.records.gaps import gap_text
from gleam.records.scores import MISSING
from gleam.records.storage import Record


def seeds_text(folder: str | Path, experiment: str, ours: str, theirs: str, metric: str = "psnr") -> str:
    """A difference of two methods over all seeds of their archived run, as text.

    Parameters
    ----------
    folder : path
        Holds a folder for each device, profile and further seed, as results/ does.
    experiment : str
        Its name.
    ours, theirs : str
        Methods. The run is the one that :func:`gleam.records.archived` finds for both.
    metric : str
        Column of the scores.

    Returns
    -------
    str
        Such as "−0.14 dB (−0.15 to −0.12), 3 seeds −0.15 to −0.12"; a dash if no archived run has both methods.

    Raises
    ------
    ValueError
        If two records do not belong together (:func:`gleam.records.difference`), or each of two trained methods has a
        seed that the other lacks.
    """
    runs = archived_seeds(folder, experiment, methods=[ours, theirs])
    return gap_text(*pair_seeds(runs[ours], runs[theirs]), metric) if runs else MISSING


def pair_seeds(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Records of two methods, one by one trained with the same seed; a method without training is paired by its data.

    Left out is a seed that only one of them has, and a record that is not whole. Raises ValueError if each of two
    trained methods has a seed that the other lacks.
    """
    trained = [[record for record in records if record.n_parameters is not None] for records in (ours, theirs)]
    seeds = [{record.settings.get("seed") for record in records} for records in trained]
    if all(trained) and not (seeds[0] <= seeds[1] or seeds[1] <= seeds[0]):
        names = " and ".join(f"{r[0].method} seeds {sorted(s, key=str)}" for r, s in zip(trained, seeds, strict=True))
        raise ValueError(f"{ours[0].experiment}: {names} do not match; expected one to have all of the other's")
    pairs = [(one, _partner(one, theirs)) for one in ours]
    whole = [(one, other) for one, other in pairs if other and one.is_whole and other.is_whole]
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
