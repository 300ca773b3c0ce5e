"""Which networks the full-scale run trains, in which groups, and where their checkpoints are."""

from dataclasses import dataclass, replace
from functools import cache

from full_scale import costs
from full_scale.problems import N_CHECKPOINTS, Case
from gleam import Checkpointed, EndToEnd, Fast, Greedy, Invertible, records
from gleam.files import digest
from gleam.training.checkpoints import load, load_fit
from gleam.training.identity import RESULTS_VERSION

MUS = {4: 4.0, 16: 0.05}  # of MoDL, by acceleration
LONGER = "End-to-end, equal compute"


@dataclass(frozen=True)
class Run:
    """One training run: what the table ``experiment`` calls ``method``. ``case_name``: whose sizes it has; ``kind`` and
    ``acceleration``: of its data; ``n_iterations`` and ``strategy``: what is trained; ``training``: how long."""

    experiment: str
    method: str
    case_name: str
    case: Case
    kind: str
    acceleration: int
    n_iterations: int
    strategy: object
    training: object
    seed: int = 0

    @property
    def name(self):
        """For sentences and folders."""
        return f"{self.experiment}/{records.slug(self.method)}"

    def network(self):
        """Untrained."""
        return self.case.network(self.n_iterations, seed=self.seed)

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
    """Folder of all checkpoints of this code and these sizes: runs of other code are other runs."""
    return setting.work / "runs" / digest([_code(), setting.sizes.name])[:12]


@cache
def _code():
    """Digest of what decides the outcome of training: that of :func:`gleam.fit`, and the phantoms."""
    return f"results{RESULTS_VERSION}"


def fast_options(setting, case_name):
    """Options of :class:`gleam.Fast` for training: those of the first time, since with others it is another run."""
    return setting.notes.get("fast", case_name) or costs.fastest(setting, case_name)


def foreign(setting):
    """Checkpoints of other code, which are not used."""
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
    """Short runs in every number format, for each seed."""
    sizes = setting.sizes
    case, acceleration = sizes.cases["pgd2d"], sizes.accelerations["knees"][12]
    return [
        Run(
            f"precision_pgd2d_seed{seed}", precision, "pgd2d", case, "knees", acceleration, case.deep,
            Fast(Greedy(case.n_modules), precision), replace(sizes.precision, seconds=seconds), seed,
        )
        for seed in sizes.seeds
        for precision, seconds in sizes.precision_seconds.items()
    ]  # fmt: skip


def groups(setting):
    """Lists of runs, most valuable first; the runs of one list have the same kind of data and take turns."""
    knees = {R: _runs(setting, f"mridata_pgd_R{R}", "pgd2d", "knees", R) for R in (12, 16)}
    modl = [run for R, mu in MUS.items() for run in _runs(setting, f"mridata_modl_R{R}", "modl2d", "knees", R, mu=mu)]
    others = ("Checkpointing", "MEL")
    return [
        *knees.values(),
        [run for run in modl if run.method not in others],
        _runs(setting, "cine_pgd", "pgd3d", "hearts", longer=True),
        _runs(setting, "cine_modl", "modl3d", "hearts"),
        _runs(setting, "fastmri_pgd", "pgd2d_brain", "brains", longer=True),
        [run for run in modl if run.method in others],
    ]


def _runs(setting, experiment, name, kind, acceleration=None, *, longer=False, **options):
    """The runs of one table: shallow end to end, maybe for as much compute as GLEAM has, and GLEAM."""
    sizes = setting.sizes
    case = sizes.cases[name].changed(**options)
    acceleration = sizes.accelerations[kind][acceleration] if acceleration else sizes.accelerations[kind]
    fast = fast_options(setting, name)
    shallow = {"End-to-end": EndToEnd()} | ({LONGER: EndToEnd()} if longer else {})
    shallow |= {"Checkpointing": Checkpointed()} if name.startswith("modl") else {}
    shallow |= {"MEL": Invertible(N_CHECKPOINTS)} if name == "modl2d" else {}
    methods = {method: (case.n_iterations, strategy) for method, strategy in shallow.items()}
    methods |= {"GLEAM": (case.deep, Greedy(case.n_modules))}
    return [
        Run(
            experiment, method, name, case, kind, acceleration, n,
            Fast(strategy, **costs.EXACT) if method == "MEL" else Fast(strategy, **fast),
            _training(sizes, name, method, case.n_modules),
        )
        for method, (n, strategy) in methods.items()
    ]  # fmt: skip


def _training(sizes, name, method, n_modules):
    training = sizes.training["MEL" if method == "MEL" else name]
    return replace(training, n_steps=training.n_steps * (n_modules if method == LONGER else 1))
