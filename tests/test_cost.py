import pytest
import torch
from problems import random_batch

from gleam import Checkpointed, EndToEnd, Greedy, cost, unrolled


@pytest.fixture(scope="module")
def costs():
    batch = random_batch(n=2, n_coils=2, shape=(64, 56), acceleration=4)
    methods = {"Greedy(6)": (unrolled.pgd(6, 24), Greedy(6)), "Checkpointed": (unrolled.pgd(6, 24), Checkpointed())}
    methods |= {f"EndToEnd {n}": (unrolled.pgd(n, 24), EndToEnd()) for n in (3, 6)}
    methods |= {f"Greedy {n}": (unrolled.pgd(n, 24), Greedy(n)) for n in (3, 12)}
    return cost.measure(methods, batch, n_rounds=2, n_warmup=0)


def test_memory_of_end_to_end_grows_with_depth_and_that_of_greedy_does_not(costs):
    assert costs["EndToEnd 6"].peak_bytes > 1.6 * costs["EndToEnd 3"].peak_bytes
    assert costs["EndToEnd 6"].peak_bytes > 3 * costs["Greedy(6)"].peak_bytes
    assert costs["EndToEnd 6"].peak_bytes > 2.5 * costs["Checkpointed"].peak_bytes


def test_activations_of_greedy_are_flat_in_depth(costs):
    def weights_and_adam(n):
        return sum(3 * p.numel() * p.element_size() for p in unrolled.pgd(n, 24).parameters())

    activations = [costs[f"Greedy {n}"].peak_bytes - weights_and_adam(n) for n in (3, 12)]
    assert activations[1] == pytest.approx(activations[0], rel=0.05)


def test_every_round_is_kept(costs):
    for one in costs.values():
        assert len(one.step_seconds) == 2 and min(one.step_seconds) <= one.seconds_per_step <= max(one.step_seconds)
        assert one.memory_kind == "peak of live tensors" and one.device == "CPU"


def test_networks_are_left_untouched(batch):
    network = unrolled.pgd(2, 4)
    before = [p.clone() for p in network.parameters()]
    cost.measure({"GLEAM": (network, Greedy(2))}, batch, n_rounds=1, n_warmup=0)
    assert all(torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True))


def test_live_bytes_follow_tensors_as_they_come_and_go():
    held = torch.zeros(1000, dtype=torch.float32)
    with cost.LiveBytes(held=[held]) as live:
        assert live.live == 4000
        a = torch.ones(500, dtype=torch.float64)
        view = a[10:]
        assert live.live == 8000
        b = a + 1
        assert live.live == 12000
        del a, b
        assert live.live == 8000  # the view keeps its storage
        del view
        assert live.live == 4000
    assert live.peak == 12000
