"""One row for every method of the benchmark: its training step, its time in paired rounds, its peak of memory."""

import copy
import math
import statistics
from dataclasses import dataclass
from functools import partial

import numpy as np
import peers
import torch

from gleam import Checkpointed, EndToEnd, Fast, Greedy, cost, execution, fourier, masks, physics, unrolled
from gleam.cost.memory import LiveBytes
from gleam.cost.step import allocated_at_peak, is_cuda, peak_split
from gleam.metrics import complex_l1
from gleam.strategies.updates import optimizers

NETWORKS = {"PGD": unrolled.pgd, "MoDL": unrolled.modl}
N_CONVERGED = 60  # steps of conjugate gradients after which it does not matter how they went
TOLERANCE = 1e-4  # relative difference of two images from the same weights
FAST, AUTOCAST = ", fast", ", autocast"  # endings of the names of rows in bf16
TOLERANCE_OF_BF16 = 0.05  # bf16 keeps 8 bits of a number


@dataclass(frozen=True)
class Sizes:
    """What is reconstructed and by how large a network; N modules for N iterations."""

    shape: tuple = (160, 128)
    n_coils: int = 8
    batch_size: int = 1
    n_iterations: int = 8
    n_features: int = 32
    acceleration: int = 4
    memory_iterations: tuple = (4, 8, 16)


def random_batch(sizes, device="cpu", seed=0):
    """A batch of random images, which cost as much as any other."""
    generator = torch.Generator().manual_seed(seed)
    n, shape = sizes.batch_size, sizes.shape
    target = torch.randn(n, *shape, dtype=torch.complex64, generator=generator)
    maps = torch.randn(n, sizes.n_coils, *shape, dtype=torch.complex64, generator=generator)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    discs = [masks.poisson_disc(shape, sizes.acceleration, n_calibration=8, seed=seed + i) for i in range(n)]
    mask = torch.from_numpy(np.stack([fourier.ifftshift2(disc) for disc in discs]))[:, None]
    return physics.Batch.undersample(fourier.fft2(maps * target[:, None]), mask, maps, target).to(device)


@dataclass
class Row:
    """One method: its training step, or why there is none.

    ``difference``: of its image from that of GLEAM's network with the same weights, relative.
    """

    step: object = None
    held: list = None
    difference: float | None = None
    note: str = ""


def own_rows(network, batch):
    """GLEAM's strategies, also as :class:`gleam.Fast` makes them where bf16 is fast.

    GLEAM comes first, since all others are divided by it.
    """
    n = len(network.iterations)
    strategies = {f"GLEAM, {n} modules": Greedy(n), "End-to-end": EndToEnd(), "Checkpointed": Checkpointed()}
    if execution.has_fast_bf16(batch.target.device.type):
        strategies |= {f"GLEAM{FAST}": Fast(Greedy(n)), f"End-to-end{FAST}": Fast(EndToEnd())}
    return {name: own_row(copy.deepcopy(network), strategy, batch) for name, strategy in strategies.items()}


def own_row(network, strategy, batch):
    """The training step of one of GLEAM's strategies, with the optimizers that :func:`gleam.fit` uses."""
    adams = optimizers(strategy, network, learning_rate=1e-5)
    return Row(partial(strategy.step, network, batch, adams), [network, adams])


def peer_rows(network, batch):
    """One row for each of :data:`peers.PEERS` as it comes, and one under autocast in bf16 where that is fast.

    Whatever goes wrong in one is its note and leaves the others alone.
    """
    names = {**peers.PEERS}
    if peers.is_modl(network):
        names["deepinv, implicit"] = peers.deepinv_implicit
    rows = {name: _peer_row(make, network, batch) for name, make in names.items()}
    if execution.has_fast_bf16(batch.target.device.type):
        rows |= {f"{name}{AUTOCAST}": _peer_row(make, network, batch, True) for name, make in names.items()}
    return rows


def _peer_row(make, network, batch, is_autocast=False):
    try:
        module, image = make(network, batch)
        image = peers.in_bf16(module, image) if is_autocast else image
        difference = _difference(image, network, batch)
        tolerance = TOLERANCE_OF_BF16 if is_autocast else TOLERANCE
        note = "" if difference <= tolerance else _other_mathematics(make, network, batch, difference)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)
        step = partial(end_to_end_step, image, batch.target, optimizer)
        step()
    except peers.NotInstalled as reason:
        return Row(note=f"not installed: {reason}")
    except Exception as error:  # a version with another interface must not stop the others
        return Row(note=f"does not run: {type(error).__name__}: {error}")
    return Row(step, [module, [optimizer]], difference, note)


