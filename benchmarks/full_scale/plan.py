"""Which networks the full-scale run trains, in which groups, and where their checkpoints are."""

from dataclasses import dataclass, replace

from full_scale.problems import Case
from full_scale.sizes import Training
from gleam import Fast, records
from gleam.files import digest
from gleam.training.checkpoints import load, load_fit
from gleam.training.experiments import AS_DEEP, Experiment
from gleam.training.identity import RESULTS_VERSION

LAST = "Checkpointing", "MEL", AS_DEEP
PER_SLICE = 300  # seconds between two validations, at most


@dataclass(frozen=True)
class Run:
    """One training run: ``method`` of ``definition``. ``experiment``: what its records are called; ``case_name``: whose
    sizes it has; ``strategy``: as it trains; ``training``: how long."""

    definition: Experiment
    experiment: str
    method: str
    case_name: str
    case: Case
    n_iterations: int
    strategy: Fast
    training: Training
    seed: int = 0

    @property
    def kind(self):
        """Of its data."""
        return self.definition.data

    @property
    def acceleration(self):
        """Of its masks."""
        return self.definition.acceleration

    @property
    def name(self):
        """For sentences and folders."""
        return f"{self.experiment}/{records.slug(self.method)}"

    def network(self):
        """Untrained."""
        return self.definition.make_network(self.n_iterations, seed=self.seed)

    def folder(self, setting):
        """Where :func:`gleam.fit` keeps its checkpoint."""
        return root(setting) / self.name

    def checkpoint(self, setting):
        """The newest checkpoint, None if there is none."""
        found = self.folder(setting).glob("*/checkpoint.safetensors")
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def fit(self, setting):
        """What was done so far, a :class:`gleam.Fit`; None before the first checkpoint."""
        path = self.checkpoint(setting)
        if path is None:
            return None
        try:
            return load_fit(path)
        except ValueError:  # gleam.fit says what is wrong with it
            return None

    def trained(self, setting):
        """The network with its best weights so far."""
        network = self.network()
        network.load_state_dict(load(self.checkpoint(setting)).best)
        return network.to(setting.device)

    def n_steps_done(self, setting):
        """Steps so far."""
        fit = self.fit(setting)
        return fit.n_steps_done if fit else 0

    def is_done(self, setting):
        """Whether all steps are done."""
        return self.n_steps_done(setting) >= self.training.n_steps


def root(setting):
    """Folder of all checkpoints of this results version and these sizes."""
    return setting.work / "runs" / digest([RESULTS_VERSION, setting.sizes.name])[:12]


def foreign(setting):
    """Checkpoints of other results versions or sizes, which are not used."""
    here = root(setting)
    found = (setting.work / "runs").glob("*/*/*/*/checkpoint.safetensors")
    return [path for path in found if here not in path.parents]


def checkpoints(setting):
    """Name and path of every checkpoint, after the notes: unfinished runs first, and of these the most advanced."""
    every = [run for group in groups(setting) for run in group]
    every = [(run.n_steps_done(setting) / run.training.n_steps, run) for run in every if run.checkpoint(setting)]
    every.sort(key=lambda pair: (pair[0] >= 1, -pair[0]))
    paths = [setting.notes.path, *(run.checkpoint(setting) for _, run in every)]
    return {str(path.relative_to(setting.work)): path for path in paths if path.exists()}


def precision_runs(setting):
    """Short runs of GLEAM in every number format, for each seed."""
    sizes, case = setting.sizes, setting.sizes.cases["pgd2d"]
    return [
        Run(
            case.experiment, f"precision_pgd2d_seed{seed}", precision, "pgd2d", case, case.deep,
            Fast(case.greedy, precision), replace(sizes.precision, seconds=seconds), seed,
        )
        for seed in sizes.seeds
        for precision, seconds in sizes.precision_seconds.items()
    ]  # fmt: skip


def groups(setting):
    """Lists of runs, most valuable first; the runs of one list have the same kind of data and take turns.

    What can be said without being trained to the end, since its gradients are those of another method, comes last.
    """
    experiments = list(setting.sizes.experiments.values())
    main = [[run for run in _runs(setting, one) if run.method not in LAST] for one in experiments]
    return main + [[run for run in _runs(setting, one) if run.method in LAST] for one in experiments]


def _runs(setting, definition):
    name = setting.sizes.case_name(definition)
    case = setting.sizes.cases[name]
    return [
        Run(
            definition, definition.name, method, name, case, own.n_iterations, own.fast.settled(setting.device),
            _training(setting, name, method, own.n_steps, definition.training["validate_every"]),
            definition.training["seed"],
        )
        for method, own in definition.methods.items()
    ]  # fmt: skip


def _training(setting, case_name, method, n_steps, validate_every):
    """A call ends with a validation, so the slow steps of MEL are validated as often as fits into `PER_SLICE`."""
    seconds = setting.sizes.step_seconds.get("MEL" if method == "MEL" else case_name, 0.01)
    return Training(n_steps, min(validate_every, max(1, int(PER_SLICE / seconds))), seconds)
