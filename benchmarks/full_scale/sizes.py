"""How large everything is: as in the paper, and tiny, for a dry run on a CPU.

``seconds`` are upper bounds on one GPU of 2024: what a call has left is held against them before a job begins.
"""

from dataclasses import dataclass, field

from full_scale.problems import Case
from gleam.networks.unrolled import modl, pgd


@dataclass(frozen=True)
class Training:
    """How a network is trained: ``n_steps`` and ``validate_every`` of :func:`gleam.fit`; ``seconds``: see above, of
    one step."""

    n_steps: int
    validate_every: int
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """One of :data:`SIZES`; its name is also the profile of its records.

    ``cases``: by name, what is timed and trained; ``data``: by kind, arguments of :mod:`gleam.phantoms.simulated`, and
    ``masks`` those of its masks; ``accelerations``: of the masks, of knees for each of the paper's; ``training``: by
    case, and of MEL, whose steps take longest; ``precision``: of the short runs that compare number formats, scored on
    every ``precision_part``-th batch of the test split; ``compiled``: whether torch.compile is tried; ``seconds``: by
    kind of job.
    """

    name: str
    cases: dict
    data: dict
    masks: dict
    accelerations: dict
    training: dict
    precision: Training
    seeds: tuple = (0, 1, 2)
    precision_seconds: dict = field(default_factory=lambda: dict.fromkeys(("fp32", "tf32", "bf16"), 0.01))
    precision_part: int = 8
    cs_iterations: tuple = (100, 200)
    n_rounds: int = 15
    probes: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)
    compiled: bool = True
    seconds: dict = field(default_factory=dict)


PAPER = Sizes(
    "paper",
    cases={
        "pgd2d": Case(pgd, 8, 100, (320, 256), 8, 4, 8, 8),
        "modl2d": Case(modl, 8, 70, (320, 256), 8, 4, 8, 8, {"mu": 4.0}),
        "pgd2d_brain": Case(pgd, 8, 100, (384, 384), 15, 2, 24, 3),
        "pgd3d": Case(pgd, 4, 50, (20, 180, 208), 8, 1, 12, 3),
        "modl3d": Case(modl, 4, 50, (20, 180, 208), 8, 1, 4, 4, {"mu": 0.05}),
    },
    data={
        "knees": {"n_train": 14, "n_val": 2, "n_test": 3, "n_slices": 320, "matrix": (320, 256), "n_coils": 8},
        "hearts": {
            "n_train": 17, "n_val": 2, "n_test": 5, "n_slices": {"train": 261, "val": 33, "test": 76},
            "matrix": (180, 208), "n_frames": 20, "n_coils": 8,
        },
        "brains": {
            "n_train": 54, "n_val": 50, "n_test": 50, "n_slices": {"train": 858, "val": 790, "test": 800},
            "matrix": (384, 384), "n_coils": 15,
        },
    },
    masks={"knees": {"n_calibration": 20}, "hearts": {}, "brains": {"center_fraction": 0.04}},
    accelerations={"knees": {12: 12, 16: 16, 4: 4}, "hearts": 10, "brains": 8},
    training={
        "pgd2d": Training(50_000, 5000, 0.04), "modl2d": Training(50_000, 5000, 0.06),
        "pgd2d_brain": Training(80_000, 4000, 0.06), "pgd3d": Training(25_000, 1000, 0.25),
        "modl3d": Training(25_000, 1000, 0.25), "MEL": Training(50_000, 200, 1.5),
    },
    precision=Training(500, 500, 0.2), precision_seconds={"fp32": 0.2, "tf32": 0.08, "bf16": 0.04},
    probes={"shapes": {"2D": (96, 80), "2D + time": (6, 48, 40)}, "n_features": 20},
    seconds={
        "check": 15, "compile": 90, "limits": 15, "ladder": 240, "cost": 90, "cost with MEL": 150, "data": 120,
        "evaluation": 60, "cs": 450,
    },
)  # fmt: skip

_KNEES = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 4, "matrix": (32, 32), "n_coils": 2}

TINY = Sizes(
    "tiny",
    cases={
        "pgd2d": Case(pgd, 2, 3, (32, 32), 2, 2, 2, 2),
        "modl2d": Case(modl, 2, 3, (32, 32), 2, 2, 2, 2, {"mu": 4.0, "n_cg": 2}),
        "pgd2d_brain": Case(pgd, 1, 3, (32, 32), 2, 1, 2, 2),
        "pgd3d": Case(pgd, 1, 2, (2, 32, 32), 2, 1, 2, 2),
        "modl3d": Case(modl, 2, 2, (2, 32, 32), 2, 1, 2, 2, {"mu": 0.05, "n_cg": 2}),
    },
    data={
        "knees": _KNEES, "hearts": _KNEES | {"n_slices": 1, "n_frames": 2},
        "brains": _KNEES | {"n_slices": 1},
    },
    masks={"knees": {"n_calibration": 4}, "hearts": {"n_center": 2}, "brains": {"center_fraction": 0.1}},
    accelerations={"knees": {12: 3, 16: 4, 4: 2}, "hearts": 2, "brains": 4},
    training={"pgd2d": Training(4, 2, 0.01)}
    | {name: Training(2, 2, 0.01) for name in ("modl2d", "pgd2d_brain", "pgd3d", "modl3d", "MEL")},
    precision=Training(2, 2, 0.01), precision_part=1,
    probes={"shapes": {"2D": (24, 16), "2D + time": (2, 24, 16)}, "n_features": 4},
    n_rounds=2, limits={"seconds": 0.02, "n": 64, "n_bytes": 2**16}, compiled=False,
    cs_iterations=(2, 2),
)  # fmt: skip

SIZES = {"paper": PAPER, "tiny": TINY}
