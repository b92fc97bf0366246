"""Guarantees for every step, over gradients, settings and formats of the accumulators."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as numpy_strategies

from adadelta_jax import scale_by_adadelta
from adadelta_jax._storage import float8, formats
from tests.properties.strategies import (
    COORDINATES,
    STEPS,
    STORAGES,
    epss_for,
    epss_of_8_bits,
    examples,
    gradients,
    needs_float64,
    positive_epss,
    rhos,
    run,
    trees,
)

all_storages = pytest.mark.parametrize("storage", STORAGES, ids=str)
LIMIT = float(np.sqrt(np.finfo(np.float32).max))


def computed_in(storage):
    return np.float64 if needs_float64(storage) else np.float32


def update_dtype(storage):
    return jnp.finfo(storage[0]).dtype


def runs(storage):
    """The arguments of a run, as a dictionary, and its results."""
    arguments = {"grads": gradients(storage[0]), "rho": rhos, "eps": epss_for(storage)}
    return strategies.fixed_dictionaries(arguments).map(
        lambda arguments: (arguments, run(storage=storage, **arguments))
    )


@all_storages
@hypothesis.given(data=strategies.data())
@examples(25)
def test_finite_gradients_make_finite_updates_and_averages_of_at_least_zero(storage, data):
    _, steps = data.draw(runs(storage))
    assert np.isfinite(steps.grads).all()
    assert np.isfinite(steps.updates).all()
    for average in (steps.square_avg, steps.acc_delta):
        assert np.isfinite(average).all()
        assert (average >= 0).all()


@functools.cache
def optimizer_of(accumulator_dtype):
    return scale_by_adadelta(accumulator_dtype=accumulator_dtype)  # a shape is compiled once


@hypothesis.given(
    shapes=trees,
    dtypes=strategies.lists(
        strategies.sampled_from(["float16", "bfloat16", "float32"]), min_size=4
    ),
    accumulator_dtype=strategies.sampled_from([None, "float32", "bfloat16", "float16", "uint8"]),
    size=strategies.sampled_from([0.0, 1.0, 6e4]),
)
@examples(60)
def test_of_any_tree_updates_and_state_keep_the_form_and_are_finite(
    shapes, dtypes, accumulator_dtype, size
):
    shapes, structure = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
    params = structure.unflatten(map(jnp.ones, shapes, dtypes))
    grads = jax.tree.map(lambda param: param * param.dtype.type(size), params)
    optimizer = optimizer_of(accumulator_dtype)
    first = state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
        chex.assert_tree_all_finite((updates, formats.values(state)))
        for update in jax.tree.leaves(updates):
            assert ((update != 0) == (size != 0)).all()


@all_storages
@hypothesis.given(data=strategies.data())
@examples(25)
def test_no_update_exceeds_the_root_of_u_plus_eps_over_one_minus_rho(storage, data):
    """To two units in the last place of the arithmetic; measured: one."""
    arguments, steps = data.draw(runs(storage))
    rho, eps = arguments["rho"], arguments["eps"]
    most = np.sqrt((steps.before("acc_delta") + eps) / (1 - rho))
    most *= 1 + 2 * np.finfo(computed_in(storage)).eps
    # Rounding to the gradient's dtype keeps the order.
    most = np.minimum(most, float(jnp.finfo(update_dtype(storage)).max))
    most = most.astype(update_dtype(storage)).astype(np.float64)
    assert (np.abs(steps.updates) <= most).all()


@all_storages
@hypothesis.given(data=strategies.data())
@examples(25)
def test_a_zero_gradient_gives_a_zero_update_and_decays_both_averages_by_rho(storage, data):
    """To one rounding: to nearest, or to a neighbour where fewer bits are stored."""
    arguments, steps = data.draw(runs(storage))
    # docs/numerics.md says what becomes of a smaller one in 8 bits.
    hypothesis.assume(storage[1] != "uint8" or not 0 < arguments["rho"] < 2e-9)
    zero = steps.grads == 0
    assert (steps.updates[zero] == 0).all()
    for name in ("square_avg", "acc_delta"):
        before = steps.before(name).astype(computed_in(storage))
        exact = computed_in(storage)(arguments["rho"]) * before
        assert_is_rounded(getattr(steps, name)[zero], exact[zero], storage)


def assert_is_rounded(stored, values, storage):
    """Raise unless each number is a neighbour of its value in the format of the accumulators."""
    values = np.where(values < np.finfo(values.dtype).tiny, 0, values)  # subnormal
    accumulator_dtype = storage[1]
    if accumulator_dtype in (None, values.dtype):
        np.testing.assert_array_equal(stored, values)
        return
    if accumulator_dtype == "uint8":
        numbers = np.asarray(float8.decode(jnp.arange(254, dtype=jnp.uint8)), np.float64)
        values = values.astype(np.float32)  # in which it is encoded
        below = numbers[np.searchsorted(numbers, values, side="right") - 1]
        above = numbers[np.searchsorted(numbers, values, side="left")]
        assert ((stored == below) | (stored == above)).all()
        return
    info = jnp.finfo(accumulator_dtype)
    mantissa_bits, smallest_normal = info.nmant, float(info.smallest_normal)
    values = values.astype(np.float64)
    octave = np.ldexp(1.0, np.frexp(values)[1] - 1)
    spacing = np.ldexp(np.maximum(octave, smallest_normal), -mantissa_bits)
    spacing = np.where(values < smallest_normal, np.maximum(spacing, 2.0**-126), spacing)
    below = np.floor(values / spacing) * spacing
    above = np.where(below < values, below + spacing, below)
    assert ((stored == below) | (stored == above)).all()


@all_storages
@hypothesis.given(data=strategies.data())
@examples(10)
def test_the_opposite_gradients_give_the_opposite_updates_and_the_same_averages(storage, data):
    arguments, steps = data.draw(runs(storage))
    opposite = run(storage=storage, **arguments | {"grads": -arguments["grads"]})
    np.testing.assert_array_equal(-opposite.updates, steps.updates)
    np.testing.assert_array_equal(opposite.square_avg, steps.square_avg)
    np.testing.assert_array_equal(opposite.acc_delta, steps.acc_delta)


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16"])
@hypothesis.given(data=strategies.data())
@examples(25)
def test_gradients_times_a_power_of_two_give_the_same_updates_where_eps_is_negligible(
    accumulator_dtype, data
):
    """To the bit: v is multiplied by the square of the factor, and u stays the same."""
    magnitudes = strategies.floats(2.0**-10, 2.0**10, width=32)
    signed = strategies.tuples(strategies.sampled_from([-1.0, 1.0]), magnitudes).map(np.prod)
    rows = strategies.lists(signed, min_size=COORDINATES, max_size=COORDINATES)
    grads = data.draw(strategies.lists(rows, min_size=STEPS, max_size=STEPS).map(np.array))
    storage, rho = ("float32", accumulator_dtype), data.draw(rhos)
    factor = 2.0 ** data.draw(strategies.integers(-8, 8))
    settings = {"rho": rho, "eps": 0.0, "first_acc_delta": 1e-6}
    steps, scaled = run(grads, storage, **settings), run(factor * grads, storage, **settings)
    assert (steps.updates != 0).any()
    np.testing.assert_array_equal(scaled.updates, steps.updates)
    np.testing.assert_array_equal(scaled.square_avg, factor**2 * steps.square_avg)
    np.testing.assert_array_equal(scaled.acc_delta, steps.acc_delta)


@hypothesis.given(data=strategies.data())
@examples(25)
def test_gradients_times_a_power_of_two_give_the_same_updates_in_8_bits_where_both_are_large(data):
    """To the bit again, with v and u of at least 0.2 and ε = 1e-9.

    Below, the values of codes are not powers of two apart.
    """
    magnitudes = strategies.floats(4.0, 16.0, width=32)
    signed = strategies.tuples(strategies.sampled_from([-1.0, 1.0]), magnitudes).map(np.prod)
    rows = strategies.lists(signed, min_size=COORDINATES, max_size=COORDINATES)
    grads = data.draw(strategies.lists(rows, min_size=STEPS, max_size=STEPS).map(np.array))
    rho = data.draw(strategies.floats(0.0, 0.984375, width=32, allow_subnormal=False))
    factor = 2.0 ** data.draw(strategies.integers(0, 10))
    settings = {"rho": rho, "eps": float(np.float32(1e-9)), "first_acc_delta": 1e3}
    storage = ("float32", "uint8")
    steps, scaled = run(grads, storage, **settings), run(factor * grads, storage, **settings)
    assert (steps.updates != 0).any()
    np.testing.assert_array_equal(scaled.updates, steps.updates)
    np.testing.assert_array_equal(scaled.square_avg, factor**2 * steps.square_avg)
    np.testing.assert_array_equal(scaled.acc_delta, steps.acc_delta)


@pytest.mark.parametrize(
    "storage",
    [each for each in STORAGES if each[1] in (None, "float32") and each[0] != "float64"],
    ids=str,
)
@hypothesis.given(data=strategies.data())
@examples(10)
def test_a_permutation_of_the_coordinates_permutes_the_steps(storage, data):
    """Except where the state is rounded at random, because the noise depends on the index."""
    arguments, steps = data.draw(runs(storage))
    order = np.array(data.draw(strategies.permutations(range(COORDINATES))))
    permuted = run(storage=storage, **arguments | {"grads": arguments["grads"][:, order]})
    if storage[0] == "complex64":
        order = np.stack([2 * order, 2 * order + 1], -1).ravel()
    for actual, expected in zip(permuted, steps, strict=True):
        np.testing.assert_array_equal(actual, expected[:, order])


@all_storages
@hypothesis.given(data=strategies.data())
@examples(10)
def test_nan_stays_and_touches_no_other_coordinate(storage, data):
    arguments, steps = data.draw(runs(storage))
    when, where = (data.draw(strategies.integers(0, size - 1)) for size in (STEPS, COORDINATES))
    grads = arguments["grads"].copy()
    grads[when, where] = complex(np.nan, np.nan) if np.iscomplexobj(grads) else np.nan
    broken = run(storage=storage, **arguments | {"grads": grads})
    is_nan = np.isnan(broken.grads)
    assert is_nan.any()
    reached = np.logical_or.accumulate(is_nan)
    for name in ("updates", "square_avg", "acc_delta"):
        expected = np.where(reached, np.nan, getattr(steps, name))
        np.testing.assert_array_equal(getattr(broken, name), expected)


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@hypothesis.given(data=strategies.data())
@examples(10)
def test_an_infinite_gradient_counts_as_the_largest_whose_square_is_finite_in_float32(
    dtype, accumulator_dtype, data
):
    arguments = data.draw(runs((dtype, accumulator_dtype)))[0]
    infinite = strategies.sampled_from([0.0, 0.0, np.inf, -np.inf])
    infinities = data.draw(numpy_strategies.arrays(float, (STEPS, COORDINATES), elements=infinite))
    grads = np.where(infinities == 0, arguments["grads"].astype(float), infinities)
    of_infinite = run(storage=(dtype, accumulator_dtype), **arguments | {"grads": grads})
    grads = np.clip(grads, -2 * LIMIT, 2 * LIMIT)
    of_largest = run(storage=("float32", accumulator_dtype), **arguments | {"grads": grads})
    np.testing.assert_array_equal(of_infinite.square_avg, of_largest.square_avg)
    np.testing.assert_array_equal(of_infinite.acc_delta, of_largest.acc_delta)


# In 8 bits the least gradient to overflow makes v 1.9e9, and at last it stays at a neighbour of 1.
@pytest.mark.parametrize(
    ("accumulator_dtype", "largest", "rtol"),
    [(None, float(np.finfo(np.float32).max), 1e-4), ("uint8", float8.LARGEST, 1 / 4)],
)
@hypothesis.given(
    size=strategies.floats(1.0, float(np.finfo(np.float32).max) / LIMIT, width=32),
    sign=strategies.sampled_from([-1.0, 1.0]),
    rho=strategies.floats(0, 0.9375, width=32),
    data=strategies.data(),
)
@examples(25)
def test_after_a_gradient_too_large_to_square_later_ones_move_the_parameter_again(
    accumulator_dtype, largest, rtol, size, sign, rho, data
):
    """In it v saturates and decays by rho from there. In torch v would stay infinite."""
    eps = data.draw(epss_of_8_bits if accumulator_dtype == "uint8" else positive_epss)
    storage = ("float32", accumulator_dtype)
    steps = 1500  # 0.9375 to that power is far below 1 / LIMIT²
    grads = np.ones((steps, COORDINATES))
    grads[0] = sign * min(size * LIMIT, float(np.finfo(np.float32).max))
    result = run(grads, storage, rho, eps, in_scan=True)
    alone = run(np.ones((1, COORDINATES)), storage, rho, eps)
    saturated = min((1 - rho) * LIMIT**2 * (1 - 2**-10), largest)
    assert (result.square_avg[0] >= saturated).all()
    assert (result.updates[1:] > 0).all()
    assert (np.diff(result.square_avg, axis=0) <= 0).all()
    np.testing.assert_allclose(result.square_avg[-1], 1, rtol=rtol)
    # As large as the first update would have been, except for the root of 1 - rho in that.
    assert (result.updates[-1] >= (0.99 - rtol / 2) * np.sqrt(1 - rho) * alone.updates[0]).all()


def test_the_runs_of_these_tests_are_runs_of_the_optimizer():
    grads = np.random.default_rng(0).standard_normal((STEPS, COORDINATES)).astype(np.float32)
    optimizer = scale_by_adadelta(0.9, 1e-6)
    state, expected = optimizer.init(jnp.zeros(COORDINATES)), []
    for grad in grads:
        updates, state = optimizer.update(jnp.asarray(grad), state)
        expected.append((grad, updates, state.square_avg, state.acc_delta))
    actual = run(grads, ("float32", None), 0.9, 1e-6)
    for column, rows in zip(actual, zip(*expected, strict=True), strict=False):
        np.testing.assert_allclose(column, np.array(rows), rtol=3e-6)
