"""Training without schedule, validation and checkpoints, for studies of single steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from tqdm.auto import tqdm

from gleam.datasets.slices import Slices
from gleam.strategies import Strategy, optimizers


def take_steps(
    network: nn.Module,
    train: Slices,
    strategy: Strategy,
    steps: Iterable[int],
    *,
    learning_rate: float,
    batch_size: int = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    name: str | None = None,
) -> Iterator[float]:
    """Train with Adam, and yield the loss of the last module after each step.

    Parameters
    ----------
    network : Module
        On `device`; trained in place.
    train : Slices
    strategy : Strategy
    steps : iterable of int
        Numbers of the steps, which decide their mini-batches.
    learning_rate : float
        Constant.
    batch_size, seed, device
        As in :func:`gleam.fit`.
    name : str, optional
        For the progress bar.
    """
    # torch's plain Adam, without the weight decay, schedule and fused kernel of gleam.fit
    adam = optimizers(strategy, network, learning_rate=learning_rate, make=torch.optim.Adam)
    for step in tqdm(steps, desc=name):
        batch = train.training_batch(step, batch_size, seed).to(device)
        yield strategy.step(network, batch, adam)[-1].item()
