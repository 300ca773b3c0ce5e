"""Which way of training fits on a device, how deep it can go there, and what a step takes: :func:`plan`.

Memory is that of :class:`gleam.cost.MemoryModel`. Time is predicted in the same way, from steps of short networks.
"""

from __future__ import annotations

import html
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import nn

from gleam.cost.prediction import MemoryModel, as_code, explained, shortened
from gleam.cost.step import Step, is_cuda
from gleam.cost.timing import median_ratio, paired
from gleam.execution import checked_device
from gleam.files import whole_number
from gleam.physics.batch import Batch
from gleam.physics.losses import Loss, complex_l1
from gleam.processes.allocator import keep_freed_memory
from gleam.strategies.base import Strategy
from gleam.strategies.fast import Fast
from gleam.strategies.greedy import Checkpointed, EndToEnd, Greedy
from gleam.strategies.updates import parameters_by_module

SHORT = (1, 1), (3, 1), (3, 3)  # iterations and modules of the steps that are timed
TIE = 1.1  # times nearer to each other than this count as equal: the prediction is no finer
_FORMATS: dict[Any, Any] = {
    "peak_mb": "{:.1f}".format, "seconds_per_step": "{:.3g}".format, "relative_time": "{:.2f}".format,
}  # fmt: skip


@dataclass(frozen=True)
class TimeModel:
    """Seconds of a training step for any number of iterations and modules, from timed steps with one and three.

    The time is linear in both. A further iteration adds its forward pass (twice, with checkpoints), backward pass and
    update; a further module adds its own loss and saves the gradient of its input. For one batch, one device, and
    iterations that are alike.

    Parameters
    ----------
    seconds : dict
        Of (iterations, modules, whether checkpointed) to the seconds in each round, for each of :data:`SHORT`.
    """

    seconds: Mapping[tuple[int, int, bool], tuple[float, ...]]

    @staticmethod
    def steps(
        network: nn.Module,
        batch: Batch,
        *,
        device: str | torch.device = "cpu",
        loss: Loss = complex_l1,
        precision: str | None = None,
    ) -> dict[Any, Step]:
        """The steps to time, in rounds (:func:`gleam.cost.paired`); arguments as those of :func:`plan`."""
        found = {}
        for checkpointed in (False, True):
            for n, m in SHORT:
                way = _strategy(m, checkpointed, loss, precision)
                found[n, m, checkpointed] = Step(shortened(network, n), way, batch, device=device)
                found[n, m, checkpointed].settle()
        return found

    def step_seconds(self, n_iterations: int, n_modules: int = 1, *, checkpointed: bool = False) -> tuple[float, ...]:
        """Predicted seconds of a step, from those of each round; at least that of one iteration, whatever the noise."""
        timed = zip(*(self.seconds[n, m, checkpointed] for n, m in SHORT), strict=True)
        return tuple(
            max(one, one + (n_iterations - 1) * (three - one) / 2 + (n_modules - 1) * (cut - three) / 2)
            for one, three, cut in timed
        )

    def seconds_per_step(self, n_iterations: int, n_modules: int = 1, *, checkpointed: bool = False) -> float:
        """Median of :meth:`step_seconds` over the rounds."""
        return statistics.median(self.step_seconds(n_iterations, n_modules, checkpointed=checkpointed))


