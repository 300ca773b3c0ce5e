import copy
import dataclasses
import math
import pickle

import pytest
import torch
from problems import random_batch

from gleam import Checkpointed, DeepSupervision, EndToEnd, Fit, Greedy, Invertible, LookAhead, fit, unrolled
from gleam.cost.memory import LiveBytes
from gleam.metrics import complex_l1
from gleam.strategies import InversionWarning
from gleam.strategies.inversion import _signature
from gleam.strategies.updates import parameters_by_module

STRATEGIES = [
    EndToEnd(), Checkpointed(), Greedy(1), Greedy(2), Greedy(3), Greedy(4), Greedy(2, within=Checkpointed()),
    DeepSupervision(2), DeepSupervision(4, within=Checkpointed()), LookAhead(2), LookAhead(4, within=Checkpointed()),
]  # fmt: skip
BY_INVERSION = [Invertible(0), Invertible(), Invertible(3), Greedy(2, within=Invertible())]


class Foreign(torch.nn.Module):
    """Somebody else's network: k-space in, cascades that also read the batch, a learned start."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.9))
        self.iterations = torch.nn.ModuleList(Cascade() for _ in range(4))

    def start(self, batch):
        return self.gain * batch.sense.adjoint(batch.kspace)


class Cascade(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, batch):
        return x - self.weight * (batch.sense.normal(x) - batch.sense.adjoint(batch.kspace))


def pgd(n_dims=2):
    return unrolled.pgd(n_iterations=4, n_features=4, n_dims=n_dims, seed=1)


def modl(n_dims=2, n_iterations=4, **keywords):
    keywords = {"n_features": 4, "mu": 4.0, "seed": 1} | keywords
    return unrolled.modl(n_iterations=n_iterations, n_dims=n_dims, **keywords)


CASES = [(s, make) for s in STRATEGIES for make in (pgd, Foreign, modl)] + [(s, modl) for s in BY_INVERSION]


def steps(network, strategy, batch, n_steps=2):
    groups = parameters_by_module(strategy, network)
    optimizers = [torch.optim.Adam(group, lr=1e-2) for group in groups]
    return [strategy.step(network, batch, optimizers) for _ in range(n_steps)]


def weights(network):
    return torch.cat([p.detach().ravel() for p in network.parameters()])


@pytest.mark.parametrize(("strategy", "make"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
def test_every_strategy_updates_every_weight_of_any_unrolled_network(strategy, make, batch):
    network = make()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    losses = steps(network, strategy, batch, n_steps=1)
    assert len(losses[0]) == len(strategy.modules(network))
    assert all(loss.isfinite() and not loss.requires_grad for loss in losses[0])
    unchanged = [name for name, p in network.named_parameters() if torch.equal(before[name], p)]
    assert not unchanged
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES + BY_INVERSION, ids=str)
@pytest.mark.parametrize("n_frames", [None, 3])
def test_loss_falls(strategy, n_frames):
    batch = random_batch(n_frames=n_frames)
    n_dims = 2 if n_frames is None else 3
    network = modl(n_dims, lipschitz=0.9) if strategy in BY_INVERSION else pgd(n_dims)
    losses = steps(network, strategy, batch, n_steps=6 if strategy in BY_INVERSION else 12)
    assert losses[-1][-1] < losses[0][-1]


@pytest.mark.parametrize(
    "strategy",
    [Greedy(1), Checkpointed(), Greedy(1, within=Checkpointed()), DeepSupervision(1), LookAhead(1)],
    ids=str,
)
def test_what_must_equal_end_to_end_does(strategy, batch):
    expected, network = pgd(), pgd()
    steps(expected, EndToEnd(), batch)
    steps(network, strategy, batch)
    torch.testing.assert_close(weights(network), weights(expected))


def test_checkpointing_inside_modules_changes_nothing(batch):
    expected, network = pgd(), pgd()
    steps(expected, Greedy(2), batch)
    steps(network, Greedy(2, within=Checkpointed()), batch)
    torch.testing.assert_close(weights(network), weights(expected))


def test_end_to_end_takes_the_gradient_of_the_last_loss(batch):
    network, reference = pgd(), pgd()
    complex_l1(reference(batch), batch.target).backward()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = weights(network)
    EndToEnd().step(network, batch, [optimizer])
    gradient = torch.cat([p.grad.ravel() for p in reference.parameters()])
    torch.testing.assert_close(before - weights(network), gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n_modules", [2, 3, 4])
def test_a_module_learns_nothing_from_later_ones(n_modules, batch):
    """Changing the last module changes no update before it; a module is trained as if it were the last."""
    network, changed = pgd(), pgd()
    with torch.no_grad():
        for parameter in changed.iterations[-1].parameters():
            parameter.mul_(-3)
    strategy = Greedy(n_modules)
    steps(network, strategy, batch, 1)
    steps(changed, strategy, batch, 1)
    earlier = [p for module in strategy.modules(network)[:-1] for it in module for p in it.parameters()]
    same = [p for module in strategy.modules(changed)[:-1] for it in module for p in it.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(earlier, same, strict=True))


def test_first_module_trains_as_a_network_of_its_own(batch):
    deep, shallow = pgd(), unrolled.pgd(n_iterations=2, n_features=4, seed=1)
    steps(deep, Greedy(2), batch, 3)
    steps(shallow, EndToEnd(), batch, 3)
    first = torch.cat([p.detach().ravel() for it in deep.iterations[:2] for p in it.parameters()])
    torch.testing.assert_close(first, weights(shallow))


def test_what_passes_on_is_the_output_from_before_the_update(batch):
    network, reference = pgd(), pgd()
    seen = []
    network.iterations[1].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    steps(network, Greedy(4), batch, 1)
    torch.testing.assert_close(seen[0], reference(batch, n_iterations=1))


def test_weights_shared_between_modules_are_refused(batch):
    network = pgd()
    network.iterations[3] = network.iterations[0]
    with pytest.raises(ValueError, match="share weights"):
        parameters_by_module(Greedy(4), network)
    assert len(parameters_by_module(EndToEnd(), network)) == 1


def gradient(network, strategy, batch):
    """Gradient of the loss with respect to all weights, as one vector."""
    x = strategy.propagate(network.iterations, network.start(batch), batch)
    gradients = torch.autograd.grad(complex_l1(x, batch.target), list(network.parameters()))
    return torch.cat([g.ravel() for g in gradients])


def relative(difference, truth):
    return (difference.norm() / truth.norm()).item()


def double(batch):
    values = (getattr(batch, f.name) for f in dataclasses.fields(batch))
    return type(batch)(*(v.to(torch.complex128 if v.is_complex() else torch.float64) for v in values))


@pytest.mark.parametrize("n_checkpoints", range(6))
@pytest.mark.parametrize("keywords", [{}, {"lipschitz": 0.9}, {"learn_mu": True}, {"implicit": True}], ids=str)
def test_gradients_by_inversion_are_those_of_backpropagation(n_checkpoints, keywords, batch):
    strategy = Invertible(n_checkpoints)
    network = modl(n_iterations=5, **keywords)
    n_kept = min(n_checkpoints, 5)
    for net, data in [(network, batch), (copy.deepcopy(network).double(), double(batch))]:
        expected = gradient(net, EndToEnd(), data)
        assert relative(gradient(net, strategy, data) - expected, expected) < 1e-4
        diagnostics = strategy.diagnostics()
        assert diagnostics["n_fallbacks"] == 0 and diagnostics["n_inversions"] == 5 - n_kept
        assert diagnostics["inversion_error"] < 2e-5


def test_without_a_fallback_the_gradient_would_be_garbage_and_with_it_it_is_not(batch):
    network = modl(n_iterations=6, n_features=8, mu=0.05)
    expected = gradient(network, EndToEnd(), batch)
    blind, watched = Invertible(tolerance=math.inf), Invertible()
    assert relative(gradient(network, blind, batch) - expected, expected) > 1
    with pytest.warns(InversionWarning, match=r"iteration \d could not be inverted \(it left a relative error of"):
        found = gradient(network, watched, batch)
    assert relative(found - expected, expected) < 1e-3
    diagnostics = watched.diagnostics()
    assert diagnostics["n_fallbacks"] == 1 == sum(n for _, n in diagnostics["fallbacks_at"])
    assert 0 <= diagnostics["inversion_error"] <= watched.tolerance
    assert watched.diagnostics()["n_inversions"] == 0  # asked already
    gradient(network, watched, batch)  # warns once only
    assert watched.diagnostics() == diagnostics


def test_an_inverse_that_does_not_converge_falls_back_to_the_nearest_checkpoint(batch):
    """A CNN that no fixed-point iteration inverts: every input is computed again, and the gradient is exact."""
    network = modl(n_iterations=6, n_features=8)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3)
    expected = gradient(network, EndToEnd(), batch)
    for n_checkpoints, places in {0: [5], 1: [5], 2: [2, 5], 3: [1, 3, 5]}.items():
        strategy = Invertible(n_checkpoints)
        with pytest.warns(InversionWarning, match="did not converge"):
            found = gradient(network, strategy, batch)
        torch.testing.assert_close(found, expected)
        assert strategy.diagnostics()["fallbacks_at"] == [[i, 1] for i in places]


def test_shared_weights_and_frozen_ones_get_their_gradients(batch):
    network = modl()
    network.iterations[3] = network.iterations[0]
    for parameter in network.iterations[1].parameters():
        parameter.requires_grad_(False)
    results = []
    for strategy in (EndToEnd(), Invertible()):
        x = strategy.propagate(network.iterations, network.start(batch), batch)
        complex_l1(x, batch.target).backward()
        results.append([None if p.grad is None else p.grad.clone() for p in network.parameters()])
        network.zero_grad()
    assert results[0][5] is None and results[0][4] is not None
    torch.testing.assert_close(results[1], results[0])


def test_start_gets_its_gradient_too(batch):
    results = []
    for strategy in (EndToEnd(), Invertible(2)):
        x = batch.zero_filled.clone().requires_grad_()
        loss = complex_l1(strategy.propagate(modl().iterations, x, batch), batch.target)
        results += torch.autograd.grad(loss, x)
    torch.testing.assert_close(results[1], results[0])


def test_signature_estimates_the_norm_of_any_error():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(2, 40, 30, dtype=torch.complex64, generator=generator)
    spot = torch.zeros(2, 40, 30, dtype=torch.complex64)
    spot[:, 7, 9] = 5
    smooth = torch.ones(2, 40, 30, dtype=torch.complex64)
    row = torch.zeros(2, 40, 30, dtype=torch.complex64)
    row[:, 11] = spread[:, 11]
    for error in (spread, spot, smooth, row):
        assert _signature(error).norm().item() == pytest.approx(error.norm().item(), rel=0.15)
    torch.testing.assert_close(_signature(spread + spot), _signature(spread) + _signature(spot))
    assert _signature(spread[:, :5, :5]).shape == (2, 251)


def test_memory_by_inversion_is_below_end_to_end_and_does_not_grow_with_depth():
    batch = random_batch(n_coils=2, shape=(64, 56))

    def peak(strategy, n_iterations):
        network = modl(n_iterations=n_iterations, n_features=16)
        with LiveBytes(held=list(network.parameters())) as live:
            gradient(network, strategy, batch)
        return live.peak - 2 * sum(p.numel() * 4 for p in network.parameters())

    by_inversion = {n: peak(Invertible(2), n) for n in (4, 12)}
    image = batch.target.numel() * 8
    assert by_inversion[12] - by_inversion[4] < 2 * image  # signatures
    assert peak(Invertible(12), 12) - by_inversion[12] == pytest.approx(10 * image, rel=0.2)
    assert by_inversion[12] < peak(EndToEnd(), 12) / 5


def test_iterations_without_an_inverse_are_named_before_anything_runs(batch):
    with pytest.raises(
        ValueError, match=r"Invertible\(.*\) needs iterations with a method inverse.*PGDIteration lacks"
    ):
        steps(pgd(), Invertible(), batch)
    for n in (-1, 2.5):
        with pytest.raises(ValueError, match="whole number of at least 0"):
            Invertible(n)


def test_what_was_noticed_is_no_part_of_the_strategys_identity(batch):
    used, new = Invertible(2), Invertible(2)
    steps(modl(), used, batch, 1)
    assert used.monitor.n_inversions and used == new and repr(used) == repr(new) and hash(used) == hash(new)
    assert "monitor" not in repr(used)
    assert pickle.loads(pickle.dumps(used)).diagnostics() == used.diagnostics()


def test_history_of_a_run_says_how_often_inversion_failed(splits, tmp_path):
    train, val, _ = splits
    network, strategy = modl(mu=0.05), Invertible()
    with pytest.warns(InversionWarning):
        result = fit(network, train, val, strategy, n_steps=4, batch_size=2, validate_every=2, run_dir=tmp_path)
    for row in result.history:
        assert 2 <= row["n_fallbacks"] <= row["n_inversions"] <= 6
    resumed = fit(modl(mu=0.05), train, val, Invertible(), n_steps=4, batch_size=2, validate_every=2, run_dir=tmp_path)
    assert isinstance(resumed, Fit) and resumed.history == result.history
    plain = fit(modl(), train, val, EndToEnd(), n_steps=2, batch_size=2, validate_every=2, run_dir=tmp_path)
    assert "n_fallbacks" not in plain.history[0]
