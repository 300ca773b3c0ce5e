"""Optimizers, rates, losses and callbacks of one's own: what they change, and what they must not."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from problems import random_batch
from torch import nn

import gleam
from gleam import EndToEnd, Greedy, files, losses
from gleam.training.identity import weights_digest

SETTINGS = {"n_steps": 6, "batch_size": 2, "validate_every": 2, "learning_rate": 3e-3}


def own_loss(image, batch, weight=1.0):
    return (weight * (image - batch.target).abs().square()).mean()


class Weighted(torch.nn.Module):
    """A loss with a setting that its `repr` does not show."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, image, batch):
        return self.weight * own_loss(image, batch) + losses.complex_l1(image, batch)


class SGD(torch.optim.SGD):
    """Named as that of torch, and another one."""

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, lr=10 * lr, weight_decay=weight_decay)


class Slowing(torch.optim.SGD):
    """Keeps a number for all weights, in its group, which decides the next step."""

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        (group,) = self.param_groups
        group |= {"n_calls": 0, "estimate": 1.0}

    def step(self):
        (group,) = self.param_groups
        group["n_calls"] += 1
        group["estimate"] /= 1 + group["n_calls"]
        group["lr"] *= group["estimate"]
        super().step()


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
        {"strategy": Greedy(3, loss=losses.SelfSupervised(0.3))},
        {"optimizer": Slowing},
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
        ({"n_accumulated": 0}, "n_accumulated=0 must be a whole number"),
        ({"n_warmup_steps": -1}, "n_warmup_steps=-1 must be a whole number of at least 0"),
        ({"final_learning_rate": -1.0}, r"final_learning_rate=-1\.0 must be finite and not negative"),
        (
            {"optimizer": torch.optim.LBFGS},
            r"the optimizer LBFGS cannot be made with \(parameters, lr=, weight_decay=\)",
        ),
        ({"n_accumulated": 1.5}, r"n_accumulated=1\.5 must be a whole number"),
        ({"optimizer": partial(torch.optim.SGD, momentum=lambda: 0)}, "cannot be named"),
        ({"strategy": Greedy(3, loss=partial(own_loss, weight=torch.ones(3)))}, "cannot be named"),
        ({"strategy": Greedy(3, loss=losses.DataConsistent(0.5).__call__)}, "cannot be named"),
        ({"optimizer": lambda p, lr, weight_decay: torch.optim.SGD(p, lr)}, "cannot be named"),
        ({"strategy": Greedy(3, loss=lambda image, batch: image.abs().mean())}, "cannot be named"),
        ({"strategy": Greedy(3, loss=[losses.complex_l1])}, "has 1 losses and 3 modules"),
    ],
)
def test_what_cannot_be_is_refused_before_training(options, says, splits, tmp_path):
    with pytest.raises(ValueError, match=says):
        trained(splits, tmp_path, **options)
    assert not (tmp_path / "runs").exists()


def test_the_source_of_a_loss_is_part_of_the_run(splits, tmp_path, monkeypatch):
    strategy = Greedy(3, loss=losses.Mixed(((1.0, own_loss),)))
    trained(splits, tmp_path, strategy)
    monkeypatch.setattr(own_loss, "__code__", (lambda image, batch: (image - batch.target).abs().mean()).__code__)
    monkeypatch.setattr("gleam.training.identity.normalised", lambda source: "changed")
    trained(splits, tmp_path, strategy)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_losses_are_what_they_say():
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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((1.5,), r"weight=1\.5 of DataConsistent must be a number between 0 and 1"),
        ((float("nan"),), "weight=nan of DataConsistent must be a number"),
        (("a",), "weight='a' of DataConsistent must be a number"),
        ((losses.complex_l1,), "weight=<function complex_l1 .* of DataConsistent must be a number"),
        ((0.9, "l1"), r"loss='l1' of DataConsistent is not a function of \(image, batch\); expected one such as"),
        ((0.9, losses.SelfSupervised), r"loss=<class .*SelfSupervised'> of DataConsistent is not a function"),
    ],
)
def test_data_consistent_names_the_argument_that_is_wrong(given, says):
    with pytest.raises(ValueError, match=says):
        losses.DataConsistent(*given)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (((1, "l1"),), r"loss='l1' of Mixed is not a function of \(image, batch\); expected one such as"),
        (((1, losses.SelfSupervised),), r"loss=<class .*SelfSupervised'> of Mixed is not a function"),
        ((("a", losses.complex_l1),), r"\('a', <function complex_l1 .* of Mixed is not a pair of a weight and a loss"),
        (((float("nan"), losses.complex_l1),), r"\(nan, <function complex_l1 .* of Mixed is not a pair"),
        ((losses.complex_l1,), "<function complex_l1 .* of Mixed is not a pair"),
        ((), r"Mixed has no losses; expected pairs of a weight and a loss"),
        ((0.5, losses.complex_l1), r"0\.5 of Mixed is not a pair"),
        (losses.complex_l1, "<function complex_l1 .* of Mixed is not a pair"),
    ],
)
def test_mixed_names_the_part_that_is_wrong(parts, says):
    with pytest.raises(ValueError, match=says):
        losses.Mixed(parts)


