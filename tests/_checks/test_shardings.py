"""Shardings that cannot be are refused in words that name them, and none that can be."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings


def test_a_mesh_axis_whose_name_is_part_of_another_is_free_for_the_state():
    mesh = jax.make_mesh((2, 2), ("data", "d"))
    shardings = state_shardings(
        adadelta(),
        {"w": jnp.ones((8, 4))},
        NamedSharding(mesh, PartitionSpec("data")),
        zero_axis="d",
    )
    specs = {sharding.spec for sharding in jax.tree.leaves(shardings)}
    assert any("d" in jax.tree.leaves(tuple(spec)) for spec in specs)


class NoSharding(jax.sharding.Sharding):
    """One of another library's, which fits nothing."""

    def shard_shape(self, global_shape):
        raise ValueError("it does not fit")

    def __str__(self):
        return "thirds"


def test_a_sharding_of_another_kind_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="sharded as") as error:
        bytes_per_device({"w": jnp.ones((8, 4))}, NoSharding())
    assert str(error.value) == "w, of shape (8, 4), cannot be sharded as thirds"
