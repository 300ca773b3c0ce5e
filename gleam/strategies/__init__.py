"""Training strategies: how one gradient step on one mini-batch is taken.

- `base`: the interface :class:`Strategy`. `greedy`: end-to-end training, checkpointing, and GLEAM (:class:`Greedy`).
- `supervision`: what stands between end-to-end training and GLEAM (:class:`DeepSupervision`, :class:`LookAhead`).
- `updates`: the optimizers, one for each module.
- `inversion`: memory-efficient learning. `offload`: activations in host memory.
- `parallel`: P-GLEAM. `fast`: any strategy in a smaller number format, replayed as a CUDA graph.
"""

from gleam.strategies.base import Strategy
from gleam.strategies.fast import Fast
from gleam.strategies.greedy import Checkpointed, EndToEnd, Greedy
from gleam.strategies.inversion import Invertible, gradient, inversion_errors
from gleam.strategies.monitor import InversionWarning
from gleam.strategies.offload import Offloaded
from gleam.strategies.parallel import ParallelGreedy, spread
from gleam.strategies.supervision import DeepSupervision, LookAhead
from gleam.strategies.updates import optimizers, parameters_by_module

__all__ = [
    "Checkpointed",
    "DeepSupervision",
    "EndToEnd",
    "Fast",
    "Greedy",
    "InversionWarning",
    "Invertible",
    "LookAhead",
    "Offloaded",
    "ParallelGreedy",
    "Strategy",
    "gradient",
    "inversion_errors",
    "optimizers",
    "parameters_by_module",
    "spread",
]
