"""`Int8Blocks` wherever an optimizer state goes: other transformations, files, other optimizers."""

import chex
import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, carry_over_state, param_groups, scale_by_adadelta
from adadelta_jax._core.transform import adadelta_states
from adadelta_jax._storage.float8 import Int8Blocks
from adadelta_jax._storage.formats import values
from adadelta_jax.torch_interop import optimizer_from_torch, optimizer_to_torch


def random_params(seed, dtype=jnp.float32):
    draw = np.random.default_rng(seed).standard_normal
    shapes = {"bias": (300,), "kernel": (16, 300)}
    return {name: jnp.asarray(draw(shape), dtype) for name, shape in shapes.items()}


def jitted_step(optimizer):
    return jax.jit(optimizer.update)


PARAMS = random_params(0)
GRADS = [random_params(seed) for seed in (1, 2, 3)]
INT8 = adadelta(accumulator_dtype="int8")
STEP = jitted_step(INT8)


def after_steps(optimizer=INT8, step=STEP, gradients=GRADS, params=PARAMS):
    """The last updates and state."""
    state, updates = optimizer.init(params), None
    for grads in gradients:
        updates, state = step(grads, state, params)
    return updates, state


def accumulators(state):
    """The v and u of the only Adadelta in a state, decoded."""
    (state,) = adadelta_states(state)
    return {"square_avg": values(state.square_avg), "acc_delta": values(state.acc_delta)}


def is_in_blocks(state):
    (state,) = adadelta_states(state)
    return isinstance(state.square_avg["kernel"], Int8Blocks) and isinstance(
        state.acc_delta["kernel"], Int8Blocks
    )


# --- trees and files ------------------------------------------------------------------------------


def test_tree_map_keeps_the_blocks():
    _, state = after_steps()
    same = jax.tree.map(lambda x: x, state)
    assert is_in_blocks(same)
    chex.assert_trees_all_equal(same, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, INT8.init(PARAMS))


def test_flax_writes_and_reads_the_blocks():
    _, state = after_steps()
    read = flax.serialization.from_bytes(INT8.init(PARAMS), flax.serialization.to_bytes(state))
    assert is_in_blocks(read)
    chex.assert_trees_all_equal(read, state)
    chex.assert_trees_all_equal_dtypes(read, state)
    chex.assert_trees_all_equal(STEP(GRADS[0], read, PARAMS), STEP(GRADS[0], state, PARAMS))


def test_equinox_writes_and_reads_the_blocks(tmp_path):
    _, state = after_steps()
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
    read = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", INT8.init(PARAMS))
    assert is_in_blocks(read)
    chex.assert_trees_all_equal(read, state)


# --- jit, scan, vmap, donation --------------------------------------------------------------------


def test_a_scan_takes_the_same_steps():
    expected = after_steps()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *GRADS)

    @jax.jit
    def scanned(state):
        def body(state, grads):
            updates, state = INT8.update(grads, state, PARAMS)
            return state, updates

        return jax.lax.scan(body, state, stacked)

    state, updates = scanned(INT8.init(PARAMS))
    updates = jax.tree.map(lambda x: x[-1], updates)
    chex.assert_trees_all_equal(state, expected[1])
    chex.assert_trees_all_close(updates, expected[0], rtol=1e-6)


def test_eager_steps_are_the_same():
    updates, state = after_steps(step=INT8.update, gradients=GRADS[:2])
    expected_updates, expected_state = after_steps(gradients=GRADS[:2])
    chex.assert_trees_all_equal(state, expected_state)
    chex.assert_trees_all_close(updates, expected_updates, rtol=1e-6)


