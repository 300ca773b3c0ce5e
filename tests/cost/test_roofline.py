import copy
import math
import time
from dataclasses import fields

import pytest
import torch
from problems import complex_normal, random_batch
from torch.utils.flop_counter import FlopCounterMode

import gleam
from gleam import execution, unrolled
from gleam.cost import roofline
from gleam.cost.roofline import TimedStep, Work, work
from gleam.metrics import complex_l1
from gleam.physics.batch import Batch
from gleam.strategies.fast import Fast

SHAPE = (32, 16)  # powers of two: the logarithms are whole
N, FEATURES, COILS = 4, 8, 3


def batch_of(n, shape=SHAPE, n_coils=COILS, n_frames=None):
    """A batch that has the right shapes and no content."""
    time, one = ([], []) if n_frames is None else ([n_frames], [1])
    image = torch.zeros(n, *time, *shape, dtype=torch.complex64)
    maps = torch.zeros(n, n_coils, *one, *shape, dtype=torch.complex64)
    return Batch(maps * image[:, None], torch.ones(n, 1, *time, *shape), maps, image, image, torch.ones(n))


def multiply_adds(features):
    """Of PGD's CNN per pixel: (in all, in the layers that see its input, in its last layer)."""
    first = 2 * features + 9 * 2 * features
    last = 9 * features * 2
    return first + 3 * 9 * features**2 + last, first, last


def flops_of_normal(batch):
    """A^H A has two Fourier transforms per coil and frame."""
    n = math.prod(batch.kspace.shape[-2:])
    return 2 * math.prod(batch.kspace.shape[:-2]) * round(5 * n * math.log2(n))


def flops_of_pgd(batch, features, n_iterations, n_starts=1):
    """Forward and backward, without input gradients of the iterations that start a module."""
    n_pixels = math.prod(batch.target.shape)
    in_all, first, _ = multiply_adds(features)
    convolutions = 2 * n_pixels * (3 * in_all * n_iterations - first * n_starts)
    return convolutions + flops_of_normal(batch) * (2 * n_iterations - n_starts)


def test_flops_of_pgd_at_the_papers_size_are_those_of_its_layers():
    batch = batch_of(4, (320, 256), n_coils=8)
    flops = work(unrolled.pgd(8, 100), gleam.EndToEnd(), batch, computed=False).flops
    assert flops == pytest.approx(flops_of_pgd(batch, 100, 8), rel=1e-9)  # the logarithm of 320 is not whole
    assert flops == pytest.approx(4.3e12, rel=0.01)
    assert multiply_adds(100)[0] == 273_800


def test_flops_are_in_proportion_to_the_batch_and_bytes_grow_evenly():
    one, two, three = (work(unrolled.pgd(2, FEATURES), gleam.Greedy(2), batch_of(n)) for n in (1, 2, 3))
    assert two.flops == 2 * one.flops and three.flops == 3 * one.flops
    assert three.bytes - two.bytes == two.bytes - one.bytes > 0  # weights and optimizer do not depend on the batch
    assert one.bytes > two.bytes - one.bytes
    timed = TimedStep(one, seconds=0.5)
    assert (timed.flops_per_second, timed.bytes_per_second) == (2 * one.flops, 2 * one.bytes)
    assert timed.point == (one.flops / one.bytes, 2 * one.flops)
    assert one.intensity == one.flops / one.bytes


@pytest.mark.parametrize("n_modules", [1, 2, N])
def test_a_module_spares_only_the_gradient_of_its_input(n_modules):
    batch = batch_of(2)
    found = work(unrolled.pgd(N, FEATURES), gleam.Greedy(n_modules), batch)
    assert found.flops == flops_of_pgd(batch, FEATURES, N, n_starts=n_modules)


def test_checkpointing_computes_the_forward_pass_again_and_offloading_nothing():
    batch = batch_of(1)
    forward = 2 * math.prod(batch.target.shape) * multiply_adds(FEATURES)[0] * N + flops_of_normal(batch) * N
    unneeded = 2 * math.prod(batch.target.shape) * multiply_adds(FEATURES)[2] * N  # outputs that no gradient asks for
    network = unrolled.pgd(N, FEATURES)
    plain, again, offloaded = (
        work(network, strategy, batch).flops for strategy in (gleam.EndToEnd(), gleam.Checkpointed(), gleam.Offloaded())
    )
    assert again == plain + forward - unneeded and offloaded == plain
    assert again / plain == pytest.approx(4 / 3, rel=0.03)


