import random
import weakref

import pytest
import torch
from problems import random_batch

from gleam import Checkpointed, EndToEnd, Fast, Greedy, Invertible, Offloaded, ParallelGreedy, prediction, unrolled
from gleam.cost.prediction import MemoryModel, explained, simulate
from gleam.cost.step import peak_split
from gleam.networks.unrolled import split

ALL = [(3, 1), (3, 2), (3, 3), (6, 1), (6, 2), (6, 6), (12, 1), (12, 2), (12, 12)]
SOME = [(3, 2), (6, 6), (12, 1)]
NETWORKS = {
    "PGD": (lambda n: unrolled.pgd(n, 24), {"n": 1, "n_coils": 2, "shape": (32, 28)}, ALL),
    "wide, on small images": (lambda n: unrolled.pgd(n, 48), {"n": 1, "n_coils": 2, "shape": (16, 16)}, SOME),
    "3D": (lambda n: unrolled.pgd(n, 8, n_dims=3), {"n": 1, "n_coils": 2, "n_frames": 2}, SOME),
    "MoDL": (lambda n: unrolled.modl(n, 16, n_cg=3), {"n": 1, "n_coils": 2}, SOME),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_predicted_peaks_are_those_measured(name, checkpointed):
    make, shape, sizes = NETWORKS[name]
    batch, within = random_batch(**shape), Checkpointed() if checkpointed else EndToEnd()
    model = MemoryModel.measured(make(3), batch)
    for n, m in sizes:
        measured = sum(peak_split(make(n), Greedy(m, within=within), batch).values())
        assert model.peak_bytes(n, m, checkpointed=checkpointed) == pytest.approx(measured, rel=0.03), (n, m)


def test_weights_and_adam_are_counted_exactly(batch):
    """Also those outside the iterations, and for a network of a single one."""
    network = unrolled.pgd(1, 4)
    network.gain = torch.nn.Parameter(torch.ones(1000))
    model = MemoryModel.measured(network, batch)
    held = model.fixed_bytes + 5 * model.weight_bytes
    deep = unrolled.pgd(5, 4)
    deep.gain = torch.nn.Parameter(torch.ones(1000))
    found = peak_split(deep, EndToEnd(), batch)
    assert model.n_iterations == 1
    # Adam has no state for what never gets a gradient
    assert held == found["weights"] + found["optimizer"] and found["weights"] > 4000


def test_the_network_is_left_untouched(batch):
    network = unrolled.pgd(3, 4)
    before = [p.clone() for p in network.parameters()]
    MemoryModel.measured(network, batch)
    assert len(network.iterations) == 3
    assert all(torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True))


def test_the_fewest_modules_that_fit(batch):
    model = MemoryModel.measured(unrolled.pgd(6, 8), batch)
    peaks = [model.peak_bytes(n_modules=m) for m in range(1, 7)]
    assert peaks == sorted(peaks, reverse=True) and peaks[3] == peaks[4]  # longest module of 2 either way
    assert model.modules_that_fit(peaks[0]) == 1 and model.modules_that_fit(peaks[0] - 1) == 2
    assert model.modules_that_fit(peaks[4]) == 3 and model.modules_that_fit(peaks[5]) == 6
    assert model.modules_that_fit(peaks[5] - 1) is None
    assert model.modules_that_fit(peaks[0], n_iterations=12) == 3  # two would do but for twice the weights
    assert model.modules_that_fit(peaks[4], checkpointed=True) == 1
    with pytest.raises(ValueError, match="n_modules=7"):
        model.peak_bytes(n_modules=7)


@pytest.fixture
def said(monkeypatch, batch):
    """What a user reads when a step runs out of memory on a device with so many bytes."""

    def say(network, strategy, available_bytes, **keywords):
        monkeypatch.setattr(prediction, "_room", lambda device: ("NVIDIA X", available_bytes))
        with pytest.raises(MemoryError) as raised:
            with explained(network, strategy, lambda: batch, device="cuda", **keywords):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)
        return str(raised.value)

    return say


CHECKPOINTED = ", within=gleam.Checkpointed()"


