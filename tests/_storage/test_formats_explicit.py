"""Accumulators of every format where shardings are part of the arrays' types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import scale_by_adadelta
from adadelta_jax._storage.formats import load, store, zeros
from adadelta_jax._storage.hash_bits import fold_in

LAYOUTS = [
    ((8, 1024), (None, ("a", "b"))),
    ((8, 1000), ("a", "b")),
    ((16, 4, 64), ("a", None, None)),
    ((16, 4, 64), (None, None, "b")),
    ((24,), ("a",)),
]
all_layouts = pytest.mark.parametrize(("shape", "spec"), LAYOUTS)
all_formats = pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])


def explicit(spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    return NamedSharding(mesh, PartitionSpec(*spec))


def draw(shape):
    return jnp.asarray(np.random.default_rng(0).lognormal(size=shape), "float32")


@all_layouts
@all_formats
@pytest.mark.parametrize("key", [None, fold_in(7, 3)])
def test_what_is_stored_and_loaded_is_the_same_and_stays_where_it_is(
    shape, spec, accumulator_dtype, key
):
    def round_trip(values):
        stored = store(values, zeros(values, accumulator_dtype), key)
        return stored, load(stored, jnp.float32)

    values, sharding = draw(shape), explicit(spec)
    expected = jax.jit(round_trip)(values)
    with jax.set_mesh(sharding.mesh):
        results = jax.jit(round_trip)(jax.device_put(values, sharding))
    for actual, unsharded in zip(results, expected, strict=True):
        np.testing.assert_array_equal(actual, unsharded)
        assert tuple(jax.typeof(actual).sharding.spec) == spec


@all_layouts
@all_formats
def test_a_step_gives_what_it_gives_on_one_device_and_stays_where_it_is(
    shape, spec, accumulator_dtype
):
    optimizer = scale_by_adadelta(accumulator_dtype=accumulator_dtype)
    step, grads, sharding = jax.jit(optimizer.update), draw(shape), explicit(spec)
    updates, state = step(grads, optimizer.init(grads))
    with jax.set_mesh(sharding.mesh):
        sharded = jax.device_put(grads, sharding)
        start = optimizer.init(sharded)
        new_updates, new_state = step(sharded, start)
    np.testing.assert_allclose(new_updates, updates, rtol=1e-6)
    assert new_updates.sharding.is_equivalent_to(sharding, grads.ndim)
    for name in ("square_avg", "acc_delta"):
        old, new = getattr(start, name), getattr(new_state, name)
        np.testing.assert_array_equal(new, getattr(state, name))
        for each in (old, new):
            assert each.sharding.is_equivalent_to(sharding, grads.ndim)


@all_formats
@pytest.mark.parametrize(
    ("spec", "spec_of_state"),
    [
        ((None, None), ("a", "b")),  # as with ZeRO, which shards the accumulators alone further
        (("a", None), ("a", "b")),
        (("a", "b"), (None, "b")),
        (("a", None), (None, "b")),
    ],
)
def test_gradients_over_other_devices_than_the_state_stay_where_they_are(
    spec, spec_of_state, accumulator_dtype
):
    optimizer = scale_by_adadelta(accumulator_dtype=accumulator_dtype)
    step, grads = jax.jit(optimizer.update), draw((8, 1000))
    expected = step(grads, optimizer.init(grads))
    of_state, of_grads = explicit(spec_of_state), explicit(spec)
    with jax.set_mesh(of_state.mesh):
        state = optimizer.init(jax.device_put(grads, of_state))
        updates, new_state = step(jax.device_put(grads, of_grads), state)
    assert updates.sharding.is_equivalent_to(of_grads, 2)
    np.testing.assert_allclose(updates, expected[0], rtol=1e-6)
    for name in ("square_avg", "acc_delta"):
        assert getattr(new_state, name).sharding.is_equivalent_to(of_state, 2)
        np.testing.assert_array_equal(getattr(new_state, name), getattr(expected[1], name))
