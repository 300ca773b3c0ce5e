"""GLEAM: greedy learning for large-scale accelerated MRI reconstruction."""

from gleam import (
    baselines,
    calibration,
    cost,
    datasets,
    fourier,
    masks,
    metrics,
    parallel,
    parallel_cost,
    physics,
    prediction,
    records,
    solvers,
    strategies,
    training,
    unrolled,
)
from gleam.checkpoints import Fit
from gleam.evaluation import evaluate, reconstruct
from gleam.fast import Fast
from gleam.parallel import ParallelGreedy
from gleam.records import Record
from gleam.strategies import Checkpointed, EndToEnd, Greedy, Invertible, Offloaded
from gleam.training import fit, fit_all, fit_parallel

__all__ = [
    "Checkpointed",
    "EndToEnd",
    "Fast",
    "Fit",
    "Greedy",
    "Invertible",
    "Offloaded",
    "ParallelGreedy",
    "Record",
    "baselines",
    "calibration",
    "cost",
    "datasets",
    "evaluate",
    "fit",
    "fit_all",
    "fit_parallel",
    "fourier",
    "masks",
    "metrics",
    "parallel",
    "parallel_cost",
    "physics",
    "prediction",
    "reconstruct",
    "records",
    "solvers",
    "strategies",
    "training",
    "unrolled",
]
