"""Training with any strategy, and scores of what was trained.

- `fitting`: :func:`fit`, resumable. `several`: several runs in parallel, and one run in several processes.
- `steps`: single steps, without schedule and validation.
- `run`: the state of one run, with `seeding`.
- `checkpoints`: its file. `identity`: what decides its result. `runs`: find and load it.
- `experiments`: the paper's experiments, each defined once.
- `evaluation`: images and scores of a network or baseline. `raw_files`: a raw file through the network of a run.
- `arguments`: of :func:`fit`, checked. `faults`: why a run cannot go on.
"""

from gleam.training import experiments
from gleam.training.checkpoints import Fit
from gleam.training.evaluation import evaluate, reconstruct
from gleam.training.fitting import fit
from gleam.training.identity import RESULTS_VERSION
from gleam.training.runs import load, runs
from gleam.training.several import fit_all, fit_parallel
from gleam.training.steps import take_steps

__all__ = [
    "RESULTS_VERSION",
    "Fit",
    "evaluate",
    "experiments",
    "fit",
    "fit_all",
    "fit_parallel",
    "load",
    "reconstruct",
    "runs",
    "take_steps",
]
