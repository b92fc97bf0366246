"""What the update rule promises besides exactness, for which see test_update_rule_exactness.py."""

from functools import partial
from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from adadelta_jax._core.rule import _power_of_two_near_inverse_root, update_rule

SETTINGS = [(0.9, 1e-6), (0.95, 0.0), (0.0, 1e-6), (0.5, 1.0), (0.999, 1e-30)]
all_settings = pytest.mark.parametrize(("rho", "eps"), SETTINGS)
INFO = {dtype: np.finfo(dtype) for dtype in ("float32", "float64")}


def states(seed, size=10_000):
    """Gradients and accumulators of 1e-8 to 1e8, or v and u to 1e-12."""
    rng = np.random.default_rng(seed)
    grad = rng.choice([-1, 1], size) * 10 ** rng.uniform(-8, 8, size)
    averages = 10 ** rng.uniform(-12, 8, (2, size))
    return jnp.float32(grad), jnp.float32(averages[0]), jnp.float32(averages[1])


@all_settings
def test_a_zero_gradient_gives_a_zero_update_and_decays_the_averages_by_rho(rho, eps):
    _, square_avg, acc_delta = states(0)
    square_avg = square_avg.at[:10].set(0)
    acc_delta = acc_delta.at[5:15].set(0)
    after = update_rule(jnp.zeros_like(square_avg), square_avg, acc_delta, rho=rho, eps=eps)
    expected = 0 * square_avg, np.float32(rho) * square_avg, np.float32(rho) * acc_delta
    chex.assert_trees_all_equal(after, expected)


@all_settings
def test_the_opposite_gradient_gives_the_opposite_update_and_the_same_averages(rho, eps):
    grad, *averages = states(1)
    delta, *new_averages = update_rule(grad, *averages, rho=rho, eps=eps)
    opposite, *same = update_rule(-grad, *averages, rho=rho, eps=eps)
    chex.assert_trees_all_equal((-opposite, same), (delta, new_averages))


