"""Differences between two methods, with an interval, and what is concluded from them by rules that are fixed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from gleam.records.scores import gained
from gleam.records.storage import Record

SMALLEST = {"ssim": 0.005, "ssim_object": 0.005, "nrmse": 0.003, "psnr": 0.2}  # by convention
SMALLEST_RATIO = 1.1
RULES = (  # fixed after some of the records that they judge: book/claims.md says which
    "A difference is that of paired slices. Its 95 % interval is a hierarchical bootstrap: subjects are drawn again, "
    "then slices within each of them; its ends lie further out the fewer the subjects. Trainings with several seeds "
    "are averaged slice by slice first; where a seed has phantoms of its own as well, its subjects join the others. "
    "The interval is over subjects, never over trainings. So the range of the seeds' means stands beside it; each fold "
    "of a cross-validation is a training with a seed of its own. Without a range it was one training, and nothing is "
    "known about another seed.",
    f"The smallest difference that matters is {SMALLEST['psnr']} dB in PSNR, {SMALLEST['ssim']} in SSIM, "
    f"{SMALLEST['nrmse']} in nRMSE, and a factor of {SMALLEST_RATIO} for memory and time.",
    "*Better* holds if the interval is above 0, the mean at least the smallest difference that matters, and the sign "
    "the same with every seed. It does not hold if the interval lies below that smallest difference.",
    "*As good as* holds if the interval is above minus the smallest difference that matters, and so is the mean with "
    "every seed. It does not hold if the interval is below that. In nRMSE, where lower is better, signs are changed.",
    "A ratio of costs holds if it reaches the published one within the factor that matters; a published one between 1 "
    "and that factor means about equal, and counts as 1. It holds in part if it is smaller than that and still at "
    "least that factor; else it does not hold. Times count only if one run measured both.",
    "Everything else cannot be told. A claim about several experiments holds if it holds in all. It does not hold if "
    "it holds in none, not even in part, and fails in at least one. It cannot be told if it can be told in none. Else "
    "it holds in part.",
    "Judged is the largest evidence: runs at the paper's size; until there are some, those of the profile standard, or "
    "made for a claim beyond the paper, together with real anatomy; for costs and measures without either, this build. "
    "Scores of a build with another profile are shown and not judged.",
)
OF_A_SEED = ("seed", "fold", "lamda")  # settings in which trainings of one method may differ
OF_A_METHOD = (  # settings in which methods of one experiment may differ
    "strategy", "precision", "n_steps", "n_iterations", "validate_every", "lamda", "lamdas", "weights", "trained_on",
)  # fmt: skip
HOLDS, IN_PART, FAILS, UNKNOWN = "holds", "holds in part", "does not hold", "cannot be told"
N_DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """A mean difference of a score: our method minus another one.

    Attributes
    ----------
    metric : str
        The score.
    mean, low, high : float
        Mean over slices, and the ends of its 95 % interval.
    by_seed : tuple of float
        The mean of each pair of trainings.
    n_subjects : int
        How many subjects were tested.
    """

    metric: str
    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    n_subjects: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero, and every pair of trainings has the same sign."""
        return (self.low > 0 and min(self.by_seed) > 0) or (self.high < 0 and max(self.by_seed) < 0)

    @property
    def gain(self) -> tuple[float, float, float]:
        """Mean, low and high, with the sign changed where lower is better, so that positive means ours is better."""
        mean, *ends = (gained(number, self.metric) for number in (self.mean, self.low, self.high))
        return mean, min(ends), max(ends)


