import pytest
import torch

from gleam.cost import memory
from gleam.networks.convolutions import Conv3d


def inputs(n, n_in, n_frames, n_out, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, n_in, n_frames, 7, 6, generator=generator, dtype=dtype, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return x, Conv3d(n_in, n_out, 3, padding=1, bias=False).to(dtype)


@pytest.mark.parametrize(("n", "n_in", "n_frames", "n_out"), [(1, 2, 1, 5), (2, 3, 2, 2), (1, 4, 4, 3), (2, 3, 9, 4)])
def test_it_is_torchs_3d_convolution_with_its_gradients(n, n_in, n_frames, n_out):
    x, layer = inputs(n, n_in, n_frames, n_out)
    results = []
    for y in (layer(x), torch.nn.functional.conv3d(x, layer.weight, padding=1)):
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
        results.append([y, *torch.autograd.grad((y * weight).sum(), [x, layer.weight])])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("size", "bias"), [(1, True), (1, False), (3, True)])
def test_kernels_of_one_and_biases_too(size, bias):
    x, _ = inputs(2, 3, 6, 2)
    layer = Conv3d(3, 4, size, padding=size // 2, bias=bias).double()
    results = []
    for y in (layer(x), torch.nn.functional.conv3d(x, layer.weight, layer.bias, padding=size // 2)):
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    torch.testing.assert_close(*results)


def test_other_kernels_are_left_to_torch():
    x, _ = inputs(1, 3, 4, 2)
    for layer in (Conv3d(3, 2, 3), Conv3d(3, 2, (1, 3, 3), padding=(0, 1, 1))):
        layer = layer.double()
        expected = torch.nn.functional.conv3d(x, layer.weight, layer.bias, padding=layer.padding)
        torch.testing.assert_close(layer(x), expected)


def test_nothing_but_its_input_is_kept_for_the_way_back():
    x, layer = inputs(1, 8, 24, 8)
    with torch.no_grad(), memory.LiveBytes(held=[x, layer.weight]) as without:
        layer(x)
    with memory.LiveBytes(held=[x, layer.weight]) as live:
        y = layer(x)
        assert live.live <= without.live + y.nbytes + 1024
    del y
