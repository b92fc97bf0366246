"""Ways to shard parameters and state over devices, and the run that each has to reproduce."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import adadelta
from adadelta_jax.sharding import state_shardings

P = PartitionSpec
STEPS = 5
WIDTH = 512
ACCUMULATOR_DTYPES = [None, "bfloat16", "uint8"]

REPLICATED = {"kernel": P(), "bias": P()}
OVER_DATA = {"kernel": P("data"), "bias": P("data")}
OVER_MODEL = {"kernel": P(None, "model"), "bias": P("model")}
OVER_BOTH = {"kernel": P("data", "model"), "bias": P("model")}
# By name: the shape of the mesh, the specs of the parameters, and the axis for ZeRO-1.
LAYOUTS = {
    "one device": ({"data": 1}, REPLICATED, None),
    "data parallel": ({"data": 8}, REPLICATED, None),
    "FSDP": ({"data": 8}, OVER_DATA, None),
    "FSDP on 4": ({"data": 4}, OVER_DATA, None),
    "tensor parallel": ({"model": 8}, OVER_MODEL, None),
    "2-D": ({"data": 4, "model": 2}, OVER_BOTH, None),
    "ZeRO-1": ({"data": 8}, REPLICATED, "data"),
    "ZeRO-1 on 4": ({"data": 4}, REPLICATED, "data"),
    "ZeRO-1, 2-D": ({"data": 4, "model": 2}, OVER_MODEL, "data"),
}


def initial_params(dtype="float32"):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((WIDTH, WIDTH)) / 32
    return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.zeros(WIDTH, dtype)}


@functools.cache
def gradients(step):
    """Gradients of many sizes, zeros among them."""
    rng = np.random.default_rng(step)

    def draw(param):
        sizes = np.exp(rng.uniform(-12, 1, param.shape)) * (rng.random(param.shape) > 0.1)
        return np.asarray(sizes * rng.standard_normal(param.shape), param.dtype)

    return jax.tree.map(draw, initial_params())


def step_of(optimizer):
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def mesh_of(axes, axis_type):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes))


def shardings_of(layout, optimizer, axis_type=AxisType.Auto):
    """The mesh, and the shardings of parameters and state."""
    axes, specs, zero_axis = LAYOUTS[layout]
    mesh = mesh_of(axes, axis_type)
    params = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    state = state_shardings(optimizer, initial_params(), params, zero_axis=zero_axis)
    return mesh, params, state


@functools.cache
def single_device_run(accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    params = initial_params()
    state = optimizer.init(params)
    step = jax.jit(step_of(optimizer))
    for index in range(STEPS):
        params, state = step(params, state, gradients(index))
    return params, state


def assert_same_run(run, expected):
    """Raise unless the state has the same bits, and parameters agree to a last place per step.

    LLVM may fuse a multiplication and an addition in one program and not in another. In rare cases
    an accumulator in few bits is then rounded to the other neighbour.
    """
    (params, state), (expected_params, expected_state) = jax.device_get((run, expected))
    few = 0
    for array, expected_array in zip(*map(jax.tree.leaves, (state, expected_state)), strict=True):
        few = max(few, 1e-4 if array.dtype.itemsize < 4 else 0)
        assert (array != expected_array).mean() <= few
    for key, param in expected_params.items():
        assert (~np.isclose(params[key], param, rtol=STEPS * 2**-23, atol=1e-8)).mean() <= few


def assert_sharded(tree, shardings):
    for array, sharding in zip(*map(jax.tree.leaves, (tree, shardings)), strict=True):
        assert array.sharding.is_equivalent_to(sharding, array.ndim), (array.sharding, sharding)
