"""The cost of a training step: memory and time, measured and predicted.

- `memory`: bytes of live tensors. `step`: one training step that can be repeated, and its peak memory.
- `timing`: seconds of several methods, interleaved in one run. `parallel`: the same for P-GLEAM.
- `prediction`: memory at any depth. `simulation`: speed on any number of devices. `roofline`: the least time possible.
- `planning`: what fits into a memory, and the time that it takes.
"""

from gleam.cost import parallel, roofline
from gleam.cost.planning import Plan, TimeModel, plan
from gleam.cost.prediction import MemoryModel
from gleam.cost.simulation import simulate
from gleam.cost.step import Step, peak_split
from gleam.cost.timing import Cost, measure, paired, paired_ratio

__all__ = [
    "Cost",
    "MemoryModel",
    "Plan",
    "Step",
    "TimeModel",
    "measure",
    "paired",
    "paired_ratio",
    "parallel",
    "peak_split",
    "plan",
    "roofline",
    "simulate",
]
