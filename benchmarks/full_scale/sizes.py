"""How large everything is: as the profile `paper` says, and tiny, for a dry run on a CPU.

``seconds`` are upper bounds on one GPU of 2024: what a call has left is held against them before a job begins.
"""

from dataclasses import dataclass, field
from functools import cached_property

from full_scale.problems import Case
from full_scale.profiles import parameters
from gleam.training import experiments

CASES = {  # of each case the experiments whose names begin so; their networks are the same
    "pgd2d": "mridata_pgd", "modl2d": "mridata_modl", "pgd2d_brain": "fastmri_pgd", "pgd3d": "cine_pgd",
    "modl3d": "cine_modl",
}  # fmt: skip
PHANTOMS = {"knees": "knee", "hearts": "heart", "brains": "brain"}
MASKS = {"knees": ("04_mridata", "n_calibration"), "hearts": ("06_cine", "n_center"),
         "brains": ("05_fastmri", "center_fraction")}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """How long a network is trained: ``n_steps`` and ``validate_every`` of :func:`gleam.fit`; ``seconds``: see above,
    of one step."""

    n_steps: int
    validate_every: int
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """One of :data:`SIZES`; its name is also the profile of its records.

    ``parameters``: those of the chapters, from which :mod:`gleam.training.experiments` makes the experiments, and of
    the phantoms; ``step_seconds``: bounds for a step, by case, and of MEL, whose steps take longest; ``precision``: of
    the short runs that compare number formats, scored on every ``precision_part``-th batch of the test split;
    ``compiled``: whether torch.compile is tried; ``seconds``: by kind of job.
    """

    name: str
    parameters: dict
    precision: Training
    step_seconds: dict = field(default_factory=dict)
    seeds: tuple = (0, 1, 2)
    precision_seconds: dict = field(default_factory=lambda: dict.fromkeys(("fp32", "tf32", "bf16"), 0.01))
    precision_part: int = 8
    cs_iterations: tuple = (100, 200)
    n_rounds: int = 15
    limits: dict = field(default_factory=dict)
    compiled: bool = True
    seconds: dict = field(default_factory=dict)

    @cached_property
    def experiments(self):
        """The paper's experiments, by name."""
        return {one.name: one for one in experiments.of_chapters(self.parameters)}

    @cached_property
    def cases(self):
        """By name, what is timed and trained; tables of one network share a case."""
        return {name: self._case(self.family(name)[0]) for name in CASES}

    def family(self, case_name):
        """The experiments of a case: one network, at one or more accelerations."""
        return [one for name, one in self.experiments.items() if name.startswith(CASES[case_name])]

    def case_name(self, experiment):
        """Name of the case whose sizes ``experiment`` has."""
        return next(name for name, beginning in CASES.items() if experiment.name.startswith(beginning))

    def _case(self, experiment):
        phantom = self.parameters["phantoms"][PHANTOMS[experiment.data]]
        frames = [phantom["n_frames"]] if experiment.data == "hearts" else []
        return Case(experiment, (*frames, *phantom["matrix"]), phantom["n_coils"])

    def data(self, kind):
        """Arguments of :mod:`gleam.phantoms.simulated` for "knees", "brains" or "hearts", with those of the masks."""
        chapter, name = MASKS[kind]
        return self.parameters["phantoms"][PHANTOMS[kind]] | {name: self.parameters[chapter][name]}


PAPER = Sizes(
    "paper",
    parameters("paper"),
    precision=Training(500, 500, 0.2), precision_seconds={"fp32": 0.2, "tf32": 0.08, "bf16": 0.04},
    step_seconds={"pgd2d": 0.04, "modl2d": 0.06, "pgd2d_brain": 0.06, "pgd3d": 0.25, "modl3d": 0.25, "MEL": 1.5},
    seconds={
        "check": 180, "limits": 15, "ladder": 240, "cost": 90, "cost with MEL": 150, "data": 120,
        "evaluation": 60, "cs": 450,
    },
)  # fmt: skip


def _tiny():
    """The paper's experiments with numbers for a minute on a CPU."""
    found = parameters("paper")
    shared = {"n_iterations": 2, "n_features": 3, "n_modules": 2, "n_steps": 2, "validate_every": 2, "batch_size": 2}
    modl = {"modl_features": 3, "modl_steps": 2}
    knees = {"n_steps": 4, "modl_batch_size": 2, "modl_validate_every": 2, "n_checkpoints": 2, "n_calibration": 4}
    hearts = {"n_iterations": 1, "n_features": 2, "batch_size": 1, "modl_iterations": 2, "acceleration": 2}
    found["04_mridata"] |= shared | modl | knees | {"accelerations": [3, 4], "modl_accelerations": [2, 4]}
    found["05_fastmri"] |= shared | {"n_iterations": 1, "acceleration": 4, "center_fraction": 0.1}
    found["06_cine"] |= shared | modl | hearts | {"n_center": 2}
    knee = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 4, "matrix": [32, 32], "n_coils": 2, "seed": 0}
    heart = knee | {"n_slices": 1, "n_frames": 2}
    return found | {"phantoms": {"knee": knee, "brain": knee | {"n_slices": 1}, "heart": heart}}


TINY = Sizes(
    "tiny", _tiny(), precision=Training(2, 2, 0.01), precision_part=1,
    n_rounds=2, limits={"seconds": 0.02, "n": 64, "n_bytes": 2**16}, compiled=False, cs_iterations=(2, 2),
)  # fmt: skip

SIZES = {"paper": PAPER, "tiny": TINY}