def difference(ours: Record | Sequence[Record], theirs: Record | Sequence[Record], metric: str = "psnr") -> Difference:
    """The difference of two methods, paired slice by slice.

    Parameters
    ----------
    ours, theirs : Record, or a sequence of them
        With several, those of the same seeds in the same order. A single baseline without training may stand for all.
        Different seeds, such as those of the folds of a cross-validation, are tested on the same slices, or on
        different subjects.
    metric : str
        Column of the scores.

    Returns
    -------
    Difference

    Raises
    ------
    ValueError
        If two records do not belong together: tested on other slices or with other masks, of other seeds, settings,
        experiments, profiles or results versions; if a seed is there twice, or its training differs from the others in
        more than the seed; if a training is not complete, or has no scores.
    """
    ours, theirs = ([found] if isinstance(found, Record) else list(found) for found in (ours, theirs))
    if len(theirs) == 1 < len(ours) and theirs[0].n_parameters is None:
        theirs = theirs * len(ours)
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} records cannot be compared with {len(theirs)}; expected one per seed of each")
    pairs = [_paired(one, other, metric) for one, other in zip(ours, theirs, strict=True)]
    _check_repeats(ours)
    _check_repeats(theirs)
    for one, other in combinations(pairs, 2):  # two seeds have all slices in common, or no subject
        shared = {*one.index.unique("subject")} & {*other.index.unique("subject")}
        if shared and not one.index.equals(other.index):
            method = f"{ours[0].method} of {ours[0].experiment}"
            raise ValueError(f"{method}: another seed was tested on other slices of the same subjects")
    # seeds are averaged slice by slice before subjects are drawn
    values = pd.concat(pairs).groupby(level=["subject", "slice"]).mean()
    low, high = bootstrap(values)
    by_seed = tuple(float(pair.mean()) for pair in pairs)
    return Difference(metric, float(values.mean()), low, high, by_seed, values.index.unique("subject").size)


def differing(one: Record, other: Record) -> list[str]:
    """What differs between two trainings of one method with different seeds, or in different folds, but should not."""
    compared = [(one.settings, other.settings)]
    if one.network and other.network:  # older records do not say how their network was made
        compared += [(one.network, other.network)]
    found = [
        name
        for mine, theirs in compared
        for name in sorted({*mine, *theirs} - set(OF_A_SEED))
        if mine.get(name) != theirs.get(name)
    ]
    found += ["mask"] if _mask(one) != _mask(other) else []  # subjects may differ, but masks do not
    return found + [
        name for name in ("n_parameters", "profile", "results_version") if getattr(one, name) != getattr(other, name)
    ]


def _check_repeats(records):
    """Raise ValueError if two of several records are one training, or differ in more than the seed."""
    first, *others = [record for record in records if record.n_parameters is not None] or [None]
    for record in others:
        if found := differing(record, first):
            raise ValueError(
                f"{record.method} of {record.experiment}: seeds {first.settings.get('seed')} and "
                f"{record.settings.get('seed')} differ in {', '.join(found)}; expected the same training"
            )
    seeds = [record.settings.get("seed") for record in records if record.n_parameters is not None]
    if len({*seeds}) < len(seeds):
        raise ValueError(f"{first.method} of {first.experiment} has seeds {seeds}; expected each once")


