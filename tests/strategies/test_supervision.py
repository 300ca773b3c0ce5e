"""Between end-to-end training and GLEAM: whose gradient reaches whom."""

import pytest
import torch
from problems import random_batch
from teamwork import KspaceNetwork, Noisy
from torch import nn

from gleam import Checkpointed, DeepSupervision, EndToEnd, Greedy, LookAhead, cost, losses, unrolled
from gleam.metrics import complex_l1
from gleam.strategies import optimizers


def network(n=3):
    return unrolled.pgd(n, 4, step_size=1.0, seed=1)


def changed(strategy, batch, make=network):
    """What one step of plain gradient descent adds to each weight, minus the gradient."""
    own = make()
    before = [p.detach().clone() for p in own.parameters()]
    strategy.step(own, batch, optimizers(strategy, own, learning_rate=1.0, make=torch.optim.SGD))
    return [b - p.detach() for b, p in zip(before, own.parameters(), strict=True)]


def of_sum(images, batch, parameters):
    return torch.autograd.grad(sum(complex_l1(x, batch.target) for x in images), parameters)


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_deep_supervision_has_the_gradient_of_the_sum_of_all_losses():
    batch, own = random_batch(), network()
    _, *images = own.iterates(batch)
    close(changed(DeepSupervision(3), batch), of_sum(images, batch, list(own.parameters())))
    only_last = [silent, silent, losses.complex_l1]
    close(changed(DeepSupervision(3, loss=only_last), batch), changed(EndToEnd(), batch))


def silent(image, batch):
    return 0 * complex_l1(image, batch.target)


@pytest.mark.parametrize("within", [EndToEnd(), Checkpointed()], ids=str)
def test_a_module_that_looks_ahead_has_the_gradient_of_two_losses_and_the_last_one_its_own(within):
    batch, own = random_batch(), network()
    found = changed(LookAhead(3, within=within), batch)
    n = len(list(own.iterations[0].parameters()))
    x0, *_ = own.iterates(batch)
    first = own.iterations[0](x0, batch)
    second = own.iterations[1](first, batch)
    close(found[:n], of_sum([first, second], batch, list(own.iterations[0].parameters())))
    close(found[2 * n :], changed(Greedy(3), batch)[2 * n :])


@pytest.mark.parametrize("make", [Noisy, KspaceNetwork])
def test_a_look_ahead_leaves_the_next_module_as_it_was(make):
    """Its weights have no gradient, its running statistics count a batch once, and its dropout is drawn again."""
    batch, own = random_batch(n=3), make()
    strategy = LookAhead(4)
    made = optimizers(strategy, own, learning_rate=1e-2)
    for k in range(5):
        torch.manual_seed(k)
        strategy.step(own, batch, made)
    counts = {int(v) for key, v in own.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts <= {5} and all(p.grad is None and p.requires_grad for p in own.parameters())


class Windowed(nn.Module):
    """An iteration whose input is multiplied by a buffer that all iterations share."""

    def __init__(self, iteration, window):
        super().__init__()
        self.iteration, self.window = iteration, window

    def forward(self, x, batch):
        return self.iteration(x * self.window.values, batch)


def test_modules_that_share_a_buffer_look_ahead():
    window = nn.Module()
    window.register_buffer("values", torch.full((1,), 0.9))
    own, batch = unrolled.Unrolled([Windowed(one, window) for one in network(4).iterations]), random_batch()
    strategy = LookAhead(2)
    made = optimizers(strategy, own, learning_rate=1e-3)
    before, after = (strategy.step(own, batch, made) for _ in range(2))
    assert all(b < a for a, b in zip(before, after, strict=True))


def test_memory_is_that_of_two_modules():
    batch, own = random_batch(shape=(48, 40)), unrolled.pgd(8, 8, seed=1)
    needs = {
        name: cost.peak_split(own, strategy, batch)["activations"]
        for name, strategy in (
            ("all", DeepSupervision(8)),
            ("two", LookAhead(8)),
            ("one", Greedy(8)),
            ("e2e", EndToEnd()),
        )
    }
    assert needs["one"] < needs["two"] < 2.5 * needs["one"] < needs["all"] and needs["all"] < 1.3 * needs["e2e"]
