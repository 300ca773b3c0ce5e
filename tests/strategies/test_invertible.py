"""The invertible CNN, its Lipschitz constant, and the inverse of a MoDL iteration."""

import pytest
import torch
from problems import complex_normal, random_batch

from gleam import unrolled
from gleam.metrics import relative_error
from gleam.networks.denoisers import PlainCNN, ResidualCNN, operator_norm
from gleam.networks.iterations import AsPublished, MoDLIteration, Unwatched
from gleam.physics.losses import complex_l1
from gleam.physics.solvers import NotConverged, fixed_point
from gleam.strategies import EndToEnd, Invertible, gradient
from gleam.strategies.inversion import inversion_errors

SHAPES = {2: (13, 11), 3: (4, 7, 6)}


def network(n_dims=2, gain=1.0, **keywords):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cnn = PlainCNN(8, n_dims=n_dims, **keywords).double()
    with torch.no_grad():
        for weight in cnn.parameters():
            weight.mul_(gain)
    return cnn


def image(n_dims=2, n=2, seed=0):
    return complex_normal(n, *SHAPES[n_dims], seed=seed, dtype=torch.complex128)


def steepest(function, x, n_iterations=12):
    """Norm of the Jacobian of ``function`` at x by power iteration on J^H J: J by a difference, J^H by autograd."""
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    for _ in range(n_iterations):
        direction = direction / direction.norm()
        forward = (function(x + 1e-7 * direction) - function(x - 1e-7 * direction)) / 2e-7
        start = x.clone().requires_grad_()
        (direction,) = torch.autograd.grad(function(start), start, forward)
    return forward.norm().item()


def test_70_features_are_the_papers_count_and_the_constraint_adds_none():
    for keywords in ({}, {"lipschitz": 0.9}):
        net = unrolled.modl(n_iterations=1, n_features=70, **keywords)
        assert sum(p.numel() for p in net.parameters()) == 134_820 == sum(v.numel() for v in net.state_dict().values())


@pytest.mark.parametrize("n_dims", [2, 3])
def test_operator_norm_is_above_the_norm_on_any_image_and_close_to_it(n_dims):
    for n_in, n_out in [(2, 6), (6, 6), (6, 2)]:
        weight = torch.randn(
            n_out, n_in, *[3] * n_dims, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        )
        convolve = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[n_dims]
        x = torch.randn(1, n_in, *[24 if n_dims == 2 else 10] * n_dims, dtype=torch.float64)
        norm = steepest(lambda x, w=weight, f=convolve: f(x, w, padding=1), x, n_iterations=100)
        assert norm < operator_norm(weight) < 1.3 * norm


