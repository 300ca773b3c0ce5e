"""What a network may be, and what is said of one that does not fit."""

import copy
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from problems import random_batch
from teamwork import KspaceNetwork, LearnedImage, Noisy

import gleam
from gleam import Checkpointed, EndToEnd, Greedy, Invertible, Offloaded, losses, unrolled
from gleam.networks import protocol
from gleam.strategies import optimizers
from gleam.strategies.parallel import spread


def trained(make, strategy, batch, n_steps=3):
    """Weights, buffers and losses after some steps; dropout is drawn from the same seeds."""
    network = make().train()
    own = optimizers(strategy, network, learning_rate=1e-2)
    for k in range(n_steps):
        torch.manual_seed(k)
        found = strategy.step(network, batch, own)
    return network.state_dict(), [loss.item() for loss in found]


def equal(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("make", [KspaceNetwork, Noisy])
@pytest.mark.parametrize(
    "strategy", [Greedy(1), Checkpointed(), Offloaded(), Greedy(1, within=Checkpointed())], ids=str
)
def test_any_network_trains_as_end_to_end_to_the_last_bit(make, strategy):
    """Batch normalisation, dropout, learned maps and iterates of k-space included."""
    batch = random_batch(n=3)
    expected, (loss,) = trained(make, EndToEnd(), batch)
    found, (other,) = trained(make, strategy, batch)
    assert equal(found, expected) and loss == other


@pytest.mark.parametrize("make", [KspaceNetwork, Noisy])
def test_checkpoints_and_devices_change_nothing_inside_modules(make):
    batch = random_batch()
    expected, _ = trained(make, Greedy(3), batch)
    found, _ = trained(make, Greedy(3, within=Checkpointed()), batch)
    assert equal(found, expected)
    there, _ = trained(lambda: spread(make(), Greedy(3), ["cpu", "cpu:0", "cpu"]), Greedy(3), batch)
    assert equal(there, expected)


def test_running_statistics_count_every_batch_once():
    batch = random_batch()
    for strategy in (Checkpointed(), Greedy(2, within=Checkpointed()), EndToEnd()):
        state, _ = trained(Noisy, strategy, batch, n_steps=5)
        assert {int(v) for key, v in state.items() if key.endswith("num_batches_tracked")} == {5}


def test_learned_maps_are_trained_by_the_first_module_alone():
    batch, network = random_batch(), LearnedImage(4)
    before = copy.deepcopy(network.state_dict())
    later = optimizers(Greedy(4), network, learning_rate=1e-2)
    later[0].step = lambda: None  # the first module learns nothing
    Greedy(4).step(network, batch, later)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith(("to_maps", "gain", "iterations.0.")) for key in changed)
    own = LearnedImage(4)
    Greedy(4).step(own, batch, optimizers(Greedy(4), own, learning_rate=1e-2))
    assert not torch.equal(own.to_maps.weight, network.to_maps.weight) and all(
        p.requires_grad for p in own.parameters()
    )
    assert all(p.grad is None for p in own.parameters()), "no gradient of a later module is left for the next step"


def test_every_depth_gives_an_image():
    batch, network = random_batch(), KspaceNetwork(3).eval()
    image = gleam.reconstruct(network, batch)
    assert image.shape == batch.target.shape
    own = network.image(network.start(network.setup(batch)), network.setup(batch))
    assert own.shape == image.shape and not torch.equal(own, image)


class Square(unrolled.Unrolled):
    """Doubles its image, which `iterates` and `forward` show as well."""

    def image(self, x, batch):
        return 2 * x


def test_an_unrolled_network_of_ones_own_has_its_image_at_every_depth():
    batch, plain = random_batch(), unrolled.pgd(2, 4)
    own = Square(plain.iterations)
    for n in range(3):
        torch.testing.assert_close(own(batch, n_iterations=n), 2 * plain(batch, n_iterations=n))
    torch.testing.assert_close(own.iterates(batch)[1], 2 * plain.iterates(batch)[1])


@pytest.mark.parametrize("strategy", [EndToEnd(), Greedy(2), gleam.ParallelGreedy(2)], ids=str)
def test_an_image_of_another_shape_is_refused_at_the_first_batch(strategy):
    """A k-space of one slice would broadcast against its image without a word."""
    batch, network = random_batch(n=1), KspaceNetwork(2)
    network.image = lambda x, batch: x["kspace"]
    with pytest.raises(
        ValueError, match=r"image of shape \(1, 3, 24, 20\), made by image\(x, batch\); expected .*24, 20"
    ):
        strategy.step(network, batch, optimizers(strategy, network, learning_rate=1e-3))


def test_iterates_that_are_no_image_need_a_method_that_makes_one():
    network = unrolled.pgd(2, 4)
    network.start = lambda batch: (batch.zero_filled, 0)
    network.iterations = torch.nn.ModuleList([Pair(), Pair()])
    with pytest.raises(ValueError, match=r"Unrolled gives an image of type tuple, .* no image\(x, batch\)"):
        gleam.reconstruct(network, random_batch())


