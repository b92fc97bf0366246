"""`Int8Blocks`: what is stored in 8 bits, how many of them there are, and what bounds a block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adadelta_jax import adadelta, scale_by_adadelta
from adadelta_jax._core.rule import update_rule, upper_bounds
from adadelta_jax._storage.float8 import BLOCK, Int8Blocks, block_maxima
from adadelta_jax._storage.formats import load, store, zeros
from adadelta_jax._storage.hash_bits import fold_in

KEY = fold_in(7, 3)
CODES = np.arange(256, dtype=np.uint8)
LARGEST = 1.875 * 2.0**126


@jax.jit
def in_blocks(values, key):
    return store(values, zeros(values, "int8"), key)


def documented_value(code):
    """What a code stands for, in units of the scale."""
    return code * 2.0**-33 if code < 8 else (1 + code % 8 / 8) * 2.0 ** (code // 8 - 31)


@pytest.mark.parametrize(
    ("shape", "scale_shape"),
    [
        ((4096,), (16,)),
        ((784, 500), (784, 2)),
        ((3, 3, 64, 64), (3, 3, 16)),
        ((64, 64, 3, 3), (64, 3)),
        ((1, 5000), (1, 20)),
        ((5000, 1), (20,)),
        ((2, 2, 1024), (2, 2, 4)),
        ((512, 300), (512, 2)),
    ],
)
def test_a_block_is_256_elements_along_the_last_dimensions(shape, scale_shape):
    values = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    for accumulator in (zeros(values, "int8"), in_blocks(values, KEY)):
        assert (accumulator.codes.shape, accumulator.codes.dtype) == (shape, jnp.uint8)
        assert (accumulator.scale.shape, accumulator.scale.dtype) == (scale_shape, jnp.float32)
        assert (accumulator.shape, accumulator.dtype) == (shape, np.dtype("float32"))
        assert isinstance(accumulator.dtype, np.dtype)
    rows = values.reshape(*scale_shape[:-1], -1)
    largest = np.stack(
        [rows[..., i : i + BLOCK].max(axis=-1) for i in range(0, rows.shape[-1], BLOCK)], axis=-1
    )
    np.testing.assert_array_equal(block_maxima(jnp.asarray(values)), largest)
    np.testing.assert_array_equal(accumulator.scale, 2 ** np.ceil(np.log2(largest / 1.875)))
    np.testing.assert_allclose(load(accumulator, jnp.float32), values, rtol=1 / 8)


@pytest.mark.parametrize(
    ("shape", "dtype", "stored_in"),
    [
        ((4095,), "float32", "float32"),
        ((), "float32", "float32"),
        ((0, 5000), "float32", "float32"),
        ((2, 3), "bfloat16", "float32"),
        ((2, 3), "complex64", "complex64"),
        ((64, 64), "complex64", "complex64"),
        ((5000,), "complex64", "complex64"),
    ],
)
def test_small_and_complex_parameters_are_not_stored_in_blocks(shape, dtype, stored_in):
    state = scale_by_adadelta(accumulator_dtype="int8").init(jnp.zeros(shape, dtype))
    for accumulator in (state.square_avg, state.acc_delta):
        assert isinstance(accumulator, jax.Array)
        assert (accumulator.shape, accumulator.dtype) == (shape, stored_in)


def test_an_array_smaller_than_a_block_is_one():  # as a device has in `jax.shard_map`
    values = jnp.arange(1.0, 129.0).reshape(8, 16)
    np.testing.assert_array_equal(block_maxima(values), [128.0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_largest_of_a_block_is_exact_in_half_precision_too(dtype):
    largest = jnp.nextafter(jnp.array(2.0, dtype), jnp.array(0.0, dtype))
    values = jnp.zeros((4, 256), dtype).at[2, 5].set(-largest)
    np.testing.assert_array_equal(block_maxima(values), [[0], [0], [largest], [0]])


def test_the_largest_of_a_block_has_no_derivative():
    derivative = jax.grad(lambda x: (block_maxima(x) * x[:, :1]).sum())(jnp.ones((2, 256)))
    np.testing.assert_array_equal(derivative, np.eye(256)[[0, 0]])


def test_the_scale_is_such_that_the_largest_code_is_large_enough_and_the_least_is_normal():
    for largest, scale in [(1.875, 1.0), (np.nextafter(np.float32(1.875), 2), 2.0), (0, 2.0**-93)]:
        accumulator = in_blocks(np.full(4096, largest, np.float32), KEY)
        np.testing.assert_array_equal(accumulator.scale, np.full(16, scale))


def shapes_of_paper_network():
    return [(784, 500), (500,), (500, 300), (300,), (300, 10), (10,)]


def shapes_of_gpt2(width=768, depth=12):
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *depth * [*norm, *attention, *norm, *mlp], *norm]


@pytest.mark.parametrize("shapes", [shapes_of_paper_network(), shapes_of_gpt2()])
@pytest.mark.parametrize(
    ("param_dtype", "accumulator_dtype", "least", "most"),
    [
        ("float32", None, 8.0, 8.0),
        ("bfloat16", None, 8.0, 8.0),
        ("float32", "bfloat16", 4.0, 4.0),
        ("bfloat16", "float16", 4.0, 4.0),
        ("float32", "int8", 2.0, 2.1),
        ("bfloat16", "int8", 2.0, 2.1),
    ],
)
def test_the_state_takes_8_or_4_bytes_a_parameter_and_2_in_blocks(
    shapes, param_dtype, accumulator_dtype, least, most
):
    params = [jax.ShapeDtypeStruct(shape, param_dtype) for shape in shapes]
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) - 4  # of the count
    assert least <= size / sum(map(math.prod, shapes)) <= most


def test_a_code_stands_for_what_is_documented():
    scale = np.ldexp(np.float32(1), [-93, -1, 0, 126]).astype(np.float32)
    decoded = load(Int8Blocks(jnp.tile(CODES, (4, 1)), jnp.asarray(scale)[:, None]), jnp.float32)
    expected = np.outer(scale.astype(np.float64), [documented_value(int(code)) for code in CODES])
    np.testing.assert_array_equal(np.asarray(decoded, np.float64), expected)


@pytest.mark.parametrize("bits", [0, 1, 1 << 31, 2**32 - 1])  # the extremes of what is random
def test_every_value_of_a_code_is_stored_as_that_code(bits, monkeypatch):
    monkeypatch.setattr(
        "adadelta_jax._storage.formats.hash_bits",
        lambda shape, key: jnp.full(shape, bits, jnp.uint32),
    )
    scale = np.ldexp(np.float32(1), np.arange(-93, 127)).astype(np.float32)
    accumulator = Int8Blocks(jnp.tile(CODES, (len(scale), 1)), jnp.asarray(scale)[:, None])
    again = store(load(accumulator, jnp.float32), accumulator, KEY)
    np.testing.assert_array_equal(again.codes, accumulator.codes)
    np.testing.assert_array_equal(again.scale, accumulator.scale)


def test_the_spacing_is_at_most_an_eighth_in_the_upper_30_octaves():
    values = np.array([documented_value(int(code)) for code in CODES])
    upper = values[values >= values.max() / 1.875 * 2.0**-30]
    assert upper.max() / upper.min() > 2.0**30
    assert (np.diff(upper) / upper[:-1]).max() <= 1 / 8
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("key", [None, *(fold_in(count, 1) for count in range(5))])
def test_zero_stays_zero_beside_large_values(key):
    values = np.zeros((4, 4096), np.float32)
    values[0, ::2], values[1, 5], values[2, 5] = 1.0, LARGEST, 1e-30
    accumulator = in_blocks(values, key)
    loaded = np.asarray(load(accumulator, jnp.float32))
    assert (loaded[values == 0] == 0).all()
    assert (np.asarray(accumulator.codes)[values == 0] == 0).all()
    assert (loaded[:3][values[:3] > 0] > 0).all()


@pytest.mark.parametrize("key", [None, KEY])
def test_values_beyond_the_largest_saturate(key):
    values = np.ones((5, 4096), np.float32)
    values[:4, 0] = [LARGEST, LARGEST * 1.01, np.finfo(np.float32).max, np.inf]
    loaded = load(in_blocks(values, key), jnp.float32)
    np.testing.assert_array_equal(loaded[:4, 0], np.full(4, LARGEST, np.float32))
    np.testing.assert_array_equal(loaded[4], values[4])


@pytest.mark.parametrize("key", [None, KEY])
def test_nan_makes_nan_of_its_block_and_of_no_other(key):
    values = np.random.default_rng(0).uniform(0.1, 1, (3, 1500)).astype(np.float32)
    values[1, 700] = values[2, 1499] = np.nan
    loaded = np.asarray(load(in_blocks(values, key), "float32"))
    expected = np.zeros(values.shape, bool)
    expected[1, 512:768] = expected[2, 1280:] = True
    np.testing.assert_array_equal(np.isnan(loaded), expected)


def test_a_gradient_of_nan_makes_nan_of_its_blocks_and_of_no_other():
    params = jnp.ones((4, 1024))
    grads = params.at[1, 300].set(jnp.nan).at[2, 300].set(jnp.inf)
    optimizer = scale_by_adadelta(accumulator_dtype="int8")
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params))
    assert np.argwhere(np.isnan(updates)).tolist() == [[1, 300]]
    for accumulator in (state.square_avg, state.acc_delta):
        nans = np.isnan(load(accumulator, jnp.float32))
        assert nans[1, 256:512].all()
        assert nans.sum() == BLOCK


FLOATS = {"width": 32, "allow_subnormal": False, "min_value": 0, "allow_nan": False}
SQUARES = st.lists(st.floats(**FLOATS, allow_infinity=False), min_size=3, max_size=3)
GRADIENTS = st.lists(st.floats(**FLOATS), min_size=3, max_size=3)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(GRADIENTS, SQUARES, SQUARES, st.floats(0, 1, width=32), st.floats(0, 2.0**100, width=32))
def test_no_element_exceeds_the_bounds_of_its_block(grads, square_avg, acc_delta, rho, eps):
    block = np.array((grads, square_avg, acc_delta), np.float32)
    (_, v, u), bounds = step_and_bounds(block, rho, eps)
    v, u, v_bound, u_bound = (np.asarray(x, np.float64).max() for x in (v, u, *bounds))
    rounding = 1 + 8 * 2.0**-24
    assert v <= v_bound * rounding
    assert u <= u_bound * rounding
    assert v_bound <= 2 * v * rounding
    assert v_bound < np.inf
    assert u_bound < np.inf


@jax.jit
def step_and_bounds(block, rho, eps):
    largest = map(jnp.max, block)
    return update_rule(*block, rho=rho, eps=eps), upper_bounds(*largest, rho=rho, eps=eps)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rho", [0.0, 0.9, 1.0])
def test_a_step_stores_the_largest_v_of_each_block_to_an_eighth(rho, param_dtype):
    """Its scale comes from a bound, of which v is at least half as large somewhere."""
    params = jnp.zeros((8, 1024), param_dtype)
    draw = np.random.default_rng(0).standard_normal
    optimizer = scale_by_adadelta(rho, accumulator_dtype="int8")
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for _ in range(3):
        grads = jnp.asarray(draw(params.shape) * 10.0 ** draw((8, 1)), param_dtype)
        before = load(state.square_avg, jnp.float32)
        _, state = update(grads, state)
        exact = rho * before + (1 - rho) * np.square(grads.astype(jnp.float32))
        largest = np.max(np.reshape(exact, (8, 4, BLOCK)), axis=-1)
        stored = np.reshape(load(state.square_avg, jnp.float32), (8, 4, BLOCK))
        np.testing.assert_allclose(stored.max(axis=-1), largest, rtol=1 / 8)
        # Had the bound not been that near, the scale would be larger than this.
        assert (
            np.asarray(state.square_avg.scale)[largest > 0] <= 2.14 * largest[largest > 0]
        ).all()


def test_a_step_stores_u_however_much_larger_v_is():
    """Each has a scale of its own."""
    params = jnp.zeros((4, 1024))
    optimizer = scale_by_adadelta(accumulator_dtype="int8")
    grads = jnp.full(params.shape, 1e6)
    updates, state = optimizer.update(grads, optimizer.init(params))
    u = load(state.acc_delta, jnp.float32)
    np.testing.assert_allclose(u, 0.1 * np.square(updates), rtol=1 / 4)
