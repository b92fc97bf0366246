"""Shardings that do not fit are refused by name."""

import re

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings
from tests.refusals import EVERYWHERE, OPTIMIZER, PARAMS, assert_refused, each_refusal

MESH = AbstractMesh((4, 2), ("data", "model"))
MATRIX = {"w": jnp.ones((8, 4))}


def sharded(*spec, mesh=MESH):
    return NamedSharding(mesh, PartitionSpec(*spec))


def shard(param_shardings, params=PARAMS, optimizer=OPTIMIZER, **zero_axis):
    return lambda: state_shardings(optimizer, params, param_shardings, **zero_axis)


class OtherSharding(jax.sharding.Sharding):
    """A sharding of another library, which fits nothing."""

    def shard_shape(self, global_shape):
        raise ValueError("it does not fit")

    def __str__(self):
        return "thirds"


A_SHARDING = "must be a NamedSharding, got"
PARAM_SHARDINGS = {
    "a number": (shard(3), TypeError, f"the sharding of dense/bias {A_SHARDING} 3"),
    "a spec without a mesh": (
        shard(PartitionSpec()),
        ValueError,
        "param_shardings has PartitionSpec(), which needs a mesh: "
        "pass mesh, or call state_shardings within jax.set_mesh(mesh)",
    ),
    "a single device": (
        shard(SingleDeviceSharding(jax.devices()[0])),
        TypeError,
        re.compile(rf"the sharding of dense/bias {A_SHARDING} SingleDeviceSharding\(.+"),
    ),
    "a sharding that does not divide": (
        shard(sharded("data", mesh=EVERYWHERE.mesh)),
        ValueError,
        "dense/bias, of shape (2,), cannot be sharded as P('data',) over the mesh axes {'data': 8}",
    ),
    "a sharding of a scalar": (
        shard(sharded("model"), {"scale": jnp.ones(())}),
        ValueError,
        "scale, of shape (), cannot be sharded as P('model',) over the mesh axes "
        "{'data': 4, 'model': 2}",
    ),
    "shardings of other parameters": (
        shard({"body": sharded()}),
        ValueError,
        re.compile("param_shardings does not match params: .+", re.DOTALL),
    ),
    "shardings over two meshes": (
        shard(
            {
                "dense": {
                    "kernel": EVERYWHERE,
                    "bias": sharded(mesh=AbstractMesh((4,), ("model",))),
                }
            }
        ),
        ValueError,
        "param_shardings must be on one mesh, got {'model': 4} for dense/bias and {'data': 8} for "
        "dense/kernel",
    ),
    "no parameters": (
        shard(EVERYWHERE, {}),
        ValueError,
        "params has no parameter, so that there is no mesh to put the state on",
    ),
    "text as a parameter": (
        shard(EVERYWHERE, {"w": "x"}),
        TypeError,
        "w must be an array, got str",
    ),
    "a state that hides its parameters": (
        shard(EVERYWHERE, optimizer=optax.flatten(adadelta())),
        ValueError,
        re.compile(
            "optimizer must have a state in which optax.tree.map_params finds what belongs to "
            "which parameter, unlike that of optax.flatten: .+",
            re.DOTALL,
        ),
    ),
}
SHARDED_ALREADY = "zero_axis must be an axis over which no parameter is sharded, got 'model', over"
ZERO_AXES = {
    **{
        f"{zero_axis!r} as zero_axis": (
            shard(EVERYWHERE, zero_axis=zero_axis),
            TypeError,
            f"zero_axis must be the name of a mesh axis, got {zero_axis!r}",
        )
        for zero_axis in (3, ("data",), ["data"])
    },
    "an axis that the mesh lacks": (
        shard(sharded(), zero_axis="batch"),
        ValueError,
        "zero_axis must be an axis of the mesh, one of 'data', 'model', got 'batch'",
    ),
    "an axis over which a parameter is sharded": (
        shard(sharded(None, "model"), MATRIX, zero_axis="model"),
        ValueError,
        f"{SHARDED_ALREADY} which w is: its spec is P(None, 'model')",
    ),
    "an axis over which, with another, a parameter is sharded": (
        shard(sharded(("data", "model")), MATRIX, zero_axis="model"),
        ValueError,
        f"{SHARDED_ALREADY} which w is: its spec is P(('data', 'model'),)",
    ),
}
BYTES = {
    "bytes sharded as a number": (
        lambda: bytes_per_device(PARAMS, 3),
        TypeError,
        f"the sharding of dense/bias {A_SHARDING} 3",
    ),
    "bytes of a number": (
        lambda: bytes_per_device({"w": 3}, EVERYWHERE),
        TypeError,
        "w must be an array, got int",
    ),
    "bytes in a sharding of another library": (
        lambda: bytes_per_device(MATRIX, OtherSharding()),
        ValueError,
        "w, of shape (8, 4), cannot be sharded as thirds",
    ),
}


@each_refusal(PARAM_SHARDINGS | ZERO_AXES | BYTES)
def test_a_wrong_sharding_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)


def test_a_mesh_axis_whose_name_is_part_of_another_is_free_for_the_state():
    mesh = AbstractMesh((2, 2), ("data", "d"))
    shardings = state_shardings(adadelta(), MATRIX, sharded("data", mesh=mesh), zero_axis="d")
    assert shardings[2].square_avg["w"].spec[0] == ("data", "d")
