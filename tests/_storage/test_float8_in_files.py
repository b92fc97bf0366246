"""8-bit states in functions over trees, and in files."""

import pickle

import chex
import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint
import pytest
from jax.sharding import PartitionSpec

from adadelta_jax._core.transform import adadelta_states
from tests._storage.test_float8_in_use import (
    GRADS,
    PARAMS,
    STEP,
    UINT8,
    after_steps,
    is_in_8_bits,
)


def test_tree_map_keeps_the_codes():
    _, state = after_steps()
    same = jax.tree.map(lambda x: x, state)
    assert is_in_8_bits(same)
    chex.assert_trees_all_equal(same, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, UINT8.init(PARAMS))


def assert_goes_on(read):
    """The state that was read is the one that was written, and steps as that does."""
    _, state = after_steps()
    assert is_in_8_bits(read)
    chex.assert_trees_all_equal(read, state)
    chex.assert_trees_all_equal_dtypes(read, state)
    chex.assert_trees_all_equal(STEP(GRADS[0], read, PARAMS), STEP(GRADS[0], state, PARAMS))


def test_flax_writes_and_reads_the_codes():
    written = flax.serialization.to_bytes(after_steps()[1])
    assert_goes_on(flax.serialization.from_bytes(UINT8.init(PARAMS), written))


def test_equinox_writes_and_reads_the_codes(tmp_path):
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", after_steps()[1])
    assert_goes_on(eqx.tree_deserialise_leaves(tmp_path / "state.eqx", UINT8.init(PARAMS)))


def test_orbax_writes_and_reads_the_codes(tmp_path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", after_steps()[1])
        checkpointer.wait_until_finished()
        target = jax.eval_shape(UINT8.init, PARAMS)
        one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), target
        )
        assert_goes_on(checkpointer.restore(tmp_path / "state", target))


@pytest.mark.parametrize("get", [lambda state: state, jax.device_get], ids=["JAX", "NumPy"])
def test_a_pickle_keeps_the_codes(get):
    assert_goes_on(pickle.loads(pickle.dumps(get(after_steps()[1]))))


@pytest.mark.parametrize("function", [jnp.ones_like, lambda codes: codes + jnp.uint8(1)])
def test_tree_map_params_reaches_the_accumulators_and_not_the_count(function):
    _, state = after_steps()
    mapped = optax.tree.map_params(UINT8, function, state)
    (old,), (new,) = adadelta_states(state), adadelta_states(mapped)
    assert new.count == old.count == len(GRADS)
    for name in ("square_avg", "acc_delta"):
        expected = jax.tree.map(function, getattr(old, name))
        chex.assert_trees_all_equal(getattr(new, name), expected)
        assert jax.tree.structure(expected) == jax.tree.structure(PARAMS)


def test_tree_map_params_gives_each_accumulator_the_spec_of_its_parameter():
    specs = {"bias": PartitionSpec("model"), "kernel": PartitionSpec(None, "model")}
    mapped = optax.tree.map_params(
        UINT8,
        lambda _, spec: spec,
        UINT8.init(PARAMS),
        specs,
        transform_non_params=lambda _: PartitionSpec(),
    )
    (of_adadelta,) = adadelta_states(mapped)
    assert of_adadelta.square_avg == specs
    assert of_adadelta.acc_delta == specs
    assert of_adadelta.count == PartitionSpec()
