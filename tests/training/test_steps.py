"""Single steps without schedule and validation."""

import torch
from problems import random_batch

import gleam
from gleam.training import take_steps


class Numbered:
    """A training set whose mini-batch is decided by the number of the step alone."""

    def training_batch(self, step, batch_size, seed):
        return random_batch(batch_size, seed=seed + step)


def test_steps_are_those_of_a_plain_loop_with_adam():
    ours, theirs = (gleam.unrolled.pgd(2, 4, seed=0) for _ in range(2))
    strategy, adam = gleam.EndToEnd(), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    expected = [strategy.step(theirs, random_batch(1, seed=3 + step), [adam])[0].item() for step in (4, 5, 6)]
    assert list(take_steps(ours, Numbered(), strategy, (4, 5, 6), learning_rate=1e-2, seed=3)) == expected
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