def end_to_end_step(image, target, optimizer):
    """One training step as one writes it without GLEAM; ``image()`` makes the network's images."""
    optimizer.zero_grad()
    loss = complex_l1(image(), target)
    loss.backward()
    optimizer.step()


def _difference(image, network, batch):
    with torch.no_grad():
        ours = network(batch)
        difference = float(torch.linalg.vector_norm(image() - ours) / torch.linalg.vector_norm(ours))
    if not math.isfinite(difference):
        raise ValueError("its image is not finite")
    return difference


def _other_mathematics(make, network, batch, difference):
    """A note on an image that differs: as much work, but not the same numbers."""
    note = f"its image differs by {difference:.0e}"
    if not peers.is_modl(network):
        return note
    converged = copy.deepcopy(network)
    for iteration in converged.iterations:
        iteration.n_cg = N_CONVERGED
    agreement = _difference(make(converged, batch)[1], converged, batch)
    return f"{note}: its conjugate gradients take other steps; {agreement:.0e} after {N_CONVERGED} of them"


def peak_bytes(row, batch, device):
    """Peak of one step with weights, optimizer and batch, as :mod:`gleam.cost.step` counts it; also of a peer's."""
    module, adams = row.held
    row.step()
    module.zero_grad()  # the step that is counted makes them
    state = [t for o in adams for s in o.state.values() for t in s.values() if torch.is_tensor(t)]
    held = [*module.parameters(), *module.buffers(), *state, *vars(batch).values()]
    held = [t for t in held if torch.is_tensor(t)]
    if is_cuda(device):
        return allocated_at_peak(row.step, held, device)
    with LiveBytes(held) as live:
        row.step()
    return live.peak


def ratio(seconds, others):
    """[25 %, median, 75 %] over rounds of the time of one method over that of another."""
    ratios = [a / b for a, b in zip(seconds, others, strict=True)]
    return statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3


def compare(make, sizes, *, n_rounds, n_warmup=2, device="cpu"):
    """A dict of method to what was measured of it, all on one batch and in the same rounds."""
    batch = random_batch(sizes, device)
    network = make(sizes.n_iterations, sizes.n_features).to(device)
    rows = own_rows(network, batch) | peer_rows(network, batch)
    running = {name: row for name, row in rows.items() if row.step}
    peaks = {name: peak_bytes(row, batch, device) for name, row in running.items()}
    steps = {name: row.step for name, row in running.items()}
    seconds = cost.paired(steps, n_rounds=n_rounds, n_warmup=n_warmup, device=device)
    return {name: _measured(row, seconds.get(name), seconds, peaks.get(name)) for name, row in rows.items()}


def _measured(row, times, seconds, peak):
    found = {"note": row.note, "difference": row.difference, "peak_bytes": peak}
    if times is None:
        return found
    # the first row is GLEAM
    over_gleam = ratio(times, next(iter(seconds.values())))
    return found | {"seconds_per_step": statistics.median(times), "step_seconds": list(times), "over_gleam": over_gleam}


def time_prediction(make, sizes, *, n_rounds, n_warmup=2, device="cpu"):
    """Seconds of a step as `gleam.plan` predicts them and as measured in the same rounds, by method.

    Each round's prediction is from its own steps of one and three iterations.
    """
    batch, n = random_batch(sizes, device), sizes.n_iterations
    network = make(n, sizes.n_features)
    short = cost.TimeModel.steps(network, batch, device=device)
    methods = {"End-to-end": (1, False), "Checkpointed": (1, True), f"GLEAM, {n} modules": (n, False)}
    whole = {
        name: cost.Step(network, Checkpointed() if checkpointed else Greedy(m), batch, device=device)
        for name, (m, checkpointed) in methods.items()
    }
    seconds = cost.paired(short | whole, n_rounds=n_rounds, n_warmup=n_warmup, device=device)
    model = cost.TimeModel({key: seconds[key] for key in short})
    found = {}
    for name, (m, checkpointed) in methods.items():
        predicted = model.step_seconds(n, m, checkpointed=checkpointed)
        over = ratio(predicted, seconds[name])
        found[name] = {
            "predicted_seconds": list(predicted),
            "step_seconds": list(seconds[name]),
            "predicted_over_measured": over,
        }
    return found


def memory_over_n(make, sizes, device="cpu"):
    """Peak without weights and optimizer, which grow with any method, by method and number of iterations N."""
    batch = random_batch(sizes, device)
    found = {"GLEAM, N modules": {}, "End-to-end": {}}
    for n in sizes.memory_iterations:
        for name, strategy in zip(found, (Greedy(n), EndToEnd()), strict=True):
            split = peak_split(make(n, sizes.n_features), strategy, batch, device=device)
            found[name][str(n)] = sum(split.values()) - split["weights"] - split["optimizer"]
    return found