@pytest.mark.parametrize(
    ("strategy", "n_modules", "inside"),
    [
        (EndToEnd(), 1, ""),
        (Greedy(2), 2, ""),
        (ParallelGreedy(3), 3, ""),
        (Checkpointed(), 1, CHECKPOINTED),
        (Greedy(2, within=Checkpointed()), 2, CHECKPOINTED),
    ],
    ids=str,
)
def test_out_of_memory_says_what_it_needs_what_there_is_and_what_would_fit(strategy, n_modules, inside, said, batch):
    network, gb = unrolled.pgd(6, 8), prediction._gb
    model, checkpointed = MemoryModel.measured(network, batch), bool(inside)
    need, less = (model.peak_bytes(n_modules=m, checkpointed=checkpointed) for m in (n_modules, 6))
    assert said(network, strategy, less) == (
        f"a step of {strategy} needs about {gb(need)} and NVIDIA X has {gb(less)}: "
        f"GLEAM with gleam.Greedy(6{inside}) needs {gb(less)}"
    )
    assert said(network, strategy, less - 1) == (
        f"a step of {strategy} needs about {gb(need)} and NVIDIA X has {gb(less - 1)}: even one iteration per module, "
        f"gleam.Greedy(6{inside}) needs {gb(less)}, so take checkpoints inside the iterations, a smaller batch or "
        "fewer features"
    )


def test_what_a_fast_step_needs_is_that_of_its_precision(said, batch):
    network = unrolled.pgd(3, 24)
    need = sum(peak_split(network, Fast(EndToEnd(), "bf16"), batch).values())
    assert need < 0.8 * sum(peak_split(network, EndToEnd(), batch).values())
    found = said(network, Fast(EndToEnd(), "bf16"), 1)
    assert float(found.split("needs about ")[1].split()[0]) == pytest.approx(need / 1e9, rel=0.03)
    assert "one iteration per module, gleam.Fast(gleam.Greedy(3), 'bf16') needs" in found


def test_a_step_that_should_fit_and_one_that_cannot_be_cut_further(said, batch):
    network = unrolled.pgd(6, 8)
    model = MemoryModel.measured(network, batch)
    found = said(network, Greedy(2), 2 * model.peak_bytes(n_modules=2))
    assert "the rest of it taken by other tensors or by kernels: GLEAM with gleam.Greedy(3) needs" in found
    assert ": its modules are single iterations, so take checkpoints inside" in said(network, Greedy(6), 1)


def test_strategies_without_a_number_still_say_what_fits(said, batch):
    network = unrolled.pgd(4, 4)
    model = MemoryModel.measured(network, batch)
    available = model.peak_bytes(n_modules=2)
    for strategy in (Invertible(), Offloaded(), Greedy(2, within=Invertible())):
        assert said(network, strategy, available) == (
            f"a step of {strategy} does not fit into the {prediction._gb(available)} of NVIDIA X: "
            f"GLEAM with gleam.Greedy(2) needs {prediction._gb(available)}"
        )
    for without in (said(network, Invertible(), None), said(network, Greedy(2), available, n_devices=2)):
        assert without.endswith(": more modules or devices, a smaller batch or fewer features need less")
    assert "more than NVIDIA X has: GLEAM with gleam.Greedy(4) needs" in said(network, Greedy(2), None)


def test_a_network_that_the_model_cannot_measure_hides_nothing(said):
    class OnItsOwnDevice(torch.nn.Module):
        def forward(self, x, batch):
            raise RuntimeError("only on a GPU")

    network = unrolled.Unrolled([OnItsOwnDevice(), OnItsOwnDevice()])
    assert said(network, EndToEnd(), 2e9, note=lambda: "kept") == (
        "a step of EndToEnd() does not fit into the 2 GB of NVIDIA X: more modules or devices, a smaller batch or "
        "fewer features need less; kept"
    )


class Scale(torch.nn.Module):
    """An iteration that notes what it is given; ``asks``: for a value, as not every network can do without."""

    kinds = ()

    def __init__(self, asks):
        super().__init__()
        self.weight, self.asks = torch.nn.Parameter(torch.ones(3)), asks

    def forward(self, x, batch):
        Scale.kinds += (type(x),)
        return x * self.weight[0] * (float(x.detach().abs().max()) > 0 if self.asks else 1)


@pytest.mark.parametrize("asks", [False, True])
def test_memory_is_told_by_shapes_alone_unless_values_are_asked_for(asks, batch, monkeypatch):
    monkeypatch.setattr(Scale, "kinds", ())
    network = unrolled.Unrolled([Scale(asks), Scale(asks)])
    found = prediction._model(network, EndToEnd(), lambda: batch)
    assert (torch.Tensor in Scale.kinds) == asks
    assert found == MemoryModel.measured(network, batch)