def test_flops_of_modl_contain_every_step_of_conjugate_gradients():
    batch = batch_of(1)
    few, many = (work(unrolled.modl(2, 4, n_cg=n), gleam.EndToEnd(), batch).flops for n in (2, 5))
    assert many - few == 3 * 2 * 2 * flops_of_normal(batch)  # steps, iterations, forward and backward


def test_convolutions_are_counted_as_torch_counts_them():
    batch, network = batch_of(2), unrolled.pgd(2, 4)
    fourier = flops_of_normal(batch) * 3  # forward of both iterations, backward of the second
    with FlopCounterMode(display=False) as counter:
        complex_l1(network(batch), batch.target).backward()
    assert work(network, gleam.EndToEnd(), batch).flops == counter.get_total_flops() + fourier


def test_inversions_count():
    batch = random_batch(shape=(32, 24))
    network = unrolled.modl(2, 4, mu=4.0, lipschitz=0.5)
    inverted, again, plain = (
        work(network, strategy, batch).flops
        for strategy in (gleam.Invertible(n_checkpoints=0), gleam.Checkpointed(), gleam.EndToEnd())
    )
    assert inverted > again > plain


def test_3d_convolutions_of_a_cpu_are_seen_both_ways():
    batch = batch_of(1, n_frames=5)
    first, skip, others = 27 * 2 * FEATURES, 2 * FEATURES, 3 * 27 * FEATURES**2 + 27 * FEATURES * 2
    per_pixel = 3 * (first + others) + 2 * skip  # on a CPU the first layer has its input gradient, the skip has not
    found = work(unrolled.pgd(1, FEATURES, n_dims=3), gleam.EndToEnd(), batch)
    assert found.flops == 2 * math.prod(batch.target.shape) * per_pixel + flops_of_normal(batch)


@pytest.mark.parametrize(
    "network, strategy, n_frames",
    [
        (unrolled.pgd(2, 4), gleam.Greedy(2), None),
        (unrolled.pgd(2, 4), Fast(gleam.EndToEnd()), None),
        (unrolled.modl(2, 4, n_cg=1), gleam.Checkpointed(), None),
        (unrolled.pgd(1, 4, n_dims=3), gleam.EndToEnd(), 3),
    ],
    ids=["PGD", "PGD in bf16", "MoDL", "PGD 3D"],
)
def test_shapes_alone_tell_the_same(network, strategy, n_frames):
    batch = random_batch(shape=(32, 24), n_frames=n_frames)
    assert work(network, strategy, batch, computed=False) == work(network, strategy, batch)


def test_a_smaller_format_moves_less_and_what_is_done_for_speed_is_no_work():
    batch, network = batch_of(1), unrolled.pgd(1, 64)
    plain, bf16 = (work(network, strategy, batch) for strategy in (gleam.EndToEnd(), Fast(gleam.EndToEnd())))
    assert bf16.flops == plain.flops and 0.5 * plain.bytes < bf16.bytes < 0.8 * plain.bytes
    assert work(network, Fast(gleam.EndToEnd(), compiled=True, channel_multiple=128), batch) == bf16


def test_counting_leaves_network_and_batch_as_they_are():
    batch, network = random_batch(shape=(32, 24)), unrolled.pgd(2, 4).eval()
    held = copy.deepcopy(network.state_dict()), {f.name: getattr(batch, f.name).clone() for f in fields(batch)}
    for computed in (True, False):
        work(network, gleam.Greedy(2), batch, computed=computed)
    assert not network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, held[0][key]) for key, value in network.state_dict().items())
    assert all(torch.equal(getattr(batch, key), value) for key, value in held[1].items())
    network(batch)  # nothing without values was left in the batch


