import copy

import pytest
import torch
from problems import random_batch

from gleam import Checkpointed, EndToEnd, Greedy, strategies, unrolled
from gleam.cost.memory import LiveBytes
from gleam.cost.step import peak_split
from gleam.metrics import complex_l1
from gleam.strategies import Offloaded, parameters_by_module


def gradient(network, strategy, batch):
    x = strategy.propagate(network.iterations, network.start(batch), batch)
    return torch.autograd.grad(complex_l1(x, batch.target), list(network.parameters()))


def network_of(make, n_dims, n_iterations=3, n_features=5, **keywords):
    return make(n_iterations, n_features, n_dims=n_dims, seed=1, **keywords)


CASES = [
    (unrolled.pgd, {}), (unrolled.modl, {"n_cg": 4}), (unrolled.modl, {"implicit": True}),
    (unrolled.modl, {"lipschitz": 0.9, "learn_mu": True}),
]  # fmt: skip


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize(("make", "keywords"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_gradients_are_those_of_end_to_end_training_to_the_last_bit(make, keywords, n_dims):
    batch = random_batch(n_frames=None if n_dims == 2 else 5)
    network = network_of(make, n_dims, **keywords)
    found, expected = (gradient(network, strategy, batch) for strategy in (Offloaded(), EndToEnd()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert any(g.any() for g in expected)


def test_steps_inside_modules_are_the_same_too(batch):
    networks = [network_of(unrolled.pgd, 2, n_iterations=4) for _ in range(2)]
    for network, strategy in zip(networks, (Greedy(2, within=Offloaded()), Greedy(2)), strict=True):
        optimizers = [torch.optim.Adam(group, lr=1e-2) for group in parameters_by_module(strategy, network)]
        for _ in range(2):
            strategy.step(network, batch, optimizers)
    pairs = zip(*(network.parameters() for network in networks), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class Odd(torch.nn.Module):
    """An iteration that keeps all sorts of tensors for the way back."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5 + 0.1j, 0.3 - 0.2j]))

    def forward(self, x, batch):
        every_other = x[..., ::2] * x.conj()[..., 1::2].exp()  # strided, and a conjugated view
        negated = x.conj().imag[..., ::2].mT * every_other.real.mT  # a negated view, transposed
        largest = every_other.abs().flatten(1).argsort(1)[:, :7]  # integers
        picked = every_other.flatten(1).gather(1, largest).mean()
        expanded = picked.square().expand(3, 4).sin().sum()  # every stride 0
        where = torch.where(x.real > 0, x, x.conj() * self.weight[0])  # booleans
        half = (x.abs().bfloat16().square() * 0.1).float()
        return where * self.weight[1].exp() + negated.square().mean() + picked + 0.01 * expanded + half


def test_views_integers_booleans_and_other_types_come_back_as_they_were(batch):
    network = unrolled.Unrolled([Odd(), Odd()])
    found, expected = (gradient(network, strategy, batch) for strategy in (Offloaded(), EndToEnd()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(g.isfinite().all() and g.all() for g in expected)


@pytest.mark.parametrize(("make", "keywords"), [(unrolled.pgd, {}), (unrolled.modl, {"n_cg": 4})])
def test_the_peak_is_lower_and_does_not_grow_with_depth(make, keywords):
    batch = random_batch(n=1, n_coils=2, shape=(48, 40))

    def working(strategy, n_iterations):
        split = peak_split(make(n_iterations, 12, **keywords), strategy, batch)
        return sum(split.values()) - split["weights"] - split["optimizer"]

    shallow, deep = (working(Offloaded(), n) for n in (3, 6))
    weights = sum(p.nbytes for p in make(3, 12).parameters())  # gradients wait for the update
    assert deep - shallow < 1.05 * weights + batch.target.nbytes
    assert deep < working(EndToEnd(), 6) / 3
    assert deep < 1.1 * working(Checkpointed(), 6)


def test_between_the_passes_only_the_output_is_left(batch):
    network = network_of(unrolled.pgd, 2)
    batch.sense.normal(batch.target)  # the operator keeps a scaled mask from its first use on
    with LiveBytes() as live:
        x = Offloaded().propagate(network.iterations, network.start(batch), batch)
        assert live.live <= x.nbytes + 1024
    end_to_end = LiveBytes()
    with end_to_end:
        y = EndToEnd().propagate(network.iterations, network.start(batch), batch)
        assert end_to_end.live > 20 * x.nbytes
    assert torch.equal(x, y)


def test_weights_and_batch_are_not_copied_and_others_once(batch, monkeypatch):
    copied = []
    make = strategies.offload._empty_on_host
    monkeypatch.setattr(strategies.offload, "_empty_on_host", lambda like: copied.append(like.shape) or make(like))
    network = unrolled.pgd(1, 5, seed=1)
    Offloaded().propagate(network.iterations, network.start(batch), batch)
    image = tuple(batch.target.shape[1:])
    # inputs of the skip connection and of the five convolutions; ReLUs keep these too
    assert sorted(map(tuple, copied)) == [(2, n, *image) for n in (2, 2, 5, 5, 5, 5)]


def test_it_is_a_plain_value():
    assert Offloaded() == copy.deepcopy(Offloaded()) and repr(Offloaded()) == "Offloaded()"
    assert Offloaded().diagnostics() == {} and hash(Offloaded()) == hash(Offloaded())
