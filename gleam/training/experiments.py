"""The paper's experiments, each defined once: chapters, records and full-scale runs read them from here.

An experiment is one table of the paper at one acceleration: data, network, and for each method strategy, depth and
number of steps. The numbers (sizes, steps, weights) come from a profile, notebooks/*.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from gleam.cost.timing import Cost, measure
from gleam.networks.unrolled import modl, pgd
from gleam.physics.batch import Batch
from gleam.strategies import Checkpointed, EndToEnd, Fast, Greedy, Invertible, Strategy

LONGER = "End-to-end, equal compute"  # the shallow network, for so many steps that it computes as much as GLEAM
AS_DEEP = "End-to-end, as deep"  # GLEAM's deep network, with checkpoints


@dataclass(frozen=True)
class Method:
    """One row of a table: a network and how it is trained.

    Attributes
    ----------
    strategy : Strategy
        How a step is taken.
    n_iterations : int
        Of the network.
    n_steps : int
        Steps of training.
    precision : str
        Number format, as in :class:`gleam.Fast`.
    same_step_as : str or None
        Name of a method with the same step, which this one takes more often. Its cost is not measured again.
    """

    strategy: Strategy
    n_iterations: int
    n_steps: int
    precision: str = "auto"
    same_step_as: str | None = None

    @property
    def fast(self) -> Fast:
        """The strategy for training. (Costs are those of the plain strategy in fp32, as in the paper.)"""
        return Fast(self.strategy, self.precision)


@dataclass(frozen=True)
class Experiment:
    """One table of the paper at one acceleration.

    Attributes
    ----------
    name : str
        Folder of its records, such as "mridata_pgd_R12".
    table : str
        Table of the paper, such as "I".
    data : str
        "knees", "brains" or "hearts": function of :mod:`gleam.datasets` and :mod:`gleam.phantoms.simulated`.
    acceleration : float
        R of its masks.
    make_network : callable
        Number of iterations to an untrained network; all methods start from the same weights.
    methods : dict of str to Method
        The trained rows, in the order of the table.
    training : dict
        Arguments of :func:`gleam.fit` that all methods share.
    """

    name: str
    table: str
    data: str
    acceleration: float
    make_network: Callable[[int], nn.Module]
    methods: dict[str, Method]
    training: dict = field(default_factory=dict)

    def networks(self) -> dict[str, nn.Module]:
        """An untrained network for each method."""
        return {name: self.make_network(method.n_iterations) for name, method in self.methods.items()}

    def costs(
        self, batch: Batch, *, device: str = "cpu", n_rounds: int = 7, others: dict | None = None
    ) -> dict[str, Cost]:
        """Memory and time of a step of each method, measured in one run (:func:`gleam.cost.measure`).

        Parameters
        ----------
        batch : Batch
            The mini-batch of the step.
        device : str
            Where to measure.
        n_rounds : int
            How often each step is timed.
        others : dict, optional
            Further steps to measure in the same run, as a dict of name to (network, strategy).

        Returns
        -------
        dict
            Of method, or name in `others`, to :class:`gleam.cost.Cost`.
        """
        different = {name: method for name, method in self.methods.items() if method.same_step_as is None}
        steps = {name: (self.make_network(method.n_iterations), method.strategy) for name, method in different.items()}
        measured = measure(steps | (others or {}), batch, device=device, n_rounds=n_rounds)
        return measured | {name: measured[method.same_step_as or name] for name, method in self.methods.items()}

    def fit_arguments(self, method: str, network: nn.Module) -> dict:
        """Arguments of :func:`gleam.fit` for one method, without data, folder and device."""
        chosen = self.methods[method]
        of_method = {"network": network, "strategy": chosen.fast, "name": f"{self.name}: {method}"}
        return of_method | {"n_steps": chosen.n_steps} | self.training


def knees_pgd(
    acceleration: float, *, n_iterations: int, n_features: int, n_modules: int, step_size: float, n_steps: int,
    seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table I: PGD on knees, end to end and with GLEAM at the same depth.

    Parameters
    ----------
    acceleration : float
        R of the masks.
    n_iterations, n_features, step_size, seed
        As in :func:`gleam.unrolled.pgd`; the seed is also that of the training.
    n_modules : int
        Of GLEAM.
    n_steps : int
        Steps of training.
    precision : str
        As in :class:`gleam.Fast`.
    **training
        Further arguments of :func:`gleam.fit` for all methods.
    """
    strategies = {"End-to-end": EndToEnd(), "GLEAM": Greedy(n_modules)}
    return Experiment(
        f"mridata_pgd_R{acceleration:g}", "I", "knees", acceleration,
        partial(pgd, n_features=n_features, step_size=step_size, seed=seed),
        {name: Method(strategy, n_iterations, n_steps, precision) for name, strategy in strategies.items()},
        training | {"seed": seed},
    )  # fmt: skip


