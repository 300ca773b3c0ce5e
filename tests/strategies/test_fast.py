import copy
import gc
import pickle

import pytest
import torch
from problems import random_batch
from torch import nn

import gleam
from gleam import execution, strategies, unrolled
from gleam.networks import convolutions
from gleam.strategies import fast
from gleam.strategies import recorded as recording
from gleam.strategies.recorded import N_WARMUP_STEPS, Replay

INNER = [
    gleam.EndToEnd(), gleam.Checkpointed(), gleam.Offloaded(), gleam.Invertible(n_checkpoints=9), gleam.Greedy(2),
    gleam.ParallelGreedy(2),
]  # fmt: skip


def network():
    return unrolled.modl(3, 4, n_cg=2)


def trained(step, net, optimizers, batches):
    losses = [step(net, batch, optimizers) for batch in batches]
    return torch.stack([torch.stack(of_step) for of_step in losses]), net.state_dict()


def weights_equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def batches(n=6):
    return [random_batch(seed=10 * i) for i in range(n)]


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_in_fp32_it_is_the_strategy_itself(inner):
    found = []
    for strategy in (inner, gleam.Fast(inner, precision="fp32")):
        net = network()
        optimizers = strategies.optimizers(strategy, net, learning_rate=1e-3)
        found.append(trained(strategy.step, net, optimizers, batches(2)))
    (losses, state), (fast_losses, fast_state) = found
    assert torch.equal(losses, fast_losses)
    assert weights_equal(state, fast_state)


@pytest.mark.parametrize("inner", [gleam.EndToEnd(), gleam.Greedy(2), gleam.Checkpointed()], ids=repr)
def test_bf16_trains_other_weights_that_are_near(inner):
    found = []
    for precision in ("fp32", "bf16"):
        net = network()
        strategy = gleam.Fast(inner, precision=precision)
        optimizers = strategies.optimizers(strategy, net, learning_rate=1e-3)
        found.append(trained(strategy.step, net, optimizers, batches(3)))
    (losses, state), (bf16_losses, bf16_state) = found
    assert not weights_equal(state, bf16_state)
    assert torch.allclose(losses, bf16_losses, rtol=0.02)


ALIKE = {  # pairs that train the same weights
    "checkpointed": (gleam.EndToEnd(), gleam.Checkpointed()),
    "offloaded": (gleam.EndToEnd(), gleam.Offloaded()),
    "one module": (gleam.EndToEnd(), gleam.Greedy(1)),
    "checkpointed modules": (gleam.Greedy(2), gleam.Greedy(2, within=gleam.Checkpointed())),
    "alone": (gleam.Greedy(2), gleam.ParallelGreedy(2)),
}


@pytest.mark.parametrize("n_frames", [None, 3])
@pytest.mark.parametrize("make", [unrolled.pgd, unrolled.modl])
@pytest.mark.parametrize("name", ALIKE)
def test_in_bf16_too_equal_strategies_are_equal_to_the_last_bit(name, make, n_frames):
    found = []
    for inner in ALIKE[name]:
        net = make(3, 4, n_dims=2 if n_frames is None else 3)
        optimizers = strategies.optimizers(inner, net, learning_rate=1e-3)
        of_run = [random_batch(n_frames=n_frames, seed=10 * i) for i in range(3)]
        found.append(trained(gleam.Fast(inner, "bf16").step, net, optimizers, of_run))
    (losses, state), (same_losses, same_state) = found
    assert torch.equal(losses, same_losses)
    assert weights_equal(state, same_state)


def is_laid_out(t):
    return t.is_contiguous(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}[t.ndim])


@pytest.mark.parametrize("n_frames", [None, 3])
def test_weights_and_moments_are_brought_to_channels_last_once(n_frames):
    net = unrolled.pgd(2, 4, n_dims=2 if n_frames is None else 3)
    strategy, batch = gleam.Fast(gleam.Greedy(2), "bf16"), random_batch(n_frames=n_frames)
    optimizers, places = strategies.optimizers(strategy, net, learning_rate=1e-3), []
    gleam.Greedy(2).step(net, batch, optimizers)  # moments are there, as after a checkpoint, in torch's layout
    for _ in range(2):
        strategy.step(net, batch, optimizers)
        kernels = [p for p in net.parameters() if p.ndim > 1]
        moments = [t for o in optimizers for p in kernels for t in o.state.get(p, {}).values() if t.shape == p.shape]
        assert len(moments) == 2 * len(kernels) and all(map(is_laid_out, kernels + moments))
        places.append([t.data_ptr() for t in kernels + moments])
    assert places[0] == places[1]