def test_operator_norm_has_the_derivative_of_a_norm():
    """d norm(W) = norm(W) along W itself, and a finite difference along another direction."""
    weight, other = torch.randn(2, 5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(operator_norm(weight), weight)
    assert (gradient * weight).sum().item() == pytest.approx(operator_norm(weight).item())
    difference = operator_norm(weight + 1e-4 * other) - operator_norm(weight - 1e-4 * other)
    assert (gradient * other).sum().item() == pytest.approx(difference.item() / 2e-4, rel=0.05)
    assert operator_norm(torch.zeros(5, 4, 3, 3, requires_grad=True)) == 0


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_a_constrained_network_is_a_contraction_and_its_inverse_is_one(n_dims, gain):
    free, held = (network(n_dims, gain, lipschitz=bound) for bound in (None, 0.9))
    x, other = image(n_dims), image(n_dims, seed=5)
    slope = steepest(held.residual, x)
    assert slope < 0.9
    if gain > 1:
        assert steepest(free.residual, x) > 1
    assert (held.residual(x) - held.residual(other)).norm() < 0.9 * (x - other).norm()
    torch.testing.assert_close(held.inverse(held(x)), x, rtol=0, atol=1e-12)
    assert held.inverse(held(x).to(torch.complex128)).grad_fn is None


def test_the_constraint_leaves_a_network_below_it_alone():
    free, held = network(gain=0.3), network(gain=0.3, lipschitz=0.9)
    assert free.lipschitz_bound() < 0.9
    torch.testing.assert_close(free(image()), held(image()), rtol=0, atol=0)


def test_gradients_know_of_the_constraint():
    """A stronger weight changes nothing where the constraint acts: the loss is flat along the weights."""
    held = network(gain=2.0, lipschitz=0.9)
    gradients = torch.autograd.grad(held(image()).abs().square().sum(), list(held.parameters()))
    along = sum((g * p).sum() for g, p in zip(gradients, held.parameters(), strict=True))
    assert abs(along) < 1e-10 * sum(g.norm() * p.norm() for g, p in zip(gradients, held.parameters(), strict=True))
    assert all(g.norm() > 0 for g in gradients)


def test_the_same_weights_give_the_same_image_whatever_was_computed_before():
    held = network(gain=2.0, lipschitz=0.9)
    first = held(image())
    held(image(seed=3)), held.inverse(first)
    restored = network(lipschitz=0.9)
    restored.load_state_dict(held.state_dict())
    assert torch.equal(held(image()), first) and torch.equal(restored(image()), first)


def test_an_inverse_that_does_not_converge_says_so():
    free = network(gain=4.0)
    with pytest.raises(NotConverged, match=r"did not converge: its last step still changed x by .* lipschitz=0.9"):
        free.inverse(image())
    with pytest.raises(ValueError, match="did not converge"):
        network(gain=2.5, lipschitz=0.9).inverse(image(), n_iterations=1)


@pytest.mark.parametrize("bound", [0, 1, 1.5, -0.1])
def test_a_bound_that_does_not_make_it_invertible_is_refused(bound):
    with pytest.raises(ValueError, match="between 0 and 1"):
        PlainCNN(4, lipschitz=bound)


def test_fixed_point_treats_every_example_on_its_own():
    factor = torch.tensor([[0.5], [-0.9], [3.0], [1e30]], dtype=torch.float64)
    start = torch.ones(4, 3, dtype=torch.float64)
    x, residual = fixed_point(lambda x: 1 + factor * x, start, n_iterations=400)
    torch.testing.assert_close(x[:2], (1 / (1 - factor[:2])).expand(2, 3))
    assert (residual[:2] < 1e-14).all() and (residual[2:] > 0.5).all() and x.isfinite().all()
    alone, _ = fixed_point(lambda x: 1 + factor[:1] * x, start[:1], n_iterations=400)
    torch.testing.assert_close(alone, x[:1])


def test_fixed_point_stops_when_it_is_done_and_when_it_is_hopeless():
    calls = []

    def counted(factor):
        return lambda x: (calls.append(factor), 1 + factor * x)[1]

    start = torch.ones(1, 2)
    fixed_point(counted(0.1), start)
    assert len(calls) < 12
    _, residual = fixed_point(lambda x: x * torch.nan, start)
    assert residual.isinf().all()
    with pytest.raises(ValueError, match="at least 1"):
        fixed_point(counted(0.1), start, n_iterations=0)


@pytest.mark.parametrize(("mu", "n_frames"), [(4.0, None), (0.5, None), (4.0, 3)])
def test_inverse_of_an_iteration_gives_its_input_back(mu, n_frames):
    batch = random_batch(n_frames=n_frames)
    net = unrolled.modl(2, 6, n_dims=2 if n_frames is None else 3, mu=mu, n_cg=20, lipschitz=0.9)
    assert max(inversion_errors(net, batch)) < 2e-5
    x = batch.target
    torch.testing.assert_close(net.iterations[0].inverse(net.iterations[0](x, batch), batch), x, rtol=0, atol=1e-4)


def test_few_steps_of_conjugate_gradients_and_small_mu_cannot_be_inverted(batch):
    errors = {
        (mu, n): inversion_errors(unrolled.modl(4, 6, mu=mu, n_cg=n), batch) for mu in (0.05, 4.0) for n in (3, 10)
    }
    assert errors[0.05, 3][-1] > 20 * errors[0.05, 10][-1] > 20 * errors[4.0, 10][-1]
    assert errors[0.05, 10][0] > 100 * errors[0.05, 10][-1]


def test_inverses_to_look_at_failures_raise_no_error_and_the_published_one_takes_the_output_twice(batch):
    watched, unwatched, published = (
        unrolled.modl(1, 6, mu=4.0, n_cg=20, lipschitz=0.9, iteration=kind).iterations[0]
        for kind in (MoDLIteration, Unwatched, AsPublished)
    )
    x_next = watched(batch.target, batch)
    assert torch.equal(unwatched.inverse(x_next, batch), watched.inverse(x_next, batch))
    z = watched.before_data_consistency(x_next, batch)
    torch.testing.assert_close(published.before_data_consistency(x_next, batch), z + x_next)
    for iteration in (watched, unwatched, published):
        iteration.denoiser.lipschitz = None
        for weight in iteration.denoiser.parameters():
            weight.data.mul_(30)
    with pytest.raises(NotConverged):
        watched.inverse(x_next, batch)
    assert all(iteration.inverse(x_next, batch).shape == x_next.shape for iteration in (unwatched, published))


def test_a_cnn_without_an_inverse_is_named(batch):
    iteration = unrolled.MoDLIteration(ResidualCNN(4), mu=1.0)
    with pytest.raises(ValueError, match="ResidualCNN cannot be inverted"):
        iteration.inverse(batch.target, batch)


def test_the_gradient_with_all_inputs_kept_is_that_of_backpropagation():
    net, batch = unrolled.modl(3, 4, seed=0), random_batch()
    whole = gradient(net, EndToEnd(), batch)
    assert whole.shape == (sum(p.numel() for p in net.parameters()),)
    assert relative_error(gradient(net, Invertible(3), batch), whole) < 1e-5
    doubled = gradient(net, EndToEnd(), batch, lambda image, own: 2 * complex_l1(image, own))
    torch.testing.assert_close(doubled, 2 * whole)
    assert all(p.grad is None for p in net.parameters())