@pytest.mark.parametrize("rho", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("exponent", [-20, -3, 1, 24])
def test_without_eps_the_scale_of_the_gradients_cancels_out(rho, exponent):
    grad, square_avg, acc_delta = states(2)
    grad, square_avg = jnp.sign(grad) * jnp.abs(grad) ** 0.5, square_avg.clip(1e-8)
    scale = 2.0**exponent
    rule = partial(update_rule, rho=rho, eps=0.0)
    delta, new_square_avg, new_acc_delta = rule(grad, square_avg, acc_delta)
    scaled = rule(scale * grad, scale**2 * square_avg, acc_delta)
    chex.assert_trees_all_equal(scaled, (delta, scale**2 * new_square_avg, new_acc_delta))


@pytest.mark.parametrize("dtype", INFO)
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("eps", [0.0, 1e-30, 1e-6, 1.0])
def test_finite_numbers_never_give_inf_or_nan(dtype, rho, eps):
    info = INFO[dtype]
    sizes = [
        0,
        info.smallest_subnormal,
        info.tiny,
        info.tiny**0.5,
        1e-6,
        1,
        info.max**0.5,
        info.max,
    ]
    sizes = np.asarray(sizes, dtype)
    grad, square_avg, acc_delta = np.meshgrid(np.concatenate([sizes, -sizes]), sizes, sizes)
    with jax.enable_x64(dtype == "float64"):
        chex.assert_tree_all_finite(
            update_rule(*map(jnp.asarray, (grad, square_avg, acc_delta)), rho=rho, eps=eps)
        )


@all_settings
def test_a_gradient_of_nan_is_not_hidden(rho, eps):
    nan, one = jnp.full(1, jnp.nan), jnp.ones(1)
    assert all(jnp.isnan(each).all() for each in update_rule(nan, one, one, rho=rho, eps=eps))


@all_settings
def test_vmap_changes_no_bit_of_a_step_compiled_or_not(rho, eps):
    rule = partial(update_rule, rho=rho, eps=eps)
    for compiled in (rule, jax.jit(rule)):
        chex.assert_trees_all_equal(jax.vmap(compiled)(*states(3)), compiled(*states(3)))


@all_settings
def test_jit_changes_no_more_than_fused_multiply_adds_round_otherwise(rho, eps):
    rule = partial(update_rule, rho=rho, eps=eps)
    results = zip(rule(*states(3)), jax.jit(rule)(*states(3)), (3, 2, 4), strict=True)
    for eager, compiled, most in results:  # measured: 2, 1 and 3
        np.testing.assert_array_max_ulp(eager, compiled, maxulp=most)


def test_hyperparameters_may_be_traced_and_mapped_over():
    rhos, epss = jnp.array([setting[0] for setting in SETTINGS]), jnp.array([1e-6, 1e-3, 1, 2, 3])

    def rule(rho, eps):
        return update_rule(*states(4, 100), rho=rho, eps=eps)

    mapped = jax.jit(jax.vmap(rule))(rhos, epss)
    each = [rule(rho, eps) for rho, eps in zip(rhos, epss, strict=True)]
    chex.assert_trees_all_close(
        mapped, jax.tree.map(lambda *rows: jnp.stack(rows), *each), rtol=1e-6
    )


@pytest.mark.parametrize("averages", ["random", "zero"])
def test_derivatives_in_every_argument_equal_finite_differences(averages):
    rng = np.random.default_rng(5)
    grad = rng.standard_normal(20)
    square_avg, acc_delta = (averages == "random") * rng.uniform(0.5, 2, (2, 20))

    def rule(grad, square_avg, acc_delta, rho, eps):
        return update_rule(grad, square_avg, acc_delta, rho=rho, eps=eps)

    with jax.enable_x64(True):
        at = tuple(map(jnp.asarray, (grad, square_avg, acc_delta, 0.9, 0.1)))
        check_grads(rule, at, order=1, modes=("fwd", "rev"), eps=1e-5)


def test_derivatives_at_the_fresh_start_are_finite_and_zero_gradients_too():
    zero = jnp.zeros(3)

    def total(grad, square_avg, acc_delta):
        delta, *averages = update_rule(grad, square_avg, acc_delta, rho=0.9, eps=1e-6)
        return jnp.sum(delta) + sum(map(jnp.sum, averages))

    for grad in (zero, jnp.array([1e-3, -1.0, 1e3])):
        chex.assert_tree_all_finite(jax.grad(total, argnums=(0, 1, 2))(grad, zero, zero))


@pytest.mark.parametrize("dtype", INFO)
def test_the_scale_is_a_power_of_two_and_brings_every_normal_number_near_2_22(dtype):
    info = INFO[dtype]
    significands = np.array([1, 1 + info.eps, 1.5, 2 - info.eps], dtype)
    x = np.ldexp(significands, np.arange(info.minexp, info.maxexp)[:, None]).ravel()
    with jax.enable_x64(dtype == "float64"):
        scale = np.asarray(_power_of_two_near_inverse_root(jnp.asarray(x)))
    assert scale.dtype == dtype
    assert np.all(np.frexp(scale)[0] == 0.5)
    scaled = x * scale * scale
    assert np.all((scaled >= 2**21) & (scaled < 2**23))


@pytest.mark.parametrize("dtype", INFO)
def test_results_have_the_dtype_and_shape_of_the_gradient(dtype):
    with jax.enable_x64(dtype == "float64"):
        for shape, rho in product([(), (0,), (2, 3)], [0.9, jnp.float32(0.9)]):
            array = jnp.ones(shape, dtype)
            for each in update_rule(array, array, array, rho=rho, eps=1e-6):
                assert each.dtype == dtype
                assert each.shape == shape


def test_an_infinite_gradient_counts_as_the_largest_whose_square_is_finite():
    averages = jnp.array([0.5, 0.5]), jnp.array([1e-3, 1e-3])
    infinite = update_rule(jnp.array([jnp.inf, -jnp.inf]), *averages, rho=0.9, eps=1e-6)
    largest = update_rule(jnp.array([3e38, -3e38]), *averages, rho=0.9, eps=1e-6)
    for of_infinite, of_largest in zip(infinite, largest, strict=True):
        np.testing.assert_array_equal(of_infinite, of_largest)
        assert np.isfinite(of_infinite).all()
