"""The paper's tables: networks trained on simulated phantoms, from validation to validation, and scores of all rows."""

import gc
import itertools
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch

import gleam
from full_scale.profiles import CASES, DATA
from full_scale.session import Job
from gleam.cost import Cost
from gleam.files import n_cores
from gleam.phantoms import simulated
from gleam.records import slug
from gleam.training.checkpoints import NAME, load_fit
from gleam.training.experiments import AS_DEEP, Experiment

PRECISIONS = ("fp32", "tf32", "bf16")  # of the short runs that compare number formats
LAST = "Checkpointing", "MEL", AS_DEEP  # least to be learnt from: their gradients are those of another method
AT_ONCE = 1e-3  # seconds after which gleam.fit shall return: at its next validation
# The one number that is not the chapters' (1000): a call ends with a validation, and a step of MEL takes up to 1.5 s.
MEL_VALIDATES_EVERY = 200
# upper bounds; "training": up to the next validation
SECONDS = {"data": 120, "training": 190, "training of MEL": 360, "scores": 60, "CS": 450}
N_FOR_LAMDA = 2  # validation slices on which the weight of compressed sensing is chosen; the chapters take 8
TOTAL_VARIATION = (0.0, 0.05, 0.01)  # weights of wavelets, space and time: the paper's, as a search takes half an hour
N_ITERATIONS = {"knees": 100, "brains": 100, "hearts": 200}  # of compressed sensing


def has(*packages):
    """Whether all of these packages are installed here."""
    return all(map(find_spec, packages))


@dataclass(eq=False)
class Run:
    """A row of a table, and its network once it was trained in this call."""

    experiment: Experiment
    method: str
    share: float = 0  # of its steps that are taken
    network: torch.nn.Module | None = None
    fit: gleam.Fit | None = None

    @property
    def name(self):
        """Of its jobs, and of its folder of checkpoints."""
        return f"{self.experiment.name}/{slug(self.method)}"

    @property
    def own(self):
        """Strategy, depth and number of steps."""
        return self.experiment.methods[self.method]


def precision_experiments(profile):
    """GLEAM's network of Table I after a short training in every number format, for three seeds."""
    first, n_steps = next(iter(profile.experiments.values())), 2 if profile.is_tiny else 500
    own = first.methods["GLEAM"]
    return [
        replace(
            first, name=f"precision_pgd2d_seed{seed}", make_network=partial(first.make_network, seed=seed),
            methods={precision: replace(own, precision=precision, n_steps=n_steps) for precision in PRECISIONS},
            training=first.training | {"validate_every": n_steps, "seed": seed},
        )
        for seed in range(3)
    ]  # fmt: skip


def names(profile):
    """Names of all jobs that leave a record."""
    found = [*precision_experiments(profile), *profile.experiments.values()]
    return [Run(one, method).name for one in found for method in (*one.methods, "Zero-filled", "CS")]


def progress(session, name):
    """(newest checkpoint of a run, share of its steps that it has taken); (None, 0) without one that can be read."""
    paths = (session.work / "runs" / name).glob(f"*/{NAME}")
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is not None:
        with suppress(ValueError):
            fit = load_fit(newest)
            return newest, fit.n_steps_done / fit.settings["n_steps"]
    return None, 0


def checkpoints(session):
    """The notes and the newest checkpoint of each run, by name: unfinished ones first, and the furthest of these."""
    found = [progress(session, name) for name in names(session.profile)]
    found.sort(key=lambda pair: (pair[1] >= 1, -pair[1]))
    paths = [session.notes_path, *(path for path, _ in found if path)]
    return {str(path.relative_to(session.work)): path for path in paths if path.exists()}


