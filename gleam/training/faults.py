"""Why a run cannot go on: the slice whose data are at fault, or the step and the module where training diverged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gleam.datasets.slices import Slices


def not_finite(batch: Any) -> Iterator[tuple[int, str]]:
    """(number of the example, name of the array) wherever an array of a batch is not finite."""
    for name, values in getattr(batch, "__dict__", {}).items():
        if torch.is_tensor(values) and values.ndim:
            finite = values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()
            yield from ((i, name) for i in (~finite).nonzero().flatten().tolist())


def has_no_target(batch: Any) -> Tensor:
    """For each example of a batch, whether it is one of `Batch.from_measured`, whose target is NaN everywhere."""
    return batch.target.isnan().flatten(1).all(1)


def slice_named(data: Slices, i: int) -> str:
    """Subject and number of slice `i` of a data set, for messages."""
    scan, number = data.index[i]
    return f"subject {data.subjects[scan]}, slice {number}"


def check_scorable(data: Slices, indices: list[int], batch: Any) -> None:
    """Raise ValueError, naming the slice and the reason, unless every example of a batch can be scored."""
    wrong = [(int(i), "it has no target (Batch.from_measured); reconstruct it") for i in has_no_target(batch).nonzero()]
    cure = "leave it out or mend its file"
    wrong += [(i, f"its {name} is not finite; {cure}") for i, name in not_finite(batch)]
    empty = ~batch.target.abs().flatten(1).any(1)
    wrong += [(int(i), f"its target is zero everywhere; {cure}") for i in empty.nonzero()]
    if wrong:
        i, why = wrong[0]
        raise ValueError(f"{slice_named(data, indices[i])} cannot be scored: {why}")


def check_scores(data: Slices, scores: dict[int, float]) -> None:
    """Raise ValueError, naming the slice, if one of the scores of the validation, by slice, is not finite."""
    for i in sorted(scores):
        if not abs(scores[i]) < float("inf"):
            raise ValueError(
                f"the network's image of {slice_named(data, i)} is not finite in the validation, and the data are: "
                "training diverged; lower learning_rate"
            )


def first_divergence(losses: list[list[Tensor]]) -> tuple[int, int] | None:
    """(mini-batch, module) of the first loss that is not finite, of `losses[mini_batch][module]`; None if all are."""
    finite = torch.stack([torch.stack([loss.detach().cpu() for loss in row]).isfinite() for row in losses])
    found = (~finite).nonzero().tolist()
    return (found[0][0], found[0][1]) if found else None


def data_fault(data: Slices, batch: Any) -> str:
    """What is wrong with the data of a mini-batch of training, and in which slice; empty if all are finite."""
    if has_no_target(batch).any():
        return (
            "a slice has no target (Batch.from_measured), so there is no loss to train with; give "
            "loss=gleam.losses.SelfSupervised(), or slices that are fully sampled"
        )
    if not any(not_finite(batch)):
        return ""
    # slice by slice, since a training batch does not say which slices it was made of
    for (i,), one in data.batches(1) if hasattr(data, "batches") else ():
        for _, name in not_finite(one):
            return f"the {name} of {slice_named(data, i)} is not finite; leave the slice out or mend its file"
    return "the mini-batch is not finite"
