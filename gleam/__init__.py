"""GLEAM: greedy learning for large-scale accelerated MRI reconstruction."""

from gleam import (
    baselines,
    calibration,
    cost,
    datasets,
    fourier,
    masks,
    metrics,
    physics,
    records,
    solvers,
    strategies,
    training,
    unrolled,
)
from gleam.evaluation import evaluate, reconstruct
from gleam.records import Record
from gleam.strategies import Checkpointed, EndToEnd, Greedy, Invertible
from gleam.training import Fit, fit, fit_all

__all__ = [
    "Checkpointed",
    "EndToEnd",
    "Fit",
    "Greedy",
    "Invertible",
    "Record",
    "baselines",
    "calibration",
    "cost",
    "datasets",
    "evaluate",
    "fit",
    "fit_all",
    "fourier",
    "masks",
    "metrics",
    "physics",
    "reconstruct",
    "records",
    "solvers",
    "strategies",
    "training",
    "unrolled",
]