@pytest.mark.parametrize(
    ("network", "strategy"), [(unrolled.pgd(2, 4), Fast(EndToEnd())), (unrolled.modl(2, 4, n_cg=1), EndToEnd())]
)
def test_memory_told_by_shapes_alone_is_that_of_a_step_with_numbers(network, strategy, batch):
    expected = MemoryModel.measured(network, batch, strategy=strategy)
    assert prediction._model(network, strategy, lambda: batch) == expected


def test_what_a_failed_step_held_is_free_when_the_sentence_is_read(batch):
    held = []

    def step():
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MemoryError) as raised, explained(unrolled.pgd(1, 2), EndToEnd(), lambda: batch, device="cpu"):
        step()
    assert held[0]() is None and raised.value.__cause__.__traceback__ is not None


def problems(n=100):
    """(seconds of modules, number of devices, keyword arguments) at random."""
    generator = random.Random(0)
    for _ in range(n):
        n_modules = generator.randint(1, 9)
        seconds = [(generator.uniform(0.01, 1), generator.uniform(0.01, 1)) for _ in range(n_modules)]
        keywords = {"message_seconds": generator.choice([0, 0.1, 1]), "n_in_flight": generator.randint(1, 3)}
        yield seconds, generator.randint(1, n_modules), keywords


def test_one_device_takes_the_sum():
    for seconds, _, keywords in problems(20):
        for pipelined in (True, False):
            found = simulate(seconds, 1, pipelined=pipelined, **keywords)
            assert found == pytest.approx(sum(map(sum, seconds)))


def test_a_pipeline_is_as_fast_as_its_slowest_device_or_its_messages():
    for seconds, n_devices, keywords in problems():
        slowest = max(sum(map(sum, part)) for part in split(seconds, n_devices))
        expected = max(slowest, keywords["message_seconds"] if n_devices > 1 else 0)
        assert simulate(seconds, n_devices, pipelined=True, **keywords) == pytest.approx(expected)


def test_no_schedule_beats_its_busiest_device_and_no_message_makes_one_faster():
    for seconds, n_devices, keywords in problems():
        busiest = max(sum(map(sum, seconds[d::n_devices])) for d in range(n_devices))
        found = simulate(seconds, n_devices, pipelined=False, **keywords)
        slow_messages = keywords | {"message_seconds": 0.3 + 1.5 * keywords["message_seconds"]}
        assert busiest - 1e-9 <= found <= simulate(seconds, n_devices, pipelined=False, **slow_messages) + 1e-9
        longest = sum(map(sum, seconds)) + len(seconds) * keywords["message_seconds"]
        assert found <= longest + 1e-9


def test_equal_modules_shared_out_evenly_are_d_times_as_fast_and_in_turn_never_faster():
    for n_modules, n_devices in [(8, 1), (8, 2), (8, 4), (8, 8), (6, 3)]:
        seconds = [(1.0, 2.0)] * n_modules
        pipelined, in_turn = (simulate(seconds, n_devices, pipelined=p, n_steps=256) for p in (True, False))
        assert pipelined == pytest.approx(3 * n_modules / n_devices)
        assert in_turn >= pipelined - 1e-9
    assert simulate([(1.0, 2.0)] * 8, 4, pipelined=False) > 1.1 * simulate([(1.0, 2.0)] * 8, 4, pipelined=True)


def test_a_chain_in_turn_by_hand():
    """Two devices, four modules of 1 forward and 1 backward, messages of 2: each waits for x to come round."""
    # forward passes: device 0 from 0 to 1, device 1 from 3 to 4, device 0 from 6 to 7, device 1 from 9 to 10
    found = simulate([(1, 1)] * 4, 2, pipelined=False, message_seconds=2)
    assert found == pytest.approx(8)  # device 0 takes the next step after the backward pass of module 2


def test_devices_beyond_the_modules_are_refused():
    for n_devices in (0, 4):
        with pytest.raises(ValueError, match=f"n_devices={n_devices} must be between 1 and the number of modules, 3"):
            simulate([(1, 1)] * 3, n_devices, pipelined=True)