def knees_modl(
    acceleration: float, mu: float, *, n_iterations: int, n_features: int, n_modules: int, n_steps: int,
    n_checkpoints: int = 7, trained: list[str] | None = None, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table II: MoDL on knees, end to end, with checkpoints, by memory-efficient learning (MEL) and with GLEAM.

    `trained` picks some of the methods. MEL is trained in fp32, which its inversions need, and with seed 0 only. The
    parameter `mu` is as in :func:`gleam.unrolled.modl`, `n_checkpoints` as in :class:`gleam.Invertible`, and the others
    as in :func:`knees_pgd`.
    """
    return Experiment(
        f"mridata_modl_R{acceleration:g}", "II", "knees", acceleration,
        partial(modl, n_features=n_features, mu=mu, seed=seed),
        _modl_methods(
            trained, seed, n_iterations=n_iterations, n_modules=n_modules, n_steps=n_steps,
            n_checkpoints=n_checkpoints, precision=precision,
        ),
        training | {"seed": seed},
    )  # fmt: skip


def brains_pgd(
    acceleration: float, *, n_iterations: int, n_features: int, n_modules: int, step_size: float, n_steps: int,
    train_deep: bool = False, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table III: PGD on brains; GLEAM's network is `n_modules` times deeper than the end-to-end one.

    `train_deep` adds a network as deep as GLEAM's, trained end to end with checkpoints. The rest as in
    :func:`knees_pgd`, where `n_iterations` and `n_steps` are those of the end-to-end network.
    """
    return Experiment(
        "fastmri_pgd", "III", "brains", acceleration,
        partial(pgd, n_features=n_features, step_size=step_size, seed=seed),
        _deeper_methods(n_iterations, n_modules, n_steps, train_deep, precision), training | {"seed": seed},
    )  # fmt: skip


def hearts_pgd(
    acceleration: float, *, n_iterations: int, n_features: int, n_modules: int, step_size: float, n_steps: int,
    train_deep: bool = False, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table IV: PGD in space and time; GLEAM's network is `n_modules` times deeper than the end-to-end one.

    The parameters are those of :func:`brains_pgd`.
    """
    return Experiment(
        "cine_pgd", "IV", "hearts", acceleration,
        partial(pgd, n_features=n_features, n_dims=3, step_size=step_size, seed=seed),
        _deeper_methods(n_iterations, n_modules, n_steps, train_deep, precision), training | {"seed": seed},
    )  # fmt: skip


def hearts_modl(
    acceleration: float, mu: float, *, n_iterations: int, n_features: int, n_steps: int,
    n_checkpoints: int = 3, trained: list[str] | None = None, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table V: MoDL in space and time, trained in the four ways of :func:`knees_modl`; each iteration is a module.

    The parameters are those of :func:`knees_modl`. The paper keeps 7 inputs everywhere; of 4 iterations that is all,
    and nothing is inverted. With `n_checkpoints` 3 here, as with 7 of 8 there, a step inverts one iteration.
    """
    return Experiment(
        "cine_modl", "V", "hearts", acceleration, partial(modl, n_features=n_features, n_dims=3, mu=mu, seed=seed),
        _modl_methods(
            trained, seed, n_iterations=n_iterations, n_modules=n_iterations, n_steps=n_steps,
            n_checkpoints=n_checkpoints, precision=precision,
        ),
        training | {"seed": seed},
    )  # fmt: skip


def _modl_methods(trained, seed, *, n_iterations, n_modules, n_steps, n_checkpoints, precision):
    """The wanted methods, in the order of the table. MEL inverts, which needs fp32, and is trained with seed 0 only."""
    strategies = {
        "End-to-end": EndToEnd(), "Checkpointing": Checkpointed(), "MEL": Invertible(n_checkpoints),
        "GLEAM": Greedy(n_modules),
    }  # fmt: skip
    return {
        name: Method(strategies[name], n_iterations, n_steps, "fp32" if name == "MEL" else precision)
        for name in trained or strategies
        if seed == 0 or name != "MEL"
    }


def _deeper_methods(n_iterations, n_modules, n_steps, train_deep, precision):
    """A shallow network end to end, GLEAM `n_modules` times deeper, and controls that separate depth from compute."""
    deep = n_modules * n_iterations
    methods = {
        "End-to-end": Method(EndToEnd(), n_iterations, n_steps, precision),
        "GLEAM": Method(Greedy(n_modules), deep, n_steps, precision),
        LONGER: Method(EndToEnd(), n_iterations, n_modules * n_steps, precision, same_step_as="End-to-end"),
    }
    if train_deep:
        methods[AS_DEEP] = Method(Checkpointed(), deep, n_steps, precision)
    return methods


def of_chapters(parameters: dict[str, dict]) -> list[Experiment]:
    """All experiments of the paper, as the chapters run them, the most informative first.

    Parameters
    ----------
    parameters : dict
        Of chapter, "04_mridata", "05_fastmri" and "06_cine", to the dict of its parameters.

    Returns
    -------
    list of Experiment
    """
    knees, brains, hearts = (parameters[name] for name in ("04_mridata", "05_fastmri", "06_cine"))
    shared = ("batch_size", "learning_rate", "final_learning_rate", "n_warmup_steps", "weight_decay", "validate_every",
              "seed", "precision")  # fmt: skip
    of_knees, of_brains, of_hearts = ({k: p[k] for k in shared} for p in (knees, brains, hearts))
    of_modl = of_knees | {"batch_size": knees["modl_batch_size"], "validate_every": knees["modl_validate_every"]}
    pgd_sizes = ("n_iterations", "n_features", "n_modules", "step_size", "n_steps")
    deep_sizes = (*pgd_sizes, "train_deep")
    table_1 = [knees_pgd(R, **{k: knees[k] for k in pgd_sizes}, **of_knees) for R in knees["accelerations"]]
    table_2 = [
        knees_modl(
            R, mu, n_iterations=knees["n_iterations"], n_features=knees["modl_features"],
            n_modules=knees["n_modules"], n_steps=knees["modl_steps"], n_checkpoints=knees["n_checkpoints"],
            trained=knees["modl_trained"], **of_modl,
        )
        for R, mu in zip(knees["modl_accelerations"], knees["mus"], strict=True)
    ]  # fmt: skip
    table_3 = brains_pgd(brains["acceleration"], **{k: brains[k] for k in deep_sizes}, **of_brains)
    table_4 = hearts_pgd(hearts["acceleration"], **{k: hearts[k] for k in deep_sizes}, **of_hearts)
    table_5 = hearts_modl(
        hearts["acceleration"], hearts["mu"], n_iterations=hearts["modl_iterations"],
        n_features=hearts["modl_features"], n_steps=hearts["modl_steps"], n_checkpoints=hearts["n_checkpoints"],
        trained=hearts["modl_trained"], **of_hearts,
    )  # fmt: skip
    return [*table_1, table_3, table_4, *table_2, table_5]