@pytest.mark.parametrize("strategy", [gleam.Invertible(), gleam.Offloaded(), gleam.Greedy(2, within=gleam.Offloaded())])
def test_what_depends_on_values_is_not_counted_from_shapes(strategy):
    with pytest.raises(ValueError, match="computed=True"):
        work(unrolled.modl(2, 4), strategy, batch_of(1), computed=False)


@pytest.mark.parametrize(
    "call, n_bytes",
    [
        (lambda a, b: a + b, 3 * 480),
        (lambda a, b: a.add_(b), 3 * 480),  # read twice, written once
        (lambda a, b: torch.add(a, b, out=b), 3 * 480),
        (lambda a, b: a.copy_(b), 2 * 480),
        (lambda a, b: a.zero_(), 480),
        (lambda a, b: a[:6].mul(2), 2 * 240),
        (lambda a, b: a[:1].expand(12, 10) + b, 40 + 2 * 480),
        (lambda a, b: a.view(10, 12).t()[1:], 0),
        (lambda a, b: torch.empty_like(a), 0),
        (lambda a, b: torch.zeros_like(a), 480),
        (lambda a, b: torch._foreach_add_([a], [b]), 3 * 480),
    ],
)
def test_traffic_is_every_input_once_and_every_output_once(call, n_bytes):
    a, b = torch.ones(12, 10), torch.ones(12, 10)
    with roofline._Counter() as counter:
        call(a, b)
    assert counter.bytes == n_bytes


def test_the_lower_of_two_limits_decides():
    limits = {"fp32_flops_per_second": 60.0, "bf16_flops_per_second": 500.0, "copy_bytes_per_second": 4.0}
    assert TimedStep(Work(200, 10), seconds=1).share(limits) == 200 / 60
    assert TimedStep(Work(200, 10), seconds=1, precision="bf16").share(limits) == 200 / 80
    assert TimedStep(Work(20, 10), seconds=5).share(limits) == 4 / 8


def test_a_fourier_transform_is_counted_once_over_all_its_axes():
    x = complex_normal(3, 32, 16)
    with roofline._Counter() as counter:
        torch.fft.fft2(x)
    assert counter.flops == 3 * 5 * 512 * 9


def test_limits_of_a_cpu():
    before = torch.backends.cuda.matmul.fp32_precision
    found = roofline.limits("cpu", seconds=0, n=64, n_bytes=2**16)
    assert set(found) == {"bf16_flops_per_second", "fp32_flops_per_second", "copy_bytes_per_second"}
    assert all(0 < rate < math.inf for rate in found.values())
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_limit_is_a_median_over_calls():
    calls = []
    seconds = roofline._seconds_of(lambda: calls.append(time.sleep(0.002)), torch.device("cpu"), 0)
    assert seconds >= 0.002 and len(calls) == roofline.MIN_CALLS + 1


def test_limits_of_a_gpu_need_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a GPU and there is none"):
        roofline.limits("cuda")


def test_limits_are_operations_and_bytes_per_second(monkeypatch):
    asked = []

    def half_a_second(call, device, seconds):
        asked.append((call.args[0].dtype, torch.backends.cuda.matmul.fp32_precision))
        return 0.5

    monkeypatch.setattr(roofline, "_seconds_of", half_a_second)
    found = roofline.limits("cpu", n=64, n_bytes=1000)
    products = {name: 2 * 64**3 / 0.5 for name in ("bf16_flops_per_second", "fp32_flops_per_second")}
    assert found == products | {"copy_bytes_per_second": 2 * 1000 / 0.5}  # read and written
    assert asked[:2] == [(torch.bfloat16, "ieee"), (torch.float32, "ieee")]


def test_channels_padded_for_speed_are_no_work(monkeypatch):
    def as_on_a_gpu(self, _):
        return execution.using(self.precision, device_type="cpu", channel_multiple=self.channel_multiple)

    monkeypatch.setattr(gleam.Fast, "_execution", as_on_a_gpu)
    batch, network = random_batch(), unrolled.pgd(1, 5)
    ways = [gleam.Fast(gleam.EndToEnd(), "bf16", channel_multiple=n) for n in (1, 8)]
    plain, padded = (roofline.work(network, way, batch) for way in ways)
    assert plain == padded
