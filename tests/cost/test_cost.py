import json
from dataclasses import asdict
from itertools import count

import pytest
import torch
from problems import random_batch

from gleam import Checkpointed, EndToEnd, Greedy, Invertible, cost, unrolled
from gleam.cost import parallel as parallel_cost
from gleam.cost import timing
from gleam.cost.memory import LiveBytes
from gleam.cost.step import KINDS, Step, peak_split
from gleam.metrics import complex_l1
from gleam.strategies import Strategy


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


def test_working_memory_of_greedy_is_flat_in_depth(costs):
    shallow, deep = (costs[f"Greedy {n}"] for n in (3, 12))
    assert deep.working_bytes == pytest.approx(shallow.working_bytes, rel=0.05)
    assert deep.split["weights"] == 4 * shallow.split["weights"]


def test_the_split_adds_up_and_counts_weights_optimizer_and_batch_exactly(costs):
    data = random_batch(n=2, n_coils=2, shape=(64, 56), acceleration=4)
    n_bytes = sum(v.nbytes for v in vars(data).values() if torch.is_tensor(v))
    for name, n in {"Greedy(6)": 6, "Checkpointed": 6, "EndToEnd 3": 3, "Greedy 12": 12}.items():
        split = costs[name].split
        assert tuple(split) == KINDS and sum(split.values()) == costs[name].peak_bytes
        parameters = list(unrolled.pgd(n, 24).parameters())
        assert split["weights"] == sum(p.nbytes for p in parameters)
        assert split["optimizer"] == 2 * split["weights"] + 4 * len(parameters)  # and a count of steps for each
        assert split["data"] == n_bytes
        assert 0 <= split["gradients"] <= split["weights"] and split["activations"] > 0


class Wide(torch.nn.Module):
    """An iteration with many weights, whose gradients are what a step holds most of."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(100_000))
        self.register_buffer("kept", torch.zeros(500))

    def forward(self, x, batch):
        return x * self.weight.mean()


def test_gradients_are_told_from_activations(batch):
    network = unrolled.Unrolled([Wide(), Wide(), Wide()])
    splits = {m: peak_split(network, Greedy(m), batch) for m in (1, 3)}
    one = Wide().weight.nbytes
    assert [splits[m]["gradients"] for m in (1, 3)] == [3 * one, one]
    assert splits[1]["weights"] == 3 * (one + 2000)  # buffers count among the weights


@pytest.mark.parametrize("strategy", [EndToEnd(), Checkpointed(), Greedy(3)], ids=repr)
def test_the_trace_of_a_step_peaks_where_the_peak_is_and_ends_with_nothing_but_losses(strategy, batch):
    step = Step(unrolled.pgd(3, 8), strategy, batch)
    trace, split = step.trace(), step.peak_split()
    assert max(trace) == split["activations"] + split["gradients"]
    assert 0 <= trace[-1] <= batch.target.nbytes + 4 * 3  # the last image and three losses


def test_every_round_is_kept(costs):
    for one in costs.values():
        assert len(one.step_seconds) == 2 and min(one.step_seconds) <= one.seconds_per_step <= max(one.step_seconds)
        assert one.memory_kind == "peak of live tensors" and one.device == "CPU"


def test_a_cost_survives_a_record_and_those_of_older_records_are_still_read(costs):
    fields = asdict(costs["Greedy(6)"])
    again = cost.Cost(**json.loads(json.dumps(fields)))
    assert (again.peak_bytes, again.split, again.forward_seconds) == (
        costs["Greedy(6)"].peak_bytes, costs["Greedy(6)"].split, costs["Greedy(6)"].forward_seconds,
    )  # fmt: skip
    names = ("seconds_per_step", "peak_bytes", "memory_kind", "device", "step_seconds")
    older = cost.Cost(*(fields[name] for name in names))
    assert older.peak_bytes == again.peak_bytes and older.forward_seconds is None and older.module_seconds == ()


def test_networks_are_left_untouched(batch):
    network = unrolled.pgd(2, 4)
    before = [p.clone() for p in network.parameters()]
    cost.measure({"GLEAM": Greedy(2)}, batch, network=network, n_rounds=1, n_warmup=0)
    assert all(torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True))
    assert not any(it._forward_hooks or it._forward_pre_hooks for it in network.iterations)


class Full(EndToEnd):
    """A strategy for which memory is short after ``n_steps``."""

    n_steps = 0

    def step(self, network, batch, optimizers):
        if self.n_steps == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        object.__setattr__(self, "n_steps", self.n_steps - 1)
        return super().step(network, batch, optimizers)


@pytest.mark.parametrize("n_steps", [0, 3])
def test_out_of_memory_is_explained_whenever_it_comes(n_steps, batch):
    network, strategy = unrolled.pgd(2, 4), Full()
    object.__setattr__(strategy, "n_steps", n_steps)
    words = r"a step of .*Full\(\) needs about .* GB, more than cpu has: GLEAM with gleam\.Greedy\(2\) needs"
    with pytest.raises(MemoryError, match=words):
        cost.measure({"GLEAM": (network, Greedy(2)), "full": (network, strategy)}, batch, n_rounds=3, n_warmup=0)
    assert not any(it._forward_hooks or it._forward_pre_hooks for it in network.iterations)


class Graphed(EndToEnd):
    """As a strategy whose step is replayed as a CUDA graph, in which no allocation is seen."""

    captured = True

    def step(self, network, batch, optimizers):
        pass

    eager = EndToEnd()


def test_the_peak_of_a_captured_step_is_that_of_the_same_step_without_capture(batch):
    network = unrolled.pgd(3, 4)
    assert peak_split(network, Graphed(), batch) == peak_split(network, EndToEnd(), batch)


class Ticks(torch.nn.Module):
    """An iteration that takes ``forward_ticks`` of ``clock``, and a hundred times as many on the way back."""

    def __init__(self, clock, forward_ticks):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.clock, self.forward_ticks = clock, forward_ticks

    def forward(self, x, batch):
        self.clock.now += self.forward_ticks
        return _Slow.apply(x * self.weight, self.clock, 100 * self.forward_ticks)


class _Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock, n_ticks):
        ctx.clock, ctx.n_ticks = clock, n_ticks
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += ctx.n_ticks
        return gradient, None, None


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def __deepcopy__(self, memo):  # all copies of a network live by one clock
        return self


class Foreign(Strategy):
    """Somebody else's strategy: two modules of two iterations, and nothing of use returned."""

    def propagate(self, iterations, x, batch):
        return EndToEnd().propagate(iterations, x, batch)

    def modules(self, network):
        return [list(network.iterations[:2]), list(network.iterations[2:])]

    def step(self, network, batch, optimizers):
        x = network.start(batch)
        for module, optimizer in zip(self.modules(network), optimizers, strict=True):
            for iteration in module:
                x = iteration(x, batch)
            complex_l1(x, batch.target).backward()
            optimizer.step()
            x = x.detach()
        return "nothing"


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (EndToEnd(), [(10, 1000)]),
        (Checkpointed(), [(10, 1010)]),  # the second forward pass is part of the way back
        (Greedy(4), [(1, 100), (2, 200), (3, 300), (4, 400)]),
        (Greedy(2), [(3, 300), (7, 700)]),
        (Greedy(2, within=Checkpointed()), [(3, 303), (7, 707)]),
        (Foreign(), [(3, 300), (7, 700)]),
    ],
    ids=lambda case: getattr(case, "__class__", type).__name__,
)
def test_forward_and_backward_are_told_apart_module_by_module(strategy, expected, batch, monkeypatch):
    clock = Clock()
    network = unrolled.Unrolled(Ticks(clock, n) for n in (1, 2, 3, 4))
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    measured = cost.measure({"one": (network, strategy)}, batch, n_rounds=3, n_warmup=1)["one"]
    assert list(measured.module_seconds) == expected
    assert (measured.forward_seconds, measured.backward_seconds) == tuple(map(sum, zip(*expected, strict=True)))
    assert measured.step_seconds == (sum(map(sum, expected)),) * 3


