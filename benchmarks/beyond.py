"""What the paper leaves out, on real knees: the loss, the cut, look-ahead, noise, acceleration, steps, one at a time.
Then brains and beating hearts, as phantoms.

`python benchmarks/beyond.py DATA` trains what results/beyond lacks, the most informative first, on the knees in DATA
(data/README.md; real anatomy, simulated coils and noise). It can be killed and goes on where it was. `--list` prints
the runs with their minutes; `--only NAME` restricts them to experiments whose name begins so; `--costs` measures
memory and time of a step of each method instead. Sizes are those of the chapter on real anatomy, whose records stand
for the paper's loss there.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import gleam
from gleam import experiments, losses, records
from gleam.strategies import Strategy

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results" / "beyond"
N_FOLDS, N_VAL, N_VERSIONS, MATRIX, N_CALIBRATION = 5, 2, 8, [128, 104], 10
N_ITERATIONS = 8
NETWORKS = {  # arguments of gleam.unrolled.pgd
    "knees": {"n_features": 24},
    "brains": {"n_features": 24},
    "hearts": {"n_features": 8, "n_dims": 3},
}
TRAINING = dict(batch_size=1, learning_rate=3e-3, final_learning_rate=0.0, n_warmup_steps=20, weight_decay=1e-4)
USUAL_LAMDAS = [0.003, 0.006, 0.01, 0.015, 0.02, 0.03]  # of compressed sensing; others, by anatomy or noise:
LAMDAS = {0.0: [0.0001, 0.0003, 0.001, 0.003], "hearts": [[0.0], [0.002, 0.006], [0.01, 0.03]]}
MINUTES = 5  # of a training on one core


@dataclass(frozen=True)
class Condition:
    """What all methods of an experiment share.

    Attributes
    ----------
    noise : float or None
        Standard deviation of the noise, of the image's 95th percentile; None for phantoms, which have their own.
    acceleration, step_size, n_steps : number
        R, the 2t of Eq. 3, and steps of training.
    fold : int
        Which subjects are tested; also the seed.
    n_train : int or None
        Subjects that train; None for all of the fold.
    learn_step_size : bool
        Train 2t.
    phantoms : str or None
        "brains" or "hearts"; None for the real knees.
    columns : bool
        Leave out whole lines of k-space, as the masks of brains do, in place of points.
    """

    noise: float | None = 0.03
    acceleration: int = 12
    step_size: float = 1.0
    n_steps: int = 2000
    fold: int = 1
    n_train: int | None = None
    learn_step_size: bool = False
    phantoms: str | None = None
    columns: bool = False

    @property
    def network(self) -> dict:
        """Sizes of the network."""
        return NETWORKS[self.phantoms or "knees"]

    @property
    def settings(self) -> dict:
        """What the records keep; earlier ones know nothing of the last four."""
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}


@dataclass(frozen=True)
class Arm:
    """One method: its strategy, whether its network ends with data consistency, and how deep it is.

    A network of fewer iterations takes as many more steps, so that it computes as much.
    """

    strategy: Strategy
    consistent: bool = False
    n_iterations: int = N_ITERATIONS

    def n_steps(self, condition: Condition) -> int:
        """Steps of training at equal compute."""
        return condition.n_steps * N_ITERATIONS // self.n_iterations


def arms(strategies: dict[str, Strategy], weights: list[float], **network) -> dict[str, Arm]:
    """Method to arm, for each weight of the loss after data consistency; `network` as in :class:`Arm`."""
    found = {}
    for name, make in strategies.items():
        for weight in weights:
            label = name + (f", w = {weight:g}" if weight else "")
            label += ", ends consistent" if network.get("consistent") else ""
            loss = losses.DataConsistent(weight) if weight else losses.complex_l1
            found[label] = Arm(make(loss=loss), **network)
    return found


TWO = {"End-to-end": gleam.EndToEnd, "GLEAM, M = 8": partial(gleam.Greedy, 8)}
OTHERS = {
    "Look-ahead, M = 8": partial(gleam.LookAhead, 8),
    "Deep supervision": partial(gleam.DeepSupervision, 8),
}
LONGER = {"GLEAM, M = 4": partial(gleam.Greedy, 4), "GLEAM, M = 2": partial(gleam.Greedy, 2)}  # modules
FOUR = arms(TWO, [0.0, 0.9])
KNOWN = ("End-to-end", "GLEAM, M = 8", "GLEAM, M = 4", "GLEAM, M = 2")  # trained by the chapter on real anatomy already
ENDING = arms(TWO, [0.0], consistent=True)
# what is compared over all subjects; the rest is asked of one fold
IN_EVERY_FOLD = FOUR | ENDING | arms(OTHERS | {"GLEAM, M = 4": LONGER["GLEAM, M = 4"]}, [0.9])
ONE_EACH = {"End-to-end": gleam.EndToEnd, "GLEAM, M = 4": partial(gleam.Greedy, 4)}  # four iterations
FOUR_OF_HEARTS = arms(ONE_EACH, [0.0, 0.9], n_iterations=4)
HEARTS = FOUR_OF_HEARTS | arms(ONE_EACH, [0.0], n_iterations=4, consistent=True)
SHALLOW = {  # end to end in the memory of M = 8 and M = 4
    label: arm
    for n in (1, 2)
    for label, arm in arms({f"End-to-end, N = {n}": gleam.EndToEnd}, [0.0, 0.9], n_iterations=n).items()
}
PLAN = {  # experiment to (condition, methods), the most informative first
    "beyond_loss_fold1": (Condition(), IN_EVERY_FOLD | arms(TWO, [0.9], consistent=True)
                          | arms(OTHERS | LONGER, [0.9, 0.0]) | SHALLOW),
    **{f"beyond_loss_fold{k}": (Condition(fold=k), IN_EVERY_FOLD) for k in (2, 3, 4, 5)},
    "beyond_noise_0": (Condition(noise=0.0), FOUR | ENDING),
    "beyond_subjects_3": (Condition(n_train=3), FOUR | ENDING),
    "beyond_R_4": (Condition(acceleration=4), FOUR | ENDING),
    "beyond_R_16": (Condition(acceleration=16), FOUR | ENDING),
    "beyond_step_size_learned": (Condition(learn_step_size=True), FOUR),
    # the paper's 2t
    **{f"beyond_step_size_2_fold{k}": (Condition(step_size=2.0, fold=k), FOUR) for k in (1, 2, 3, 4, 5)},
    "beyond_noise_0.06": (Condition(noise=0.06), FOUR),
    "beyond_steps_6000": (Condition(n_steps=6000), FOUR),
    "beyond_weight": (Condition(), arms(TWO, [0.5, 0.8, 0.95, 1.0])),
    "beyond_columns": (Condition(acceleration=4, columns=True), FOUR | ENDING | arms(LONGER, [0.0])),
    # cine: 1200 steps of half as many iterations
    "beyond_brains": (Condition(noise=None, acceleration=4, phantoms="brains"), FOUR | ENDING),
    "beyond_hearts": (Condition(noise=None, acceleration=5, n_steps=600, phantoms="hearts"), HEARTS),
    # the paper's 2t where greedy training loses most
    "beyond_brains_step_size_2": (Condition(noise=None, acceleration=4, phantoms="brains", step_size=2.0), FOUR),
    "beyond_columns_step_size_2": (Condition(acceleration=4, columns=True, step_size=2.0), FOUR),
    "beyond_hearts_step_size_2": (
        Condition(noise=None, acceleration=5, n_steps=600, phantoms="hearts", step_size=2.0), FOUR_OF_HEARTS,
    ),
    "beyond_R_8": (Condition(acceleration=8), FOUR),
    "beyond_noise_0.015": (Condition(noise=0.015), FOUR),
}  # fmt: skip


def phantoms_of(condition: Condition, build: records.Build):
    """(train, val, test) of phantom brains or hearts."""
    folder, kept = f"{build.work_dir}/phantoms", {"cache_dir": build.cache_dir, "seed": condition.fold}
    subjects = {"n_train": 20, "n_val": 2, "n_test": 8, "n_coils": 8, "seed": 0}
    if condition.phantoms == "brains":
        gleam.phantoms.brain(folder, n_slices=4, matrix=(128, 104), **subjects)
        return gleam.datasets.brains(
            folder, acceleration=condition.acceleration, center_fraction=0.08, calibration_width=24, **kept
        )
    gleam.phantoms.heart(folder, n_slices=3, matrix=(64, 48), n_frames=20, **subjects)
    return gleam.datasets.hearts(folder, acceleration=condition.acceleration, **kept)


def data_of(condition: Condition, source: Path, build: records.Build):
    """(train, val, test) of a condition; the subjects and their versions are those of the chapter on real anatomy."""
    if condition.phantoms:
        return phantoms_of(condition, build)
    folder = f"{build.work_dir}/anatomy/noise_{condition.noise:g}"
    paths = gleam.phantoms.magnitudes.write(
        source, folder, matrix=MATRIX, noise=condition.noise, n_versions=N_VERSIONS, name="knee", seed=0
    )
    split = gleam.datasets.folds(len(paths), N_FOLDS, n_val=N_VAL, seed=0)[condition.fold - 1]
    if condition.columns:
        masks = partial(gleam.masks.random_columns, acceleration=condition.acceleration, center_fraction=0.08)
    else:
        masks = partial(gleam.masks.poisson_disc, acceleration=condition.acceleration, n_calibration=N_CALIBRATION)
    split["train"] = split["train"][: condition.n_train]  # the first ones; tests stay the same
    return gleam.datasets.files(
        gleam.datasets.fold_files(paths, split),
        masks=masks,
        calibrate=partial(gleam.calibration.jsense, kernel_width=8, calibration_width=20),
        cache_dir=build.cache_dir,
        seed=condition.fold,
    )


def experiment_of(name: str, condition: Condition, method: str, arm: Arm):
    """One training as an experiment with one method."""
    make = partial(
        gleam.unrolled.pgd, **condition.network, step_size=condition.step_size, seed=condition.fold,
        consistent=arm.consistent, learn_step_size=condition.learn_step_size,
    )  # fmt: skip
    n_steps = arm.n_steps(condition)
    training = TRAINING | {"validate_every": n_steps // 10, "seed": condition.fold}
    methods = {method: experiments.Method(arm.strategy, arm.n_iterations, n_steps)}
    return experiments.Experiment(
        name, "", condition.phantoms or "knees", condition.acceleration, make, methods, training
    )


def untrained(name: str, condition: Condition, data) -> None:
    """Zero-filling, compressed sensing with its weight chosen on validation, and what another chapter has trained."""
    grid = LAMDAS.get(condition.phantoms or condition.noise, USUAL_LAMDAS)
    if condition.phantoms == "hearts":
        lamda, _ = gleam.baselines.choose_lamda(grid, data[1], make=gleam.baselines.spatiotemporal)
        cs = gleam.baselines.spatiotemporal(*lamda)
    else:
        lamda, _ = gleam.baselines.choose_lamda(grid, data[1])
        cs = gleam.baselines.wavelet(lamda)
    methods = {"Zero-filled": gleam.baselines.zero_filled, "CS": cs}
    # the conditions of the chapter on real anatomy: its networks are scored, not trained again
    if condition == Condition(fold=condition.fold):
        known = records.load_experiment(ROOT / "results" / "real-anatomy", f"real_knees_pgd_fold{condition.fold}")
        methods |= {m: replace(record, profile="beyond") for m, record in known.items() if record.n_parameters}
    chosen = {method: condition.settings for method in methods}
    chosen["CS"] = chosen["CS"] | {"lamda": lamda}
    records.evaluate_all(name, methods, data, FOLDER, settings=chosen, profile="beyond")


def place(name: str, method: str) -> Path:
    """Where the record of a training lies."""
    return FOLDER / name / f"{records.slug(method)}.json"


def missing(only: str = "") -> list[tuple[str, str]]:
    """(experiment, method) of all trainings that have no record, in order."""
    return [
        (name, method)
        for name, (condition, methods) in PLAN.items()
        for method in methods
        if name.startswith(only)
        and not place(name, method).is_file()
        # the chapter on real anatomy has trained these
        and not (condition == Condition(fold=condition.fold) and method in KNOWN)
    ]


def measure(build: records.Build, source: Path) -> None:
    """Save memory and time of a step of every method of the first experiment, and of checkpointing, as records."""
    condition, methods = PLAN["beyond_loss_fold1"]
    data = data_of(condition, source, build)
    within = {
        "Checkpointing": Arm(gleam.Checkpointed()),
        "GLEAM, M = 4, checkpointed": Arm(gleam.Greedy(4, within=gleam.Checkpointed())),
        "GLEAM, M = 2, checkpointed": Arm(gleam.Greedy(2, within=gleam.Checkpointed())),
    }
    make = partial(gleam.unrolled.pgd, **condition.network, step_size=condition.step_size)
    steps = {
        method: (make(arm.n_iterations, consistent=arm.consistent), arm.strategy)
        for method, arm in (methods | within).items()
    }
    costs = gleam.cost.measure(steps, data[0].training_batch(0, TRAINING["batch_size"], 0))
    for method, cost in costs.items():
        network, _ = steps[method]
        one = records.record("beyond_cost", method, data=data, network=network, cost=cost, profile="beyond")
        records.save(one, FOLDER)


def main() -> int:
    """Train what is missing and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with knees/magnitude_14x320x256.npy")
    parser.add_argument("--list", action="store_true", help="print what is missing and its minutes, and stop")
    parser.add_argument("--only", default="", help="experiments whose name begins so")
    parser.add_argument("--costs", action="store_true", help="measure steps instead, on an idle machine")
    given = parser.parse_args()
    source = given.data / "knees" / "magnitude_14x320x256.npy"
    todo = missing(given.only)
    if given.list:
        minutes = [MINUTES * PLAN[name][0].n_steps / 2000 for name, _ in todo]
        for (name, method), one in zip(todo, minutes, strict=True):
            print(f"{one:4.0f} min  {name}: {method}")
        print(f"{sum(minutes) / 60:.1f} core-hours in {len(todo)} trainings")
        return 0
    if not source.is_file() and not all(PLAN[name][0].phantoms for name, _ in todo):
        print(f"{source} does not exist; expected the real knees (data/README.md)", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    build = records.Build(str(ROOT / "_work" / "beyond"), "beyond")
    if given.costs:
        measure(build, source)
        return 0
    for name, method in todo:
        if place(name, method).is_file():  # another process has trained it meanwhile
            continue
        condition, methods = PLAN[name]
        data = data_of(condition, source, build)
        # what needs no training: once for each experiment
        if not place(name, "CS").is_file():
            untrained(name, condition, data)
        experiment = experiment_of(name, condition, method, methods[method])
        trained = build.fit(experiment, data)
        records.evaluate_all(
            name, trained.networks, data, FOLDER, fits=trained.fits, settings={method: condition.settings},
            profile="beyond",
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
