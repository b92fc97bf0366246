"""The update rule: exact to a few units in the last place, and safe at the ends of the range."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.test_util import check_grads

from adadelta_jax._update_rule import _power_of_two_near_inverse_root, update_rule
from tests.exact_arithmetic import exact_step, units_in_the_last_place

SETTINGS = [(0.9, 1e-6), (0.95, 1e-8), (0.9, 1e-2), (0.99, 1e-4), (0.999, 1e-12)]
LARGEST = np.finfo(np.float32).max
LIMIT = np.float32(math.sqrt(LARGEST) * (1 - 2**-12))  # a larger gradient counts as this one


def ours(grad, square_avg, acc_delta, rho, eps):
    step = jax.jit(lambda *arrays: update_rule(*arrays, rho=rho, eps=eps))
    return [np.asarray(x) for x in step(grad, square_avg, acc_delta)]


def by_optax(grad, square_avg, acc_delta, rho, eps):
    transform = optax.scale_by_adadelta(rho, eps)
    state = transform.init(jnp.asarray(grad))._replace(e_g=square_avg, e_x=acc_delta)
    delta, state = jax.jit(transform.update)(grad, state)
    return [np.asarray(x) for x in (delta, state.e_g, state.e_x)]


def by_torch(grad, square_avg, acc_delta, rho, eps):
    param = torch.zeros(grad.shape, dtype=torch.float32)  # so that what is added to it is -Δ
    param.grad = torch.from_numpy(grad.copy())
    optimizer = torch.optim.Adadelta([param], rho=rho, eps=eps)
    v, u = (torch.from_numpy(x.copy()) for x in (square_avg, acc_delta))
    optimizer.state[param] = {"step": torch.tensor(0.0), "square_avg": v, "acc_delta": u}
    optimizer.step()
    return [-param.numpy(), v.numpy(), u.numpy()]


def powers(rng, low, high, size):
    """Numbers whose binary logarithms are spread evenly."""
    return np.exp2(rng.uniform(low, high, size)).astype(np.float32)


def signs(rng, size):
    return rng.choice(np.array([-1, 1], np.float32), size)


def states_of_training(size, seed=0):
    """Gradients of every magnitude met in training, with v near g² and u from tiny to large."""
    rng = np.random.default_rng(seed)
    grad = powers(rng, -20, 20, size)
    square_avg = grad * grad * powers(rng, -6, 6, size)
    return grad * signs(rng, size), square_avg, powers(rng, -40, 5, size)


def states_over_the_whole_range(size, seed=1):
    """|g| from 1e-38 to 3e38, v from its smallest to its largest, and u from 1e-18 to 1e6."""
    rng = np.random.default_rng(seed)
    grad = powers(rng, -126, 127.9, size) * signs(rng, size)
    return grad, powers(rng, -126, 127.9, size), powers(rng, -60, 20, size)


def clipped(arrays):
    return (np.clip(arrays[0], -LIMIT, LIMIT), *arrays[1:])


@pytest.mark.parametrize(("rho", "eps"), SETTINGS)
def test_in_training_it_is_nearer_to_exact_arithmetic_than_torch_and_optax(rho, eps):
    arrays = states_of_training(200_000)
    exact = exact_step(*arrays, rho, eps)[0]
    error, of_optax, of_torch = (
        units_in_the_last_place(step(*arrays, rho, eps)[0], exact)
        for step in (ours, by_optax, by_torch)
    )
    assert error.mean() <= min(0.47, of_optax.mean(), of_torch.mean())
    assert error.max() <= min(3.5, of_optax.max(), of_torch.max())


@pytest.mark.parametrize(("rho", "eps"), SETTINGS)
def test_over_the_whole_range_every_normal_result_is_right_to_the_last_places(rho, eps):
    arrays = states_over_the_whole_range(200_000)
    delta, square_avg, acc_delta = ours(*arrays, rho, eps)
    exact_delta, exact_v, exact_u = exact_step(*clipped(arrays), rho, eps)
    error = units_in_the_last_place(delta, exact_delta)
    assert len(error) > 150_000  # the rest lie below the normal range
    assert error.max() <= 3.5
    assert error.mean() <= 0.47
    assert units_in_the_last_place(acc_delta, exact_u).max() <= 5
    # XLA's CPU backend takes what is below the normal range for zero, here g² where v is as small.
    large_enough = exact_v > np.finfo(np.float32).tiny * 2.0**26
    assert units_in_the_last_place(square_avg[large_enough], exact_v[large_enough]).max() <= 2.5


def test_a_gradient_within_the_range_of_its_square_is_not_clipped():
    arrays = states_over_the_whole_range(100_000)
    within = np.abs(arrays[0]) <= 1.8e19
    arrays = tuple(x[within] for x in arrays)
    error = units_in_the_last_place(ours(*arrays, 0.9, 1e-6)[0], exact_step(*arrays, 0.9, 1e-6)[0])
    assert error.max() <= 3.5


def test_where_the_plain_quotient_underflows_it_is_right_and_optax_squared_is_not():
    size = 10_000
    rng = np.random.default_rng(2)
    square_avg = powers(rng, 110, 127, size)
    arrays = powers(rng, 40, 60, size), square_avg, np.zeros(size, np.float32)
    quotient = np.float32(1e-8) / square_avg
    assert np.mean(quotient < np.finfo(np.float32).tiny) > 0.9
    error = units_in_the_last_place(ours(*arrays, 0.9, 1e-8)[0], exact_step(*arrays, 0.9, 1e-8)[0])
    assert error.max() <= 3.5


def test_float64_is_as_exact():
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        size = 2_000
        grad = np.exp2(rng.uniform(-400, 400, size)) * rng.choice([-1, 1], size)
        square_avg = grad**2 * np.exp2(rng.uniform(-20, 20, size))
        acc_delta = np.exp2(rng.uniform(-300, 100, size))
        delta, v, u = ours(grad, square_avg, acc_delta, 0.9, 1e-6)
        exact = exact_step(grad, square_avg, acc_delta, 0.9, 1e-6, digits=40)
    assert delta.dtype == np.float64
    assert units_in_the_last_place(delta, exact[0]).max() <= 3.5
    assert units_in_the_last_place(v, exact[1]).max() <= 2.5
    assert units_in_the_last_place(u, exact[2]).max() <= 5


def test_long_doubles_are_exact_enough_to_judge_float32():
    arrays = tuple(x[:300] for x in states_over_the_whole_range(300))
    for exact, more_exact in zip(
        exact_step(*arrays, 0.9, 1e-6), exact_step(*arrays, 0.9, 1e-6, digits=60), strict=True
    ):
        np.testing.assert_allclose(exact.astype(float) / more_exact.astype(float), 1, rtol=1e-15)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("rho", [0.0, 0.9, 0.95, 1.0])
def test_a_zero_gradient_gives_a_zero_update_and_decays_both_averages_by_rho(rho, eps):
    averages = np.concatenate(
        [[0.0, 1.0, LARGEST], powers(np.random.default_rng(4), -100, 127, 500)]
    )
    square_avg, acc_delta = (x.ravel() for x in np.meshgrid(*[averages.astype(np.float32)] * 2))
    delta, v, u = ours(np.zeros_like(square_avg), square_avg, acc_delta, rho, eps)
    np.testing.assert_array_equal(delta, 0)
    np.testing.assert_array_equal(v, np.float32(rho) * square_avg)
    np.testing.assert_array_equal(u, np.float32(rho) * acc_delta)


def test_the_update_is_odd_in_the_gradient_to_the_bit():
    grad, *averages = states_over_the_whole_range(10_000)
    there, back = ours(grad, *averages, 0.9, 1e-6), ours(-grad, *averages, 0.9, 1e-6)
    np.testing.assert_array_equal(there[0], -back[0])
    np.testing.assert_array_equal(there[1:], back[1:])


@pytest.mark.parametrize("exponent", [-20, -1, 1, 20])
def test_gradients_in_other_units_give_the_same_update_to_the_bit(exponent):
    grad, square_avg, acc_delta = states_of_training(10_000)
    unit = np.float32(2.0**exponent)
    delta, _, u = ours(grad, square_avg, acc_delta, 0.9, 0.0)
    again, _, u_again = ours(grad * unit, square_avg * unit**2, acc_delta, 0.9, 0.0)
    np.testing.assert_array_equal(again, delta)
    np.testing.assert_array_equal(u_again, u)


@pytest.mark.parametrize("eps", [0.0, 1e-30, 1e-6, 1.0])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.999])
def test_finite_input_gives_finite_output_and_a_bounded_update(rho, eps):
    ends = np.float32([0, 1e-38, 1e-30, 1e-6, 1, 1e6, 1e19, 1.9e19, 1e30, LARGEST])
    grad, square_avg, acc_delta = (x.ravel() for x in np.meshgrid(ends, ends, ends))
    delta, v, u = ours(grad, square_avg, acc_delta, rho, eps)
    assert np.isfinite([delta, v, u]).all()
    assert (v >= 0).all()
    assert (u >= 0).all()
    bound = np.sqrt((acc_delta.astype(float) + eps) / (1 - rho))
    assert (np.abs(delta) <= bound * (1 + 1e-6)).all()


def test_a_gradient_whose_square_overflows_freezes_a_parameter_in_the_peers_but_not_here():
    def delta_after(step):
        """Δ for a gradient of 1, a huge one and 1,000 small ones later: ρ¹⁰⁰⁰ is 1e-46."""
        v = u = np.zeros(1, np.float32)
        for grad in (1e30, *[1e-3] * 1_000, 1.0):
            delta, v, u = step(np.float32([grad]), v, u)
        return delta

    jitted = jax.jit(lambda *arrays: update_rule(*arrays, rho=0.9, eps=1e-6))
    assert (delta_after(jitted) > 1e-4).all()
    for peer in (by_optax, by_torch):
        _, v, u = peer(np.float32([1e30]), *np.zeros((2, 1), np.float32), 0.9, 1e-6)
        assert np.isinf(v).all()
        assert not (
            peer(np.float32([1.0]), v, np.nan_to_num(u), 0.9, 1e-6)[0] > 0
        ).any()


def test_a_nan_is_not_hidden():
    nan, one = np.float32([np.nan]), np.float32([1.0])
    for arrays in ((nan, one, one), (one, nan, one), (one, one, nan)):
        delta, v, u = ours(*arrays, 0.9, 1e-6)
        assert np.isnan(delta).all()
        assert np.isnan(v).all() == np.isnan(arrays[:2]).any()
        assert np.isnan(u).all()


def test_jit_eager_and_vmap_agree():
    arrays = states_over_the_whole_range(2_000)
    expected = ours(*arrays, 0.9, 1e-6)
    eager = update_rule(*map(jnp.asarray, arrays), rho=0.9, eps=1e-6)
    mapped = jax.jit(jax.vmap(lambda *x: update_rule(*x, rho=0.9, eps=1e-6)))(*arrays)
    for result in (eager, mapped):
        for each, of_jit in zip(result, expected, strict=True):
            # LLVM may contract a product and a sum into one rounding within a compiled pass.
            np.testing.assert_allclose(each, of_jit, rtol=4e-7, atol=1e-37)


@pytest.mark.parametrize("averages", [(0.0, 0.0), (0.2, 1e-3)])
def test_derivatives_are_those_of_finite_differences_and_never_nan(averages):
    with jax.enable_x64(True):
        grad = jnp.array([0.3, -2.0, 0.01])
        v, u = (jnp.full(3, average) for average in averages)
        rho, eps = jnp.array(0.9), jnp.array(1e-3)

        def rule(grad, v, u, rho, eps):
            return update_rule(grad, v, u, rho=rho, eps=eps)

        check_grads(
            rule, (grad, v + 1e-2, u + 1e-3, rho, eps), order=2, eps=1e-5, rtol=1e-3, atol=1e-3
        )
        jacobian = jax.jacrev(rule, argnums=range(5))(grad, v, u, rho, eps)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jacobian))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_scale_is_a_power_of_two_that_brings_every_normal_number_near_one(dtype):
    with jax.enable_x64(True):
        info = np.finfo(dtype)
        x = np.exp2(np.random.default_rng(5).uniform(info.minexp, info.maxexp - 1e-3, 10_000))
        x = np.concatenate([x, [info.tiny, 1.0, info.max]]).astype(dtype)
        scale = np.asarray(_power_of_two_near_inverse_root(jnp.asarray(x)))
        assert (np.frexp(scale)[0] == 0.5).all()
        scaled = x * scale * scale
        assert ((scaled >= 2**21) & (scaled < 2**23)).all()
