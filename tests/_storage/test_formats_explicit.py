"""Blocks of 8 bits where shardings are part of the arrays' types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import scale_by_adadelta
from adadelta_jax._storage.float8 import block_maxima, shardings
from adadelta_jax._storage.formats import load, store, zeros

LAYOUTS = [
    ((8, 1024), (None, ("a", "b"))),  # devices hold half a block
    ((8, 1000), ("a", "b")),
    ((16, 4, 64), ("a", None, None)),  # a block is the last two dimensions
    ((16, 4, 64), ("a", "b", None)),
    ((16, 4, 64), (None, None, "b")),
]
all_layouts = pytest.mark.parametrize(("shape", "spec"), LAYOUTS)


def explicit(spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    return NamedSharding(mesh, PartitionSpec(*spec))


def draw(shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(0).lognormal(size=shape), dtype)


@all_layouts
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_largest_of_each_block_is_found_and_stays_where_its_rows_are(shape, spec, dtype):
    values = draw(shape, "float32" if dtype == "int8" else dtype)
    if dtype == "int8":
        values = store(values, zeros(values, "int8"), None)
    expected, sharding = block_maxima(values), explicit(spec)
    if dtype == "int8":
        scale = explicit((*spec[: values.scale.ndim - 1],))
        sharding = values._replace(codes=sharding, scale=scale)
    with jax.set_mesh(explicit(spec).mesh):
        largest = jax.jit(block_maxima)(jax.device_put(values, sharding))
    np.testing.assert_array_equal(largest, expected)
    rows = largest.ndim - 1
    assert tuple(jax.typeof(largest).sharding.spec)[:rows] == spec[:rows]


@pytest.mark.parametrize(("shape", "spec"), LAYOUTS[:3])
def test_a_step_gives_what_it_gives_on_one_device_and_stays_where_it_is(shape, spec):
    optimizer = scale_by_adadelta(accumulator_dtype="int8")
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
        np.testing.assert_array_equal(
            load(new, jnp.float32), load(getattr(state, name), jnp.float32)
        )
        for before, after in zip(old, new, strict=True):
            assert after.sharding.is_equivalent_to(before.sharding, before.ndim)


def test_the_last_dimension_of_three_tells_whether_devices_hold_whole_blocks():
    blocks = zeros(jnp.zeros((4, 8, 1024)), "int8")
    whole, parts = (
        shardings(blocks, explicit(spec)) for spec in ((None, None, "b"), (None, None, ("a", "b")))
    )
    assert tuple(whole.scale.spec) == (None, None, "b")
    assert tuple(parts.scale.spec) == (None, None)
