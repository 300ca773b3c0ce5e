import pytest
import torch
from problems import random_batch

from gleam import Checkpointed, EndToEnd, Greedy, unrolled
from gleam.metrics import complex_l1
from gleam.strategies import parameters_by_module

STRATEGIES = [EndToEnd(), Checkpointed(), Greedy(1), Greedy(2), Greedy(3), Greedy(4), Greedy(2, within=Checkpointed())]


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


def steps(network, strategy, batch, n_steps=2):
    groups = parameters_by_module(strategy, network)
    optimizers = [torch.optim.Adam(group, lr=1e-2) for group in groups]
    return [strategy.step(network, batch, optimizers) for _ in range(n_steps)]


def weights(network):
    return torch.cat([p.detach().ravel() for p in network.parameters()])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("make", [pgd, Foreign])
def test_every_strategy_updates_every_weight_of_any_unrolled_network(strategy, make, batch):
    network = make()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    losses = steps(network, strategy, batch, n_steps=1)
    assert losses[0].shape == (len(strategy.modules(network)),) and losses[0].isfinite().all()
    assert not losses[0].requires_grad
    unchanged = [name for name, p in network.named_parameters() if torch.equal(before[name], p)]
    assert not unchanged
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("n_frames", [None, 3])
def test_loss_falls(strategy, n_frames):
    batch = random_batch(n_frames=n_frames)
    losses = steps(pgd(2 if n_frames is None else 3), strategy, batch, n_steps=12)
    assert losses[-1][-1] < losses[0][-1]


@pytest.mark.parametrize("strategy", [Greedy(1), Checkpointed(), Greedy(1, within=Checkpointed())], ids=str)
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