def test_an_iteration_that_occurs_twice_is_timed_to_its_last_call(batch, monkeypatch):
    clock = Clock()
    network = unrolled.Unrolled([Ticks(clock, 1), Ticks(clock, 2)])
    network.iterations.append(network.iterations[0])
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    measured = cost.measure({"one": (network, EndToEnd())}, batch, n_rounds=1, n_warmup=0)["one"]
    assert measured.module_seconds == ((4, 400),)


def test_every_strategy_has_parts(batch):
    network = unrolled.modl(3, 4, mu=4.0)
    measured = cost.measure({"MEL": (network, Invertible())}, batch, n_rounds=1, n_warmup=0)["MEL"]
    assert min(measured.forward_seconds, measured.backward_seconds) > 0
    assert measured.forward_seconds + measured.backward_seconds <= measured.seconds_per_step


def test_without_calls_of_iterations_there_are_no_parts(batch):
    class Fused(Foreign):
        def step(self, network, batch, optimizers):
            pass

    measured = cost.measure({"one": (unrolled.pgd(4, 2), Fused())}, batch, n_rounds=1, n_warmup=0)["one"]
    assert measured.forward_seconds is None and measured.module_seconds == () and measured.split["gradients"] == 0


def test_rounds_run_every_step_in_turn_and_warm_up_is_not_kept(monkeypatch):
    calls, ticks = [], count(0, 1)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    seconds = cost.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, n_rounds=3, n_warmup=2)
    assert calls == ["a", "b"] * 5 and seconds == {"a": (1.0,) * 3, "b": (1.0,) * 3}


def test_live_bytes_follow_tensors_as_they_come_and_go():
    held = torch.zeros(1000, dtype=torch.float32)
    with LiveBytes(held=[held]) as live:
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
    assert live.peak == 12000 and live.split == {"held": 4000, "activations": 8000}


def test_live_bytes_leave_out_what_was_made_elsewhere_or_on_another_device():
    outside = torch.zeros(1000)
    with LiveBytes() as live:
        outside.add_(1)
        outside[5:].mul_(2)
        torch.empty(1000, device="meta")
        assert live.peak == 0
    with LiveBytes(device="meta") as live:
        there = torch.empty(1000, device="meta")
        torch.zeros(10)
        assert live.live == 4000
        del there
    assert live.live == 0 and live.peak == 4000


def test_names_given_later_hold_for_the_peak_before():
    with LiveBytes() as live:
        a, b = torch.zeros(1000), torch.zeros(500)
        del b
        live.label("gradients", [a])
    assert live.split == {"gradients": 4000, "activations": 2000}


@pytest.mark.slow
def test_parallel_costs_are_paired_and_each_process_keeps_its_own_optimizer_only():
    batch = random_batch(n=1, n_coils=2, shape=(24, 20))
    costs = parallel_cost.measure(unrolled.pgd(4, 4), batch, n_steps=2, n_rounds=2)
    assert list(costs) == ["GLEAM", "P-GLEAM, in turn", "P-GLEAM, pipelined"]
    assert all(len(one.step_seconds) == 2 and min(one.step_seconds) > 0 for one in costs.values())
    assert all(sum(one.split.values()) == one.peak_bytes for one in costs.values())
    alone, *together = (one.split["optimizer"] for one in costs.values())
    assert all(own == pytest.approx(alone / 2, rel=0.01) for own in together)