def test_a_layout_changes_no_number_of_the_update():
    found = []
    for lays_out in (False, True):
        net, batch = unrolled.pgd(2, 5, seed=0), random_batch()
        optimizers = strategies.optimizers(gleam.Greedy(2), net, learning_rate=1e-3)
        for _ in range(3):
            if lays_out:  # moments as a checkpoint leaves them
                for state in (s for optimizer in optimizers for s in optimizer.state.values()):
                    state.update({key: t.contiguous() for key, t in state.items()})
                convolutions.lay_out(net, optimizers)
            gleam.Greedy(2).step(net, batch, optimizers)
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_fast", [True, False])
def test_auto_is_bf16_where_that_is_fast_but_for_inversions(is_fast, monkeypatch):
    monkeypatch.setattr(execution, "has_fast_bf16", lambda device_type: is_fast)
    expected = "bf16" if is_fast else "fp32"
    for inner in (gleam.EndToEnd(), gleam.Greedy(2, within=gleam.Checkpointed()), gleam.ParallelGreedy(2)):
        assert gleam.Fast(inner).settled("cpu") == gleam.Fast(inner, expected)
    for inner in (gleam.Invertible(), gleam.Greedy(2, within=gleam.Invertible())):
        assert gleam.Fast(inner).settled("cpu").precision == "fp32"
    assert gleam.Fast(gleam.EndToEnd(), "fp32").settled("cpu").precision == "fp32"
    found = []
    for precision in ("auto", expected):
        net = network()
        optimizers = strategies.optimizers(gleam.Greedy(2), net, learning_rate=1e-3)
        found.append(trained(gleam.Fast(gleam.Greedy(2), precision).step, net, optimizers, batches(1)))
    assert weights_equal(found[0][1], found[1][1])


@pytest.mark.skipif(not execution.has_fast_bf16("cpu"), reason="this CPU multiplies bf16 no faster than fp32")
@pytest.mark.parametrize("inner", INNER, ids=repr)
@pytest.mark.parametrize("n_frames", [None, 3])
def test_every_strategy_trains_in_the_number_format_of_this_cpu(inner, n_frames):
    net, strategy = unrolled.modl(3, 4, n_cg=2, n_dims=2 if n_frames is None else 3), gleam.Fast(inner)
    optimizers = strategies.optimizers(strategy, net, learning_rate=1e-3)
    batch = random_batch(n_frames=n_frames)
    losses, _ = trained(strategy.step, net, optimizers, [batch] * 20)
    assert losses[-1, -1] < losses[0, -1]
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_everything_else_is_passed_on(inner):
    strategy, net = gleam.Fast(inner), network()
    assert strategy.modules(net) == inner.modules(net)
    assert strategy.diagnostics() == inner.diagnostics()
    assert strategy.eager == gleam.Fast(inner, captured=False)
    assert hasattr(strategy, "equivalent") == hasattr(inner, "equivalent") == hasattr(strategy, "finish")
    assert pickle.loads(pickle.dumps(strategy)) == strategy == copy.deepcopy(strategy)
    image = strategy.propagate(net.iterations, net.start(batches(1)[0]), batches(1)[0])
    assert image.dtype == torch.complex64


def test_the_equivalent_of_a_parallel_strategy_keeps_the_precision():
    strategy = gleam.Fast(gleam.ParallelGreedy(2), precision="tf32")
    assert strategy.equivalent == gleam.Fast(gleam.Greedy(2), precision="tf32")


def test_which_strategies_can_be_captured():
    can = {repr(inner): inner.is_capturable for inner in [*INNER, gleam.Greedy(2, within=gleam.Offloaded())]}
    assert [name for name, yes in can.items() if yes] == [repr(INNER[0]), repr(INNER[1]), repr(INNER[4])]


def test_sentence_for_another_precision():
    with pytest.raises(ValueError, match="precision='half' of the convolutions must be one of fp32, tf32, bf16"):
        gleam.Fast(gleam.EndToEnd(), precision="half")


class Recorder:
    """What a CUDA graph does, without one: the step is run at replay only, on the memory that was recorded."""

    def __init__(self):
        self.n_recorded = 0

    def __call__(self, step, device):
        self.n_recorded += 1
        losses = [torch.zeros(()) for _ in range(2)]

        def replay():
            for own, new in zip(losses, step(), strict=True):
                own.copy_(new)

        return replay, losses