@dataclass(frozen=True, repr=False)
class Plan:
    """What fits into the memory of a device, and how long a step takes, by way of training. :func:`plan` makes it.

    A notebook shows :attr:`recommendation` and :attr:`table`.

    Parameters
    ----------
    memory, time : MemoryModel, TimeModel
        They predict any other number of iterations and modules, too.
    available_bytes : int
        The memory that a step may take.
    loss : callable
    precision : str or None
        As in :func:`plan`.
    """

    memory: MemoryModel
    time: TimeModel
    available_bytes: int
    loss: Loss = complex_l1
    precision: str | None = None

    def within(self, memory: str | float) -> Plan:
        """The plan for another memory, such as "24 GB", from the same measurements."""
        return replace(self, available_bytes=n_bytes(memory))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per way of training; the first that fits is the nearest to end-to-end training.

        Columns: `strategy`, as code; `modules` M; `peak_mb`, the peak memory with the network's N, in 10^6 bytes;
        `fits`; `seconds_per_step`; `relative_time`, over that of end-to-end training, the median of paired ratios;
        `deepest`, the largest N that fits with modules as long as here (up to 1000; 0 if none), and
        `deepest_strategy`, the strategy for it.

        Rows: one module, plain and with checkpoints; modules of 1, 2, 4, ... iterations, and the fewest that fit.
        Checkpoints inside modules of a single iteration save nothing and have no row.
        """
        n = self.memory.n_iterations
        rows = {"End-to-end": self._row(1, False), "Checkpointing": self._row(1, True)}
        for inside, checkpointed in {"": False, ", checkpoints": True}.items():
            fewest = self.memory.modules_that_fit(self.available_bytes, checkpointed=checkpointed)
            # one module has its own rows, and checkpoints inside single iterations save nothing
            cuts = {fewest or 1, *(-(-n // 2**i) for i in range(n.bit_length()))} - {1, n if checkpointed else 1}
            rows |= {f"GLEAM, M = {m}{inside}": self._row(m, checkpointed) for m in sorted(cuts)}
        return pd.DataFrame(list(rows.values()), pd.Index(rows, name="way"))

    def _row(self, n_modules, checkpointed):
        n, how = self.memory.n_iterations, {"checkpointed": checkpointed}
        peak, seconds = self.memory.peak_bytes(n, n_modules, **how), self.time.step_seconds(n, n_modules, **how)
        length = -(-n // n_modules) if n_modules > 1 else None
        deepest = self.memory.deepest_that_fits(self.available_bytes, length, **how)
        there = -(-deepest // length) if length else 1
        return {
            "strategy": self._code(n_modules, checkpointed),
            "modules": n_modules,
            "peak_mb": peak / 1e6,
            "fits": peak <= self.available_bytes,
            "seconds_per_step": statistics.median(seconds),
            "relative_time": median_ratio(seconds, self.time.step_seconds(n)),
            "deepest": deepest,
            "deepest_strategy": self._code(there, checkpointed) if deepest else "",
        }

    def _code(self, n_modules, checkpointed):
        return as_code(_strategy(n_modules, checkpointed, self.loss, self.precision))

    @property
    def recommendation(self) -> str:
        """The fastest way that fits, in words; of equal ones that with the gradient of end-to-end training, if any.

        Times within 10 % of each other count as equal. Then the fewest modules are best.
        """
        table, room = self.table, _size(self.available_bytes)
        fitting: Any = table[table.fits]
        if fitting.empty:
            least, deepest = table.loc[table.peak_mb.idxmin()], table.loc[table.deepest.idxmax()]
            fewer = f", or N = {deepest.deepest} with {deepest.deepest_strategy}" if deepest.deepest else ""
            return (
                f"Nothing fits into {room}. {least.name} needs least, {_size(1e6 * least.peak_mb)}: take a smaller "
                f"batch or fewer features{fewer}."
            )
        best = fitting[fitting.relative_time <= TIE * fitting.relative_time.min()].iloc[0]
        text = (
            f"Take {best.name}: it needs {_size(1e6 * best.peak_mb)} of {room}, and a step takes about "
            f"{best.seconds_per_step:.2g} s"
        )
        if best.modules == 1:
            return f"{text}."
        text += f", {best.relative_time:.2f} times that of end-to-end training"
        exact = fitting[fitting.modules == 1]
        if exact.empty:
            return f"{text}; nothing with the gradient of end-to-end training fits."
        name, time = exact.index[0], exact.relative_time.iloc[0]
        return f"{text}. {name} fits as well, with the gradient of end-to-end training, at {time:.2f} times its time."

    def __repr__(self) -> str:
        return f"{self.recommendation}\n\n{self.table.to_string(formatters=_FORMATS)}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.recommendation)}</p>{self.table.to_html(formatters=_FORMATS)}"


def plan(
    network: nn.Module,
    batch: Batch,
    memory: str | float | None = None,
    *,
    device: str | torch.device = "cpu",
    loss: Loss = complex_l1,
    precision: str | None = None,
    n_rounds: int = 7,
) -> Plan:
    """Predict which ways of training fit into a memory, how deep each could go, and what a step takes.

    Only networks of one to three of its iterations are run, so the network itself need not fit.

    Parameters
    ----------
    network : nn.Module
        With `iterations` and `start(batch)`. It is copied and not changed.
    batch : Batch
        As in training: the same number of slices, the same shape.
    memory : str or float, optional
        Such as "11 GB" (10^9 bytes), "24 GiB" (2^30), or a number of bytes. Default: all that the GPU has.
    device : str or torch.device
        Where the short networks run. Times are those of this device; `memory` may be that of another.
    loss : callable
        Of (image, batch), as in training.
    precision : str, optional
        Number format of convolutions, as in :class:`gleam.Fast`. Default: strategies without `Fast`.
    n_rounds : int
        Rounds of the timing, after two that do not count.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If `memory` is no size, the network has no iterations, its iterations share weights or have different numbers
        of them, or `batch` is no batch.
    MemoryError
        If not even three iterations fit on the device; it says what would (:func:`gleam.prediction.explained`).

    Notes
    -----
    Both predictions are for iterations that are alike: one that differs in something else than the number of its
    weights, such as the size of its images, goes unseen. A GPU also holds a context of some hundred MB, and the
    allocator may waste some: leave a tenth of a card free. On a CPU memory is that of live tensors, without the scratch
    memory of kernels.
    """
    device, n_rounds = checked_device(device), whole_number(n_rounds, "n_rounds")
    iterations = getattr(network, "iterations", None)
    if not isinstance(iterations, nn.ModuleList) or not len(iterations):
        raise ValueError(
            f"network is a {type(network).__name__} without iterations; expected `iterations`, an nn.ModuleList of at "
            "least one module that is called as iteration(x, batch)"
        )
    if not isinstance(batch, Batch):
        raise ValueError(
            f"batch is a {type(batch).__name__}; expected a gleam.physics.Batch, such as train.training_batch(0, 1, 0)"
        )
    if memory is None and not is_cuda(device):
        raise ValueError(f"memory=None is that of a GPU, and device={str(device)!r}; give it, such as memory='11 GB'")
    available = torch.cuda.get_device_properties(device).total_memory if memory is None else n_bytes(memory)
    _check_alike(network)
    if precision is not None:
        precision = Fast(EndToEnd(), precision).settled(device).precision
    keep_freed_memory()
    whole = _strategy(1, False, loss, precision)
    with explained(network, whole, lambda: batch, device=device):
        model = MemoryModel.measured(network, batch, device=device, strategy=whole)
        steps = TimeModel.steps(network, batch, device=device, loss=loss, precision=precision)
        seconds: Any = paired(steps, n_rounds=n_rounds, device=device)
    return Plan(model, TimeModel(seconds), available, loss, precision)


def n_bytes(memory: str | float) -> int:
    """A number of bytes, also from text such as "11 GB" (10^9 bytes) or "24 GiB" (2^30); ValueError for others."""
    found = math.nan if isinstance(memory, str) else float(memory)
    if written := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b\s*", str(memory).lower()):
        number, unit, binary = written.groups()
        found = float(number) * (1024 if binary else 1000) ** "_kmgt".index(unit or "_")
    if not (math.isfinite(found) and found >= 1):
        raise ValueError(
            f"memory={memory!r} is no size; expected a number of bytes above 0, or text such as '11 GB' or '24 GiB'"
        )
    return int(found)


def _check_alike(network):
    parameters_by_module(Greedy(len(network.iterations)), network)  # refuses weights that are shared, or none
    counts = [sum(p.numel() for p in iteration.parameters()) for iteration in network.iterations]
    for i, count in enumerate(counts):
        if count != counts[0]:
            raise ValueError(
                f"iteration {i} of the network has {count} parameters and iteration 0 has {counts[0]}; expected "
                "iterations that are alike, since the plan measures only the first ones"
            )


def _strategy(n_modules: int, checkpointed: bool, loss: Loss, precision: str | None) -> Strategy:
    """The strategy of a row."""
    way = Checkpointed if checkpointed else EndToEnd
    plain = way(loss) if n_modules == 1 else Greedy(n_modules, within=way(), loss=loss)
    return plain if precision is None else Fast(plain, precision)


def _size(n_bytes):
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"
