"""GLEAM: greedy learning for large-scale accelerated MRI reconstruction."""

import importlib
import sys

from gleam import cost, datasets, metrics, networks, phantoms, physics, records, strategies, training
from gleam.cost import plan, prediction, roofline
from gleam.networks import adapt, denoisers, unrolled
from gleam.physics import baselines, calibration, fourier, losses, masks, solvers
from gleam.records import Record
from gleam.strategies import (
    Checkpointed,
    DeepSupervision,
    EndToEnd,
    Fast,
    Greedy,
    Invertible,
    LookAhead,
    Offloaded,
    ParallelGreedy,
    Strategy,
    parallel,
)
from gleam.training import Fit, evaluate, experiments, fit, fit_all, fit_parallel, load, reconstruct, runs

__all__ = [
    "Checkpointed",
    "DeepSupervision",
    "EndToEnd",
    "Fast",
    "Fit",
    "Greedy",
    "Invertible",
    "LookAhead",
    "Offloaded",
    "ParallelGreedy",
    "Record",
    "Strategy",
    "adapt",
    "baselines",
    "calibration",
    "cost",
    "datasets",
    "denoisers",
    "evaluate",
    "experiments",
    "fit",
    "fit_all",
    "fit_parallel",
    "fourier",
    "load",
    "losses",
    "masks",
    "metrics",
    "networks",
    "parallel",
    "phantoms",
    "physics",
    "plan",
    "prediction",
    "reconstruct",
    "records",
    "roofline",
    "runs",
    "solvers",
    "strategies",
    "training",
    "unrolled",
]

# the field's own modules have a short name as well: `from gleam.masks import poisson_disc`
for _python_module in (
    adapt, baselines, calibration, denoisers, fourier, losses, masks, parallel, prediction, roofline, solvers, unrolled,
):  # fmt: skip
    sys.modules[f"gleam.{_python_module.__name__.rpartition('.')[2]}"] = _python_module


def __getattr__(name):
    """Import `figures` and `widgets` on first use: they need matplotlib and ipywidgets, which the core does not."""
    if name in ("figures", "widgets"):
        return importlib.import_module(f"gleam.records.{name}")
    raise AttributeError(f"module 'gleam' has no attribute {name!r}")
