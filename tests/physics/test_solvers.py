import pickle
from itertools import pairwise

import pytest
import torch
from problems import complex_normal, random_batch

from gleam.physics.solvers import NotConverged, conjugate_gradient


def system(n=2, size=6, seed=0, condition=20.0, dtype=torch.complex128):
    """A batch of Hermitian positive definite matrices of spread eigenvalues, and right hand sides."""
    q, _ = torch.linalg.qr(complex_normal(n, size, size, seed=seed, dtype=dtype))
    eigenvalues = torch.linspace(1 / condition, 1, size, dtype=torch.float64).to(dtype)
    return q @ (eigenvalues[:, None] * q.mH), complex_normal(n, size, seed=seed + 1, dtype=dtype)


def applied(matrix):
    return lambda x: (matrix @ x[..., None])[..., 0]


@pytest.mark.parametrize("implicit", [False, True])
def test_solution_and_both_gradients_equal_a_dense_solve_in_float64(implicit):
    matrix, b = system()
    root = torch.linalg.cholesky(matrix)  # so that the gradient stays among Hermitian matrices
    weight = complex_normal(*b.shape, seed=5, dtype=b.dtype)
    results = []
    for solve in (
        lambda m, b: conjugate_gradient(applied(m), b, n_iterations=30, tolerance=1e-14, implicit=implicit),
        lambda m, b: torch.linalg.solve(m, b),
    ):
        r, c = root.clone().requires_grad_(), b.clone().requires_grad_()
        x = solve(r @ r.mH, c)
        results.append([x, *torch.autograd.grad((weight.conj() * x).real.sum(), [r, c])])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)


def test_gradient_through_few_iterations_is_that_of_the_computed_result():
    """Finite differences: exact also where the solve has not converged, with respect to b, start and operator."""
    matrix, b = system(n=1, size=4)
    start = complex_normal(1, 4, seed=9, dtype=b.dtype)

    def solve(root, b, start):
        return conjugate_gradient(applied(root @ root.mH), b, start, n_iterations=2)

    inputs = [x.clone().requires_grad_() for x in (torch.linalg.cholesky(matrix), b, start)]
    assert torch.autograd.gradcheck(solve, inputs)


def test_a_start_may_be_one_for_all_and_real():
    matrix, b = system()
    start = torch.ones(1, b.shape[1], dtype=torch.float64)
    expected = conjugate_gradient(applied(matrix), b, start.expand_as(b).to(b.dtype).clone(), n_iterations=3)
    torch.testing.assert_close(conjugate_gradient(applied(matrix), b, start, n_iterations=3), expected)


def test_a_second_derivative_is_refused():
    matrix, b = system()
    b.requires_grad_()
    x = conjugate_gradient(applied(matrix), b, n_iterations=3)
    with pytest.raises(RuntimeError, match="only once; leave out create_graph=True"):
        torch.autograd.grad(x.abs().square().sum(), b, create_graph=True)


@pytest.mark.parametrize("n_iterations", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradient_for_any_number_of_iterations_and_real_numbers_too(n_iterations, dtype):
    generator = torch.Generator().manual_seed(4)
    b, start = (torch.randn(2, 3, dtype=dtype, generator=generator, requires_grad=True) for _ in range(2))
    root = torch.randn(2, 3, 3, dtype=dtype, generator=generator)
    matrix = root @ root.mH + torch.eye(3)
    solve = lambda b, start: conjugate_gradient(applied(matrix), b, start, n_iterations=n_iterations)  # noqa: E731
    assert torch.autograd.gradcheck(solve, [b, start])


def test_implicit_gradient_is_exact_only_once_converged():
    matrix, b = system(condition=100.0)
    errors = []
    for n_iterations in (2, 4, 30):
        c = b.clone().requires_grad_()
        x = conjugate_gradient(applied(matrix), c, n_iterations=n_iterations, tolerance=1e-14, implicit=True)
        (gradient,) = torch.autograd.grad(x.abs().square().sum(), c)
        exact = 2 * torch.linalg.solve(matrix, torch.linalg.solve(matrix, b))
        errors.append(float((gradient - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > 1e-3 and errors[2] < 1e-9


@pytest.mark.parametrize("implicit", [False, True])
def test_examples_do_not_touch_each_other(implicit):
    matrix, b = system(n=3)
    b[1] *= 1e6
    together = conjugate_gradient(applied(matrix), b, n_iterations=3, implicit=implicit)
    for i in range(3):
        alone = conjugate_gradient(applied(matrix[i : i + 1]), b[i : i + 1], n_iterations=3, implicit=implicit)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_more_iterations_than_needed_never_give_nan(implicit, dtype):
    """After convergence, with a right hand side of zeros, and from the solution itself."""
    matrix, b = system(dtype=dtype)
    b[0] = 0
    c = b.clone().requires_grad_()
    exact = torch.linalg.solve(matrix, b)
    for start in (None, exact):
        x = conjugate_gradient(applied(matrix), c, start, n_iterations=200, implicit=implicit)
        (gradient,) = torch.autograd.grad(x.abs().square().sum(), c)
        assert x.isfinite().all() and gradient.isfinite().all()
        torch.testing.assert_close(x.detach(), exact, rtol=1e-3, atol=1e-4)


def test_error_in_the_energy_norm_falls_with_every_iteration(batch):
    operator = lambda x: batch.sense.normal(x) + 0.05 * x  # noqa: E731
    truth = batch.target
    b = operator(truth)
    energies = []
    for n_iterations in range(1, 15):
        error = conjugate_gradient(operator, b, n_iterations=n_iterations) - truth
        energies.append((error.conj() * operator(error)).real.sum().item())
    assert all(later < earlier for earlier, later in pairwise(energies))


def test_series_are_solved_too():
    batch = random_batch(n_frames=3)
    operator = lambda x: batch.sense.normal(x) + 0.5 * x  # noqa: E731
    x = conjugate_gradient(operator, operator(batch.target), n_iterations=40)
    torch.testing.assert_close(x, batch.target, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_iterations", [0, 2.5])
def test_no_iteration_is_refused(n_iterations):
    with pytest.raises(ValueError, match="at least 1"):
        conjugate_gradient(lambda x: x, torch.ones(1, 2), n_iterations=n_iterations)


def test_implicit_gradients_are_of_first_order_and_say_so():
    matrix, b = system()
    b.requires_grad_()
    x = conjugate_gradient(applied(matrix), b, implicit=True)
    (gradient,) = torch.autograd.grad(x.abs().square().sum(), b, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.abs().sum().backward()


def test_failure_to_converge_crosses_processes():
    failure = pickle.loads(pickle.dumps(NotConverged("did not", 0.25)))
    assert str(failure) == "did not" and failure.residual == 0.25