def test_models_in_a_batch_step_as_each_does_alone():
    models = [random_params(seed) for seed in (4, 5)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    state = jax.vmap(INT8.init)(batch)
    step = jax.jit(jax.vmap(INT8.update))
    for _ in range(2):
        updates, state = step(batch, state, batch)
    for i, params in enumerate(models):
        expected_updates, expected_state = after_steps(gradients=[params] * 2, params=params)
        alone = jax.tree.map(lambda x, i=i: x[i], (updates, state))
        chex.assert_trees_all_equal(alone[1], expected_state)
        chex.assert_trees_all_close(alone[0], expected_updates, rtol=1e-6)


def test_donated_blocks_are_overwritten():
    def step(params, state, grads):
        updates, state = INT8.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.tree.map(jnp.copy, (PARAMS, INT8.init(PARAMS)))
    buffers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))}
    result = jax.jit(step, donate_argnums=(0, 1))(params, state, GRADS[0])
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(result)} == buffers
    chex.assert_trees_all_equal(result[1], after_steps(gradients=GRADS[:1])[1])


# --- gradients of None ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gradient_leaves_the_blocks_alone_and_gives_a_zero_update(dtype):
    params = random_params(0, dtype)
    _, state = after_steps(gradients=[random_params(1, dtype)], params=params)
    updates, new_state = STEP({**params, "kernel": None}, state, params)
    (old,), (new,) = adadelta_states(state), adadelta_states(new_state)
    for before, after in ((old.square_avg, new.square_avg), (old.acc_delta, new.acc_delta)):
        chex.assert_trees_all_equal(after["kernel"], before["kernel"])
        assert (after["bias"] != before["bias"]).any()
    assert updates["kernel"].dtype == dtype
    assert not updates["kernel"].any()
    assert new.count == 2


def test_without_the_parameters_no_gradient_gives_a_zero_update_too():
    optimizer = scale_by_adadelta(accumulator_dtype="int8")
    updates, _ = optimizer.update({**PARAMS, "kernel": None}, optimizer.init(PARAMS))
    chex.assert_trees_all_equal(updates["kernel"], jnp.zeros((16, 300)))


# --- Optax's wrappers -----------------------------------------------------------------------------


def test_masked_parameters_have_no_blocks_and_the_others_step_as_alone():
    mask = {"bias": False, "kernel": True}
    optimizer = optax.masked(INT8, mask)
    updates, state = after_steps(optimizer, jitted_step(optimizer))
    alone = [{"kernel": grads["kernel"]} for grads in GRADS]
    expected_updates, expected = after_steps(gradients=alone, params={"kernel": PARAMS["kernel"]})
    assert is_in_blocks(state)
    chex.assert_trees_all_equal(jax.tree.leaves(state), jax.tree.leaves(expected))
    chex.assert_trees_all_equal(updates["kernel"], expected_updates["kernel"])
    chex.assert_trees_all_equal(updates["bias"], GRADS[-1]["bias"])


def test_multi_steps_steps_with_the_mean_of_the_gradients():
    optimizer = optax.MultiSteps(INT8, every_k_schedule=2).gradient_transformation()
    _, state = after_steps(optimizer, jitted_step(optimizer), GRADS[:2])
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *GRADS[:2])
    _, expected = after_steps(gradients=[mean])
    assert is_in_blocks(state)
    chex.assert_trees_all_close(accumulators(state), accumulators(expected), rtol=1 / 8)
    chex.assert_trees_all_equal(adadelta_states(state)[0].count, jnp.int32(1))


def test_injected_hyperparameters_step_as_constants():
    optimizer = optax.inject_hyperparams(adadelta, static_args=("accumulator_dtype",))(
        learning_rate=0.5, rho=0.95, eps=1e-6, accumulator_dtype="int8"
    )
    updates, state = after_steps(optimizer, jitted_step(optimizer))
    constant = adadelta(0.5, 0.95, 1e-6, accumulator_dtype="int8")
    expected_updates, expected = after_steps(constant, jitted_step(constant))
    assert is_in_blocks(state)
    chex.assert_trees_all_close(updates, expected_updates, rtol=0.1, atol=1e-4)
    chex.assert_trees_all_close(accumulators(state), accumulators(expected), rtol=1 / 4)


