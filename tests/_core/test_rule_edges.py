"""The update rule where a term of it is zero, and where settings have a dtype of their own."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adadelta_jax._core.rule import update_rule

DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-320])
def test_a_lesser_eps_under_the_gradient_counts_as_2_22_of_the_smallest_normal_number(dtype, eps):
    least = float(np.finfo(dtype).tiny) * 2**22
    with jax.enable_x64(dtype == "float64"):
        grad, zero, u = (jnp.full(1, value, dtype) for value in (1e-3, 0.0, 0.25))
        delta, *averages = update_rule(grad, zero, u, rho=1.0, eps=eps)  # with which v stays zero
    np.testing.assert_allclose(delta, np.sqrt(0.25 / least) * 1e-3, rtol=1e-6)
    assert averages == [zero, u]


def test_the_update_has_no_slope_where_u_and_eps_are_zero():
    def delta(grad, square_avg, acc_delta, eps):
        return update_rule(grad, square_avg, acc_delta, rho=0.9, eps=eps)[0]

    at = (jnp.float32(2.0), jnp.float32(0.5), jnp.float32(0.0), jnp.float32(0.0))
    every = tuple(range(4))
    for first, again in product([jax.jacrev, jax.jacfwd], repeat=2):
        derivatives = first(delta, every)
        assert [float(each) for each in derivatives(*at)] == [0.0] * 4
        second = again(derivatives, every)(*at)
        assert all(float(each) == 0.0 for row in second for each in row)


@pytest.mark.parametrize("settings_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("setting", ["rho", "eps"])
def test_results_have_the_dtype_of_the_gradient_whatever_that_of_a_setting(
    dtype, settings_dtype, setting
):
    with jax.enable_x64(True):
        one = jnp.ones(3, dtype)
        settings = {"rho": 0.5, "eps": 0.5}
        expected = update_rule(one, one, one, **settings)
        settings[setting] = jnp.asarray(settings[setting], settings_dtype)
        for each, same in zip(update_rule(one, one, one, **settings), expected, strict=True):
            assert each.dtype == dtype
            np.testing.assert_array_equal(each, same)
