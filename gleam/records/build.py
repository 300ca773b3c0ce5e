"""What a chapter does with an experiment: train, score, save records, and report them beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from torch import nn

from gleam.cost.timing import Cost
from gleam.datasets.slices import Slices
from gleam.physics.baselines import Method, wavelet
from gleam.records.archive import archived, archived_seeds
from gleam.records.comparisons import baseline_note, compare
from gleam.records.gaps import gap_text
from gleam.records.recording import evaluate_all, record
from gleam.records.seeds import pair_seeds
from gleam.records.storage import Record, save
from gleam.records.tables import archive_caption, archive_name, markdown_table, published, table
from gleam.records.untrained import Untrained, untrained
from gleam.training.checkpoints import Fit
from gleam.training.experiments import AS_DEEP, LONGER, Experiment
from gleam.training.several import fit_all

PAPERS = {  # for captions: how the paper measured each kind of data
    "knees": "mridata.org's knees at full size on one GPU, deviations over scans by the authors' code",
    "brains": "R = 8, fastMRI's T2-weighted brains at 3 T on one GPU, deviations over scans by the authors' code",
    "hearts": "private series at R = 10 and full size on one GPU",
}
COMPARED = [  # pairs of methods that a report compares in words, if both were run
    ("GLEAM", "End-to-end"),
    (LONGER, "End-to-end"),
    ("GLEAM", LONGER),
    ("GLEAM", AS_DEEP),
    ("MEL", "End-to-end"),
    ("Checkpointing", "End-to-end"),
    ("End-to-end", "CS"),
    ("GLEAM", "CS"),
]


@dataclass(frozen=True)
class Trained:
    """The result of training an experiment, each by method.

    Attributes
    ----------
    networks : dict of str to Module
        With the trained weights.
    fits : dict of str to Fit
        What training did.
    runs : dict of str to Record
        Records of the scores; empty if nothing was scored.
    """

    networks: dict[str, nn.Module]
    fits: dict[str, Fit] = field(default_factory=dict)
    runs: dict[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """One build of the book: the folders, profile and device that all chapters use.

    Attributes
    ----------
    work_dir : str
        Folder of caches, checkpoints and records.
    profile : str
        Name of the profile, for records and captions.
    device : str
        Where networks are trained and scored.
    n_jobs : int
        Number of networks trained at the same time.
    published, archive : str
        File of the paper's numbers (CSV), and folder of archived runs.
    """

    work_dir: str
    profile: str = "quick"
    device: str = "cpu"
    n_jobs: int = 1
    published: str = "../data/published/tables.csv"
    archive: str = "../results"

    @property
    def cache_dir(self) -> str:
        """Folder of prepared files and masks."""
        return f"{self.work_dir}/cache"

    @property
    def run_dir(self) -> str:
        """Folder of checkpoints."""
        return f"{self.work_dir}/runs"

    @property
    def records_dir(self) -> str:
        """Folder of records."""
        return f"{self.work_dir}/records"

    def train(self, experiment: Experiment, data: tuple[Slices, ...], costs: dict[str, Cost] | None = None) -> Trained:
        """Train and score all methods of an experiment; save each record as soon as its training is complete.

        Methods that were trained before are loaded from their checkpoints.

        Parameters
        ----------
        experiment : Experiment
        data : tuple of Slices
            (train, val, test).
        costs : dict, optional
            Of method to the cost of a step, for the records.

        Returns
        -------
        Trained

        Raises
        ------
        ValueError, MemoryError, OSError
            As :func:`gleam.fit_all`.
        """
        runs = {}

        def save_scores(method, network, fit):
            runs.update(self.score(experiment, data, {method: network}, fits={method: fit}, costs=costs))

        trained = self.fit(experiment, data, on_done=save_scores)
        # runs end in any order; tables keep that of the methods
        return replace(trained, runs={method: runs[method] for method in experiment.methods})

    def fit(
        self,
        experiment: Experiment,
        data: tuple[Slices, ...],
        *,
        kept: Container[str] = (),
        on_done: Callable | None = None,
    ) -> Trained:
        """Train the methods of `experiment`, except those in `kept`, and do not score them.

        `on_done` is as in :func:`gleam.fit_all`.
        """
        networks = {name: network for name, network in experiment.networks().items() if name not in kept}
        given = {"train": data[0], "val": data[1], "device": self.device, "run_dir": self.run_dir}
        arguments = {name: experiment.fit_arguments(name, network) | given for name, network in networks.items()}
        return Trained(networks, fit_all(arguments, n_jobs=self.n_jobs, on_done=on_done))

    def untrained(
        self,
        lamdas: Sequence[float] | Sequence[Sequence[float]],
        val: Slices,
        *,
        make: Callable[..., Method] = wavelet,
        n_slices: int = 8,
    ) -> Untrained:
        """Zero-filling and compressed sensing; arguments as in :func:`gleam.baselines.choose_lamda`.

        The search for the weight is kept, so that a chapter that runs again does not repeat it.
        """
        return untrained(lamdas, val, self.cache_dir, make=make, n_slices=n_slices)

    def score(
        self,
        experiment: Experiment,
        data: tuple[Slices, ...],
        methods: dict[str, Callable | Record],
        settings: dict | None = None,
        *,
        fits: dict[str, Fit] | None = None,
        costs: dict[str, Cost] | None = None,
    ) -> dict[str, Record]:
        """Score methods and save their records.

        Parameters
        ----------
        experiment : Experiment
        data : tuple of Slices
            (train, val, test).
        methods : dict
            Of name to method, as in :func:`gleam.records.evaluate_all`.
        settings : dict, optional
            Of name to what was chosen for the method.
        fits, costs : dict, optional
            Of name to training and cost of a step, for methods that were trained.

        Returns
        -------
        dict
            Of name to :class:`gleam.Record`.
        """
        return evaluate_all(
            experiment.name,
            methods,
            data,
            self.records_dir,
            fits=fits,
            costs=costs,
            settings=settings,
            profile=self.profile,
            device=self.device,
        )

    def keep(self, experiment: str, method: str, data: tuple[Slices, ...], **made: Any) -> Record:
        """Save and return the record of anything else that was measured; `made` as in :func:`gleam.records.record`."""
        one = record(experiment, method, data=data, profile=self.profile, device=self.device, **made)
        save(one, self.records_dir)
        return one

    def paper(self, experiment: Experiment) -> pd.DataFrame:
        """Rows of the paper's table for an experiment, with the method as index."""
        rows = published(self.published, table=experiment.table)
        if rows["acceleration"].nunique() > 1:  # else the only row is shown, also if a profile undersamples less
            rows = rows[rows["acceleration"] == experiment.acceleration]
        return rows.set_index("method", drop=False)  # tables read the column, reports the index

    def archived(self, experiment: Experiment) -> dict[str, Record]:
        """Records of the archived run of an experiment, by method; empty if there is none."""
        return archived(self.archive, experiment.name)

    def report(self, experiment: Experiment, runs: dict[str, Record], *, name: str, title: str = "") -> str:
        """Table of runs beside the paper and the archive, and comparisons in words.

        Parameters
        ----------
        experiment : Experiment
        runs : dict
            Of method to :class:`gleam.Record`.
        name : str
            Label of the table.
        title : str
            What the caption says first, after the number of the table.

        Returns
        -------
        str
            MyST.
        """
        old, first = self.archived(experiment), next(run for run in runs.values() if run.n_parameters)
        n_subjects, what = first.table["subject"].nunique(), "series" if experiment.data == "hearts" else "slices"
        depths = sorted({method.n_iterations for method in experiment.methods.values()})
        depth = f"{depths[0]} iterations"
        if len(depths) > 1:
            depth += f" end to end and {depths[-1]} with GLEAM"
        caption = (
            f"Table {experiment.table}{f': {title}' if title else ''}. *Paper*: {PAPERS[experiment.data]}. "
            f"{archive_caption(old)} *This build*: R = {experiment.acceleration:g}, {first.source}, profile "
            f"{self.profile}, {depth}, trained in {_formats(runs)}; mean (standard deviation over the "
            f"{len(first.scores)} test {what} / over the means of the {n_subjects} subjects). Between blocks compare "
            "the order of the methods and the ratios, not the values."
        )
        pairs = [(one, other) for one, other in COMPARED if one in runs and other in runs]
        words = "\n".join(f"- {compare(runs[one], runs[other])}" for one, other in pairs)
        rows = markdown_table(table(runs, self.paper(experiment), old), caption, name)
        parts = f"{rows}\n{words}", self._over_seeds(experiment, old), baseline_note(runs, old)
        return "\n\n".join(filter(None, parts))

    def _over_seeds(self, experiment, old):
        """Pairs of methods over all seeds of the archived run, in words; empty if no pair has several."""
        runs, lines = archived_seeds(self.archive, experiment.name), []
        for one, other in COMPARED:
            try:
                pairs = pair_seeds(runs.get(one, []), runs.get(other, []))
                lines += [f"- {one} minus {other}: {gap_text(*pairs)}"] if len(pairs[0]) > 1 else []
            except ValueError as error:  # records of others; the table stands all the same
                lines.append(f"- {one} and {other} are not compared: {error}")
        if not lines:
            return ""
        head = f"{archive_name(old)}: PSNR over all seeds, with its 95 % interval and the range of the seeds."
        return "\n".join([f"{head}\n", *lines])

    def depth_and_training(self, experiment: Experiment, runs: dict[str, Record]) -> str:
        """What depth changes and what greedy training changes, in words (MyST).

        From "End-to-end" to "End-to-end, as deep" only the depth differs, from there to GLEAM only the training. The
        archived run is taken where `runs` lack the deep network.
        """
        where = "In this build"
        if AS_DEEP not in runs:
            both = ["End-to-end", AS_DEEP, "GLEAM"]
            runs, where = archived(self.archive, experiment.name, both), "In the archived run"
        if AS_DEEP not in runs:
            return "Neither this build nor the archived run has that row yet."
        pairs = {"Depth": (AS_DEEP, "End-to-end"), "Training": ("GLEAM", AS_DEEP)}
        lines = [f"- {what}. {compare(runs[one], runs[other], ['psnr'])}" for what, (one, other) in pairs.items()]
        return "\n".join([f"{where}:\n", *lines])


def _formats(runs):
    """Number formats of the training; if there are several, each with its methods."""
    by_format = {}
    for name, run in runs.items():
        if run.n_parameters:
            by_format.setdefault(run.settings["precision"], []).append(name)
    if len(by_format) == 1:
        return next(iter(by_format))
    return ", ".join(f"{precision} ({', '.join(names)})" for precision, names in by_format.items())