def _paired(ours, theirs, metric):
    both = f"{ours.method} and {theirs.method}"
    for name in ("experiment", "profile", "results_version"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ValueError(
                f"{both} do not belong together: {name} is {getattr(ours, name)!r} and {getattr(theirs, name)!r}"
            )
    _check_settings(ours, theirs, f"{both} of {ours.experiment}")
    for record in (ours, theirs):
        if metric not in record.table:
            raise ValueError(f"{record.method} of {record.experiment} has no scores to compare ({metric})")
        planned, done = record.settings.get("n_steps"), record.n_steps_done
        if planned is not None and done is not None and done < planned:
            raise ValueError(f"{record.method} of {record.experiment} took {done} of {planned} steps; expected all")
    one, other = (_scores(record, metric) for record in (ours, theirs))
    if not one.index.equals(other.index):
        raise ValueError(f"{both} of {ours.experiment} were not tested on the same slices")
    return one - other


def _check_settings(ours, theirs, both):
    """Raise ValueError if two methods differ in what all methods of an experiment share."""
    # a method without training has no seed
    seeds = [record.settings.get("seed") for record in (ours, theirs) if record.n_parameters is not None]
    if len({*seeds}) > 1:
        raise ValueError(f"{both} have seeds {seeds}; expected one")
    shared = sorted(({*ours.settings} & {*theirs.settings}) - {"seed", *OF_A_METHOD})
    if other := [name for name in shared if ours.settings[name] != theirs.settings[name]]:
        values = ", ".join(f"{name} is {ours.settings[name]!r} and {theirs.settings[name]!r}" for name in other)
        raise ValueError(f"{both} do not belong together: {values}")
    if _mask(ours) != _mask(theirs):
        raise ValueError(f"{both} were tested with masks {_mask(ours)} and {_mask(theirs)}; expected the same")


def _mask(record):
    return record.data.get("test", {}).get("mask")


def _scores(record, metric):
    """Scores by subject and slice. Phantoms of two seeds may have one name, so their data are part of the name."""
    table = record.table
    if record.data.get("is_phantom"):
        table = table.assign(subject=table["subject"] + f" {record.data.get('test', {}).get('fingerprint', '')}")
    return table.set_index(["subject", "slice"])[metric].sort_index()


def bootstrap(values: pd.Series, *, level: float = 0.95, n_draws: int = N_DRAWS, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of `values`, by drawing subjects again and slices within each of them.

    Parameters
    ----------
    values : Series
        With the index (subject, slice).
    level : float
        Of the interval.
    n_draws, seed : int
        How many data sets are drawn, and the seed of the generator.

    Returns
    -------
    low, high : float
        NaN if there is only one subject.

    Notes
    -----
    Plain percentiles of n subjects are too narrow, as a normal interval is beside Student's. Percentiles further out
    correct this: Hesterberg, The American Statistician 69, 2015, section 5.
    """
    from scipy.stats import norm, t

    groups = [group.to_numpy() for _, group in values.groupby("subject")]
    n = len(groups)
    if n < 2:
        return math.nan, math.nan
    generator, sizes = np.random.default_rng(seed), np.array([len(group) for group in groups])
    # subjects with fewer slices are filled up, so that all draws are made at once
    padded = np.stack([np.pad(group, (0, sizes.max() - len(group))) for group in groups])
    sums, counts = np.zeros(n_draws), np.zeros(n_draws)
    for _ in groups:  # the subject that is drawn at this place
        subject = generator.integers(n, size=n_draws)
        chosen = (generator.random((n_draws, sizes.max())) * sizes[subject, None]).astype(int)
        is_there = np.arange(sizes.max()) < sizes[subject, None]  # as many slices as the drawn subject has
        sums += (padded[subject[:, None], chosen] * is_there).sum(1)
        counts += sizes[subject]
    tail = norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf((1 + level) / 2, n - 1))
    low, high = np.quantile(sums / counts, [tail, 1 - tail])
    return float(low), float(high)


def is_better(found: Difference) -> str:
    """The verdict on "ours is better", by the rule for *better* of `RULES`."""
    (mean, low, high), smallest = found.gain, SMALLEST[found.metric]
    if low > 0 and mean >= smallest and all(gained(one, found.metric) > 0 for one in found.by_seed):
        return HOLDS
    return FAILS if high < smallest else UNKNOWN


def is_as_good(found: Difference) -> str:
    """The verdict on "ours is as good as theirs", by the rule for *as good as* of `RULES`."""
    (_, low, high), smallest = found.gain, SMALLEST[found.metric]
    if low > -smallest and all(gained(one, found.metric) > -smallest for one in found.by_seed):
        return HOLDS
    return FAILS if high < -smallest else UNKNOWN


def is_as_large(ratio: float, published: float) -> str:
    """The verdict on a ratio of costs, theirs over ours, by the rule for costs of `RULES`."""
    expected = published if published >= SMALLEST_RATIO else min(published, 1.0)
    if ratio >= expected / SMALLEST_RATIO:
        return HOLDS
    return IN_PART if ratio >= SMALLEST_RATIO else FAILS


def together(verdicts: Iterable[str]) -> str:
    """The verdict on a claim about several experiments, by the rule for several experiments of `RULES`."""
    found = set(verdicts)
    if not found or found == {UNKNOWN}:
        return UNKNOWN
    if found == {HOLDS}:
        return HOLDS
    return FAILS if found <= {FAILS, UNKNOWN} else IN_PART