def test_apply_if_finite_keeps_the_blocks_where_a_gradient_is_not():
    optimizer = optax.apply_if_finite(INT8, 3)
    step = jitted_step(optimizer)
    _, state = after_steps(optimizer, step)
    broken = {**PARAMS, "kernel": PARAMS["kernel"].at[3, 4].set(jnp.nan)}
    updates, new_state = step(broken, state, PARAMS)
    chex.assert_trees_all_equal(adadelta_states(new_state), adadelta_states(state))
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))


# --- other optimizers, and torch ------------------------------------------------------------------


def test_a_state_in_the_same_format_is_carried_over_bit_for_bit():
    groups = param_groups(
        {"a": {"accumulator_dtype": "int8"}, "b": {"accumulator_dtype": "int8", "rho": 0.5}},
        {"bias": "a", "kernel": "b"},
    )
    _, state = after_steps()
    in_groups = carry_over_state(groups, PARAMS, state)
    (old,) = adadelta_states(state)
    biases, kernels = adadelta_states(in_groups)
    assert kernels.square_avg["kernel"] is old.square_avg["kernel"]
    assert kernels.acc_delta["kernel"] is old.acc_delta["kernel"]
    assert biases.acc_delta["bias"] is old.acc_delta["bias"]
    chex.assert_trees_all_equal(carry_over_state(INT8, PARAMS, in_groups), state)


def test_a_state_that_changes_its_format_is_rounded_to_nearest():
    float32 = adadelta()
    _, state = after_steps(float32, jitted_step(float32))
    coded = carry_over_state(INT8, PARAMS, state)
    decoded = carry_over_state(float32, PARAMS, coded)
    assert is_in_blocks(coded)
    before, after = accumulators(state), accumulators(coded)
    for name in before:
        chex.assert_trees_all_equal(after[name]["bias"], before[name]["bias"])
        v, (codes, scale) = (
            before[name]["kernel"],
            getattr(adadelta_states(coded)[0], name)["kernel"],
        )
        least = np.repeat(scale * 2.0**-34, 256, axis=1)[:, :300]  # half the last even step
        error = np.abs(after[name]["kernel"] - v)
        assert (error <= np.maximum(v / 16, least)).all()
        assert codes.shape == v.shape
    chex.assert_trees_all_equal(accumulators(decoded), after)
    chex.assert_trees_all_equal(accumulators(carry_over_state(INT8, PARAMS, decoded)), after)


@pytest.mark.parametrize("other", ["bfloat16", "float16"])
def test_a_state_goes_from_half_precision_to_blocks_and_back(other):
    half = adadelta(accumulator_dtype=other)
    _, state = after_steps()
    there = carry_over_state(half, PARAMS, state)
    back = carry_over_state(INT8, PARAMS, there)
    assert is_in_blocks(back)
    chex.assert_trees_all_close(accumulators(back), accumulators(state), rtol=1 / 8, atol=1e-7)


@pytest.mark.torch
def test_a_state_in_blocks_goes_to_torch_and_comes_back():
    import torch

    _, state = after_steps()
    mapping = {"layer.bias": "bias", "layer.weight": "kernel"}
    optim_state = optimizer_to_torch(state, PARAMS, mapping, [{"rho": 0.9}])

    parameters = [torch.nn.Parameter(torch.zeros(PARAMS[name].shape)) for name in PARAMS]
    optimizer = torch.optim.Adadelta(parameters)
    optimizer.load_state_dict(optim_state)
    held = accumulators(state)
    for parameter, name in zip(parameters, PARAMS, strict=True):
        for key, accumulator in held.items():
            tensor = optimizer.state[parameter][key]
            np.testing.assert_array_equal(tensor.numpy(), accumulator[name])

    in_float32, opt_state = optimizer_from_torch(optimizer.state_dict(), PARAMS, mapping)
    chex.assert_trees_all_equal_structs(opt_state, in_float32.init(PARAMS))
    chex.assert_trees_all_equal(accumulators(opt_state), held)
    back = carry_over_state(INT8, PARAMS, opt_state)
    assert is_in_blocks(back)
    chex.assert_trees_all_equal(accumulators(back), held)
