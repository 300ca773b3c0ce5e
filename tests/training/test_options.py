"""Optimizers, rates, losses and callbacks of one's own: what they change, and what they must not."""

import dataclasses
from functools import partial

import pytest
import torch

import gleam
from gleam import Greedy, losses
from gleam.training.identity import weights_digest

SETTINGS = {"n_steps": 6, "batch_size": 2, "validate_every": 2, "learning_rate": 3e-3}


def network():
    return gleam.unrolled.pgd(3, 4, seed=1)


def trained(splits, folder, strategy=Greedy(3), **options):  # noqa: B008
    own = network()
    fit = gleam.fit(own, *splits[:2], strategy, run_dir=folder / "runs", **SETTINGS | options)
    return weights_digest(own), fit


def test_what_is_as_usual_keeps_the_name_of_a_run(splits, tmp_path):
    _, plain = trained(splits, tmp_path)
    _, named = trained(splits, tmp_path, optimizer=None, n_accumulated=1, callback=lambda *_: None)
    assert named.history == plain.history and len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": torch.optim.SGD},
        {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
        {"optimizer": torch.optim.AdamW},
        {"optimizer": torch.optim.RMSprop},
        {"n_accumulated": 2},
        {"learning_rate": [3e-3, 1e-3, 3e-4]},
        {"strategy": Greedy(3, loss=losses.magnitude_l1)},
        {"strategy": Greedy(3, loss=losses.DataConsistent(0.5))},
        {"strategy": Greedy(3, loss=(losses.complex_l1, losses.one_minus_ssim, losses.complex_l1))},
        {"strategy": Greedy(3, loss=losses.Mixed(((0.5, losses.complex_l1), (0.5, losses.magnitude_l1))))},
    ],
    ids=str,
)
def test_an_option_is_part_of_the_run_and_survives_an_interruption(options, splits, tmp_path):
    usual, _ = trained(splits, tmp_path)
    whole, fit = trained(splits, tmp_path / "whole", **options)
    assert whole != usual and len(fit.history) == 3
    _, half = trained(splits, tmp_path / "half", **options, callback=lambda step, *_: step >= 4)
    assert half.n_steps_done == 4
    resumed, again = trained(splits, tmp_path / "half", **options)
    assert resumed == whole and [row["nrmse"] for row in again.history] == [row["nrmse"] for row in fit.history]


def test_a_callback_hears_of_every_validation_and_changes_nothing(splits, tmp_path):
    heard = []
    usual, fit = trained(splits, tmp_path / "usual")
    watched, _ = trained(splits, tmp_path / "watched", callback=lambda *what: heard.append(what))
    assert watched == usual
    assert heard == [(row["step"], row["loss"], {"nrmse": row["nrmse"]}) for row in fit.history]


def test_accumulated_gradients_are_those_of_one_large_batch():
    """Without weights of its own a batch of two has the mean gradient of its slices, each as large as the other."""
    from problems import random_batch

    batch, strategy = random_batch(n=2), Greedy(3)
    together, apart = network(), network()
    strategy.step(
        together, batch, gleam.strategies.optimizers(strategy, together, learning_rate=1e-2, make=torch.optim.SGD)
    )
    own = gleam.strategies.optimizers(strategy, apart, learning_rate=1e-2, make=torch.optim.SGD)
    own = [gleam.strategies.updates.Accumulated(one, 2) for one in own]
    before = weights_digest(apart)
    strategy.step(apart, batch.part(0, 2), own)
    assert weights_digest(apart) == before, "no update after the first"
    strategy.step(apart, batch.part(1, 2), own)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": [1e-3, 1e-3]}, "learning_rate has 2 rates for 3 modules"),
        ({"learning_rate": [1e-3, 0, 1e-3]}, "must be greater than 0"),
        ({"n_accumulated": 0}, "n_accumulated=0 must be greater than 0"),
        ({"optimizer": lambda p, lr, weight_decay: torch.optim.SGD(p, lr)}, "cannot be named"),
        ({"strategy": Greedy(3, loss=lambda image, batch: image.abs().mean())}, "cannot be named"),
        ({"strategy": Greedy(3, loss=[losses.complex_l1])}, "has 1 losses and 3 modules"),
    ],
)
def test_what_cannot_be_is_refused_before_training(options, says, splits, tmp_path):
    with pytest.raises(ValueError, match=says):
        trained(splits, tmp_path, **options)
    assert not (tmp_path / "runs").exists()


def own_loss(image, batch):
    return (image - batch.target).abs().square().mean()


def test_the_source_of_a_loss_is_part_of_the_run(splits, tmp_path, monkeypatch):
    strategy = Greedy(3, loss=losses.Mixed(((1.0, own_loss),)))
    trained(splits, tmp_path, strategy)
    monkeypatch.setattr(own_loss, "__code__", (lambda image, batch: (image - batch.target).abs().mean()).__code__)
    monkeypatch.setattr("gleam.training.identity._source", lambda made: "changed")
    trained(splits, tmp_path, strategy)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_losses_are_what_they_say():
    from problems import random_batch

    batch = random_batch(n=2, shape=(32, 28))
    image = batch.target + 0.1 * batch.zero_filled
    assert losses.complex_l1(image, batch) == gleam.metrics.complex_l1(image, batch.target)
    assert losses.magnitude_l1(batch.target * 1j, batch) < 1e-6 < losses.complex_l1(batch.target * 1j, batch)
    similarity = gleam.metrics.ssim(image, batch.target).mean()
    assert losses.one_minus_ssim(image, batch).item() == pytest.approx(1 - similarity.item(), abs=2e-3)
    series = random_batch(n=1, n_frames=3)
    assert abs(losses.one_minus_ssim(series.target, series)) < 1e-5
    assert losses.DataConsistent(0.0)(image, batch) == losses.complex_l1(image, batch)
    exact = losses.DataConsistent(1.0)
    measured = image - batch.sense.normal(image) + batch.zero_filled
    torch.testing.assert_close(exact(image, batch), losses.complex_l1(measured, batch))
    assert exact(batch.target, batch) < 1e-5, "the truth agrees with its samples"
    half = losses.Mixed(((0.5, losses.complex_l1), (2.0, losses.magnitude_l1)))
    torch.testing.assert_close(
        half(image, batch), 0.5 * losses.complex_l1(image, batch) + 2 * losses.magnitude_l1(image, batch)
    )
    assert repr(half) == "Mixed(0.5 complex_l1, 2 magnitude_l1)"
    with pytest.raises(ValueError, match=r"weight=1\.5 of DataConsistent"):
        losses.DataConsistent(1.5)


def test_a_scan_without_a_target_is_not_scored_and_data_of_another_kind_are_named(splits, tmp_path):
    from problems import random_batch

    class Measured:
        index, subjects = [(0, 0)], ["a"]

        def batches(self, batch_size):
            batch = random_batch(n=1)
            yield [0], dataclasses.replace(batch, target=torch.full_like(batch.target, complex("nan")))

    with pytest.raises(ValueError, match=r"no target .*cannot be scored"):
        gleam.evaluate(network(), Measured())
    with pytest.raises(TypeError, match=r"not a list; for one batch use gleam.reconstruct"):
        gleam.evaluate(network(), [random_batch()])
    with pytest.raises(TypeError, match="train is a list; expected slices"):
        gleam.fit(network(), [random_batch()], splits[1], Greedy(3), run_dir=tmp_path / "runs", **SETTINGS)
