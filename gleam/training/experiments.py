"""The paper's experiments, each defined once: chapters, records and full-scale runs read them from here.

An experiment is one table of the paper at one acceleration: which data, which network, which methods with which
strategy, depth and number of steps. Its numbers (sizes, steps, weights) are those of a profile, ``notebooks/*.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from gleam.cost.timing import Cost, measure
from gleam.networks.unrolled import modl, pgd
from gleam.physics.sense import Batch
from gleam.strategies import Checkpointed, EndToEnd, Fast, Greedy, Invertible, Strategy

LONGER, AS_DEEP = "End-to-end, equal compute", "End-to-end, as deep"


@dataclass(frozen=True)
class Method:
    """One row of a table: a network of `n_iterations`, trained by `strategy` in `precision` for `n_steps`.

    `same_step_as` names the method whose step this one takes as well, only more often.
    """

    strategy: Strategy
    n_iterations: int
    n_steps: int
    precision: str = "auto"
    same_step_as: str | None = None

    @property
    def fast(self) -> Fast:
        """The strategy as it trains. (Costs are those of the bare strategy in fp32, as in the paper.)"""
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
        Rows that are trained, in the order of the table.
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

        `others`: further steps of the same run, a dict of name to (network, strategy).
        """
        own = {name: method for name, method in self.methods.items() if method.same_step_as is None}
        steps = {name: (self.make_network(method.n_iterations), method.strategy) for name, method in own.items()}
        measured = measure(steps | (others or {}), batch, device=device, n_rounds=n_rounds)
        return measured | {name: measured[method.same_step_as or name] for name, method in self.methods.items()}

    def fit_arguments(self, method: str, network: nn.Module) -> dict:
        """Arguments of :func:`gleam.fit` for one method but data, folder and device."""
        own = self.methods[method]
        named = {"network": network, "strategy": own.fast, "name": f"{self.name}: {method}"}
        return named | {"n_steps": own.n_steps} | self.training


def knees_pgd(
    acceleration: float, *, n_iterations: int, n_features: int, n_modules: int, step_size: float, n_steps: int,
    seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table I: PGD on knees, end to end and with GLEAM, the same depth."""
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

    `trained` picks some of them. MEL is trained in fp32, as its inversions need, and with seed 0 alone.
    """
    methods = _modl_methods(n_iterations, n_modules, n_steps, precision)
    mel = Method(Invertible(n_checkpoints), n_iterations, n_steps, "fp32")
    methods = {"End-to-end": methods["End-to-end"], "Checkpointing": methods["Checkpointing"], "MEL": mel,
               "GLEAM": methods["GLEAM"]}  # fmt: skip
    wanted = [name for name in trained or methods if seed == 0 or name != "MEL"]
    return Experiment(
        f"mridata_modl_R{acceleration:g}", "II", "knees", acceleration,
        partial(modl, n_features=n_features, mu=mu, seed=seed), {name: methods[name] for name in wanted},
        training | {"seed": seed},
    )  # fmt: skip


def brains_pgd(
    acceleration: float, *, n_iterations: int, n_features: int, n_modules: int, step_size: float, n_steps: int,
    train_deep: bool = False, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table III: PGD on brains; GLEAM's network is `n_modules` times deeper than the end-to-end one."""
    return Experiment(
        "fastmri_pgd", "III", "brains", acceleration,
        partial(pgd, n_features=n_features, step_size=step_size, seed=seed),
        _deeper_methods(n_iterations, n_modules, n_steps, train_deep, precision), training | {"seed": seed},
    )  # fmt: skip


def hearts_pgd(
    acceleration: float, *, n_iterations: int, n_features: int, n_modules: int, step_size: float, n_steps: int,
    train_deep: bool = False, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table IV: PGD in space and time; GLEAM's network is `n_modules` times deeper than the end-to-end one."""
    return Experiment(
        "cine_pgd", "IV", "hearts", acceleration,
        partial(pgd, n_features=n_features, n_dims=3, step_size=step_size, seed=seed),
        _deeper_methods(n_iterations, n_modules, n_steps, train_deep, precision), training | {"seed": seed},
    )  # fmt: skip


def hearts_modl(
    acceleration: float, mu: float, *, n_iterations: int, n_features: int, n_steps: int,
    trained: list[str] | None = None, seed: int = 0, precision: str = "auto", **training,
) -> Experiment:  # fmt: skip
    """Table V: MoDL in space and time, end to end, with checkpoints and with GLEAM, every iteration a module."""
    methods = _modl_methods(n_iterations, n_iterations, n_steps, precision)
    return Experiment(
        "cine_modl", "V", "hearts", acceleration, partial(modl, n_features=n_features, n_dims=3, mu=mu, seed=seed),
        {name: methods[name] for name in trained or methods}, training | {"seed": seed},
    )  # fmt: skip


def _modl_methods(n_iterations, n_modules, n_steps, precision):
    strategies = {"End-to-end": EndToEnd(), "Checkpointing": Checkpointed(), "GLEAM": Greedy(n_modules)}
    return {name: Method(strategy, n_iterations, n_steps, precision) for name, strategy in strategies.items()}


def _deeper_methods(n_iterations, n_modules, n_steps, train_deep, precision):
    """A shallow network end to end, GLEAM as many times deeper as it has modules, and what tells depth from compute."""
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
    """All experiments of the paper, from the parameters of the chapters 04, 05 and 06, by name of the chapter.

    These are the experiments that the chapters run, the most telling first.
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
        n_features=hearts["modl_features"], n_steps=hearts["modl_steps"], trained=hearts["modl_trained"], **of_hearts,
    )  # fmt: skip
    return [*table_1, table_3, table_4, *table_2, table_5]
