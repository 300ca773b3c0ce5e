"""Training without a target: what is held out, that nothing else is used, and that every strategy agrees."""

import copy
import dataclasses

import pytest
import torch
from problems import random_batch

import gleam
from gleam import Checkpointed, EndToEnd, Greedy, losses
from gleam.strategies import optimizers
from gleam.training.identity import weights_digest

LOSS = losses.SelfSupervised(0.4)
SETTINGS = {"n_steps": 6, "batch_size": 2, "validate_every": 2, "learning_rate": 3e-3}


def network():
    return gleam.unrolled.pgd(3, 4, step_size=1.0, seed=1)


def stepped(strategy, batch, n_steps=3):
    own = network()
    made = optimizers(strategy, own, learning_rate=1e-2)
    for k in range(n_steps):
        torch.manual_seed(k)
        found = strategy.step(own, batch, made)
    return weights_digest(own), found[-1].item()


@pytest.mark.parametrize("n_frames", [None, 3])
def test_samples_are_given_or_held_out_and_the_centre_is_given(n_frames):
    batch = random_batch(n_frames=n_frames, shape=(48, 40))
    split = LOSS.split(batch)
    torch.testing.assert_close(split.mask + split.held_out_mask, batch.mask.expand_as(split.mask))
    assert torch.equal(split.kspace + split.held_out, batch.kspace) and torch.equal(split.target, batch.target)
    assert split.held_out_mask.sum() / split.mask.sum() == pytest.approx(0.4 / 0.6, rel=0.15)
    center = [slice(0, 2), slice(-2, None)]
    assert not any(split.held_out_mask[..., y, x].any() for y in center for x in center)
    torch.testing.assert_close(split.zero_filled, split.sense.adjoint(split.kspace))
    assert isinstance(split.to("meta"), losses.SplitBatch) and isinstance(split.part(0, 2), losses.SplitBatch)


def test_lines_along_the_readout_are_split_by_sample():
    batch = random_batch()
    lines = dataclasses.replace(batch, mask=batch.mask[..., :1])
    split = LOSS.split(lines)
    assert split.mask.shape == batch.mask.shape
    assert torch.equal(split.mask + split.held_out_mask, lines.mask.expand_as(batch.mask))


def test_a_network_that_knows_the_truth_has_no_loss():
    batch = random_batch()
    assert LOSS(batch.target, LOSS.split(batch)) < 1e-5 < LOSS(batch.zero_filled, LOSS.split(batch))


def test_the_target_is_not_used():
    batch = random_batch(n=3)
    blind = dataclasses.replace(batch, target=torch.full_like(batch.target, complex("nan")))
    assert stepped(Greedy(3, loss=LOSS), blind) == stepped(Greedy(3, loss=LOSS), batch)


@pytest.mark.parametrize("strategy", [Greedy(1, loss=LOSS), Checkpointed(LOSS), gleam.Offloaded(loss=LOSS)], ids=str)
def test_strategies_hold_out_the_same_samples(strategy):
    batch = random_batch(n=3)
    assert stepped(strategy, batch) == stepped(EndToEnd(LOSS), batch)


def test_fast_steps_are_not_recorded():
    """A recording would hold out the same samples for ever."""
    assert gleam.Fast(Greedy(2)).is_captured and not gleam.Fast(Greedy(2, loss=LOSS)).is_captured
    assert not gleam.Fast(Greedy(2, loss=losses.Mixed(((1.0, LOSS), (0.1, losses.complex_l1))))).is_captured


def test_it_learns_the_truth_without_having_seen_it(splits, tmp_path):
    own = network()
    before = gleam.evaluate(copy.deepcopy(own), splits[2])["nrmse"].mean()
    settings = SETTINGS | {"n_steps": 60, "validate_every": 20}
    gleam.fit(own, *splits[:2], Greedy(3, loss=LOSS), run_dir=tmp_path / "runs", **settings)
    zero_filled = gleam.evaluate(gleam.baselines.zero_filled, splits[2])["nrmse"].mean()
    assert gleam.evaluate(own, splits[2])["nrmse"].mean() < 0.9 * min(before, zero_filled)


def test_processes_train_the_same_weights(splits, tmp_path):
    together, apart = network(), network()
    arguments = dict(train=splits[0], val=splits[1], **SETTINGS)
    gleam.fit(together, strategy=Greedy(3, loss=LOSS), run_dir=tmp_path / "one", **arguments)
    parallel = gleam.ParallelGreedy(3, loss=LOSS)
    gleam.fit_parallel(apart, strategy=parallel, n_processes=2, run_dir=tmp_path / "two", **arguments)
    assert weights_digest(together) == weights_digest(apart)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda batch: losses.SelfSupervised(0.0), r"share=0\.0 of SelfSupervised must be a number between 0 and 1"),
        (lambda batch: losses.SelfSupervised("a"), "share='a' of SelfSupervised must be a number between 0 and 1"),
        (lambda batch: LOSS(batch.target.abs(), LOSS.split(batch)), "complex image .* not an image of torch.float32"),
        (lambda batch: LOSS(batch.target, batch), r"a batch of its split\(batch\), not a Batch"),
        (lambda batch: EndToEnd([LOSS, losses.SelfSupervised(0.5)]).given(batch), "hold out different samples"),
    ],
)
def test_what_cannot_be_is_named(use, says):
    with pytest.raises(ValueError, match=says):
        use(random_batch())


def test_data_without_a_target_need_this_loss(splits, tmp_path):
    class Measured(type(splits[0])):
        def training_batch(self, *arguments):
            batch = super().training_batch(*arguments)
            return dataclasses.replace(batch, target=torch.full_like(batch.target, complex("nan")))

    train = copy.copy(splits[0])
    object.__setattr__(train, "__class__", Measured)
    with pytest.raises(ValueError, match=r"no target .*SelfSupervised"):
        gleam.fit(network(), train, splits[1], Greedy(3), run_dir=tmp_path / "runs", **SETTINGS)
    gleam.fit(network(), train, splits[1], Greedy(3, loss=LOSS), run_dir=tmp_path / "runs", **SETTINGS)


def test_after_data_consistency_it_uses_the_samples_given_alone():
    batch = random_batch()
    loss = losses.DataConsistent(0.5, LOSS)
    assert losses.splitting([loss, losses.Mixed(((1, loss),))]) == LOSS
    blind = dataclasses.replace(batch, target=torch.full_like(batch.target, complex("nan")))
    assert stepped(Greedy(3, loss=loss), batch) == stepped(Greedy(3, loss=loss), blind)