def test_a_replay_is_one_step_each_on_the_batch_it_is_given():
    odd, even = random_batch(n=1, seed=77), batches(5)
    order = [*even[:3], odd, *even[3:], *[odd] * 5, *even]  # the odd one often enough to be recorded, but too late
    before = [t.clone() for batch in order for t in recording._tensors(batch)]
    found = []
    for recorded in (False, True):
        net, strategy, recorder = network(), gleam.Greedy(2), Recorder()
        optimizers = strategies.optimizers(strategy, net, learning_rate=1e-3)
        step = Replay(strategy, record=recorder, offset=lambda device: 0) if recorded else strategy.step
        found.append(trained(step, net, optimizers, order))
    (losses, state), (replayed_losses, replayed_state) = found
    assert recorder.n_recorded == 1 and step.recorded == tuple((t.shape, t.dtype) for t in recording._tensors(even[0]))
    assert all(map(torch.equal, before, [t for b in order for t in recording._tensors(b)]))
    assert torch.equal(losses, replayed_losses)
    assert weights_equal(state, replayed_state)


@pytest.mark.parametrize("seeds_anew", [False, True])
@pytest.mark.parametrize("i", range(3))
def test_a_network_that_draws_random_numbers_takes_ordinary_steps(i, seeds_anew):
    net, strategy, recorder, drawn, n_steps = network(), gleam.Greedy(2), Recorder(), [], []
    if seeds_anew:  # as gleam.fit does, before every iteration
        for iteration in net.iterations:
            iteration.register_forward_pre_hook(lambda *_: drawn.clear())
    net.iterations[i].denoiser.register_forward_hook(lambda *_: drawn.append(n_steps.append(1)))
    replay = Replay(strategy, record=recorder, offset=lambda device: len(drawn))
    trained(replay, net, strategies.optimizers(strategy, net, learning_rate=1e-3), batches(6))
    assert recorder.n_recorded == 0
    assert len(n_steps) == 6


def test_steps_that_a_graph_cannot_hold_are_ordinary():
    net, batch, recorder = network(), batches(1)[0], Recorder()
    unfused = [torch.optim.Adam(group, fused=False) for group in strategies.parameters_by_module(gleam.Greedy(2), net)]
    trained(Replay(gleam.Greedy(2), record=recorder, offset=lambda device: 0), net, unfused, [batch] * 5)
    assert recorder.n_recorded == 0


def test_only_a_gpu_pads_channels_and_the_options_arrive():
    for device_type, n_channels in (("cpu", 5), ("cuda", 8)):
        with gleam.Fast(gleam.EndToEnd(), "fp32", compiled=True)._execution(device_type):
            assert execution.padded(5) == n_channels and execution.compiles()


def test_optimizers_are_capturable_in_a_recording_only():
    def recorder(step, device):
        seen.extend(optimizer.param_groups[0]["capturable"] for optimizer in optimizers)
        return lambda: None, []

    net, seen, replay = network(), [], Replay(gleam.Greedy(2), record=recorder, offset=lambda device: 0)
    optimizers = strategies.optimizers(gleam.Greedy(2), net, learning_rate=1e-3)
    for batch in batches(4):
        assert not any(optimizer.param_groups[0]["capturable"] for optimizer in optimizers)
        replay(net, batch, optimizers)
    assert seen == [True, True]
    assert not any(optimizer.param_groups[0]["capturable"] for optimizer in optimizers)


def test_the_learning_rate_of_a_captured_step_is_a_tensor_that_is_written_in_place():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([weight], lr=torch.tensor(1.0))
    rate = optimizer.param_groups[0]["lr"]
    strategies.updates.set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_a_graph_ends_with_the_run_that_it_belongs_to():
    strategy, net = gleam.Fast(gleam.Greedy(2)), network()
    optimizers = strategies.optimizers(strategy, net, learning_rate=1e-3)
    first = strategy._replay(optimizers[0])
    assert strategy._replay(optimizers[0]) is first
    assert gleam.Fast(gleam.Greedy(2), precision="fp32")._replay(optimizers[0]) is not first
    before = len(fast._REPLAYS)
    del optimizers
    gc.collect()
    assert len(fast._REPLAYS) == before - 1


def test_a_step_that_cannot_be_recorded_is_one_sentence():
    def recorder(step, device):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")

    network, batch = gleam.unrolled.pgd(2, 3, seed=0), random_batch()
    strategy = gleam.Greedy(2)
    own = strategies.optimizers(strategy, network, learning_rate=1e-3)
    replay = Replay(strategy, record=recorder, offset=lambda device: 0)
    for _ in range(N_WARMUP_STEPS):
        replay(network, batch, own)
    with pytest.raises(RuntimeError, match=r"Greedy\(n_modules=2.*capturing\); give gleam.Fast captured=False$"):
        replay(network, batch, own)
