"""How v and u are stored: the dtype of each, what storing does to a value, and to a training."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from adadelta_jax import adadelta, scale_by_adadelta
from adadelta_jax._storage.formats import convert, is_rounded, load, storage_dtype, store, zeros
from adadelta_jax._storage.hash_bits import fold_in


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
        ("float32", "uint8", "uint8"),
        ("bfloat16", "uint8", "uint8"),
        ("float64", "uint8", "uint8"),
        ("complex64", "uint8", "complex64"),
        ("complex128", "uint8", "complex64"),
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


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,)])
@pytest.mark.parametrize("accumulator", ["bfloat16", "float16", "uint8"])
def test_scalars_and_empty_parameters_are_stored_too(shape, accumulator):
    params = jnp.ones(shape)
    optimizer = scale_by_adadelta(accumulator_dtype=accumulator)
    _, state = optimizer.update(params, optimizer.init(params))
    assert state.square_avg.shape == state.acc_delta.shape == shape
    assert (state.square_avg > 0).all()


def test_arithmetic_is_in_float32_however_narrow_gradient_and_accumulators_are():
    optimizer = scale_by_adadelta(rho=0.5, eps=0.0)
    state = optimizer.init(jnp.zeros(1, jnp.float16))
    state = state._replace(square_avg=jnp.full(1, 3.0), acc_delta=jnp.full(1, 3.0))
    _, state = optimizer.update(jnp.full(1, 1e-4, jnp.float16), state)
    grad = np.float32(np.float16(1e-4))
    np.testing.assert_allclose(state.square_avg, 1.5 + 0.5 * grad**2, rtol=1e-7)


@pytest.mark.parametrize("key", [None, fold_in(7, 3)])
def test_storing_in_the_dtype_of_the_values_changes_no_bit(key):
    values = jnp.array([0.0, 1e-45, 1.0, 3e38, jnp.inf, jnp.nan])
    stored = store(values, jnp.zeros(6), key)
    np.testing.assert_array_equal(
        np.asarray(stored).view(np.uint32), np.asarray(values).view(np.uint32)
    )


@pytest.mark.parametrize("format_", ["float32", "float64", "bfloat16", "float16", "uint8"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_are_read_in_the_dtype_of_the_step_and_stored_in_that_of_the_accumulator(
    format_, dtype
):
    with jax.enable_x64(True):
        accumulator = zeros(jnp.ones(4096), format_)
        values = load(accumulator, dtype)
        assert values.dtype == dtype
        stored = store(values + 1, accumulator, fold_in(7, 3))
        assert stored.dtype == accumulator.dtype == format_
        np.testing.assert_array_equal(load(stored, dtype), np.ones(4096))


def test_a_storage_dtype_is_one_of_numpys():
    for accumulator_dtype in (None, "bfloat16", jnp.float32, jnp.uint8):
        assert isinstance(storage_dtype("float32", accumulator_dtype), np.dtype)


@pytest.mark.parametrize("old", ["float32", "bfloat16", "float16", "uint8"])
@pytest.mark.parametrize("new", ["float32", "bfloat16", "float16", "uint8"])
def test_a_converted_accumulator_has_the_dtype_of_the_new_one_and_a_scalar_goes_on_too(old, new):
    for shape in ((), (3,)):
        old_accumulator = store(jnp.full(shape, 0.75), jnp.zeros(shape, old), None)
        converted = convert(old_accumulator, jnp.zeros(shape, new))
        assert converted.dtype == new
        np.testing.assert_array_equal(load(converted, jnp.float32), np.full(shape, 0.75))
        assert (converted is old_accumulator) == (old == new)


@pytest.mark.parametrize(
    ("accumulator", "gradient", "rounded"),
    [
        ("float32", "bfloat16", False),
        ("float32", "float32", False),
        ("float32", "float64", True),
        ("float64", "float64", False),
        ("bfloat16", "bfloat16", True),
        ("float16", "float32", True),
        ("uint8", "bfloat16", True),
        ("uint8", "float32", True),
        ("complex64", "complex64", False),
        ("complex64", "complex128", True),
    ],
)
def test_what_has_fewer_bits_than_the_arithmetic_is_rounded(accumulator, gradient, rounded):
    with jax.enable_x64(True):
        assert is_rounded(jnp.zeros(2, accumulator), jnp.zeros(2, gradient)) == rounded


@pytest.mark.parametrize("accumulator", [None, "bfloat16", "uint8"])
def test_no_two_accumulators_share_a_buffer(accumulator):
    state = scale_by_adadelta(accumulator_dtype=accumulator).init(jnp.ones(8192))
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@functools.cache
def losses_on_digits(accumulator_dtype, seed=0):
    """Training losses at the start and after 200 steps of a network with 17,226 parameters."""
    digits = load_digits()
    images = jnp.asarray(digits.data[:256] / 16, jnp.float32)
    labels = jnp.asarray(digits.target[:256])
    keys = jax.random.split(jax.random.key(seed), 3)
    widths = [64, 128, 64, 10]
    params = [
        {"kernel": jax.random.normal(key, shape) / np.sqrt(shape[0]), "bias": jnp.zeros(shape[1])}
        for key, shape in zip(keys, itertools.pairwise(widths), strict=True)
    ]
    optimizer = adadelta(rho=0.99, accumulator_dtype=accumulator_dtype)

    def loss(params):
        x = images
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        logits = x @ params[-1]["kernel"] + params[-1]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=200)
        return loss(params)

    return float(loss(params)), float(train(params))


# In 8 bits a number is known to a quarter, and u is by a few hundredths too large on average.
@pytest.mark.parametrize(("accumulator_dtype", "rel"), [("bfloat16", 0.02), ("uint8", 0.05)])
def test_training_gets_as_far_as_with_float32(accumulator_dtype, rel):
    first, last = losses_on_digits("float32")
    assert last < first / 100
    assert losses_on_digits(accumulator_dtype)[1] == pytest.approx(last, rel=rel)
