"""A run that is saved and restored, on the same or other devices, continues as if uninterrupted."""

import functools
import io

import chex
import equinox
import flax.serialization
import jax
import orbax.checkpoint
import pytest

from adadelta_jax import adadelta
from tests.distributed import layouts
from tests.distributed.layouts import (
    ACCUMULATOR_DTYPES,
    assert_same_run,
    assert_sharded,
    gradients,
    initial_params,
    step_of,
)

STEPS = 2  # before and after a checkpoint
LAYOUTS = [
    "one device",
    "data parallel",
    "ZeRO-1",
    "ZeRO-1 on 4",
    "FSDP",
    "FSDP on 4",
    "2-D",
]


def optimizer_of(accumulator_dtype):
    return adadelta(accumulator_dtype=accumulator_dtype)


def shardings_of(layout, accumulator_dtype):
    """The shardings of parameters and state."""
    _, *shardings = layouts.shardings_of(layout, optimizer_of(accumulator_dtype))
    return tuple(shardings)


def start(layout, accumulator_dtype):
    params = initial_params()
    state = optimizer_of(accumulator_dtype).init(params)
    return jax.device_put((params, state), shardings_of(layout, accumulator_dtype))


def abstract(layout, accumulator_dtype):
    """The shapes, dtypes and shardings to which a checkpoint is restored."""
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


def interrupted(before, after, accumulator_dtype, checkpointer, path):
    """Parameters and state after training in one layout, a checkpoint, and training in another."""
    saved = train(start(before, accumulator_dtype), before, accumulator_dtype, 0)
    checkpointer.save(path, saved)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(path, abstract(after, accumulator_dtype))
    chex.assert_trees_all_equal(restored, saved)
    assert_sharded(restored, shardings_of(after, accumulator_dtype))
    chex.assert_trees_all_equal_dtypes(restored, saved)
    return train(restored, after, accumulator_dtype, STEPS)


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_restored_in_the_same_layout_a_run_goes_on_bit_for_bit(
    layout, accumulator_dtype, checkpointer, tmp_path
):
    training = interrupted(layout, layout, accumulator_dtype, checkpointer, tmp_path / "saved")
    chex.assert_trees_all_equal(training, uninterrupted(layout, accumulator_dtype, 2 * STEPS))


# In another layout XLA compiles another program, which may fuse other multiplications and
# additions: see `assert_same_run`.
@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("data parallel", "ZeRO-1"),
        ("ZeRO-1", "data parallel"),
        ("ZeRO-1", "ZeRO-1 on 4"),
        ("ZeRO-1 on 4", "one device"),
        ("FSDP", "FSDP on 4"),
        ("FSDP on 4", "one device"),
        ("one device", "2-D"),
        ("2-D", "ZeRO-1"),
    ],
)
def test_restored_in_another_layout_a_run_goes_on_as_in_the_first(
    before, after, accumulator_dtype, checkpointer, tmp_path
):
    training = interrupted(before, after, accumulator_dtype, checkpointer, tmp_path / "saved")
    assert_same_run(training, uninterrupted(before, accumulator_dtype, 2 * STEPS))


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
def test_a_run_goes_on_from_the_newest_of_several_checkpoints(accumulator_dtype, tmp_path):
    args = orbax.checkpoint.args
    layout = "ZeRO-1"
    options = orbax.checkpoint.CheckpointManagerOptions(max_to_keep=2)
    with orbax.checkpoint.CheckpointManager(tmp_path, options=options) as manager:
        training = start(layout, accumulator_dtype)
        for step in range(3):
            training = train(training, layout, accumulator_dtype, step, steps=1)
            composite = {"params": training[0], "state": training[1]}
            manager.save(step + 1, args=args.StandardSave(composite))
    with orbax.checkpoint.CheckpointManager(tmp_path, options=options) as manager:
        params, state = abstract(layout, accumulator_dtype)
        target = args.StandardRestore({"params": params, "state": state})
        restored = manager.restore(manager.latest_step(), args=target)
    training = (restored["params"], restored["state"])
    training = train(training, layout, accumulator_dtype, 3)
    chex.assert_trees_all_equal(training, uninterrupted(layout, accumulator_dtype, 3 + STEPS))


def through_flax(training, like):
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(training))


def through_equinox(training, like):
    file = io.BytesIO()
    equinox.tree_serialise_leaves(file, training)
    file.seek(0)
    return equinox.tree_deserialise_leaves(file, like)


@pytest.mark.parametrize("accumulator_dtype", ACCUMULATOR_DTYPES)
@pytest.mark.parametrize("layout", ["one device", "ZeRO-1"])
@pytest.mark.parametrize("through", [through_flax, through_equinox])
def test_through_flax_and_equinox_too_a_run_goes_on_bit_for_bit(through, layout, accumulator_dtype):
    training = train(start(layout, accumulator_dtype), layout, accumulator_dtype, 0)
    shardings = shardings_of(layout, accumulator_dtype)
    restored = jax.device_put(through(training, start(layout, accumulator_dtype)), shardings)
    chex.assert_trees_all_equal(restored, training)
    training = train(restored, layout, accumulator_dtype, STEPS)
    chex.assert_trees_all_equal(training, uninterrupted(layout, accumulator_dtype, 2 * STEPS))