@pytest.mark.parametrize("strategy", [EndToEnd(), Greedy(1, within=Checkpointed()), Greedy(2)], ids=str)
def test_iterations_that_do_not_chain_are_named(strategy):
    """Here both stand in one module; between two of them the image of the first has the wrong shape already."""
    shorter = unrolled.Unrolled([Halved(24), *unrolled.pgd(2, 4).iterations])
    says = r"iteration 1 of Unrolled, a PGDIteration, does not take what iteration 0 gives, of shape \(2, 12, 20\)"
    with pytest.raises(ValueError, match=says):
        strategy.step(shorter, random_batch(), optimizers(strategy, shorter, learning_rate=1e-3))
    another = unrolled.Unrolled([Halved(7), *unrolled.pgd(2, 4).iterations])
    with pytest.raises(ValueError, match=r"iteration 0 of Unrolled, a Halved, does not take what start\(batch\) gives"):
        strategy.step(another, random_batch(), optimizers(strategy, another, learning_rate=1e-3))


class Halved(torch.nn.Module):
    def __init__(self, n_lines):
        super().__init__()
        self.gain, self.n_lines = torch.nn.Parameter(torch.ones(())), n_lines

    def forward(self, x, batch):
        return self.gain * x.reshape(-1, self.n_lines, 20)[:, ::2].view(2, -1, 20)


class Pair(torch.nn.Module):
    def forward(self, x, batch):
        return x


def test_inversion_says_what_it_cannot_train():
    batch, network = random_batch(), KspaceNetwork(2)
    for iteration in network.iterations:
        iteration.inverse = lambda x, batch: x
    with pytest.raises(ValueError, match=r"batch with learned parts .*Checkpointed"):
        Invertible().step(network, batch, optimizers(Invertible(), network, learning_rate=1e-3))


@pytest.mark.parametrize("n_modules", [1, 2, 6])
def test_memory_of_any_network_is_predicted_from_one_and_two_iterations(n_modules):
    batch, network = random_batch(shape=(48, 40)), KspaceNetwork(6)
    model = gleam.prediction.MemoryModel.measured(network, batch)
    measured = sum(gleam.cost.peak_split(network, Greedy(n_modules), batch).values())
    assert model.peak_bytes(n_modules=n_modules) == pytest.approx(measured, rel=0.1)


class LearnedGain(unrolled.Unrolled):
    """Passes a weight on to every module, in the batch."""

    def __init__(self, n_iterations=3):
        super().__init__(unrolled.pgd(n_iterations, 4, seed=1).iterations)
        self.gain = torch.nn.Parameter(torch.tensor(1.0))
        self.seen = []

    def setup(self, batch):
        return replace(batch, scale=self.gain.expand(len(batch)))

    def image(self, x, batch):
        self.seen.append(batch.scale[0].item())
        return batch.scale[0] * x


def test_later_modules_see_what_setup_gave_and_not_what_became_of_it():
    network = LearnedGain()
    Greedy(3).step(network, random_batch(), optimizers(Greedy(3), network, learning_rate=0.1))
    assert network.seen == [1.0] * 3 and network.gain.item() != 1.0


def test_a_setup_that_gives_no_batch_is_named():
    network = unrolled.pgd(2, 4)
    network.setup = lambda stage: None
    with pytest.raises(ValueError, match=r"setup\(batch\) of Unrolled gives a NoneType"):
        gleam.reconstruct(network, random_batch())


@dataclass(frozen=True)
class State:
    image: torch.Tensor
    step: int = 0


Named = namedtuple("Named", ["a", "b"])


def test_values_of_any_shape_are_taken_apart_and_put_together():
    a, b, c = torch.ones(2), torch.zeros(1), torch.arange(3)
    value = {"x": [a, (b, 1)], "state": State(c, 4), "named": Named(a, "text"), "nothing": None}
    parts, new = protocol.taken_apart(value, known=[c])
    assert [t is u for t, u in zip(new, (a, b, a), strict=True)] == [True] * 3
    again = protocol.put_together(parts, [c], new)
    assert again["state"].image is c and again["state"].step == 4 and again["x"][1] == (b, 1)
    assert isinstance(again["named"], Named) and again["nothing"] is None
    assert protocol.detached(value) is value and protocol.tensors_in(value) == [a, b, c, a]
    learned = replace(value["state"], image=a.clone().requires_grad_())
    assert not protocol.detached(learned).image.requires_grad and protocol.detached(learned).step == 4
    batch = random_batch()
    parts, new = protocol.taken_apart(batch.sense, [])  # its constructor checks tensors
    assert torch.equal(protocol.put_together(parts, [], new).mask, batch.mask)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda image, batch: (image - batch.target).abs(), "cannot be named"),
        (losses.complex_l1, None),
        (partial(losses.complex_l1), None),
        ([losses.complex_l1] * 3, "has 3 losses and 2 modules"),
        ([losses.complex_l1, losses.magnitude_l1], None),
    ],
)
def test_a_loss_is_one_or_one_per_module_and_has_a_name(loss, says):
    batch, network = random_batch(), unrolled.pgd(2, 4)
    strategy = Greedy(2, loss=loss)
    own = optimizers(strategy, network, learning_rate=1e-3)
    if says is None:
        assert len(strategy.step(network, batch, own)) == 2 and repr(strategy).startswith("Greedy(n_modules=2")
    else:
        with pytest.raises(ValueError, match=says):
            repr(strategy), strategy.step(network, batch, own)


def every_pixel(image, batch):
    return (image - batch.target).abs()


def test_a_loss_that_is_no_number_is_refused():
    network, strategy = unrolled.pgd(2, 4), EndToEnd(loss=every_pixel)
    with pytest.raises(ValueError, match=r"the loss every_pixel gives torch.float32 of shape .*one real number"):
        strategy.step(network, random_batch(), optimizers(strategy, network, learning_rate=1e-3))