def test_a_scan_without_a_target_is_not_scored_and_data_of_another_kind_are_named(splits, tmp_path):
    class Measured:
        index, subjects = [(0, 0)], ["a"]

        def batches(self, batch_size):
            batch = random_batch(n=1)
            yield [0], dataclasses.replace(batch, target=torch.full_like(batch.target, complex("nan")))

    with pytest.raises(ValueError, match=r"subject a, slice 0 cannot be scored: it has no target"):
        gleam.evaluate(network(), Measured())
    with pytest.raises(TypeError, match=r"not a list; for one batch use gleam.reconstruct"):
        gleam.evaluate(network(), [random_batch()])
    with pytest.raises(TypeError, match="train is a list; expected slices"):
        gleam.fit(network(), [random_batch()], splits[1], Greedy(3), run_dir=tmp_path / "runs", **SETTINGS)


@dataclasses.dataclass(frozen=True)
class Shaded:
    """A batch of another problem: pixels (batch, y, x) that were multiplied by known factors."""

    target: torch.Tensor
    measured: torch.Tensor
    factors: torch.Tensor

    def to(self, device):
        return Shaded(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


class Photographs:
    """A data set of one's own, with the members that `gleam.fit` asks for."""

    subjects, index, fingerprint = ["a", "b"], [(0, 0), (0, 1), (1, 0)], "photographs"

    def training_batch(self, step, batch_size, seed):
        generator = torch.Generator().manual_seed(step)
        target, factors = (torch.rand(batch_size, 16, 16, generator=generator) + 0.5 for _ in range(2))
        return Shaded(target, factors * target, factors)

    def batches(self, batch_size):
        yield [0, 1, 2], self.training_batch(99, 3, 0)


class Lightening(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, batch):
        return x - self.step * batch.factors * (batch.factors * x - batch.measured)


class Unshading(nn.Module):
    def __init__(self):
        super().__init__()
        self.iterations = nn.ModuleList(Lightening() for _ in range(3))

    def start(self, batch):
        return batch.measured


@pytest.mark.parametrize("strategy", [EndToEnd(), Greedy(3)], ids=repr)
def test_another_problem_needs_a_batch_with_a_target_and_nothing_of_mri(strategy, tmp_path):
    net, data = Unshading(), Photographs()
    before = gleam.evaluate(net, data)
    assert list(before["subject"]) == ["a", "a", "b"]
    batch = next(data.batches(3))[1]
    expected = gleam.metrics.nrmse(gleam.reconstruct(net, batch), batch.target)
    np.testing.assert_allclose(before["nrmse"], expected)  # in the units of the batch, which has no `scale`
    fit = gleam.fit(net, data, data, strategy, n_steps=20, batch_size=2, learning_rate=0.05, run_dir=tmp_path)
    assert gleam.evaluate(net, data)["nrmse"].mean() == pytest.approx(fit.best_nrmse)
    assert fit.best_nrmse < 0.9 * before["nrmse"].mean()
    gleam.prediction.MemoryModel.measured(net, batch).peak_bytes(6, 3)


def test_runs_that_differ_have_names_that_differ(splits, tmp_path):
    for options in (
        {"optimizer": torch.optim.SGD}, {"optimizer": SGD},
        {"strategy": Greedy(3, loss=Weighted(0.1))}, {"strategy": Greedy(3, loss=Weighted(0.9))},
        {"strategy": Greedy(3, loss=partial(own_loss, weight=0.1))},
        {"strategy": Greedy(3, loss=partial(own_loss, weight=0.9))},
    ):  # fmt: skip
        trained(splits, tmp_path, **options)
    assert len(list((tmp_path / "runs").iterdir())) == 6


class Given(torch.nn.Module):
    """Gives a fixed image, and keeps the gradient that reaches it."""

    def __init__(self, image):
        super().__init__()
        self.iterations = torch.nn.ModuleList([Twice()])
        self.given = [image]
        image.register_hook(lambda gradient: setattr(self, "seen", gradient.clone()))

    def start(self, batch):
        return self.given[0]


class Twice(torch.nn.Module):
    def forward(self, x, batch):
        return 1 * x


@pytest.mark.parametrize(
    "loss", [losses.complex_l1, losses.one_minus_ssim, losses.DataConsistent(0.5)], ids=files.named
)
def test_a_loss_is_computed_in_fp32_whatever_the_convolutions(loss):
    batch = random_batch(n=1, shape=(32, 28))
    image = (batch.target + 0.02 * batch.zero_filled).requires_grad_()
    expected = torch.autograd.grad(loss(image, batch), image)[0]
    network = Given(image)
    gleam.Fast(gleam.EndToEnd(loss), "bf16").step(network, batch, [torch.optim.SGD([image], lr=0.0)])
    torch.testing.assert_close(network.seen, expected)


def test_data_consistency_follows_maps_that_setup_has_changed():
    batch = random_batch()
    phase = torch.polar(torch.ones(24, 20), torch.linspace(0, 3, 20).expand(24, 20))
    changed = dataclasses.replace(batch, sens_maps=batch.sens_maps * phase, target=batch.target / phase)
    assert losses.DataConsistent(1.0)(changed.target, changed) < 1e-5
    with pytest.raises(ValueError, match="needs a complex image"):
        losses.DataConsistent()(batch.target.abs(), batch)
    with pytest.raises(ValueError, match="expected the same kind, or a loss of magnitudes"):
        losses.complex_l1(batch.target.abs(), batch)


def test_an_empty_slice_has_a_finite_loss():
    batch = random_batch(n=1)
    empty = dataclasses.replace(batch, target=torch.zeros_like(batch.target))
    image = torch.zeros_like(batch.target).requires_grad_()
    loss = losses.one_minus_ssim(image, empty)
    loss.backward()
    assert loss.abs() < 1e-6 and image.grad.isfinite().all()


def no_gradient(image, batch):
    return torch.tensor(float(image.detach().abs().mean()))


def test_a_loss_that_teaches_nothing_is_refused(splits, tmp_path):
    with pytest.raises(ValueError, match="the loss no_gradient has no gradient"):
        trained(splits, tmp_path, Greedy(3, loss=no_gradient))
    with pytest.raises(ValueError, match=r"the loss of within=Checkpointed\(loss=magnitude_l1\) is not used"):
        Greedy(3, within=gleam.Checkpointed(losses.magnitude_l1))


def test_a_callback_stays_in_the_process_that_trains(splits, tmp_path):
    arguments = dict(train=splits[0], val=splits[1], run_dir=tmp_path, callback=print, **SETTINGS)
    runs = {i: arguments | {"network": network(), "strategy": Greedy(3), "seed": i} for i in range(2)}
    with pytest.raises(ValueError, match="callback= is called in the process that trains"):
        gleam.fit_all(runs, n_jobs=2)
    with pytest.raises(ValueError, match="callback= is called in the process that trains"):
        gleam.fit_parallel(network(), strategy=gleam.ParallelGreedy(3), n_processes=2, **arguments)


def not_a_number(image, batch):
    return losses.complex_l1(image, batch) * float("nan")


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (not_a_number, "the loss not_a_number is not finite at the first batch"),
        ("l1", r"loss='l1' is not a function of \(image, batch\)"),
        (losses.DataConsistent, r"DataConsistent'> is not a function of \(image, batch\)"),
    ],
)
def test_what_is_no_loss_is_named(loss, says, splits, tmp_path):
    with pytest.raises(ValueError, match=says):
        trained(splits, tmp_path, Greedy(3, loss=loss))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learning_rate": np.full(3, 1e-3)}, "learning_rate=array.* must be a number, or a list of numbers"),
        ({"final_learning_rate": "0"}, "final_learning_rate='0' must be a number"),
        ({"n_steps": 2.5}, "n_steps=2.5 must be a whole number"),
        ({"validate_every": 1.5}, "validate_every=1.5 must be a whole number"),
        ({"optimizer": "adam"}, "optimizer='adam' is no function"),
        ({"callback": 3}, "callback=3 is no function"),
    ],
)
def test_an_option_of_another_kind_is_named(options, says, splits, tmp_path):
    with pytest.raises(ValueError, match=says):
        trained(splits, tmp_path, **options)


def test_a_network_without_iterations_is_named(splits, tmp_path):
    with pytest.raises(ValueError, match="network is a Conv2d without iterations"):
        gleam.fit(nn.Conv2d(2, 2, 3), *splits[:2], Greedy(3), run_dir=tmp_path / "runs", **SETTINGS)


def test_losses_that_differ_in_the_last_digit_have_names_that_differ():
    close = [losses.Mixed(((weight, losses.complex_l1),)) for weight in (0.12345671, 0.12345672)]
    assert repr(close[0]) != repr(close[1])
    assert repr(losses.Mixed(((1.0, losses.complex_l1),))) == "Mixed(1 complex_l1)"
    assert [repr(losses.DataConsistent(w)) for w in (0.9, 1, 1e-5)] == [
        f"DataConsistent({text}, complex_l1)" for text in ("0.9", "1", "1e-05")
    ]


def test_ssim_of_an_image_smaller_than_its_window_is_refused():
    batch = random_batch(shape=(24, 8))
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels, not \(24, 8\)"):
        losses.one_minus_ssim(batch.target, batch)