class Tables:
    """All jobs that need data. One kind at a time is in the memory of the device: two do not fit into one GPU."""

    def __init__(self, session):
        self.session, self.profile, self.device, self.sets = session, session.profile, session.device, {}

    def jobs(self):
        """All that is not done, most valuable first."""
        experiments = [one for one in self.profile.experiments.values() if one.data != "brains" or has("nilearn")]
        for one in [] if self.profile.seed else precision_experiments(self.profile):
            yield from self._table([Run(one, precision) for precision in PRECISIONS])
        for is_last, one in itertools.product((False, True), experiments):
            if not is_last:
                yield from self._untrained(one, "Zero-filled", SECONDS["scores"], self._zero_filled)
            yield from self._table([Run(one, method) for method in one.methods if (method in LAST) == is_last])
        for one in experiments if has("sigpy", "joblib") else []:
            yield from self._untrained(one, "CS", SECONDS["CS"], self._compressed_sensing)

    # --- data

    def data(self, experiment):
        """(train, val, test) of an experiment; accelerations share their arrays."""
        kind, acceleration = key = experiment.data, experiment.acceleration
        if kind not in (other for other, _ in self.sets):
            self.sets = {}
            gc.collect()  # a set refers to itself
        if key not in self.sets:
            drawn = next(iter(self.sets.values()), None) or getattr(simulated, kind)(
                **self.profile.phantoms(kind), acceleration=acceleration, mask_seed=self.profile.seed,
                device=self.device, cache_dir=self.session.work / "masks",
            )  # fmt: skip
            own = partial(drawn[0].make_mask, acceleration=acceleration)
            self.sets[key] = tuple(replace(part, make_mask=own) for part in drawn)
        return self.sets[key]

    def _is_ready(self, experiment, names):
        """Make the data of an experiment; returns whether they are there. Without them the jobs of `names` are left."""
        key = experiment.data, experiment.acceleration
        name, action = f"data, {key[0]}, R = {key[1]:g}", lambda: f"{len(self.data(experiment)[0])} slices to train on"
        if key not in self.sets and not self.session.stopped(name):
            yield Job(name, SECONDS["data"], action)
        if key not in self.sets:
            self.session.left |= dict.fromkeys(names, True)
        return key in self.sets

    # --- training

    def _table(self, runs):
        """Train runs from validation to validation, the least advanced next; then score them as far as they are."""
        session = self.session
        runs = [run for run in runs if session.wants(run.name) and self._n_scored(run) < run.own.n_steps]
        if not runs or not (yield from self._is_ready(runs[0].experiment, [run.name for run in runs])):
            return
        for run in runs:
            run.share = progress(session, run.name)[1]
        while going := [run for run in runs if not session.stopped(run.name) and not (run.fit and run.share >= 1)]:
            run = min(going, key=lambda run: run.share)
            seconds = SECONDS["training of MEL" if run.method == "MEL" else "training"]
            reserve = sum(session.expected_seconds(self._scores(one)) for one in runs if one is run or one.fit)
            yield Job(run.name, seconds, partial(self._train, run), reserve=reserve)
        for run in runs:
            if run.fit and run.fit.n_steps_done > self._n_scored(run):
                yield self._scores(run)

    def _n_scored(self, run):
        """How many steps the network of the record had, on whatever machine; 0 without a record."""
        record = self.session.find(run.experiment.name, run.method)
        return (record.n_steps_done or 0) if record else 0

    def _train(self, run):
        network, (train, val, _) = run.experiment.make_network(run.own.n_iterations), self.data(run.experiment)
        arguments = run.experiment.fit_arguments(run.method, network)
        if run.method == "MEL":
            arguments["validate_every"] = min(MEL_VALIDATES_EVERY, arguments["validate_every"])
        arguments |= {"run_dir": self.session.work / "runs" / run.name, "device": self.device}
        run.fit = gleam.fit(train=train, val=val, max_seconds=AT_ONCE, **arguments)
        run.network = network  # the one of before stays if training fails
        run.share, last = run.fit.n_steps_done / run.own.n_steps, run.fit.history[-1]
        steps = f"step {run.fit.n_steps_done} of {run.own.n_steps}"
        return f"{steps}, loss {last['loss'][-1]:.4f}, nRMSE {last['nrmse']:.4f}"

    # --- scores

    def _scores(self, run):
        return Job(f"{run.name}, scores", SECONDS["scores"], partial(self._score, run))

    def _score(self, run):
        parts, settings = self.data(run.experiment), self.profile.describe(run.experiment)
        settings |= {"n_iterations": run.own.n_iterations}
        part = (0, 8) if run.method in PRECISIONS and not self.profile.is_tiny else None
        table = gleam.evaluate(run.network, parts[-1], device=self.device, part=part)
        case = next((case for case, beginning in CASES.items() if run.name.startswith(beginning)), None)
        # the cost of a step in fp32, as in the paper, if it was measured
        found = self.session.find(f"cost_{case}_fp32", run.own.same_step_as or run.method, self.session.of_device)
        cost, said = (Cost(**found.cost), {"cost_precision": "fp32"}) if found else (None, {})
        given = {"network": run.network, "fit": run.fit, "cost": cost, "settings": settings | said}
        self.session.save(run.experiment.name, run.method, table, parts, **given)
        return f"step {run.fit.n_steps_done}, {table['psnr'].mean():.2f} dB"

    def _untrained(self, experiment, method, seconds, score):
        """Score what needs no training; `score(experiment, parts)` returns the table and settings."""
        name = Run(experiment, method).name
        if self.session.wants(name) and not self.session.find(experiment.name, method):
            if (yield from self._is_ready(experiment, [name])):
                yield Job(name, seconds, partial(self._score_untrained, experiment, method, score))

    def _score_untrained(self, experiment, method, score):
        parts = self.data(experiment)
        table, settings = score(experiment, parts)
        for one in self.profile.experiments.values():  # tables of the same data share it
            if (one.data, one.acceleration) == (experiment.data, experiment.acceleration):
                self.session.save(one.name, method, table, parts, settings=settings)
        return f"{table['psnr'].mean():.2f} dB"

    def _zero_filled(self, experiment, parts):
        return gleam.evaluate(gleam.baselines.zero_filled, parts[-1], device=self.device), {}

    def _compressed_sensing(self, experiment, parts):
        from joblib import parallel_config

        n_iterations = 2 if self.profile.is_tiny else N_ITERATIONS[experiment.data]
        if experiment.data == "hearts":
            lamda, make = TOTAL_VARIATION, gleam.baselines.spatiotemporal
            method, settings = make(*lamda, n_iterations=n_iterations), {"lamdas": lamda}
        else:
            grid = self.profile.parameters[DATA[experiment.data][1]]["lamdas"]
            make = partial(gleam.baselines.wavelet, n_iterations=n_iterations)
            lamda, _ = gleam.baselines.choose_lamda(grid, parts[1], n_slices=N_FOR_LAMDA, make=make)
            method, settings = make(lamda), {"lamda": lamda}
        with parallel_config(n_jobs=n_cores()):
            table = gleam.evaluate(method, parts[-1], device=self.device, batch_size=4 * n_cores())
        return table, settings | {"n_iterations": n_iterations}
