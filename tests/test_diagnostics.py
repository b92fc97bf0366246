"""Effective learning rates of every kind of state and accumulator, and summaries of arrays."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import adadelta, param_groups, scale_by_adadelta
from adadelta_jax.diagnostics import LARGEST_SAMPLE, Summary, effective_learning_rate, summary

PARAMS = {"body": {"kernel": jnp.ones((8, 512))}, "head": {"kernel": jnp.ones(3)}}


def gradients(params, step):
    def gradient(param):
        return jnp.cos(jnp.arange(param.size, dtype=param.dtype) + step).reshape(param.shape)

    return jax.tree.map(gradient, params)


def after_steps(optimizer, params=PARAMS, steps=3):
    state = optimizer.init(params)
    for step in range(steps):
        _, state = optimizer.update(gradients(params, step), state, params)
    return state


def expected_rate(state, eps=1e-6):
    return jax.tree.map(
        lambda u, v: np.sqrt((np.asarray(u, "f8") + eps) / (np.asarray(v, "f8") + eps)),
        state.acc_delta,
        state.square_avg,
    )


@pytest.mark.parametrize(
    "wrapped",
    [
        adadelta(),
        optax.chain(optax.clip(1.0), adadelta()),
        optax.inject_hyperparams(adadelta)(learning_rate=0.5),
        optax.MultiSteps(adadelta(), 1),
    ],
)
def test_the_effective_learning_rate_is_that_of_the_accumulators_at_any_depth_of_the_state(wrapped):
    expected = expected_rate(after_steps(scale_by_adadelta()))
    chex.assert_trees_all_close(effective_learning_rate(after_steps(wrapped)), expected)


def test_the_effective_learning_rate_has_the_eps_that_it_is_given():
    state = after_steps(scale_by_adadelta())
    chex.assert_trees_all_close(
        effective_learning_rate(state, eps=0.5), expected_rate(state, eps=0.5)
    )


@pytest.mark.parametrize(
    "labels",
    [
        {"body": "one", "head": "other"},
        {"body": {"kernel": "one"}, "head": {"kernel": "other"}},
    ],
)
def test_the_rates_of_all_groups_form_one_tree(labels):
    state = after_steps(param_groups({"one": {"rho": 0.5}, "other": {}}, labels))
    rates = effective_learning_rate(state)
    body = after_steps(scale_by_adadelta(rho=0.5))
    head = after_steps(scale_by_adadelta())
    chex.assert_trees_all_close(rates["body"], expected_rate(body)["body"])
    chex.assert_trees_all_close(rates["head"], expected_rate(head)["head"])


def test_a_frozen_parameter_has_no_effective_learning_rate():
    labels = {"body": "frozen", "head": "trained"}
    state = after_steps(param_groups({"frozen": None, "trained": {}}, labels))
    rates = effective_learning_rate(state)
    assert jax.tree.leaves(rates["body"]) == []
    assert rates["body"]["kernel"] == optax.MaskedNode()
    chex.assert_trees_all_close(
        rates["head"], expected_rate(after_steps(scale_by_adadelta()))["head"]
    )


# Two neighbours in 8 bits differ by a quarter; the median number is nearer, and has a root taken.
@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 0.02), ("float16", 0.02), ("uint8", 0.1)])
def test_accumulators_in_few_bits_have_effective_learning_rates_too(dtype, rtol):
    state = after_steps(scale_by_adadelta(accumulator_dtype=dtype))
    rates = effective_learning_rate(state)
    expected = expected_rate(after_steps(scale_by_adadelta()))
    assert jax.tree.map(lambda r: r.dtype.name, rates) == jax.tree.map(lambda _: "float32", PARAMS)
    for rate, exact in zip(jax.tree.leaves(rates), jax.tree.leaves(expected), strict=True):
        assert np.median(np.abs(rate / exact - 1)) < rtol


def test_the_parts_of_a_complex_parameter_have_separate_rates():
    params = {"z": jnp.ones(4, jnp.complex64)}
    state = scale_by_adadelta().init(params)
    state = state._replace(
        square_avg={"z": jnp.array([1 + 4j, 0, 9, 1j])},
        acc_delta={"z": jnp.array([4 + 1j, 1, 0, 0])},
    )
    expected = [2 + 0.5j, 1e3 + 1j, 1e-3 / 3 + 1j, 1 + 1e-3j]
    np.testing.assert_allclose(effective_learning_rate(state)["z"], expected, rtol=1e-5)


def test_an_eps_of_zero_before_the_first_step_gives_zero_not_nan():
    state = scale_by_adadelta(eps=0.0).init(jnp.ones(2))
    np.testing.assert_array_equal(effective_learning_rate(state, eps=0.0), [0, 0])


def test_effective_learning_rates_are_the_same_under_jit():
    state = after_steps(adadelta())
    chex.assert_trees_all_close(
        jax.jit(effective_learning_rate)(state), effective_learning_rate(state)
    )


def exact(array):
    """The summary of an array by NumPy, in its own precision."""
    numbers = np.asarray(array)
    if np.iscomplexobj(numbers):
        numbers = np.concatenate([numbers.real, numbers.imag], axis=None)
    elif numbers.dtype.itemsize < 4:
        numbers = numbers.astype("f4")
    return np.min(numbers), np.median(numbers), np.max(numbers)


def spread(shape, dtype="float32", seed=0):
    """Positive numbers over some powers of ten, as learning rates are."""
    return jnp.exp(3 * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


NUMBERS = {
    "one": [3.5],
    "an even number": [-3.0, -1.0, -2.5, -10.0],
    "neighbours": [1.0, 1 + 2**-23, 1 + 2**-22, 1 - 2**-24],
    "the extremes": [3.4e38, -3.4e38, 1.2e-38, -1.2e-38],
    "all equal": [0.1] * 7,
    "ties in the middle": [1.0, 2.0, 2.0, 2.0, 2.0, 9.0],
    "ties below the middle": [1.0, 1.0, 1.0, 4.0, 5.0, 6.0],
    "both zeros": [0.0, -0.0, 1.0, -1.0],
    "infinities": [np.inf, 1.0, -np.inf, 2.0, np.inf],
    "0-d": -2.5,
}


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_a_summary_agrees_with_numpy(numbers):
    array = np.array(numbers, "f4")
    for result in (summary(array), jax.jit(summary)(array)):
        assert isinstance(result, Summary)
        assert {(x.shape, x.dtype.name) for x in result} == {((), "float32")}
        np.testing.assert_array_equal(result, exact(array))


@pytest.mark.parametrize("size", [1000, 1001, LARGEST_SAMPLE - 1, LARGEST_SAMPLE])
def test_the_median_of_up_to_16384_elements_is_exact(size):
    for array in (spread((size,)), spread((size,)) - 1, jnp.round(spread((size,)))):
        np.testing.assert_array_equal(summary(array), exact(array))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "int32"])
def test_arrays_of_other_dtypes_are_summarised_in_float32(dtype):
    array = spread((50, 9), dtype)
    if dtype == "complex64":
        array = array - 1j * spread((50, 9), seed=1)
    result = summary(array)
    assert {x.dtype.name for x in result} == {"float32"}
    np.testing.assert_array_equal(result, exact(array))


def test_double_precision_is_rounded_to_single():
    with jax.enable_x64(True):
        array = spread((101,), "float64")
        result = summary(array)
    assert {x.dtype.name for x in result} == {"float32"}
    np.testing.assert_array_equal(result, np.float32(exact(array)))


ARRANGEMENTS = {
    "at random": spread((700, 300)),
    "sorted": jnp.arange(700.0 * 300).reshape(700, 300),
    "by rows": jnp.broadcast_to(jnp.arange(1024.0)[:, None], (1024, 256)),
    "by columns": jnp.broadcast_to(jnp.arange(256.0), (1024, 256)),
    "alternating": jnp.where(jnp.arange(2**18) % 2 == 1, 1.0, -1.0) * jnp.arange(2**18),
    "in three dimensions": spread((64, 64, 64), "bfloat16"),
}


@pytest.mark.parametrize("array", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_the_median_of_more_elements_has_a_rank_of_48_to_52_percent(array):
    result = summary(array)
    assert jnp.mean(array < result.median) <= 0.52
    assert jnp.mean(array > result.median) <= 0.52
    np.testing.assert_array_equal([result.minimum, result.maximum], exact(array)[::2])


@pytest.mark.parametrize("place", [0, 77_777, 2**18 - 1])
def test_minimum_and_maximum_of_many_elements_miss_none(place):
    for outlier in (1e9, -1e9, np.inf):
        array = spread((2**18,)).at[place].set(outlier)
        np.testing.assert_array_equal(summary(array)[::2], exact(array)[::2])


@pytest.mark.parametrize("size", [3, 2**18])
@pytest.mark.parametrize("nan", [np.nan, -np.nan, complex(0, np.nan)])
def test_one_nan_makes_nan_of_all_three(size, nan):
    assert np.isnan(summary(jnp.where(jnp.arange(size) == 1, nan, 1))).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 2**20)])
def test_an_empty_array_has_nan(shape):
    assert np.isnan(summary(jnp.zeros(shape))).all()


def test_a_summary_keeps_the_tree_and_takes_numbers():
    tree = {"a": [jnp.array([1.0, 2.0]), None], "b": optax.MaskedNode(), "c": 3}
    expected = {
        "a": [Summary(1.0, 1.5, 2.0), None],
        "b": optax.MaskedNode(),
        "c": Summary(3.0, 3.0, 3.0),
    }
    assert jax.tree.map(float, summary(tree)) == expected


@pytest.mark.parametrize("shape", [(6,), (2**15,)])
def test_each_array_is_summarised_under_vmap(shape):
    arrays = spread((5, *shape))
    expected = [summary(array) for array in arrays]
    np.testing.assert_array_equal(np.transpose(jax.vmap(summary)(arrays)), np.array(expected, "f4"))


def test_a_summary_needs_no_scratch_that_grows_with_the_array():
    """Except for the magnitudes, which XLA keeps in JAX before 0.10.2."""
    kept = 4 if jax.__version_info__ < (0, 10, 2) else 0

    def scratch_of(shape):
        compiled = jax.jit(summary).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for shape in ((2**9, 2**9), (2**13, 2**12)):
        assert scratch_of(shape) <= 2**18 + kept * math.prod(shape)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("data", "model"), (None, ("model", "data")), ()])
def test_a_sharded_array_has_the_same_summary_and_is_not_gathered(spec, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    arrays = [spread((64, 16)), spread((512, 1024)), spread((512, 1024), "complex64")]
    sharded = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(*spec)))
    compiled = jax.jit(summary).lower(sharded).compile()
    np.testing.assert_array_equal(compiled(sharded), summary(arrays))
    assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())


def test_each_device_can_summarise_its_own_shard():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")

    def own(shard):
        return jnp.stack(summary(shard))[None]

    array = spread((64, 1000))
    results = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=spec, out_specs=spec))(array)
    np.testing.assert_array_equal(results, [exact(shard) for shard in array.reshape(8, 8, 1000)])


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
def test_rates_of_every_accumulator_and_group_are_summarised_in_the_step(accumulator_dtype):
    settings = {"accumulator_dtype": accumulator_dtype}
    groups = {"frozen": None, "one": settings, "other": settings}
    params = {"a": jnp.ones(3), "b": jnp.ones((8, 512)), "c": jnp.ones((300, 200))}
    optimizer = param_groups(groups, {"a": "frozen", "b": "one", "c": "other"})

    @jax.jit
    def step(state):
        _, state = optimizer.update(gradients(params, 1), state, params)
        return state, summary(effective_learning_rate(state))

    state, summaries = step(optimizer.init(params))
    rates = effective_learning_rate(state)
    assert summaries["a"] == optax.MaskedNode()
    np.testing.assert_allclose(summaries["b"], exact(rates["b"]), rtol=1e-6)
    np.testing.assert_allclose(summaries["c"], summary(rates["c"]), rtol=1e-6)
