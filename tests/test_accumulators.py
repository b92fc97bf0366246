"""How v and u are stored: the dtype of each, and what storing does to a value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adadelta_jax import _accumulators, scale_by_adadelta


@pytest.mark.parametrize(
    ("param", "accumulator", "stored"),
    [
        ("bfloat16", None, "float32"),
        ("float16", None, "float32"),
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("complex64", None, "complex64"),
        ("complex128", None, "complex128"),
        ("float32", "bfloat16", "bfloat16"),
        ("float64", "float16", "float16"),
        ("bfloat16", "float64", "float64"),
        ("complex64", "bfloat16", "complex64"),
        ("complex64", "float64", "complex128"),
        ("complex128", "float32", "complex64"),
    ],
)
def test_each_parameter_dtype_has_its_accumulator_dtype(param, accumulator, stored):
    with jax.enable_x64(True):
        optimizer = scale_by_adadelta(accumulator_dtype=accumulator)
        params = jnp.ones((2, 3), param)
        state = optimizer.init(params)
        updates, new_state = jax.jit(optimizer.update)(params, state, params)
    for each in (state, new_state):
        assert each.square_avg.dtype == each.acc_delta.dtype == stored
        assert each.square_avg.shape == (2, 3)
    assert updates.dtype == param


def test_arithmetic_is_in_float32_however_narrow_gradient_and_accumulators_are():
    optimizer = scale_by_adadelta(rho=0.5, eps=0.0)
    state = optimizer.init(jnp.zeros(1, jnp.float16))
    state = state._replace(square_avg=jnp.full(1, 3.0), acc_delta=jnp.full(1, 3.0))
    _, state = optimizer.update(jnp.full(1, 1e-4, jnp.float16), state)
    grad = np.float32(np.float16(1e-4))
    np.testing.assert_allclose(state.square_avg, 1.5 + 0.5 * grad**2, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_value_beyond_the_storage_dtype_saturates(dtype):
    largest = jnp.finfo(dtype).max
    values = jnp.array([1.0, jnp.finfo(jnp.float32).max, jnp.nan])
    stored = _accumulators.store(values, jnp.zeros(3, dtype))
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored.astype("float32"), [1.0, largest, np.nan])


def test_storing_in_the_dtype_of_the_values_changes_no_bit():
    values = jnp.array([0.0, 1e-45, 1.0, 3e38, jnp.inf, jnp.nan])
    stored = _accumulators.store(values, jnp.zeros(6))
    np.testing.assert_array_equal(
        np.asarray(stored).view(np.uint32), np.asarray(values).view(np.uint32)
    )


def test_the_two_accumulators_do_not_share_a_buffer():
    state = scale_by_adadelta().init(jnp.ones(8))
    assert state.square_avg.unsafe_buffer_pointer() != state.acc_delta.unsafe_buffer_pointer()
