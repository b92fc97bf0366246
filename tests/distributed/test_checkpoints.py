"""A run that is saved and restored, on the same devices or others, goes on as if uninterrupted."""

import functools
import io

import equinox
import flax.serialization
import jax
import orbax.checkpoint
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adadelta_jax import adadelta
from adadelta_jax.sharding import state_shardings
from tests.distributed.test_ways import (
    ACCUMULATOR_DTYPES,
    assert_equal,
    assert_same_run,
    assert_sharded,
    gradients,
    initial_params,
    mesh_of,
    step_of,
)

P = PartitionSpec
STEPS = 2  # before and after a checkpoint

# By name: the shape of the mesh, the specs of the parameters, and the axis for ZeRO-1.
REPLICATED = {"kernel": P(), "bias": P()}
OVER_DATA = {"kernel": P("data"), "bias": P("data")}
LAYOUTS = {
    "one device": ({"data": 1}, REPLICATED, None),
    "8 replicas": ({"data": 8}, REPLICATED, None),
    "ZeRO-1 on 8": ({"data": 8}, REPLICATED, "data"),
    "ZeRO-1 on 4": ({"data": 4}, REPLICATED, "data"),
    "FSDP on 8": ({"data": 8}, OVER_DATA, None),
    "FSDP on 4": ({"data": 4}, OVER_DATA, None),
    "2-D on 8": ({"data": 4, "model": 2}, {"kernel": P("data", "model"), "bias": P("model")}, None),
}


def optimizer_of(accumulator_dtype):
    return adadelta(accumulator_dtype=accumulator_dtype)


def shardings_of(layout, accumulator_dtype):
    """The shardings of parameters and state, on as many of the devices as the mesh has."""
    axes, specs, zero_axis = LAYOUTS[layout]
    mesh = mesh_of(axes, AxisType.Auto)
    params = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
    optimizer = optimizer_of(accumulator_dtype)
    return params, state_shardings(optimizer, initial_params(), params, zero_axis=zero_axis)


def start(layout, accumulator_dtype):
    params = initial_params()
    state = optimizer_of(accumulator_dtype).init(params)
    return jax.device_put((params, state), shardings_of(layout, accumulator_dtype))


def abstract(layout, accumulator_dtype):
    """What a checkpoint is restored to: shapes, dtypes and shardings, and no array."""
    params = jax.eval_shape(initial_params)
    state = jax.eval_shape(optimizer_of(accumulator_dtype).init, params)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        (params, state),
        shardings_of(layout, accumulator_dtype),
    )


@functools.cache
def compiled_step(layout, accumulator_dtype):
    return jax.jit(
        step_of(optimizer_of(accumulator_dtype)),
        out_shardings=shardings_of(layout, accumulator_dtype),
    )


def train(training, layout, accumulator_dtype, first, steps=STEPS):
    """Parameters and state after so many steps more, of which `first` is the first."""
    param_shardings, _ = shardings_of(layout, accumulator_dtype)
    for index in range(first, first + steps):
        grads = jax.device_put(gradients(index), param_shardings)
        training = compiled_step(layout, accumulator_dtype)(*training, grads)
    return training


@functools.cache
def uninterrupted(layout, accumulator_dtype, steps):
    return train(start(layout, accumulator_dtype), layout, accumulator_dtype, 0, steps)


@pytest.fixture(scope="module")
def checkpointer():
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        yield checkpointer


def interrupted(layouts, accumulator_dtype, checkpointer, path):
    """Parameters and state after training in one layout, a checkpoint, and training in another."""
    before, after = layouts
    saved = train(start(before, accumulator_dtype), before, accumulator_dtype, 0)
    checkpointer.save(path, saved)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(path, abstract(after, accumulator_dtype))
    assert_equal(restored, saved)
    assert_sharded(restored, shardings_of(after, accumulator_dtype))
    dtypes = [[x.dtype for x in jax.tree.leaves(tree)] for tree in (restored, saved)]
    assert dtypes[0] == dtypes[1]
    return train(restored, after, accumulator_dtype, STEPS)


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_restored_in_the_same_layout_a_run_goes_on_bit_for_bit(
    layout, accumulator_dtype, checkpointer, tmp_path
):
    training = interrupted([layout] * 2, accumulator_dtype, checkpointer, tmp_path / "saved")
    assert_equal(training, uninterrupted(layout, accumulator_dtype, 2 * STEPS))


# In another layout XLA compiles another program, which may fuse other multiplications and additions
# than the first: see `assert_same_run`.
@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize(
    "layouts",
    [
        ("8 replicas", "ZeRO-1 on 8"),
        ("ZeRO-1 on 8", "8 replicas"),
        ("ZeRO-1 on 8", "ZeRO-1 on 4"),
        ("ZeRO-1 on 4", "one device"),
        ("FSDP on 8", "FSDP on 4"),
        ("FSDP on 4", "one device"),
        ("one device", "2-D on 8"),
        ("2-D on 8", "ZeRO-1 on 8"),
    ],
    ids=" to ".join,
)
def test_restored_in_another_layout_a_run_goes_on_as_if_it_had_stayed(
    layouts, accumulator_dtype, checkpointer, tmp_path
):
    training = interrupted(layouts, accumulator_dtype, checkpointer, tmp_path / "saved")
    assert_same_run(training, uninterrupted(layouts[0], accumulator_dtype, 2 * STEPS))


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
def test_a_run_goes_on_from_the_newest_of_several_checkpoints(accumulator_dtype, tmp_path):
    args = orbax.checkpoint.args
    layout = "ZeRO-1 on 8"
    options = orbax.checkpoint.CheckpointManagerOptions(max_to_keep=2)
    with orbax.checkpoint.CheckpointManager(tmp_path, options=options) as manager:
        training = start(layout, accumulator_dtype)
        for step in range(3):
            training = train(training, layout, accumulator_dtype, step, steps=1)
            composite = {"params": training[0], "state": training[1]}
            manager.save(step + 1, args=args.StandardSave(composite))
    with orbax.checkpoint.CheckpointManager(tmp_path, options=options) as manager:
        assert manager.all_steps() == [2, 3]
        params, state = abstract(layout, accumulator_dtype)
        target = args.StandardRestore({"params": params, "state": state})
        restored = manager.restore(manager.latest_step(), args=target)
    training = (restored["params"], restored["state"])
    training = train(training, layout, accumulator_dtype, 3)
    assert_equal(training, uninterrupted(layout, accumulator_dtype, 3 + STEPS))


def through_flax(training, like):
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(training))


def through_equinox(training, like):
    file = io.BytesIO()
    equinox.tree_serialise_leaves(file, training)
    file.seek(0)
    return equinox.tree_deserialise_leaves(file, like)


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("layout", ["one device", "ZeRO-1 on 8"])
@pytest.mark.parametrize("through", [through_flax, through_equinox])
def test_through_flax_and_equinox_too_a_run_goes_on_bit_for_bit(through, layout, accumulator_dtype):
    training = train(start(layout, accumulator_dtype), layout, accumulator_dtype, 0)
    shardings = shardings_of(layout, accumulator_dtype)
    restored = jax.device_put(through(training, start(layout, accumulator_dtype)), shardings)
    assert_equal(restored, training)
    training = train(restored, layout, accumulator_dtype, STEPS)
    assert_equal(training, uninterrupted(layout, accumulator_dtype, 2 * STEPS))
